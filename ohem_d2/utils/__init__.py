"""Helpers that several packages share: messages, files, locks, safe pickles and YAML, checkpoints."""

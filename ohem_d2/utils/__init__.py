"""Helpers that several packages share: messages, files, locks, pickles and YAML that run nothing, checkpoints."""

"""Helpers that several packages share: messages, atomic files, image headers, checkpoints."""

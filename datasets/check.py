"""Moved to tools/check_dataset.py."""

raise SystemExit("datasets/check.py is now tools/check_dataset.py (since 0.2.0)")

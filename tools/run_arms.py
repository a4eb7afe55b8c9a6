"""Moved to tools/compare.py."""

raise SystemExit("tools/run_arms.py is now tools/compare.py (since 0.2.0)")

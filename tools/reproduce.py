"""Moved to benchmarks/reproduce.py."""

raise SystemExit("tools/reproduce.py is now benchmarks/reproduce.py (since 0.2.0)")

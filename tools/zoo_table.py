"""Moved to benchmarks/zoo_table.py."""

raise SystemExit("tools/zoo_table.py is now benchmarks/zoo_table.py (since 0.2.0)")

"""Moved to benchmarks/render_tables.py."""

raise SystemExit("tools/render_tables.py is now benchmarks/render_tables.py (since 0.2.0)")

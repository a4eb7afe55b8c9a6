"""Which code is running, for the record of what it measures."""

import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def read_revision() -> dict[str, str]:
    """``commit`` of the checkout that this package is in and its ``tree``, "clean" or "changed".

    Both are "unknown" for an installed package and where there is no git. Files that git does not track, such
    as results, change nothing.
    """
    lines = [_git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")]
    if None in lines or Path(lines[0]).resolve() != _ROOT:
        return {"commit": "unknown", "tree": "unknown"}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": lines[1], "tree": "changed" if changes else "clean"}


def _git(*arguments: str) -> str | None:
    """What git prints, without the last line break; None if it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

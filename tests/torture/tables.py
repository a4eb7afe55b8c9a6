"""Tables of what was tried, which ``make torture`` leaves in ``benchmarks/results/torture``."""

import fcntl
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "torture"


def add_row(name: str, title: str, columns: list[str], row: list[object], folder: Path = FOLDER) -> None:
    """Add a row to the table ``name.md``, in place of that with the same first cell.

    Tests run in several processes, which take turns.
    """
    file, cells = folder / f"{name}.md", [str(cell).replace("|", "/") for cell in row]
    folder.mkdir(parents=True, exist_ok=True)
    with open(Path(tempfile.gettempdir()) / "ohem_d2_torture.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = file.read_text().splitlines() if file.exists() else []
        rows = [line for line in lines if line.startswith("| ") and not line.startswith(f"| {columns[0]} |")]
        rows = [line for line in rows if not line.startswith(f"| {cells[0]} |")]
        rows = sorted([*rows, f"| {' | '.join(cells)} |"])
        head = [title, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        file.write_text("\n".join([*head, *rows, ""]))

#!/usr/bin/env python
"""Draw a small data set, propose regions, train the heuristic baseline and OHEM on it, and compare.

    python tools/demo.py

From the repository's root; five minutes on two CPU cores. One seed: it shows that all works, and is no evidence
that one way of sampling is better than the other.
"""

import logging
import subprocess
import sys
import time
from pathlib import Path

from render_tables import render_table
from run_arms import run_arms
from runs import ROOT

DATA, OUTPUT = Path("datasets/demo"), Path("output/demo")
ARMS = ("configs/demo/heuristic.yaml", "configs/demo/ohem.yaml")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.time()
    subprocess.run(
        [sys.executable, str(ROOT / "datasets/prepare_demo.py"), "--output", str(DATA)], check=True
    )
    table = render_table(run_arms(ARMS, [0], OUTPUT, jobs=2))
    print(f"\n{table}\n")
    print(
        f"Images, annotations, proposals: {DATA}\nCheckpoints, logs, metrics:     {OUTPUT}/{{heuristic,ohem}}/seed0"
    )
    print(f"Figures of the runs:            {OUTPUT}/results.json\nDone in {time.time() - start:.0f} s.")


if __name__ == "__main__":
    main()

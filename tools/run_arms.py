#!/usr/bin/env python
"""Train several configs ("arms") with several seeds and write one table with mean and 95% interval.

    python tools/run_arms.py --arms configs/BCCD/fast_rcnn_*.yaml --seeds 0 1 2 3 4 --output output/bccd [-- KEY VALUE ...]

Each run is ``train_net.py`` in a folder of its own, OUTPUT/ARM/seedN. What is done is skipped, what was stopped
is resumed. OUTPUT/results.json holds the figures of every run; arms whose test settings differ get no table.
"""
import argparse
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Sequence

from render_tables import render_table
from runs import run_once, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", required=True, metavar="CONFIG", help="config files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides for every arm, after --")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        runs = run_arms(args.arms, args.seeds, args.output, args.jobs, args.opts)
        print(render_table(runs))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"run_arms.py: {error}")


def run_arms(
    arms: Sequence[str], seeds: Sequence[int], output: Path, jobs: int = 1, opts: Sequence[str] = ()
) -> List[Dict[str, Any]]:
    """Train what is not done yet and write results.json.

    Returns:
        one dict per run: arm, seed, command, environment and figures.

    Raises:
        RuntimeError: a run that failed; names its log.
    """
    names = [Path(arm).stem for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"two arms have the same name: {', '.join(names)}")
    pairs = [(arm, seed) for seed in seeds for arm in arms]  # so that arms take turns
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda pair: _run(*pair, output, opts), pairs))
    runs.sort(key=lambda run: (names.index(run["arm"]), run["seed"]))
    write_json(output / "results.json", runs)
    return runs


def _run(arm: str, seed: int, output: Path, opts: Sequence[str]) -> Dict[str, Any]:
    name = f"{Path(arm).stem}/seed{seed}"
    return {"folder": name, **run_once(arm, seed, output / name, opts)}


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Train several configs ("arms") with several seeds and write one table with mean and 95% interval.

    python tools/run_arms.py --arms configs/BCCD/fast_rcnn_*.yaml --seeds 0 1 2 3 4 --output output/bccd [-- KEY VALUE ...]

Each run is ``train_net.py`` in a folder of its own, OUTPUT/ARM/seedN. What is done is skipped, what was stopped
is resumed. OUTPUT/results.json holds the figures of every run; arms whose test settings differ get no table.
``--test`` tests what was trained in other ways too; the table and OUTPUT/tests.json are of these tests:

    ... --test plain --test +B TEST.BOX_VOTING.ENABLED True
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from render_tables import render_table
from runs import run_once, write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", required=True, metavar="CONFIG", help="config files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--test", nargs="+", action="append", default=[], metavar=("NAME", "KEY VALUE"),
                        help="name and overrides of a test; may be given more than once")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides for every arm, after --")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        tests = {name: overrides for name, *overrides in args.test}
        if len(tests) < len(args.test):
            raise ValueError(f"two tests have the same name: {', '.join(name for name, *_ in args.test)}")
        runs = run_arms(args.arms, args.seeds, args.output, args.jobs, args.opts, tests)
        print(render_table(runs))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"run_arms.py: {error}")


def run_arms(
    arms: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    jobs: int = 1,
    opts: Sequence[str] = (),
    tests: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Train, and test by `tests` (name -> overrides), what is not done yet; write results.json or tests.json.

    Returns:
        one dict per run: arm, seed, command, environment and figures; those of `tests`, where there are any.

    Raises:
        RuntimeError: a run that failed; names its log.
    """
    names = [Path(arm).stem for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"two arms have the same name: {', '.join(names)}")
    pairs = [(arm, seed) for seed in seeds for arm in arms]  # so that arms take turns
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda pair: _train(*pair, output, opts), pairs))
        if tests:
            runs = list(
                pool.map(lambda x: _test(*x[0], output, opts, x[1], tests[x[1]]), product(pairs, tests))
            )
    order = [*names, *(f"{arm} {test}" for arm in names for test in tests)]
    runs.sort(key=lambda run: (order.index(run["arm"]), run["seed"]))
    write_json(output / ("tests.json" if tests else "results.json"), runs)
    return runs


def _train(arm: str, seed: int, output: Path, opts: Sequence[str]) -> dict[str, Any]:
    name = f"{Path(arm).stem}/seed{seed}"
    return {"folder": name, **run_once(arm, seed, output / name, opts)}


def _test(
    arm: str, seed: int, output: Path, opts: Sequence[str], test: str, overrides: Sequence[str]
) -> dict[str, Any]:
    trained = f"{Path(arm).stem}/seed{seed}"
    name, weights = f"{trained}/{test}", str(output / trained / "model_final.pth")
    run = run_once(arm, seed, output / name, [*opts, *overrides, "MODEL.WEIGHTS", weights], eval_only=True)
    return {"folder": name, **run, "arm": f"{run['arm']} {test}", "test": test}


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Train several configs ("arms") with several seeds and write one table with mean and 95% interval.

    python tools/compare.py --arms configs/BCCD/*.yaml --seeds 0 1 2 --output output/bccd [-- KEY VALUE ...]

Each run is ``train_net.py`` in a folder of its own, OUTPUT/ARM/seedN. What is done is skipped, what was
stopped is resumed. OUTPUT/results.json holds the figures of every run; arms whose test settings differ get
no table. ``--test`` tests what was trained in other ways too; the table and OUTPUT/tests.json are of these
tests:

    ... --test plain --test +B TEST.BOX_VOTING.ENABLED True

``--chart FILE.png`` draws the mean loss over all RoIs against the iterations, a colour for each arm, where
TEST.ROI_LOSS.PERIOD has it measured.
"""

import argparse
import logging
import sys
from pathlib import Path

from ohem_d2.comparison import check_scipy, read_roi_losses, render_table, run_arms
from ohem_d2.visualization import plot_roi_losses


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
    parser.add_argument(
        "--chart", type=Path, metavar="PNG", help="mean loss over all RoIs against iterations"
    )
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides for every arm, after --")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        tests = {name: overrides for name, *overrides in args.test}
        if len(tests) < len(args.test):
            raise ValueError(f"two tests have the same name: {', '.join(name for name, *_ in args.test)}")
        if len(args.seeds) > 1:
            check_scipy()
        runs = run_arms(args.arms, args.seeds, args.output, args.jobs, args.opts, tests)
        print(render_table(runs))
        if args.chart:
            plot_roi_losses(read_curves(args.arms, args.seeds, args.output), args.chart)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"compare.py: {error}")


def read_curves(arms: list[str], seeds: list[int], output: Path) -> dict[str, list]:
    """Arm -> the losses over all RoIs of its seeds."""
    names = [Path(arm).stem for arm in arms]
    return {name: [read_roi_losses(output / name / f"seed{seed}") for seed in seeds] for name in names}


if __name__ == "__main__":
    main()

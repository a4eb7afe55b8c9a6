#!/usr/bin/env python
r"""Train arms with several seeds, on one data set or several, and say what can be told apart.

    python tools/compare.py --base my.yaml --output output/mine --budget 2h \
        --arm heuristic configs/sampling/bg0.yaml \
        --arm ohem MODEL.ROI_HEADS.NAME OHEMROIHeads

    python tools/compare.py --arms configs/BCCD/*.yaml --seeds 0 1 2 --output output/bccd [-- KEY VALUE ...]

An arm is a change of the base config, parts (config files merged into it) and overrides, or a config file of
its own (--arms). A data set (--data) is such a change, too. All arms of a seed begin with equal weights and
see the images in equal order; what differs beside the sampling is in the first table.

Every config is built before the first one trains. Each run is ``train_net.py`` in a folder of its own,
OUTPUT/[DATA/]ARM/seedN. What is done is skipped, what was stopped (Ctrl-C, SIGTERM) is resumed, and further
arms and seeds add to OUTPUT/results.json, which holds the figures of every run. The tables, figures and
sentences are in OUTPUT/report.html and report.md. With --budget, short trials tell how many seeds and how
much of the schedule fit; OUTPUT/plan.json keeps it.

``--test`` tests what was trained in other ways too; tables and OUTPUT/tests.json are of these tests:

    ... --test plain --test +B TEST.BOX_VOTING.ENABLED True

``--launcher slurm`` makes each run a job, ``submitit-local`` the same job on this machine; --slurm has the
parameters of submitit, such as timeout_min=240 gpus_per_node=1 slurm_partition=gpu.

``--chart FILE.png`` draws the mean loss over all RoIs against the iterations, a colour for each arm, where
TEST.ROI_LOSS.PERIOD has it measured.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ohem_d2.comparison import (
    EXIT_CODE,
    KNOWN_SPREAD,
    JobLauncher,
    Record,
    Run,
    Stopped,
    Sweep,
    Variant,
    arms_of_files,
    check_arms,
    check_records,
    check_scipy,
    check_trials,
    compare_records,
    describe_plan,
    describe_unequal_starts,
    end_with_children,
    keep_plan,
    keep_settings,
    make_plan,
    make_runs,
    measured_spread,
    parse_duration,
    parse_parameters,
    parse_variant,
    read_records,
    read_roi_losses,
    run_once,
    shorten,
    show_progress,
    try_all,
    write_report,
)
from ohem_d2.utils.locks import hold_lock
from ohem_d2.visualization import plot_roi_losses

logger = logging.getLogger("compare")
CHANGE = ("NAME", "PART.yaml | KEY VALUE")
TRIAL_ITERATIONS = 10


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name: str, help: str, **more) -> None:
        parser.add_argument(name, help=help, **more)

    add("--base", "config that --arm and --data change", default="", metavar="CONFIG")
    add("--arm", "an arm; more than once", nargs="+", action="append", default=[], metavar=CHANGE)
    add("--arms", "arms that are config files", nargs="+", default=[], metavar="CONFIG")
    add("--data", "a data set; more than once", nargs="+", action="append", default=[], metavar=CHANGE)
    add("--seeds", "default: 0, or as many as fit into --budget", nargs="+", type=int)
    add("--budget", "time to fit seeds and schedule into: 90s, 30min, 1h30min, 2d", metavar="TIME")
    add("--output", "folder of all runs", type=Path, required=True)
    add("--baselines", "of which the best is compared with the other arms (default: the first arm)",
        nargs="+", default=[], metavar="ARM")  # fmt: skip
    add("--margin", "also say whether an arm loses less than this", type=float, metavar="AP")
    add("--test", "name and overrides of a test; more than once", nargs="+", action="append", default=[],
        metavar=("NAME", "KEY VALUE"))  # fmt: skip
    add("--jobs", "runs at a time (default 1); several GPUs are shared out", type=int, default=1)
    add("--launcher", "what makes a run (default local)", choices=("local", "slurm", "submitit-local"),
        default="local")  # fmt: skip
    add("--slurm", "parameters of its jobs", nargs="+", default=[], metavar="KEY=VALUE")
    add("--chart", "mean loss over all RoIs against iterations", type=Path, metavar="PNG")
    add("opts", "KEY VALUE overrides for every run, after --", nargs="*", default=[])
    args = parser.parse_args(argv)
    if not args.arms and not args.arm:
        parser.error("no arms: give --base CONFIG --arm NAME ..., or --arms CONFIG ...")
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}; valid: 1 or more")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args, begun = parse_args(argv), time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with ExitStack() as stack:
            stack.enter_context(end_with_children())
            stack.enter_context(hold_lock(args.output / "compare.lock", f"the output folder {args.output}"))
            failed = compare(args, begun)
    except Stopped as error:
        failed = [error]
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"compare.py: {error}")
    if any(isinstance(error, Stopped) for error in failed):
        print("compare.py: stopped; the same command goes on", file=sys.stderr)
        sys.exit(EXIT_CODE)
    if failed:
        sys.exit("\n".join(f"compare.py: {error}" for error in failed))


def compare(args: argparse.Namespace, begun: float) -> list[Exception]:
    """Train, test, and print what there is; the errors of the runs that failed."""
    tests = {name: overrides for name, *overrides in args.test}
    if len(tests) < len(args.test):
        raise ValueError(f"two tests have the same name: {', '.join(name for name, *_ in args.test)}")
    if args.budget or len(args.seeds or [0]) > 1:
        check_scipy()
    runs = prepare(args, tests, begun)
    sweep = Sweep(runs, args.output, args.jobs, build_launcher(args))
    with show_progress({run.folder: args.output / run.folder for run in runs}):
        failed = sweep.train()
    if any(isinstance(error, Stopped) for error in failed):
        return failed
    if tests and not failed:
        failed = sweep.test(tests)
    trained = read_records(args.output / "results.json")
    records = read_records(args.output / "tests.json") if tests else trained
    if records:
        failed += report(records, args)
        logger.info("%.0f min", (time.monotonic() - begun) / 60)
    if args.chart:
        plot_roi_losses(read_curves(trained, args.output), args.chart)
    return failed


def report(records: Sequence[Record], args: argparse.Namespace) -> list[Exception]:
    """Write and print the report; an error instead, where there can be none."""
    try:
        print(f"\n{write_report(records, args.output, args.baselines, args.margin)}\n")
    except ValueError as error:
        return [error]
    logger.info("%s", args.output / "report.html")
    return []


def prepare(args: argparse.Namespace, tests: Mapping[str, Sequence[str]], begun: float) -> list[Run]:
    """All runs, whose configs have been built, also with the overrides of their tests."""
    arms = [*arms_of_files(args.arms), *map(parse_variant, args.arm)]
    data = [*map(parse_variant, args.data)] or [Variant("")]
    seconds = parse_duration(args.budget) if args.budget else None
    seeds = args.seeds or [0]
    runs = make_runs(args.base, arms, seeds, data, args.opts)
    known = [arm.name for arm in arms] + [r["arm"] for r in read_records(args.output / "results.json")]
    check_arms(args.baselines, dict.fromkeys(known))
    if seconds and args.launcher == "slurm":
        raise ValueError("--budget plans for this machine; with --launcher slurm give --seeds")
    is_here, plan = args.launcher != "slurm", keep_plan(args.output, None)
    to_time = TRIAL_ITERATIONS if seconds and not plan else 0
    trials = try_all(runs, args.output, args.jobs, is_here, to_time)
    check_trials(trials)
    for name, overrides in tests.items():
        tested = [replace(run, arm=f"{run.arm}/{name}", opts=(*run.opts, *overrides)) for run in runs]
        check_trials(try_all(tested, args.output, args.jobs, count=False))
    for warning in describe_unequal_starts(trials):
        logger.warning("%s", warning)
    keep_settings(args.output, args.base, args.opts, data, [arm.name for arm in arms])
    if seconds and plan:
        logger.info("As planned before: %s/plan.json; remove it to plan anew", args.output)
    if seconds and not plan:
        left = seconds - (time.monotonic() - begun)
        plan = make_plan(list(trials.values()), left, args.jobs, args.seeds and len(args.seeds))
        logger.info("%s", describe_plan(plan, trials, args.jobs, spread(args)))
        keep_plan(args.output, plan)
    if plan is not None:
        runs = make_runs(args.base, arms, args.seeds or range(plan.num_seeds), data, args.opts)
        runs = shorten(runs, trials, plan)
    check_records(args.output, runs)
    return runs


def spread(args: argparse.Namespace) -> tuple[float, str]:
    """Of paired differences, as far as it is known, and where it is from."""
    records = read_records(args.output / "results.json")
    by_data = [[r for r in records if r.get("data") == data] for data in {r.get("data") for r in records}]
    compared = [first for of_data in by_data for first, *_ in compare_records(of_data)]
    return measured_spread(compared) or KNOWN_SPREAD


def build_launcher(args: argparse.Namespace):
    if args.launcher == "local":
        return run_once
    cluster = args.launcher.removeprefix("submitit-")
    return JobLauncher(args.output / "jobs", cluster, parse_parameters(args.slurm))


def read_curves(records: Sequence[Record], output: Path) -> dict[str, list]:
    """Arm -> the losses over all RoIs of its runs."""
    curves: dict[str, list] = {}
    for record in records:
        curves.setdefault(record["arm"], []).append(read_roi_losses(output / record["folder"]))
    return curves


if __name__ == "__main__":
    main()

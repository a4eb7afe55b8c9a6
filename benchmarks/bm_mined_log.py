#!/usr/bin/env python
"""What the log of mined RoIs takes of a training iteration, on synthetic images, proposals and weights.

    python benchmarks/bm_mined_log.py --model r50-fpn --precision amp --output mined_log.json

After each iteration the time of the host in the hook is taken, which the device may use to go on; to it comes
the writing of the file at the end, shared out over the iterations. The iteration is measured without the log.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from arms import build_arm, get_parser, make_batch, set_precision
from measure import synchronize, write_report

from ohem_d2.engine.mined_log import MinedLog


def main() -> None:
    args = get_parser(__doc__).parse_args()
    set_precision(args.precision)
    batch = make_batch(args)
    step = build_arm("ohem", args).step(batch)
    with TemporaryDirectory() as folder:
        results = measure(step, args, Path(folder), [f"{i:06}.jpg" for i in range(len(batch))])
    write_report(results, args.output)
    print(table(results, args))


def measure(step, args, folder: Path, names: list[str]) -> dict[str, float]:
    """Milliseconds of an iteration and of its log, and the bytes of its record."""
    plain = [timed(step, args.device) for _ in range(args.warmup + args.repeats)][args.warmup :]
    hook = MinedLog(folder)
    hook.trainer = SimpleNamespace(model=step.model, start_iter=0, batch_files=names)
    hook.before_train()
    logged = []
    for hook.trainer.iter in range(args.warmup + args.repeats):
        step()
        begun = time.perf_counter()
        hook.after_step()
        logged.append(1000 * (time.perf_counter() - begun))
    begun = time.perf_counter()
    hook.after_train()
    written = 1000 * (time.perf_counter() - begun) / len(logged)
    iteration, log = statistics.median(plain), statistics.median(logged[args.warmup :]) + written
    num_bytes = sum(file.stat().st_size for file in folder.iterdir()) / len(logged)
    return {"iteration ms": iteration, "log ms": log, "share": log / iteration, "bytes": num_bytes}


def timed(step, device: str) -> float:
    """Milliseconds of a step, with what the device does."""
    synchronize(device)
    begun = time.perf_counter()
    step()
    synchronize(device)
    return 1000 * (time.perf_counter() - begun)


def table(results: dict[str, float], args) -> str:
    figures = f"{results['iteration ms']:.1f} | {results['log ms']:.3f} | {results['share']:.2%}"
    return (
        "| iteration, ms | log, ms | share | bytes |\n|---|---|---|---|\n"
        f"| {figures} | {results['bytes']:,.0f} |\n\n{args.model}, {args.images} images, {args.proposals} "
        f"proposals each, {args.precision}, {args.device}; medians of {args.repeats}."
    )


if __name__ == "__main__":
    main()

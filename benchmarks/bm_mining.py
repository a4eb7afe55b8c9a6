#!/usr/bin/env python
"""Time and memory of mining alone, as it is and with one optimisation undone at a time.

    python benchmarks/bm_mining.py --model vgg16 --proposal-file FILE.safetensors --output FILE.json

Mining alone is everything from the proposals to the hard ones: labels, read-only pass, selection, statistics.
The lower bound ("floor") is its multiply-adds over the rate of a large matrix product, and the bytes that its
other kernels read and write over the rate of a large copy, both measured in the same run. Proposals are
synthetic, or those of the first images in a file that have enough, scaled to the size of the model's images.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from arms import MODELS, build_arm, get_parser, make_batch, set_precision
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from measure import TrafficCounter, count_operations, peak_memory, time_in_turns, write_report
from torch.utils.flop_counter import FlopCounterMode

from ohem_d2.data import read_proposals
from ohem_d2.mining import rank_hard_rois, suppression
from ohem_d2.modeling.pooling import PooledRoIs, split_boxes

COLUMNS = ("ms", "ratio", "memory MiB", "ATen calls", "launches", "syncs")


def chunks_of_detectron2(pooler, features, boxes, size, share) -> PooledRoIs:
    """`pool_in_chunks` by the pooler itself."""
    features = [feature.float() for feature in features]
    return PooledRoIs(pooler(features, chunk) for chunk in split_boxes(boxes, size))


# An optimisation undone or replaced: functions that replace ours, and options of mining. An option that is
# the device's default changes nothing.
CANDIDATES, SUPPRESSION = "ohem_d2.modeling.candidates.", "ohem_d2.mining.suppression."
UNDONE: dict[str, tuple] = {
    "as it is": ({}, {}),
    "Detectron2's matcher": ({CANDIDATES + "match_labels": lambda matcher, ious, best: matcher(ious)[1]}, {}),
    "Detectron2's pooler": (
        {"ohem_d2.modeling.box_forward.pool_in_chunks": chunks_of_detectron2},
        {},
    ),
    "NMS of all images at once": ({SUPPRESSION + "_group_by_group": suppression._all_at_once}, {}),
    "NMS image by image": ({SUPPRESSION + "_all_at_once": suppression._group_by_group}, {}),
    "float32": ({}, {"readonly_dtype": "float32"}),
    "float16": ({}, {"readonly_dtype": "float16"}),
    "bfloat16": ({}, {"readonly_dtype": "bfloat16"}),
    "256 RoIs at a time": ({}, {"readonly_chunk": 256}),
    "4096 RoIs at a time": ({}, {"readonly_chunk": 4096}),
}


def main() -> None:
    parser = get_parser(__doc__)
    parser.add_argument("--steps", nargs="+", choices=list(UNDONE), default=list(UNDONE))
    parser.add_argument("--proposal-file", type=Path, help="a proposal store (default: drawn boxes)")
    args = parser.parse_args()
    set_precision(args.precision)
    try:
        results = measure(args)
    except (OSError, ValueError) as error:
        sys.exit(f"bm_mining.py: {error}")
    write_report(results, args.output)
    print(table(results, args))


def measure(args) -> dict:
    batch = make_batch(args)
    if args.proposal_file:
        replace_proposals(batch, args)
    model = build_arm("ohem", args).model
    autocast = torch.autocast(model.device.type, enabled=args.precision == "amp")
    with torch.no_grad(), autocast:
        features = model.backbone(model.preprocess_image(batch).tensor)
    steps = {name: mining(model.roi_heads, features, batch, autocast, *UNDONE[name]) for name in args.steps}
    results = time_in_turns(steps, args.device, args.repeats, args.warmup)
    first = results[args.steps[0]]["ms"]
    for name, step in steps.items():
        results[name].update(peak_memory(step, args.device), **count_operations(step, args.device))
        results[name]["ratio"] = results[name]["ms"] / first
    return {"steps": results, "selection": selection(args), "floor": floor(steps[args.steps[0]], args)}


def replace_proposals(batch, args) -> None:
    """Take boxes from the first images of the file with ``--proposals`` or more, stretched to the image."""
    proposals = read_proposals(args.proposal_file)
    ids = [image_id for image_id in proposals if proposals.count(image_id) >= args.proposals][: len(batch)]
    if len(ids) < len(batch):
        raise ValueError(
            f"{args.proposal_file}: {len(ids)} images have {args.proposals} boxes, {len(batch)} are needed"
        )
    for x, image_id in zip(batch, ids):
        boxes = torch.from_numpy(proposals[image_id][0][: args.proposals].copy()).to(args.device)
        extent = boxes[:, 2:].amax(dim=0)
        boxes = boxes * (boxes.new_tensor([x["width"], x["height"]]) / extent).repeat(2)
        x["proposals"].proposal_boxes = Boxes(boxes)


def mining(
    heads, features, batch, autocast, functions: dict[str, Callable], options: dict
) -> Callable[[], None]:
    proposals, targets = [x["proposals"] for x in batch], [x["instances"] for x in batch]
    ohem = replace(heads.ohem, **options)

    def run() -> None:
        with ExitStack() as stack, autocast:
            for name, function in functions.items():
                stack.enter_context(mock.patch(name, function))
            stack.enter_context(EventStorage())
            stack.enter_context(torch.no_grad())
            heads.ohem, heads._features = ohem, features
            heads._hard_candidates(proposals, targets)

    return run


def selection(args) -> dict:
    """Measure the step from losses to indices, for all RoIs of the batch."""
    boxes = torch.cat([x["proposals"].proposal_boxes.tensor for x in make_batch(args)])
    image_ids = torch.arange(args.images, device=args.device).repeat_interleave(args.proposals)
    losses = torch.rand(len(boxes), device=args.device)

    def run() -> None:
        rank_hard_rois(losses, boxes, image_ids, MODELS[args.model].budget)

    times = time_in_turns({"selection": run}, args.device, args.repeats, args.warmup)["selection"]
    return {**times, **count_operations(run, args.device)}


def floor(run: Callable, args) -> dict:
    """Lower bounds on the time of the pass, one after another: its products, and the traffic of all else.

    The rates are those of a large matrix product and of a large copy, measured here.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    with TrafficCounter() as traffic:
        run()
    on_gpu = args.device.startswith("cuda")
    flops, rates, ms = counter.get_total_flops(), {}, {}
    for dtype in (torch.float32, torch.float16) if on_gpu else (torch.float32,):
        side, name = 8192 if on_gpu else 1024, str(dtype).removeprefix("torch.")
        a = torch.randn(side, side, device=args.device, dtype=dtype)
        rates[f"GFLOP/s, {name}"] = 2 * side**3 / _time(partial(torch.matmul, a, a), args) / 1e6
        ms[f"products in {name}"] = flops / 1e6 / rates[f"GFLOP/s, {name}"]
    block = torch.empty(2**28 if on_gpu else 2**26, dtype=torch.uint8, device=args.device)
    rates["GB/s"] = 2 * len(block) / _time(block.clone, args) / 1e6
    gigabytes = {kind: num_bytes / 1e9 for kind, num_bytes in traffic.bytes.items() if kind != "products"}
    ms.update({kind: 1000 * gb / rates["GB/s"] for kind, gb in gigabytes.items()})
    return {"GFLOP": flops / 1e9, "GB": gigabytes, "rates": rates, "ms": ms}


def _time(run: Callable, args) -> float:
    return time_in_turns({"run": run}, args.device, 10, 2)["run"]["ms"]


def table(results: dict, args) -> str:
    lines = ["| mining | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, of_step in results["steps"].items():
        cells = [f"{of_step[c]:.{2 if c in ('ms', 'ratio') else 0}f}" for c in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    chosen, bound = results["selection"], results["floor"]
    floors = ", ".join(f"{name} {ms:.1f} ms" for name, ms in bound["ms"].items())
    traffic = ", ".join(f"{kind} {gigabytes:.2f} GB" for kind, gigabytes in bound["GB"].items())
    lines.append(
        f"\nSelection alone: {chosen['ms']:.2f} ms, {chosen['syncs']} syncs. "
        f"Mining: {bound['GFLOP']:.1f} GFLOP; traffic of {traffic}; floor: {floors}."
    )
    height, width = args.size or MODELS[args.model].size
    source = " of a file" if args.proposal_file else ""
    lines.append(
        f"{args.model}, {args.images} images of {height} x {width}, {args.proposals} proposals each{source}, "
        f"{args.device}; median of {args.repeats}, ms."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Peak memory of labelling and sampling where every object has a bitmask.

    python benchmarks/bm_mask_memory.py

Mining copies masks for selected RoIs only. Arms, each in a process of its own: ``standard`` (Detectron2's
sampler), ``ohem``, and ``all``, which attaches the masks to every candidate before the selection.
"""

import argparse
import multiprocessing
import resource
from pathlib import Path

import ohem_d2  # before Detectron2, whose FutureWarnings it keeps off the console

# isort: split
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from measure import write_report

ARMS = ("standard", "ohem", "all")


def build_heads(arm: str, num_selected: int, num_candidates: int):
    cfg = get_cfg()
    ohem_d2.add_ohem_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "OHEMROIHeads" if arm == "ohem" else "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0 if arm == "all" else 0.25
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = num_candidates if arm == "all" else num_selected
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 16, 3
    return build_roi_heads(cfg, {"res4": ShapeSpec(channels=8, stride=16)}).train()


def make_image(num_objects: int, num_proposals: int, height: int, width: int):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(num_objects, 2, generator=generator) * torch.tensor([width - 120.0, height - 120.0])
    objects = torch.cat([corners, corners + 40 + torch.rand(num_objects, 2, generator=generator) * 80], dim=1)
    targets = Instances((height, width), gt_boxes=Boxes(objects), gt_classes=torch.arange(num_objects) % 80)
    targets.gt_masks = BitMasks(torch.ones(num_objects, height, width, dtype=torch.bool))
    near = objects.repeat(num_proposals // num_objects + 1, 1)[:num_proposals]
    proposals = Instances(
        (height, width), proposal_boxes=Boxes(near + torch.rand(near.shape, generator=generator) * 16)
    )
    proposals.objectness_logits = torch.zeros(num_proposals)
    return {"res4": torch.randn(1, 8, height // 16, width // 16)}, [proposals], [targets]


def measure(arm: str, args: argparse.Namespace, result) -> None:
    """Send the number of sampled RoIs, and the MiB by which sampling raised this process's peak memory."""
    heads = build_heads(arm, args.selected, args.proposals + args.objects)
    features, proposals, targets = make_image(args.objects, args.proposals, args.height, args.width)
    heads._features = features
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with EventStorage():
        sampled = heads.label_and_sample_proposals(proposals, targets)
    result.send((len(sampled[0]), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("objects", 100),
        ("proposals", 2000),
        ("selected", 512),
        ("height", 800),
        ("width", 1333),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    results = {}
    print(f"{args.objects} objects with bitmasks of {args.height} x {args.width}, {args.proposals} proposals")
    print("| arm | RoIs with masks | peak memory |\n|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    for arm in ARMS:
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=measure, args=(arm, args, sender))
        process.start()
        num_rois, mebibytes = receiver.recv()
        process.join()
        results[arm] = {"RoIs with masks": num_rois, "peak memory MiB": mebibytes}
        print(f"| {arm} | {num_rois} | +{mebibytes:,.0f} MiB |")
    write_report({"arms": results}, args.output)


if __name__ == "__main__":
    main()

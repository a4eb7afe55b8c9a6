#!/usr/bin/env python
"""Time of testing as in the paper, relative to plain inference: box voting (+B), five scales (+M), both.

    python benchmarks/bm_testing.py --model vgg16 --size 600 800 --output testing_vgg16.json

On synthetic images, proposals and weights; all arms are built in one process and take turns. "whole" is
everything from image to detections, "head" the same without backbone and RPN. The scales are the paper's
(480, 576, 688, 864, 1000, long side at most 1000), relative to 600. Runs on the CPU (``--model small``) and
on CUDA.
"""

import copy
from collections.abc import Callable

import torch
from arms import MODELS, arm_cfg, build_arm, get_parser, make_batch, set_precision
from measure import time_in_turns, write_report
from torch import nn

from ohem_d2.evaluation import build_test_model

VOTING = ("TEST.BOX_VOTING.ENABLED", True)
MULTI_SCALE = ("TEST.AUG.ENABLED", True, "TEST.AUG.FLIP", False, "TEST.AUG.COMBINE", "proposals")
ARMS = {"plain": (), "+B": VOTING, "+M": MULTI_SCALE, "+M+B": (*MULTI_SCALE, *VOTING)}
SCALES, USUAL, LONGEST = (480, 576, 688, 864, 1000), 600, 1000


def main() -> None:
    parser = get_parser(__doc__)
    parser.set_defaults(images=1)
    parser.add_argument("--score-thresh", type=float, default=0.05, help="default 0.05")
    parser.add_argument("--detections", type=int, default=100, help="maximum per image (default 100)")
    args = parser.parse_args()
    set_precision(args.precision)
    results = measure(args)
    write_report(results, args.output)
    print(table(results, args))


def measure(args) -> dict:
    batch, model = make_batch(args), build_arm("standard", args).model.eval()
    model.given = [x["proposals"] for x in batch]
    spread_scores(model, batch)
    head_alone = without_backbone(model)
    whole = {name: step(name, model, batch, args) for name in ARMS}
    head = {name: step(name, head_alone, batch, args) for name in ARMS}
    results = {part: time_in_turns(steps, args.device, args.repeats, args.warmup)
               for part, steps in (("whole", whole), ("head", head))}  # fmt: skip
    for of_part in results.values():
        for of_arm in of_part.values():
            of_arm["ratio"] = of_arm["ms"] / of_part["plain"]["ms"]
    results["detections"] = {name: sum(len(x["instances"]) for x in run()) for name, run in whole.items()}
    return results


def step(arm: str, model: nn.Module, batch, args) -> Callable:
    cfg, short = arm_cfg("standard", args), (args.size or MODELS[args.model].size)[0]
    cfg.INPUT.MIN_SIZE_TEST, cfg.TEST.AUG.MAX_SIZE = short, LONGEST * short // USUAL
    cfg.TEST.AUG.MIN_SIZES = tuple(scale * short // USUAL for scale in SCALES)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = args.score_thresh, args.detections
    cfg.merge_from_list(list(ARMS[arm]))
    tested = build_test_model(cfg, model).eval()
    predictor = model.roi_heads.box_predictor
    predictor.test_score_thresh, predictor.test_topk_per_image = args.score_thresh, args.detections
    predictor.test_nms_thresh = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
    return torch.no_grad()(lambda: tested(batch))


def spread_scores(model: nn.Module, batch) -> None:
    """Scale the logits of the untrained model so that some RoIs are detections and most are background."""
    predictor, logits = model.roi_heads.box_predictor, []
    hook = predictor.register_forward_hook(lambda module, args, output: logits.append(output[0]))
    with torch.no_grad():
        model(batch)
        hook.remove()
        logits = logits[0] - predictor.cls_score.bias
        mean, std = logits.mean(dim=0), logits.std(dim=0).clamp(min=1e-6)
        predictor.cls_score.weight.mul_(2 / std[:, None])
        predictor.cls_score.bias.copy_(-2 * mean / std)
        predictor.cls_score.bias[-1] += 6


def without_backbone(model: nn.Module) -> nn.Module:
    """A copy that computes the features of each image size once and takes the proposals of its input."""
    model = copy.deepcopy(model)
    model.proposal_generator, forward, known = None, model.backbone.forward, {}

    def remembered(images):
        if images.shape not in known:
            known[images.shape] = forward(images)
        return known[images.shape]

    model.backbone.forward = remembered
    return model


def table(results, args) -> str:
    lines = ["| arm | whole, ms | ratio | head, ms | ratio | detections |", "|---|---|---|---|---|---|"]
    for arm in ARMS:
        cells = [
            f"{results[part][arm][key]:{form}}"
            for part in ("whole", "head")
            for key, form in (("ms", ".1f"), ("ratio", ".2f"))
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} | {results['detections'][arm]} |")
    height, width = args.size or MODELS[args.model].size
    lines.append(
        f"\n{args.model}, {args.images} image(s) of {height} x {width}, {args.proposals} proposals each, "
        f"{args.classes} classes, scores above {args.score_thresh}, {args.device}; median of {args.repeats}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Convert weights of torchvision or Caffe to a Detectron2 checkpoint; print the config keys that go with it.

    python tools/convert_weights.py torchvision vgg16 weights/VGG16.pth
    python tools/convert_weights.py torchvision resnet18 weights/resnet18.pth --weights resnet18-f37072fd.pth
    python tools/convert_weights.py caffe VGG_CNN_M_1024.v2.caffemodel weights/VGG_CNN_M_1024.pth

The checkpoint records which images it is for; training and evaluation refuse it where the config has others.
"""

import argparse
import logging
import sys
from dataclasses import replace

from ohem_d2.modeling.backbones.caffe import read_caffemodel, read_npz
from ohem_d2.modeling.backbones.weights import (
    BACKBONE_PREFIXES,
    CAFFE_INPUT,
    NETS,
    check_output,
    convert_blobs,
    convert_torchvision,
    reverse_channels,
    save_checkpoint,
    torchvision_input,
    torchvision_weights,
)
from ohem_d2.utils.checkpoint import FORMATS


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = _parse_args()
    try:
        check_output(args.out)
        state, source = (_from_torchvision if args.source == "torchvision" else _from_caffe)(args)
        image_input = source.to(args.format)
        given = {"pixel_mean": args.pixel_mean, "pixel_std": args.pixel_std}
        image_input = replace(image_input, **{key: tuple(value) for key, value in given.items() if value})
        if image_input.format != source.format:
            state = reverse_channels(state)
        save_checkpoint(args.out, state, image_input, f"{args.source} {args.what}")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"convert_weights.py: {error}")
    print(
        f"{args.out}: {len(state)} parameters and buffers. Train with\nMODEL.WEIGHTS {args.out} {image_input}"
    )


def _from_torchvision(args):
    backbone = args.backbone or ("VGG16" if args.what == "vgg16" else "TorchvisionBackbone")
    source = torchvision_input(args.what)
    return convert_torchvision(args.what, torchvision_weights(args.what, args.weights), backbone), source


def _from_caffe(args):
    read = read_npz if args.what.endswith(".npz") else read_caffemodel
    return convert_blobs(read(args.what), args.model), CAFFE_INPUT


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sources = parser.add_subparsers(dest="source", required=True)
    torchvision = sources.add_parser("torchvision", help="a classification network of torchvision")
    torchvision.add_argument("what", metavar="NAME", help="for example resnet50; an unknown one prints all")
    torchvision.add_argument(
        "--weights", metavar="FILE", help="its state dict (default: download the pretrained one)"
    )
    torchvision.add_argument("--backbone", choices=BACKBONE_PREFIXES,
                             help="MODEL.BACKBONE.NAME (default: VGG16 for vgg16, else TorchvisionBackbone)"
    )  # fmt: skip
    caffe = sources.add_parser("caffe", help="one of the paper's networks, in Caffe's weights")
    caffe.add_argument(
        "what", metavar="FILE", help=".caffemodel of any version of Caffe, or .npz of blobs LAYER.0, LAYER.1"
    )
    caffe.add_argument("--model", choices=NETS, help="default: the one that has the layers of FILE")
    for source in torchvision, caffe:
        source.add_argument("out", metavar="OUT", help=".pth or .pkl")
        source.add_argument(
            "--format", choices=FORMATS, default="BGR", help="INPUT.FORMAT to convert to (default: BGR)"
        )
        for key in "mean", "std":
            source.add_argument(f"--pixel-{key}", nargs=3, type=float, metavar="X",
                                help=f"MODEL.PIXEL_{key.upper()}, in that order (default: the source's)"
            )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()

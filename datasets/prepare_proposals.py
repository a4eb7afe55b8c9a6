#!/usr/bin/env python
"""
Prepare object proposals in files that DATASETS.PROPOSAL_FILES_TRAIN and _TEST take.

    python datasets/prepare_proposals.py generate selective-search --dataset voc_2007_trainval --output FILE
    python datasets/prepare_proposals.py generate selective-search --catalog FILE --dataset NAME [NAME ...]
"""

import argparse
import os
import sys
import tempfile
from typing import Optional

from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import read_proposals, register_catalog, summarize_proposals, write_proposals
from ohem_d2.data.selective_search import MODES, generate_selective_search


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    generate = commands.add_parser("generate", help="compute the proposals of a data set")
    generators = generate.add_subparsers(dest="generator", metavar="METHOD", required=True)
    add_selective_search(generators)
    return parser


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command has that writes the proposals of registered data sets."""
    parser.add_argument("--catalog", help="YAML catalogue to register; Detectron2's own data sets need none")
    parser.add_argument("--dataset", nargs="+", required=True, metavar="NAME", help="registered data sets")
    parser.add_argument("--output", help="one file for all; default: each data set's own proposal file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def add_selective_search(generators) -> None:
    parser = generators.add_parser(
        "selective-search",
        help="Selective Search, by OpenCV's contrib build",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_dataset_arguments(parser)
    parser.add_argument("--mode", choices=MODES, default="fast", help="quality: more boxes and time")
    parser.add_argument("--scale", type=float, default=1.0, help="resize images by it for the search")
    parser.add_argument("--workers", type=int, help="processes; None is one per core")
    parser.set_defaults(run=run_selective_search)


def run_selective_search(args: argparse.Namespace) -> None:
    if args.catalog:
        register_catalog(args.catalog)
    outputs = group_by_output(args.dataset, args.output)
    for path in outputs:
        check_output(path, args.overwrite)
    for path, names in outputs.items():
        records = [record for name in names for record in DatasetCatalog.get(name)]
        proposals = generate_selective_search(records, args.workers, args.mode, args.scale)
        write_proposals(path, proposals)
        report(path, records)


def group_by_output(names: list[str], output: Optional[str] = None) -> dict[str, list[str]]:
    """Output file -> the data sets whose proposals it will hold."""
    outputs: dict[str, list[str]] = {}
    for name in names:
        if name not in DatasetCatalog:
            choices = ", ".join(DatasetCatalog.list())
            raise ValueError(f"data set {name!r} is not registered; choose from {choices}")
        path = output or MetadataCatalog.get(name).get("proposal_file")
        if not path:
            raise ValueError(f"data set {name!r} has no proposal file in its catalogue; give --output")
        outputs.setdefault(path, []).append(name)
    return outputs


def check_output(path: str, overwrite: bool) -> None:
    """Find out before the search, not after it, that its result could not be written."""
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; --output names a file")
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"{path} exists; --overwrite replaces it")
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from None


def report(path: str, records: list[dict]) -> None:
    """Print what the written file holds, and how well it covers the ground truth."""
    print(summarize_proposals(records, read_proposals(path)))
    print(f"written to {path}")


def main(argv: Optional[list[str]] = None) -> None:
    args = get_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, KeyError, OSError, ImportError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: no unfinished file is left")


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Prepare proposal files for DATASETS.PROPOSAL_FILES_TRAIN and PROPOSAL_FILES_TEST.

    python datasets/prepare_proposals.py convert SOURCE TARGET [--catalog FILE] [--dataset NAME [NAME ...]]
    python datasets/prepare_proposals.py export SOURCE TARGET
    python datasets/prepare_proposals.py generate selective-search --dataset voc_2007_trainval --output FILE
    python datasets/prepare_proposals.py generate selective-search --catalog FILE --dataset NAME [NAME ...]
    python datasets/prepare_proposals.py generate rpn --config-file FILE --weights FILE --dataset NAME [...]
    python datasets/prepare_proposals.py merge TARGET SHARD [SHARD ...]
    python datasets/prepare_proposals.py inspect FILE [FILE] [--dataset NAME] [--output PNG]
    python datasets/prepare_proposals.py targets FILE --dataset NAME [NAME ...]

Where a FILE is read, a quoted pattern, "x.shard-*.safetensors", is for several stores that are read as one.
An interrupted `generate` resumes where it stopped when it is called again.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import register_catalog
from ohem_d2.data.registered import first_class_names, require_registered
from ohem_d2.engine import load_config
from ohem_d2.proposals import read_proposals, summarize_proposals
from ohem_d2.proposals.box_targets import format_targets, measure_targets
from ohem_d2.proposals.conventions import CONVENTIONS
from ohem_d2.proposals.conversion import convert_proposals
from ohem_d2.proposals.formats import FORMATS, write_detectron2
from ohem_d2.proposals.generation import ProposalMethod, generate_proposals, unique_images
from ohem_d2.proposals.inspection import format_inspections, inspect_proposals
from ohem_d2.proposals.merging import merge_proposals
from ohem_d2.proposals.reading import Paths, is_single
from ohem_d2.proposals.rpn_proposals import RPNProposals
from ohem_d2.proposals.selective_search import MAX_SIDE, MODES, SelectiveSearch
from ohem_d2.proposals.shards import WHOLE, Shard
from ohem_d2.visualization import plot_inspections


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    generate = commands.add_parser("generate", help="compute the proposals of a data set")
    generators = generate.add_subparsers(dest="generator", metavar="METHOD", required=True)
    add_selective_search(generators)
    add_rpn(generators)
    add_merge(commands)
    add_convert(commands)
    add_export(commands)
    add_inspect(commands)
    add_targets(commands)
    return parser


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all methods of `generate` share."""
    parser.add_argument("--catalog", help="YAML catalogue to register; Detectron2's own data sets need none")
    parser.add_argument("--dataset", nargs="+", required=True, metavar="NAME", help="registered data sets")
    parser.add_argument("--output", help="one file for all; default: each data set's own proposal file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--shard",
        metavar="i/n",
        help="only the i-th of n shards, i from 1 on; default: by SLURM's job array, else all",
    )
    parser.add_argument("--workers", type=int, help="processes; default: one per core; with rpn, none")


def add_selective_search(generators) -> None:
    parser = generators.add_parser("selective-search", help="Selective Search, by OpenCV's contrib build")
    add_generate_arguments(parser)
    parser.add_argument("--mode", choices=MODES, default="fast", help="default: fast; quality: more boxes")
    parser.add_argument("--scale", type=float, default=1.0, help="factor to resize images by (default: 1)")
    parser.add_argument(
        "--max-side",
        type=int,
        default=MAX_SIDE,
        help=f"shrink larger images for the search, in pixels (default {MAX_SIDE}; 0: none)",
    )
    parser.set_defaults(run=run_selective_search)


def run_selective_search(args: argparse.Namespace) -> None:
    run_generate(args, lambda: SelectiveSearch(args.mode, args.scale, args.workers, args.max_side))


def add_rpn(generators) -> None:
    parser = generators.add_parser("rpn", help="the proposal network of a trained Detectron2 model")
    add_generate_arguments(parser)
    parser.add_argument("--config-file", required=True, help="of the model; it runs on CUDA if there is one")
    parser.add_argument("--weights", default="", help="checkpoint; default: MODEL.WEIGHTS of the config")
    parser.add_argument("--top-k", type=int, default=2000, help="maximum boxes per image (default: 2000)")
    parser.add_argument("--nms", type=float, default=0.7, help="IoU threshold of NMS (default: 0.7)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    parser.set_defaults(run=run_rpn)


def run_rpn(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:  # nothing is written to the output folder of the config
        cfg = load_config(args.config_file, [*args.opts, "OUTPUT_DIR", folder])  # registers its data sets
    run_generate(args, lambda: RPNProposals(cfg, args.weights, args.top_k, args.nms, args.workers))


def run_generate(args: argparse.Namespace, make_method: Callable[[], ProposalMethod]) -> None:
    if args.catalog:
        register_catalog(args.catalog)
    shard = choose_shard(args.shard)
    outputs = group_by_output(args.dataset, args.output)
    for path in outputs:
        check_output(str(shard.path(path)), args.overwrite)
    method = make_method()
    for path, names in outputs.items():
        records = [record for name in names for record in DatasetCatalog.get(name)]
        written = generate_proposals(path, method, records, ", ".join(names), shard)
        print(summarize_proposals(shard.of(unique_images(records)), read_proposals(written)))
        print(f"written to {written}")


def choose_shard(given: str | None) -> Shard:
    """The shard that is given, else that of a task of SLURM's job array, else the whole."""
    of_task = None if given else Shard.of_slurm_task(os.environ)
    if of_task:
        logging.info("shard %s, by SLURM's job array; --shard 1/1 is the whole", of_task)
    return Shard.parse(given) if given else of_task or WHOLE


def add_merge(commands) -> None:
    parser = commands.add_parser("merge", help="join the shards of `generate --shard`")
    parser.add_argument("target", help="file to write")
    parser.add_argument("shards", nargs="+", metavar="SHARD", help="all shards of one run, in any order")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_merge)


def run_merge(args: argparse.Namespace) -> None:
    check_output(args.target, args.overwrite)
    merge_proposals(args.target, args.shards)
    print(f"written to {args.target}")


def add_inspect(commands) -> None:
    parser = commands.add_parser("inspect", help="measure files, and how well they cover a data set")
    parser.add_argument("files", nargs="+", metavar="FILE", help="proposal files to compare; 'x-*' is one")
    parser.add_argument("--catalog", help="YAML catalogue to register; Detectron2's own data sets need none")
    parser.add_argument("--dataset", nargs="+", metavar="NAME", help="registered data sets, for the recall")
    parser.add_argument("--output", metavar="PNG", help="file for charts")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_inspect)


def run_inspect(args: argparse.Namespace) -> None:
    if args.output:
        check_output(args.output, args.overwrite)
    opened = {path: read_proposals(path) for path in args.files}
    records = load_datasets(args.dataset, args.catalog) if args.dataset else None
    inspections = [inspect_proposals(path, proposals, records) for path, proposals in opened.items()]
    print(format_inspections(inspections))
    if args.output:
        plot_inspections(inspections, args.output)
        print(f"written to {args.output}")


def add_targets(commands) -> None:
    parser = commands.add_parser(
        "targets",
        help="mean and standard deviation of the box regression targets, share of foreground",
        description="Mean and standard deviation of the box regression targets of a training set, by class, "
        "and the overrides that divide by the deviations of all classes and set the prior of foreground.",
    )
    parser.add_argument("file", help="proposal file")
    parser.add_argument("--catalog", help="YAML catalogue to register; Detectron2's own data sets need none")
    parser.add_argument("--dataset", nargs="+", required=True, metavar="NAME", help="registered data sets")
    parser.set_defaults(run=run_targets)


def run_targets(args: argparse.Namespace) -> None:
    records = load_datasets(args.dataset, args.catalog)
    classes = first_class_names(args.dataset)
    print(format_targets(measure_targets(records, read_proposals(args.file), classes)))


def add_convert(commands) -> None:
    formats = "; ".join(f"{form.name}: {form.title}" for form in FORMATS.values())
    parser = commands.add_parser(
        "convert",
        help="convert a third-party file to a store",
        description="Convert a proposal file, or a folder of per-image files, to a store. The log says which "
        "box convention was used and how well each one fits.",
    )
    parser.add_argument("source", help=f"file or folder; {formats}")
    parser.add_argument("target", help="store to write, *.safetensors")
    parser.add_argument("--format", choices=FORMATS, help="default: recognised by content or suffix")
    parser.add_argument(
        "--convention", choices=CONVENTIONS, help="of its boxes; default: that of the file or its format"
    )
    parser.add_argument("--catalog", help="YAML catalogue to register; Detectron2's own data sets need none")
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help="registered data sets that the boxes are for: their ids are used, boxes are clipped to their "
        "images, and the box conventions are compared by the objects they cover",
    )
    parser.add_argument("--min-size", type=float, default=2, help="drop boxes with a shorter side (2 pixels)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> None:
    check_output(args.target, args.overwrite)
    records = load_datasets(args.dataset, args.catalog) if args.dataset else None
    metadata = {"dataset": ", ".join(args.dataset)} if args.dataset else {}
    options = (args.format, args.convention, records, metadata, args.min_size)
    convert_proposals(args.source, args.target, *options)
    if records:
        print(summarize_proposals(records, read_proposals(args.target)))
    print(f"written to {args.target}")


def load_datasets(names: list[str], catalog: str | None) -> list[dict]:
    """The dataset dicts of registered data sets, one after the other."""
    if catalog:
        register_catalog(catalog)
    for name in names:
        require_registered(name)
    return [record for name in names for record in DatasetCatalog.get(name)]


def add_export(commands) -> None:
    parser = commands.add_parser("export", help="write a proposal file as Detectron2's pickle")
    parser.add_argument("source", help="store, or a file of another format")
    parser.add_argument("target", help="pickle to write, *.pkl")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    check_output(args.target, args.overwrite)
    write_detectron2(args.target, read_proposals(args.source))
    print(f"written to {args.target}")


def group_by_output(names: list[str], output: str | None = None) -> dict[str, list[str]]:
    """Output file -> the data sets whose proposals go into it.

    Raises:
        ValueError: a data set without a file of its own: another one has the same, or there is none.
    """
    outputs: dict[str, list[str]] = {}
    for name in names:
        require_registered(name)
        path = output or MetadataCatalog.get(name).get("proposal_file")
        if not path:
            raise ValueError(f"data set {name!r} has no proposal file in its catalogue; give --output")
        if not output:
            require_own_file(name, path)
        outputs.setdefault(path, []).append(name)
    return outputs


def require_own_file(name: str, path: Paths) -> None:
    if not is_single(path):
        raise ValueError(f"data set {name!r} reads several proposal files, {path}: give --output")
    for other in DatasetCatalog.list():
        if other != name and MetadataCatalog.get(other).get("proposal_file") == path:
            raise ValueError(
                f"data sets {name!r} and {other!r} have the same proposal file {path}, which one would "
                "overwrite for the other; write {name} into `proposals`, or give --output for both"
            )


def check_output(path: str, overwrite: bool) -> None:
    """Check, before any computation, that its result can be written."""
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


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        args.run(args)
    except (ValueError, KeyError, OSError, ImportError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: no unfinished file is left; called again, `generate` goes on where it stopped")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no process is left
    main()

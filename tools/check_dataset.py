#!/usr/bin/env python
"""Check data sets as they lie on the disk, and list every problem with its file.

    python tools/check_dataset.py voc_2007_trainval voc_2007_test coco_2014_train
    python tools/check_dataset.py cells_train --catalog cells.yaml

It looks at images (there, readable header, size as annotated; with --decode also whether the whole file can
be read, some milliseconds an image), annotations (XML or JSON, ids, classes, boxes) and proposals. The exit
status is 1 if anything is wrong. Training leaves out boxes without area or outside their image and clips
those that reach beyond it, with a warning.
"""

import argparse
import sys

import ohem_d2  # noqa: F401 (registers the data sets)
from ohem_d2.data import register_catalog
from ohem_d2.data.checking import check_dataset


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="registered data sets")
    parser.add_argument("--catalog", help="YAML catalogue to register; Detectron2's own data sets need none")
    parser.add_argument("--proposals", metavar="FILE", help="default: that of each data set, if it exists")
    parser.add_argument("--decode", action="store_true", help="decode images: finds those that are cut off")
    args = parser.parse_args(argv)
    wrong = False
    try:
        if args.catalog:
            register_catalog(args.catalog)
        for name in args.names:
            report = check_dataset(name, args.proposals, sys.stderr.isatty(), args.decode)
            print(*report.problems, report, sep="\n")
            wrong = wrong or bool(report.problems)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
r"""Detect objects in images and videos: pictures with boxes, results as of COCO, and a CSV.

    python tools/predict.py --config-file FILE --input photos clip.mp4 --output found \
        --opts MODEL.WEIGHTS FILE.pth

Images are tested as those of a test set: also at the scales, with the box voting and soft-NMS that the config
has. A model without RPN gets boxes of Selective Search. A config that ends in .py is a LazyConfig; its
weights are train.init_checkpoint=FILE. What cannot be read is named at the end, and the exit status is 1.

OUTPUT/detections.json and .csv have what the model finds (MODEL.ROI_HEADS.SCORE_THRESH_TEST), OUTPUT/pictures
what scores --score-thresh or more.
"""

import argparse
import sys
from pathlib import Path

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
from tqdm import tqdm

from ohem_d2.engine import load_detector
from ohem_d2.evaluation import detect, find_media, is_video, read_frames
from ohem_d2.proposals.selective_search import MAX_SIDE, MODES, SelectiveSearch
from ohem_d2.visualization import annotated_files, draw_detections

FEW = 50  # images, which are searched sooner than processes for it are started


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        unreadable, num_images = run(args)
    except (KeyError, ValueError, OSError, ImportError) as error:
        sys.exit(f"predict.py: {error.args[0] if isinstance(error, KeyError) else error}")
    print(f"{num_images} images: {args.output}/detections.json, detections.csv, pictures")
    if unreadable:
        sys.exit(f"{len(unreadable)} files cannot be read: {', '.join(unreadable)}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--input", nargs="+", required=True, help="images, videos, folders of them")
    parser.add_argument("--output", required=True, help="folder")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="of what is drawn (default 0.5)")
    parser.add_argument("--batch-size", type=int, default=1, help="images at a time (default 1)")
    parser.add_argument("--no-pictures", action="store_true", help="write JSON and CSV alone")
    parser.add_argument("--mode", choices=MODES, default="fast", help="of Selective Search (default fast)")
    parser.add_argument("--scale", type=float, default=1.0, help="of images in it (default 1)")
    parser.add_argument(
        "--max-side", type=int, default=MAX_SIDE, help=f"of images in it, in pixels (default {MAX_SIDE})"
    )
    parser.add_argument(
        "--workers", type=int, help=f"processes of it (default one a core; 1 for fewer than {FEW} images)"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="overrides of the config, to the end of the line"
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size is {args.batch_size}; it must be at least 1")
    return args


def run(args: argparse.Namespace) -> tuple[list[str], int]:
    """Detect in all; returns the files that cannot be read, and the number of images that can."""
    files, pictures = find_media(args.input), Path(args.output) / "pictures"
    for name, file in files.items():
        if (pictures / name).resolve() == file.resolve():
            raise ValueError(f"{file} would be overwritten; give another --output")
    few = len(files) < FEW and not any(map(is_video, files))
    workers = args.workers or (1 if few else None)
    detector, detections = load_detector(
        *(args.config_file, args.opts),
        lambda: SelectiveSearch(args.mode, args.scale, workers, args.max_side).search,
    )
    unreadable: list[str] = []
    num_images = 0
    frames = tqdm(read_frames(files, unreadable), "Detection", unit="image", disable=not sys.stderr.isatty())
    with detections.writing(args.output), annotated_files(pictures) as annotated:
        for frame, found in detect(detector, frames, args.batch_size):
            num_images += 1
            detections.add(frame, found)
            if args.no_pictures:
                continue
            shown = found[found.scores >= args.score_thresh]
            boxes, classes = shown.pred_boxes.tensor.numpy(), shown.pred_classes.tolist()
            picture = draw_detections(
                frame.image, boxes, classes, shown.scores.tolist(), detections.class_names
            )
            if frame.number is None:
                annotated.add_image(frame.name, picture)
            else:
                annotated.add_frame(frame.name, files[frame.name], picture)
    return unreadable, num_images


if __name__ == "__main__":
    main()

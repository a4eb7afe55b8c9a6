#!/usr/bin/env python
"""Look at a folder of labelled images and write what a training on them needs.

    python tools/new_project.py FOLDER [--output PROJECT] [--weights squeezenet1_0.safetensors]

Layouts: XML of PASCAL VOC beside the images (LabelImg) or in Annotations, COCO JSON (also of Roboflow, CVAT
and Label Studio), YOLO txt with data.yaml. PROJECT gets COCO JSON of each split, a catalogue, a config for a
CPU and one for a GPU, and a report; the images stay where they are, and nothing in FOLDER is changed.
"""

import argparse
import sys
from pathlib import Path

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)
from ohem_d2.data.project import Project, make_project

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 10  # problems


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="labelled images")
    parser.add_argument("--output", metavar="PROJECT", help="a new folder (default: projects/FOLDER's name)")
    parser.add_argument("--weights", metavar="FILE", default="",
                        help="ImageNet weights of resnet18 or squeezenet1_0 in torchvision's layout, .pth or "
                        ".safetensors; the file's name begins with the network's"
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split, where FOLDER has none (default: 0)"
    )
    args = parser.parse_args(argv)
    output = Path(args.output or Path("projects", Path(args.folder).absolute().name))
    try:
        project = make_project(args.folder, output, ROOT / "configs", args.weights, args.seed)
    except (ValueError, OSError) as error:
        sys.exit(f"new_project.py: {error}")
    print(project.summary)
    if project.problems:
        print(f"\nProblems: {len(project.problems)}, all in {output}/report.txt")
        print(*project.problems[:SHOWN], sep="\n")
    print("\nNext:")
    print(*commands(project, output, args.weights), sep="\n")


def commands(project: Project, output: Path, weights: str) -> list[str]:
    """What to type next, from the features to detections."""
    convert = f"python tools/convert_weights.py torchvision {project.network} {output}/weights.pth"
    return [
        *([f"  {convert} \\\n      --weights {weights}"] if weights else []),
        f"  python train_net.py --config-file {output}/config.yaml",
        f"  python tools/visualize.py --config-file {output}/config.yaml --dataset {project.test} \\\n"
        f"      --output {output}/detections.png MODEL.WEIGHTS {output}/output/model_final.pth",
        f"or, with a GPU:\n  python train_net.py --config-file {output}/config_gpu.yaml",
    ]


if __name__ == "__main__":
    main()

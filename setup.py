"""Package ohem_d2: online hard example mining for Detectron2. Tested versions: constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Read `__version__` from the package without importing it (that would need torch and Detectron2)."""
    text = (ROOT / "ohem_d2" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


# No detectron2: it is not on the package index under its own name, and which build of it fits (compiled or
# not, main or 0.6) is the user's choice. tools/install_detectron2.py makes one where there is none.
# No OpenCV: its interchangeable builds overwrite each other's files, so the user takes one (see the extras).
INSTALL_REQUIRES = [
    "torch>=2.4",  # mining, heads, training
    "torchvision>=0.19",  # NMS and IoU in the mining core; of the same release as torch
    "fvcore>=0.1.5",  # box losses, checkpoints, configs: the very functions that Detectron2 trains with
    "omegaconf>=2.1",  # Python configs, as Detectron2 reads them
    "hydra-core>=1.1",  # their overrides
    "safetensors>=0.5",  # the proposal store: a mapped file whose header it checks
    "numpy",  # proposal files, drawn data sets, evaluation
    "Pillow",  # images of data sets and pictures of reports
    "pycocotools>=2.0.2",  # COCO data sets and their evaluation
    "PyYAML",  # data set catalogues
    "tabulate",  # tables of results in the log
    "tqdm",  # progress of proposal generation
]

# protobuf: .caffemodel files to read. scipy: the confidence intervals of tools/run_arms.py, and
# MATLAB files to test the reader with.
TEST = ["protobuf>=4.22", "pytest>=7.2", "pytest-xdist>=3.2", "hypothesis", "scipy"]

setup(
    name="ohem_d2",
    version=read_version(),
    description="Online hard example mining for Detectron2",
    license="Apache-2.0",
    packages=find_packages(include=["ohem_d2", "ohem_d2.*"]),
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "opencv": ["opencv-python"],
        "proposals": [
            "opencv-contrib-python",  # the build that has Selective Search (cv2.ximgproc)
            "h5py",  # MATLAB 7.3 files
            "ijson",  # COCO results as a stream
        ],
        "caffe": [
            "protobuf>=4.22"
        ],  # tools/convert_weights.py reads .caffemodel with it; from there GetMessageClass
        "test": TEST,
        "dev": TEST,
    },
)

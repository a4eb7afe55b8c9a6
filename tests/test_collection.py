"""The tests collect on a machine that has nothing but what the package itself needs."""

import os
import subprocess
import sys

import pytest

from .conftest import ROOT

# Import names of what only some commands, formats or tests need.
OPTIONAL = (
    "build",
    "cv2",
    "furo",
    "google.protobuf",
    "h5py",
    "ijson",
    "ipykernel",
    "matplotlib",
    "myst_parser",
    "nbclient",
    "nbformat",
    "scipy",
    "sphinx",
    "tensorboard",
)


@pytest.mark.slow
def test_every_test_is_collected_or_skipped_without_the_optional_packages():
    block = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))"
    collect = (
        "import pytest; sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests']))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"{block}; {collect}"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

import subprocess
import sys

WITHOUT = "import sys; sys.modules['detectron2'] = None\n"


def run(code):
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True)


def test_mining_works_without_detectron2():
    code = """
import torch
from ohem_d2.mining import select_hard_rois
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
print(select_hard_rois(torch.tensor([1.0, 3.0, 2.0]), boxes, torch.zeros(3, dtype=torch.long), 2).tolist())
print([name for name in sys.modules if name.startswith(("detectron2.", "fvcore"))])
"""
    done = run(code)
    assert done.stdout.splitlines() == ["[1, 2]", "[]"], done.stderr


def test_a_name_that_needs_detectron2_says_so_in_one_line():
    done = run("from ohem_d2 import OHEMROIHeads")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ohem_d2.OHEMROIHeads needs Detectron2")
    assert "python tools/install_detectron2.py" in last


def test_an_unknown_name_is_an_attribute_error_without_detectron2_too():
    done = run("import ohem_d2; print(hasattr(ohem_d2, 'OHEMRoIHeads'))")
    assert done.stdout.strip() == "False", done.stderr


def test_the_documented_names_are_there():
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

    import ohem_d2

    for name in ("OHEMROIHeads", "OHEMRes5ROIHeads", "OHEMCascadeROIHeads"):
        assert ROI_HEADS_REGISTRY.get(name) is getattr(ohem_d2, name)
        assert issubclass(getattr(ohem_d2, name), ohem_d2.OHEMMixin)
    assert all(hasattr(ohem_d2, name) for name in ohem_d2.__all__)

import subprocess
import sys


def test_without_detectron2_the_import_says_in_one_sentence_how_to_get_it():
    code = "import sys; sys.modules['detectron2'] = None; import ohem_d2"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ohem_d2 needs Detectron2") and "python tools/install_detectron2.py" in last


def test_the_documented_names_are_there():
    import ohem_d2
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

    for name in ("OHEMROIHeads", "OHEMRes5ROIHeads", "OHEMCascadeROIHeads"):
        assert ROI_HEADS_REGISTRY.get(name) is getattr(ohem_d2, name)
        assert issubclass(getattr(ohem_d2, name), ohem_d2.OHEMMixin)
    assert all(hasattr(ohem_d2, name) for name in ohem_d2.__all__)

import warnings

from ohem_d2.utils.third_party import quiet_imports


def warn(module):
    code = "import warnings; warnings.warn('of tomorrow', FutureWarning, stacklevel=1)"
    exec(code, {"__name__": module, "__warningregistry__": {}})


def test_only_the_warnings_of_others_are_quiet_and_only_inside():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet_imports():
            for module in ("torch.jit._script", "detectron2", "ohem_d2.data", "torchy", "__main__"):
                warn(module)
        assert len(shown) == 3
        warn("torch.jit._script")
        assert len(shown) == 4


def test_filters_that_an_import_sets_are_kept():
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with quiet_imports():
            warnings.filterwarnings("ignore", message="of an imported package")
        assert warnings.filters[1:] == before and warnings.filters[0][0] == "ignore"

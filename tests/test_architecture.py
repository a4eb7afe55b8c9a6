"""The rooms of the package and who may know whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ohem_d2"

# Room -> the rooms of the package that it may import.
ALLOWED = {
    "utils": set(),
    "mining": set(),
    "proposals": {"utils", "version"},  # a file records the version
    "config": {"utils"},
    "comparison": {"utils"},
    "data": {"config", "proposals", "utils"},
    "modeling": {"config", "mining", "utils"},
    "evaluation": {"config", "data", "modeling", "utils"},
    "visualization": {"proposals", "utils"},
    "engine": {"config", "data", "evaluation", "modeling", "utils"},
}
SCRIPTS = {"train_net", "tools", "datasets", "benchmarks", "tests"}


def imported_modules(file):
    """Absolute names of all that `file` imports, at top level or inside functions."""
    package = ("ohem_d2", *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from ([name] if name != "ohem_d2" else (f"ohem_d2.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    for file in (PACKAGE / room).rglob("*.py"):
        for module in imported_modules(file):
            if module.startswith("ohem_d2."):
                other = module.split(".")[1]
                assert other == room or other in ALLOWED[room], f"{file} imports {module}"


def test_mining_knows_torch_alone():
    for file in (PACKAGE / "mining").rglob("*.py"):
        for module in imported_modules(file):
            assert module.split(".")[0] in {
                "torch",
                "torchvision",
                "contextlib",
                "dataclasses",
                "typing",
                "ohem_d2",
            }, f"{file} imports {module}"


def test_nothing_imports_a_script():
    for file in PACKAGE.rglob("*.py"):
        assert not {module.split(".")[0] for module in imported_modules(file)} & SCRIPTS, file


def test_train_net_is_wiring_only():
    assert len((PACKAGE.parent / "train_net.py").read_text().splitlines()) <= 120

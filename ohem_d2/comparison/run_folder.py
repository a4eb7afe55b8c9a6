"""What the folders of runs hold, whole or not, and which runs are seeds of one arm."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..utils.messages import brief, name_some
from ..utils.metrics import read_metrics
from ..utils.yaml_files import SafeLoader, iterate_keys, read_yaml

__all__ = ["RunArm", "RunFolder", "differing_lines", "group_runs", "read_run"]

# What says which run of an arm it is, and nothing of how it was trained.
_OF_A_RUN = ("SEED", "OUTPUT_DIR", "train.seed", "train.output_dir")
_WEIGHTS = ("MODEL.WEIGHTS", "train.init_checkpoint")
_MEMORY = re.compile(r"max_mem: (\d+)M")


class _AnyTagLoader(SafeLoader):
    """Reads an object of Python, as a Python config has them, as its tag and content."""

    def construct_object_as_data(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {"_tag_": node.tag, **self.construct_mapping(node, deep=True)}
        if isinstance(node, yaml.SequenceNode):
            return [node.tag, *self.construct_sequence(node, deep=True)]
        return f"{node.tag} {node.value}"


_AnyTagLoader.add_constructor(None, _AnyTagLoader.construct_object_as_data)


@dataclass(frozen=True)
class RunFolder:
    """A folder that train_net.py wrote, as far as it came."""

    path: Path
    config: Mapping[str, Any]  # key with dots -> value; empty where it cannot be read
    metrics: Sequence[Mapping[str, float]]  # rows of metrics.json, by iteration ascending
    memory_mib: int | None  # the highest that the log names
    problems: Sequence[str]  # what is missing or cannot be read, in words

    @property
    def name(self) -> str:
        """The last part of the path; before ``seed0`` and so on, the one above as well."""
        return "/".join(self.path.absolute().parts[-2 if _is_seed(self.path) else -1 :])

    @property
    def max_iter(self) -> int | None:
        """The number of iterations in the config."""
        planned = self.setting("SOLVER.MAX_ITER", "train.max_iter", None)
        return planned if isinstance(planned, int) else None

    def setting(self, yaml_key: str, python_key: str, default: Any) -> Any:
        """The value of a key in the config, which is a YAML or a Python config."""
        return self.config.get(yaml_key, self.config.get(python_key, default))

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(iterations done, value) of each row that has a number under `key`.

        The test after the last iteration counts as one more in the file, and does not here.
        """
        rows = [(row["iteration"] + 1, row[key]) for row in self.metrics if key in row and "iteration" in row]
        numbers = [(iteration, value) for iteration, value in rows if isinstance(value, int | float)]
        return [(min(iteration, self.max_iter or iteration), value) for iteration, value in numbers]


@dataclass(frozen=True)
class RunArm:
    """Runs whose configs differ in nothing but seed and output folder."""

    name: str
    runs: Sequence[RunFolder]


def read_run(folder: str | Path) -> RunFolder:
    """Read what there is of a run; what cannot be read becomes one of its problems.

    Raises:
        FileNotFoundError: no such folder, or nothing of a run in it.
    """
    path = Path(folder)
    if not any((path / name).exists() for name in ("config.yaml", "metrics.json", "inference")):
        what = (
            "holds no run: no config.yaml, metrics.json or inference" if path.is_dir() else "does not exist"
        )
        raise FileNotFoundError(f"folder {path} {what}")
    problems = []
    try:
        config = dict(iterate_keys(_read_config(path / "config.yaml")))
    except (OSError, ValueError) as error:
        problems.append(f"no config: {error}")
        config = {}
    metrics = read_metrics(path / "metrics.json")
    if not metrics:
        problems.append("no metrics: it was stopped before the first line of metrics.json, or never trained")
    log = path / "log.txt"
    memory = _MEMORY.findall(log.read_text(errors="replace")) if log.exists() else []
    run = RunFolder(path, config, metrics, max(map(int, memory), default=None), problems)
    done = max((row["iteration"] + 1 for row in metrics if "iteration" in row), default=0)
    if metrics and run.max_iter and done < run.max_iter:
        problems.append(f"stopped after {done} of {run.max_iter} iterations")
    return run


def _read_config(file: Path) -> dict[str, Any]:
    with open(file, encoding="utf-8") as stream:
        content = read_yaml(stream, str(file), _AnyTagLoader)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: a config maps keys to values, found {brief(content)}")
    return content


def group_runs(runs: Sequence[RunFolder]) -> list[RunArm]:
    """The arms, in the order of their first runs; a run without config is an arm of its own.

    An arm has the name of the folder above ``seed0`` and so on, or else those of its runs; names that would
    be equal are those of the folders with the one above.
    """
    groups: dict[Any, list[RunFolder]] = {}
    for run in runs:
        key = tuple(sorted((k, repr(v)) for k, v in run.config.items() if not _is_of_run(k, v, run)))
        groups.setdefault(key or run.path, []).append(run)
    names = [_arm_name(group, 1) for group in groups.values()]
    if len(set(names)) < len(names):
        names = [_arm_name(group, 2) for group in groups.values()]
    return [RunArm(name, group) for name, group in zip(_distinct(names), groups.values())]


def _arm_name(runs: Sequence[RunFolder], parts: int) -> str:
    folders = [run.path.absolute().parent if _is_seed(run.path) else run.path.absolute() for run in runs]
    return name_some(list(dict.fromkeys("/".join(folder.parts[-parts:]) for folder in folders)), 3)


def _distinct(names: Sequence[str]) -> Iterator[str]:
    """The names, those that come again with a number."""
    for place, name in enumerate(names):
        before = names[:place].count(name)
        yield f"{name} ({before + 1})" if before else name


def differing_lines(arms: Sequence[RunArm]) -> dict[str, list[Any]]:
    """Key -> its value in each arm with a config, for keys in which they differ; "" where it is not set."""
    configs = [
        {key: value for key, value in run.config.items() if not _is_of_run(key, value, run)}
        for run in (arm.runs[0] for arm in arms)
        if run.config
    ]
    keys = sorted({key for config in configs for key in config})
    lines = {key: [config.get(key, "") for config in configs] for key in keys}
    return {key: values for key, values in lines.items() if any(v != values[0] for v in values)}


def _is_of_run(key: str, value: Any, run: RunFolder) -> bool:
    """Whether a line of a config says nothing of how the run was trained."""
    if key in _WEIGHTS:  # those that the run made are in the config of a test of them
        return run.path.resolve() in Path(str(value)).resolve().parents
    return key in _OF_A_RUN


def _is_seed(path: Path) -> bool:
    return re.fullmatch(r"seed\d+", path.name) is not None

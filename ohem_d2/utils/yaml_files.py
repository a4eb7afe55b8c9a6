"""YAML read without executing code, and without unrolling what a small file repeats."""

from collections.abc import Iterator
from typing import IO, Any

import yaml
from yaml.constructor import ConstructorError

from .expressions import evaluate

__all__ = ["ConfigLoader", "SafeLoader", "iterate_keys", "read_yaml"]

# Keys and values of a file, each alias counted as what it stands for.
_MAX_NODES = 100_000


def read_yaml(stream: IO[str], name: str, loader: type["SafeLoader"]) -> Any:
    """Read a YAML document.

    Raises:
        ValueError: malformed YAML, a tag that is not admitted, or too much; one line with `name`.
    """
    try:
        return yaml.load(stream, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        kind = "" if isinstance(error, ConstructorError) else "malformed YAML: "
        raise ValueError(f"{name}{line}: {kind}{error.problem}") from error
    except RecursionError as error:
        raise ValueError(f"{name}: nested too deep, or in itself") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: malformed YAML: {' '.join(str(error).split())}") from error


def iterate_keys(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``A.B.C`` and its value, of all keys of nested dicts."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from iterate_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class SafeLoader(yaml.SafeLoader):
    """YAML's safe loader with a bound on aliases."""

    def construct_document(self, node: yaml.Node) -> Any:
        _count(node, {})
        return super().construct_document(node)


class ConfigLoader(SafeLoader):
    """Also evaluates the expressions in Detectron2's configs: ``!!python/object/apply:eval ["2**3"]``."""

    def construct_eval(self, node: yaml.Node) -> Any:
        arguments = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise _error(node, "eval needs one expression")
        try:
            return evaluate(arguments[0])
        except ValueError as error:
            raise _error(node, str(error)) from error

    def refuse(self, node: yaml.Node) -> Any:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise _error(node, f"tag {tag} is refused, since it could run code; valid: expressions of eval")


ConfigLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", ConfigLoader.construct_eval)
ConfigLoader.add_constructor(None, ConfigLoader.refuse)


def _count(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Number of nodes below `node`, with aliases unrolled."""
    if node not in known:
        known[node] = _MAX_NODES  # for one that is inside itself
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        known[node] = 1 + sum(_count(c, known) for child in children for c in (child if pairs else [child]))
        if known[node] > _MAX_NODES:
            raise _error(node, f"it unrolls to more than {_MAX_NODES} values")
    return known[node]


def _error(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(problem=problem, problem_mark=node.start_mark)

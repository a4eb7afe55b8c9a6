"""Arithmetic in a config, evaluated without Python's ``eval``: numbers, lists, tuples and comprehensions."""

import ast
import operator
from collections.abc import Mapping
from typing import Any

__all__ = ["evaluate"]

_MAX_LENGTH = 10_000
_MAX_BITS = 1024
# Operations and elements of lists, over the whole expression.
_MAX_STEPS = 100_000

_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(text: str) -> Any:
    """Evaluate ``[[x, x * 2**(1.0/3)] for x in [32, 64]]``, for example.

    There are no names but those of loops, no attributes, no calls; size and time are bounded.

    Raises:
        ValueError: anything else, or too large; one line.
    """
    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"it is longer than {_MAX_LENGTH} characters")
        return _Evaluator().value(ast.parse(text.strip(), mode="eval").body, {})
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"expression {text!r:.80} is refused: {reason}") from error


class _Evaluator:
    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self._spend(None)
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return self._number(number)
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self._number(self.value(operand, names)))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._binary(op, self.value(left, names), self.value(right, names))
            case ast.List(elts=items):
                return self._spend([self.value(item, names) for item in items])
            case ast.Tuple(elts=items):
                return self._spend(tuple([self.value(item, names) for item in items]))
            case ast.ListComp(elt=item, generators=loops):
                return self._spend([self.value(item, inner) for inner in self._loops(loops, names)])
        part = ast.unparse(node)
        raise ValueError(f"{part:.40} is none of numbers, arithmetic, lists, tuples and comprehensions")

    def _loops(self, loops: list[ast.comprehension], names: Mapping[str, Any]) -> Any:
        """The names in each round of nested loops."""
        if not loops:
            yield names
            return
        first, *rest = loops
        if first.ifs or first.is_async or not isinstance(first.target, ast.Name):
            raise ValueError("a comprehension is FOR name IN list")
        values = self.value(first.iter, names)
        if not isinstance(values, (list, tuple)):
            raise ValueError("a comprehension needs a list")
        for value in values:
            yield from self._loops(rest, {**names, first.target.id: value})

    def _binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        left, right = self._number(left), self._number(right)
        if isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
            self._require_bits((left.bit_length() - 1) * right)  # half as many as it has, or more
        return self._number(_BINARY[type(op)](left, right))

    def _number(self, value: Any) -> Any:
        if not isinstance(value, (int, float)):
            raise ValueError(f"arithmetic is of real numbers, not of a {type(value).__name__}")
        self._require_bits(value.bit_length() if isinstance(value, int) else 0)
        return value

    def _require_bits(self, bits: int) -> None:
        if bits > _MAX_BITS:
            raise ValueError(f"a number has more than {_MAX_BITS} bits")

    def _spend(self, value: Any) -> Any:
        """Count a step and the elements of `value`, also those in lists of lists."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it takes more than {_MAX_STEPS} steps")
        for item in value if isinstance(value, (list, tuple)) else ():
            self._spend(item)
        return value

"""A section of a Detectron2 config as a dataclass that checks its values."""

from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeVar

from detectron2.config import CfgNode as CN

_Self = TypeVar("_Self", bound="Options")


@dataclass(frozen=True)
class Options:
    """The keys of one section: each is a field of the same name in lower case.

    A subclass checks its values in ``__post_init__`` with the ``require`` methods.

    Raises:
        ValueError: a value out of its range; the message names key, value and valid choices.
    """

    # The dotted name of the section.
    section: ClassVar[str]
    # Names of the sections inside it.
    subsections: ClassVar[tuple[str, ...]] = ()
    # True: the whole section is ours, and any other key in it is an error. False: keys added to a section of
    # Detectron2.
    is_own: ClassVar[bool] = True

    @classmethod
    def add_to(cls, cfg: CN) -> None:
        """Add the keys with their defaults to `cfg`, in place; a section of ours is replaced."""
        outer, _, name = cls.section.rpartition(".")
        if cls.is_own:
            _get_section(cfg, outer)[name] = node = CN(cls.defaults())
            for value in node.values():
                if isinstance(value, CN):
                    value.set_new_allowed(True)  # a mapping of any keys
        else:
            _get_section(cfg, cls.section).update(cls.defaults())

    @classmethod
    def from_config(cls: type[_Self], cfg: CN) -> _Self:
        """Read and check the section; keys that a section of Detectron2 lacks have their defaults.

        Raises:
            KeyError: no such section, or an unknown key in it.
            ValueError: see the class.
        """
        if cls.is_own:
            cls.check_keys(cfg)
        node = {**cls.defaults(), **_get_section(cfg, cls.section)}
        values = {f.name: node[f.name.upper()] for f in fields(cls)}
        return cls(
            **{name: dict(value) if isinstance(value, CN) else value for name, value in values.items()}
        )

    @classmethod
    def check_keys(cls, cfg: CN) -> None:
        """Raise KeyError if the section is missing or has an unknown key."""
        node, known = _get_section(cfg, cls.section), [*cls.defaults(), *cls.subsections]
        if not isinstance(node, CN):
            raise KeyError(f"{cls.section} is {node!r}; valid: a section with the keys {', '.join(known)}")
        unknown = sorted(set(node) - set(known))
        if unknown:
            raise KeyError(f"unknown key {cls.section}.{unknown[0]}; valid: {', '.join(known)}")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Key -> default value."""
        return {
            f.name.upper(): f.default if f.default_factory is MISSING else f.default_factory()
            for f in fields(cls)
        }

    def require(self, ok: bool, field: str, valid: str) -> None:
        """Raise ValueError with the key of `field`, its value and what is valid, unless `ok`."""
        if not ok:
            value = getattr(self, field)
            raise ValueError(f"{self.section}.{field.upper()} is {value!r:.200}; valid: {valid}")

    def require_one_of(self, field: str, choices: tuple[str, ...]) -> None:
        """Check that the value is one of `choices`."""
        self.require(getattr(self, field) in choices, field, "one of " + ", ".join(map(repr, choices)))

    def require_fraction(self, field: str) -> None:
        """Check that the value is in [0, 1]."""
        value = getattr(self, field)
        self.require(isinstance(value, (int, float)) and 0 <= value <= 1, field, "a number in [0, 1]")

    def require_at_least(self, least: int, field: str) -> None:
        """Check that the value is at least `least`."""
        value = getattr(self, field)
        self.require(isinstance(value, int) and value >= least, field, f"an integer >= {least}")


def _get_section(cfg: CN, name: str) -> Any:
    node = cfg
    for part in name.split("."):
        if part not in node:
            raise KeyError(
                f"the config has no section {name}; call ohem_d2.add_ohem_config(cfg) before merging files "
                "into it"
            )
        node = node[part]
    return node

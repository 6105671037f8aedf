"""Which values a parameter may have, and how they are kept as text in a node."""

from __future__ import annotations

import enum
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from host_errors import HostError


@dataclass(frozen=True)
class Default:
    """The value of a parameter that nobody set."""

    value: Any


@dataclass(frozen=True)
class WithinRange:
    """The value lies between two bounds."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], was {value}")


@dataclass(frozen=True)
class Minimum:
    """The value has a lower bound."""

    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, was {value}")


@dataclass(frozen=True)
class Maximum:
    """The value has an upper bound."""

    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, was {value}")


@dataclass(frozen=True)
class Choice:
    """The value is one of a list."""

    choices: Any

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, was {value!r}")


@dataclass(frozen=True)
class Decimals:
    """How many decimals a widget shows."""

    value: int


@dataclass(frozen=True)
class SingleStep:
    """The step of a widget."""

    value: float


class Parameter:
    """A parameter's name, type, annotations and default."""

    def __init__(self, name: str, hint: Any, *, default: Any) -> None:
        self.name = name
        self.hint = hint
        self.kind, self.annotations = _split(hint)
        given = [entry.value for entry in self.annotations if isinstance(entry, Default)]
        self.default = default if default is not None else (given[0] if given else _first_value(self.kind))
        self.is_node = hasattr(self.kind, "IsTypeOf")

    def read(self, node: Any) -> Any:
        """Return the value stored in the node; without one, the default is stored first."""
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        if self.is_node:
            return node.GetNodeReference(self.name)
        return _from_text(node.GetParameter(self.name), self.kind)

    def write(self, node: Any, value: Any) -> None:
        """Store a value; ValueError or TypeError if it does not fit."""
        self._check(value)
        if self.is_node:
            node.SetParameter(self.name, "")  # tells that None was chosen
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, _to_text(value))

    def _check(self, value: Any) -> None:
        kind = typing.get_origin(self.kind) or self.kind
        if self.is_node and value is None:
            return
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{self.name} must be {kind.__name__}, was {value!r}")
        for entry in self.annotations:
            if hasattr(entry, "validate"):
                entry.validate(value)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    annotations: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        annotations = tuple(rest)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        some = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        if len(some) != 1 or not hasattr(some[0], "IsTypeOf"):
            raise HostError(f"the host does not know parameters of type {hint}")
        hint = some[0]
    return hint, annotations


def _first_value(kind: Any) -> Any:
    if hasattr(kind, "IsTypeOf"):
        return None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    origin = typing.get_origin(kind) or kind
    if origin in (bool, int, float, str, list, dict, Path):
        return origin()
    raise HostError(f"the host does not know parameters of type {kind}")


def _to_text(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _from_text(text: str, kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind[text]
    if kind is bool:
        return text == "True"
    if kind in (int, float, str, Path):
        return kind(text)
    return json.loads(text)

"""Read training settings from YAML into frozen dataclasses; whatever is not known is refused by its path."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from CovidSegLib.errors import CovidSegError

from .data import DataConfig
from .fit_config import FitConfig

PRODUCT = Path(__file__).with_name("configs") / "product.yaml"


class SettingsError(CovidSegError):
    """A settings file is unusable; the text names the file and the key."""


@dataclass(frozen=True)
class Settings:
    """A training recipe: what to learn from, and how."""

    data: DataConfig = field(default_factory=DataConfig)
    fit: FitConfig = field(default_factory=FitConfig)


def read_settings(path: Path | None = None) -> Settings:
    """Return the settings of a YAML file, or the product recipe.

    Raises:
        SettingsError: The file is missing or no YAML, a key is unknown or missing, or a value has the wrong type.
    """
    import yaml

    path = path or PRODUCT
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}). Give a settings file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: no valid YAML: {error}") from error
    try:
        return typing.cast(Settings, from_plain(Settings, {} if values is None else values))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def from_plain(kind: Any, value: Any, *, key: str = "") -> Any:
    """Return `value` (plain YAML or JSON) as an instance of a type.

    Args:
        kind: A dataclass, int, float, bool, str, a Literal, a tuple, a dict, a union with None, or Any.
        key: Where the value stands, e.g. "fit.stages[0].until"; for the error.

    Raises:
        SettingsError: The value does not fit.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or origin is dict:
        return value
    if is_dataclass(kind):
        return _dataclass_from(typing.cast(type, kind), value, key=key)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return from_plain(next(a for a in arguments if a is not type(None)), value, key=key)
    if origin is tuple:
        return _tuple_from(arguments, value, key=key)
    if origin is typing.Literal:
        if value not in arguments:
            raise SettingsError(f"{key or 'settings'} must be one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    # bool is an int to Python, not to a reader; a whole number is a fine float.
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits:
        raise SettingsError(f"{key or 'settings'} must be {_NAMES[kind]}, not {value!r}")
    return kind(value)


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _dataclass_from(kind: type, value: Any, *, key: str) -> Any:
    if not isinstance(value, dict):
        raise SettingsError(f"{key or 'settings'} must be a mapping of keys to values, not {value!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in known:
            raise SettingsError(f"unknown key '{prefix}{name}'; known here are {', '.join(known)}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise SettingsError(f"key '{prefix}{name}' is missing")
    return kind(**{name: from_plain(hints[name], v, key=f"{prefix}{name}") for name, v in value.items()})


def _tuple_from(arguments: tuple[Any, ...], value: Any, *, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise SettingsError(f"{key} must be a list, not {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise SettingsError(f"{key} must have {len(arguments)} values, not {len(value)}")
    return tuple(
        from_plain(kind, v, key=f"{key}[{n}]") for n, (kind, v) in enumerate(zip(arguments, value, strict=True))
    )

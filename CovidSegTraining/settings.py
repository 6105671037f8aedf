"""Read training settings from YAML into frozen dataclasses; unknown keys are refused and named by their path."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from CovidSegLib.errors import CovidSegError

#: What torch and numpy take for a seed.
SEEDS_BELOW = 2**63


class SettingsError(CovidSegError):
    """A settings file is unusable; the text names the file and the key."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        SettingsError: It cannot be read, is no YAML, or names a key twice; the text leaves the file's name out.
    """
    import yaml

    class UniqueKeyLoader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses a key named twice, where PyYAML would forget the first value."""

        def compose_mapping_node(self, anchor: str | None) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"key '{key.value}' is there twice", key.start_mark)
                seen.add(key.value)
            return node

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except OSError as error:
        raise SettingsError(f"cannot be read ({error.strerror}). Give a settings file.") from error
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: no UTF-8; a date that no calendar has; a number of more digits than Python converts.
        raise SettingsError(f"no valid YAML: {error}") from error


def is_range(bounds: tuple[float, float], *, below: float = 1e6) -> bool:
    """Tell whether two numbers are in order, not NaN, and between -`below` and `below`."""
    return -below < bounds[0] <= bounds[1] < below


def from_plain(kind: Any, value: Any, *, key: str = "") -> Any:
    """Return `value` (plain YAML or JSON) as an instance of a type.

    Args:
        kind: A dataclass, int, float, bool, str, a Literal, a tuple, a dict, a union with None, or Any.
        key: The value's path in the file, e.g. "fit.stages[0].until", for errors.

    Raises:
        SettingsError: The value does not fit.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is dict:
        return _mapping(value, key=key)
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
        raise SettingsError(f"{key or 'settings'} must be {_NAMES[kind]}, not {value!r}{_hint(kind, value)}")
    try:
        return kind(value)
    except OverflowError as error:  # a whole number of 310 digits or more is no float
        raise SettingsError(f"{key or 'settings'} is too large a number") from error


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _hint(kind: type, value: Any) -> str:
    """Return advice if the value is a number that YAML takes for text, else nothing."""
    if kind is not float or not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return " (text to YAML: write powers of ten with point and sign, as 1.0e-3)"


def _mapping(value: Any, *, key: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{key or 'settings'} must be a mapping of keys to values, not {value!r}")
    return value


def _dataclass_from(kind: type, value: Any, *, key: str) -> Any:
    value = _mapping(value, key=key)
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


def first_difference(before: Any, now: Any, *, key: str = "") -> tuple[str, Any, Any]:
    """Return the path of the first key at which two trees of plain values differ, and both its values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                return first_difference(before.get(name), now.get(name), key=f"{key}.{name}" if key else name)
    return key, before, now

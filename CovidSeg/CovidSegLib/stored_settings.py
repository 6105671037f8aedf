"""Read settings stored in a bundle's metadata, refusing by name an unknown key or a value of the wrong type."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any, TypeVar

from .errors import ModelError
from .texts import Text
from .texts import text as _

Settings = TypeVar("Settings")

_LARGEST = sys.float_info.max


def read_settings(kind: type[Settings], values: Any, *, what: Text) -> Settings:
    """Return settings read from JSON values; a key that is missing has its default.

    Args:
        kind: A dataclass whose defaults are texts, numbers or tuples of numbers.
        values: Key and value of each setting.
        what: What is being read, for messages.

    Raises:
        ModelError: A key is unknown, or a value is not of the type of its default.
    """
    if not isinstance(values, dict):
        raise ModelError(_("{what}: expected keys and values, not {found!r}").format(what=what, found=values))
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in defaults:
            text = _("{what}: unknown key {key!r}; known are {known}")
            raise ModelError(text.format(what=what, key=key, known=", ".join(sorted(defaults))))
        if not _is_like(value, default=defaults[key]):
            text = _("{what}: {key} must be {expected}, not {found!r}")
            raise ModelError(text.format(what=what, key=key, expected=_expected(defaults[key]), found=value))
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _is_like(value: Any, *, default: Any) -> bool:
    """Tell whether a value is of the type of a default; where that is a float, an int will do."""
    if isinstance(default, tuple):
        is_list = isinstance(value, (list, tuple)) and len(value) == len(default)
        return is_list and all(_is_like(part, default=like) for part, like in zip(value, default, strict=True))
    if isinstance(default, float):
        # Compared and not converted: a whole number may be too large for a float.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
    return type(value) is type(default)


def _expected(default: Any) -> Text:
    """Return what a value must be, for messages."""
    if isinstance(default, tuple):
        return _("{count} numbers").format(count=len(default))
    return {str: _("a text"), int: _("a whole number"), float: _("a number")}[type(default)]

"""The engine's texts for the user: English, but made so that a front end can translate them.

A text is marked where it is written, as everywhere in Slicer, so that Slicer's tools find it:
`_("{file}: the zip is encrypted.").format(file=path)`. The engine has no translations. It keeps template and values
with the English text, and the panel formats the translated template with the same values (`scenes.texts.shown`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

#: (file of this package that marks the template, template) -> the template in the user's language.
Translate = Callable[[str, str], str]


class Text(str):
    """An English text that knows its template and values; to everything else it is an ordinary `str`.

    Attributes:
        template: With the values' names in braces.
        values: The values by name; they may be texts themselves.
        source: The file of this package that marks the template (`readers/checks.py`), by which Slicer looks up
            translations.
    """

    __slots__ = ("source", "template", "values")

    template: str
    values: Mapping[str, object]
    source: str

    def __new__(
        cls, english: str, *, template: str = "", values: Mapping[str, object] | None = None, source: str = ""
    ) -> Text:
        """Make a text from `english` and what it was made of; without `template`, `english` is its own template."""
        text = super().__new__(cls, english)
        text.template, text.values, text.source = template or english, values or {}, source
        return text

    def format(self, *args: object, **values: object) -> Text:
        """Return the text with values in place of their names; positional values raise TypeError."""
        if args:
            raise TypeError("a text that is translated takes its values by name")
        return Text(super().format(**values), template=self.template, values=values, source=self.source)

    def translated(self, translate: Translate) -> str:
        """Return the text in the language of `translate`, or in English if its translation cannot be formatted."""
        template = translate(self.source, self.template)
        if not self.values:
            return template
        values = {name: translated(value, translate=translate) for name, value in self.values.items()}
        try:
            return template.format(**values)
        except (LookupError, ValueError, AttributeError):
            return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the text as JSON can hold it; values that JSON does not know become English text."""
        values = {name: _as_json(value) for name, value in self.values.items()}
        return {"english": str(self), "template": self.template, "values": values, "source": self.source}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Text:
        """Return the text that `to_dict` made; KeyError or TypeError if `stored` is something else."""
        values = {
            name: cls.from_dict(value) if isinstance(value, Mapping) else value
            for name, value in stored["values"].items()
        }
        return cls(stored["english"], template=stored["template"], values=values, source=stored["source"])


def text(english: str) -> Text:
    """Mark a text for translation (imported as `_`)."""
    return Text(english, source=_name_in_package(sys._getframe(1).f_code.co_filename))


def as_text(said: str) -> Text:
    """Return a `Text`; a plain string becomes one that is the same in every language."""
    return said if isinstance(said, Text) else Text(said)


def joined(separator: str, parts: Iterable[object]) -> Text:
    """Return texts joined by a separator; those that can be translated still can."""
    values = {f"part{number}": part for number, part in enumerate(parts)}
    template = separator.join(f"{{{name}}}" for name in values)
    return Text(template.format(**values), template=template, values=values)


def translated(value: object, *, translate: Translate) -> object:
    """Return a text in the language of `translate`; anything else unchanged."""
    return value.translated(translate) if isinstance(value, Text) else value


@cache
def _name_in_package(file: str) -> str:
    path, package = Path(file), Path(__file__).parent
    return path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name


def _as_json(value: object) -> object:
    if isinstance(value, Text):
        return value.to_dict()
    if isinstance(value, Real):  # NumPy's, too, which JSON does not know
        return int(value) if isinstance(value, Integral) else float(value)
    return str(value)

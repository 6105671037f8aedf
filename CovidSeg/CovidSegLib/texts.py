"""What the engine says to people, in English, so that a front end can say it in the user's language.

A text is marked where it is written, as everywhere in Slicer, whose tools find it by that:
`_("{file}: the zip is encrypted.").format(file=path)`. The engine knows no translations; it keeps the template and the
values beside the English text, and the panel puts them together again in its own language (`scene_texts.shown`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

#: (file of this package that marks the template, template) -> the template in the user's language.
Translate = Callable[[str, str], str]


class Text(str):
    """An English text that knows its template and values; to everything else it is an ordinary `str`.

    Attributes:
        template: With the values' names in braces.
        values: What stands in their place; may hold texts.
        source: Name of the file of this package that marks the template: Slicer looks translations up by it.
    """

    __slots__ = ("source", "template", "values")

    template: str
    values: Mapping[str, object]
    source: str

    def __new__(
        cls, english: str, *, template: str = "", values: Mapping[str, object] | None = None, source: str = ""
    ) -> Text:
        """Keep what `english` was made of; without `template`, `english` is its own template."""
        text = super().__new__(cls, english)
        text.template, text.values, text.source = template or english, values or {}, source
        return text

    def format(self, *args: object, **values: object) -> Text:
        """Return the text with values in place of their names; positional ones raise TypeError: no name, no order."""
        if args:
            raise TypeError("a text that is translated takes its values by name")
        return Text(super().format(**values), template=self.template, values=values, source=self.source)

    def translated(self, translate: Translate) -> str:
        """Return the text in the language of `translate`; in English where a translation misses a value."""
        template = translate(self.source, self.template)
        if not self.values:
            return template
        values = {name: translated(value, translate=translate) for name, value in self.values.items()}
        try:
            return template.format(**values)
        except (LookupError, ValueError, AttributeError):
            return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the text as JSON can hold it; values that it cannot hold as they read in English."""
        values = {name: _as_json(value) for name, value in self.values.items()}
        return {"english": str(self), "template": self.template, "values": values, "source": self.source}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Text:
        """Return the text of `to_dict`; KeyError or TypeError where it is none."""
        values = {
            name: cls.from_dict(value) if isinstance(value, Mapping) else value
            for name, value in stored["values"].items()
        }
        return cls(stored["english"], template=stored["template"], values=values, source=stored["source"])


def text(english: str) -> Text:
    """Mark a text for translation (imported as `_`)."""
    return Text(english, source=Path(sys._getframe(1).f_code.co_filename).name)


def as_text(said: str) -> Text:
    """Return a text as one that can be translated; one that was not marked stays as it is in every language."""
    return said if isinstance(said, Text) else Text(said)


def joined(separator: str, parts: Iterable[object]) -> Text:
    """Return texts one behind the other; those that can be translated remain so."""
    values = {f"part{number}": part for number, part in enumerate(parts)}
    template = separator.join(f"{{{name}}}" for name in values)
    return Text(template.format(**values), template=template, values=values)


def translated(value: object, *, translate: Translate) -> object:
    """Return a text in the language of `translate`; anything else unchanged."""
    return value.translated(translate) if isinstance(value, Text) else value


def _as_json(value: object) -> object:
    if isinstance(value, Text):
        return value.to_dict()
    if isinstance(value, Real):  # of NumPy too, which JSON does not know
        return int(value) if isinstance(value, Integral) else float(value)
    return str(value)

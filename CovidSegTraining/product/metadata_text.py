"""Change single keys in the text of a JSON file, and leave its layout as its author wrote it."""

from __future__ import annotations

import json
import re
from typing import Any


def without_key(text: str, key: str) -> str:
    """Return JSON text without the first occurrence of a key: the key, its value, and the comma that parts them off."""
    found = _first(key, text)
    if found is None:
        return text
    before, after = text[: found.start()], text[_end_of_value(found) :]
    if comma := re.match(r"\s*,\s*", after):
        return before + after[comma.end() :]
    return re.sub(r"\s*,\s*$", "", before) + after


def with_key_behind(text: str, key: str, value: Any, *, behind: str) -> str:
    """Return JSON text with a key and its value added behind the first occurrence of another key.

    If that one begins a line, so does the new one, indented alike; otherwise it stands in the same line. Text without
    that key is returned as it is.
    """
    found = _first(behind, text)
    if found is None:
        return text
    end = _end_of_value(found)
    if line := re.search(r"\r?\n[ \t]*$", text[: found.start()]):
        added = json.dumps({key: value}, indent=2, ensure_ascii=False)[1:-1].rstrip().replace("\n  ", line[0])
    else:
        added = " " + json.dumps({key: value}, ensure_ascii=False)[1:-1]
    return f"{text[:end]},{added}{text[end:]}"


def _first(key: str, text: str) -> re.Match[str] | None:
    """Return the first occurrence of a key and its colon; quotes within a string follow a backslash, and are none."""
    return re.search(rf"(?<!\\){re.escape(json.dumps(key, ensure_ascii=False))}\s*:\s*", text)


def _end_of_value(key: re.Match[str]) -> int:
    _, end = json.JSONDecoder().raw_decode(key.string, key.end())
    return end

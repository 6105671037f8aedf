"""Case names that every file system takes: made from file and folder names, unique within a run.

Names never come from DICOM headers, so no patient identity reaches the output.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from .inputs import IMAGE_SUFFIXES, case_name

IMAGE_EXTENSIONS = (*IMAGE_SUFFIXES, ".zip")
"""What a CT may end in, the more usual first; DICOM files are known by their content instead."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_WINDOWS_DEVICE = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?$", re.IGNORECASE)
# Leaves room for "-123" and for the hidden ".<case>.partial-<token>" within the usual 255 bytes.
_MAX_BYTES = 180
_NAMES_OF_THE_RUN = ("summary.csv", "run.json")


def image_extension(file_name: str) -> str | None:
    """Return the image extension that ends `file_name`, as in IMAGE_EXTENSIONS, or None."""
    lower = file_name.lower()
    return next((end for end in IMAGE_EXTENSIONS if lower.endswith(end) and len(lower) > len(end)), None)


def case_name_of(path: Path) -> str:
    """Return the case name of an input (see `inputs.case_name`) as a folder name."""
    return safe_name(case_name(path))


def safe_name(raw: str) -> str:
    """Return `raw` as a folder name that Linux, macOS and Windows all accept; spaces and accents stay.

    Nor does it begin as a formula: a spreadsheet would show something else in the table over the run.
    """
    name = _FORBIDDEN.sub("_", raw).rstrip(" .").lstrip(" ")
    if name.startswith((".", "=", "+", "@")):
        name = "_" + name[1:]
    while len(name.encode()) > _MAX_BYTES:
        name = name[:-1].rstrip(" .")
    if not name:
        return "case"
    if _WINDOWS_DEVICE.match(name):
        head, dot, tail = name.partition(".")
        return f"{head}_{dot}{tail}"
    return name


class NameBook:
    """Hands out names that differ even where the file system ignores case or accents' encoding."""

    def __init__(self) -> None:
        self._taken = {self._key(name) for name in _NAMES_OF_THE_RUN}

    def claim(self, name: str) -> str:
        """Return `name`, or the first free of `name`-2, `name`-3, ...; it is taken from now on."""
        candidate, number = name, 1
        while self._key(candidate) in self._taken:
            number += 1
            candidate = f"{name}-{number}"
        self._taken.add(self._key(candidate))
        return candidate

    @staticmethod
    def _key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

"""Case names that every file system takes: made from file and folder names, unique within a run.

Names never come from DICOM headers, so no patient identity reaches the output.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ..readers.file_names import safe_name
from ..readers.inputs import IMAGE_SUFFIXES, case_name

#: What a CT may end in, the more usual first; DICOM files are known by their content instead.
IMAGE_EXTENSIONS = (*IMAGE_SUFFIXES, ".zip")

SUMMARY_FILE = "summary.csv"
RUN_FILE = "run.json"


def image_extension(file_name: str) -> str | None:
    """Return the image extension that ends `file_name`, as in IMAGE_EXTENSIONS, or None."""
    lower = file_name.lower()
    return next((end for end in IMAGE_EXTENSIONS if lower.endswith(end) and len(lower) > len(end)), None)


def case_name_of(path: Path) -> str:
    """Return the case name of an input (see `inputs.case_name`) as a folder name."""
    return safe_case_name(case_name(path))


def safe_case_name(raw: str) -> str:
    """Return `raw` as the name of a case, and so of its folder.

    It does not begin as a formula: a spreadsheet would show something else in the table over the run.
    """
    name = safe_name(raw)
    return ("_" + name[1:] if name.startswith(("=", "+", "@")) else name) or "case"


class NameBook:
    """Hands out names that differ even where the file system ignores case or accents' encoding."""

    def __init__(self) -> None:
        self._taken = {self._key(name) for name in (SUMMARY_FILE, RUN_FILE)}

    def has(self, name: str) -> bool:
        """Tell whether the name is taken."""
        return self._key(name) in self._taken

    def claim(self, name: str) -> str:
        """Return `name`, or the first free of `name`-2, `name`-3, ...; it is taken from now on."""
        candidate, number = name, 1
        while self.has(candidate):
            number += 1
            candidate = f"{name}-{number}"
        self._taken.add(self._key(candidate))
        return candidate

    @staticmethod
    def _key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

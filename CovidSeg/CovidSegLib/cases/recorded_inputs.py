"""Which input each case of an output folder is, as its run.json records it, so that a later run keeps the names.

Else a case would be named after what else is given: of two `ct.nii.gz`, the one that comes first is `ct`, until another
one comes before it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..readers.file_names import is_encodable
from .names import RUN_FILE, NameBook, case_name_of, safe_case_name

CASES_KEY = "cases"


def name_cases(paths: Sequence[Path], *, out_dir: Path) -> list[str]:
    """Return the name of each input's case, in order: the one on record in `out_dir`, or else a free one.

    The name of a recorded input that is not among `paths` is free once its folder is gone, or the input: a whole
    archive may have been moved, and is then named as it was the first time.
    """
    book, given = NameBook(), {_key(path) for path in paths}
    known: dict[str, str] = {}
    for name, path in _recorded(out_dir).items():
        key = os.path.normcase(path)
        if key in given and key not in known and not book.has(name):
            known[key] = book.claim(name)
        elif os.path.isdir(out_dir / name) and os.path.lexists(path) and not book.has(name):
            book.claim(name)
    return [known.get(_key(path)) or book.claim(case_name_of(path)) for path in paths]


def updated_record(out_dir: Path, *, inputs: Mapping[str, Path]) -> dict[str, str]:
    """Return the absolute path of each case's input, by name: of `inputs`, and of the earlier cases still there."""
    earlier = {name: path for name, path in _recorded(out_dir).items() if os.path.isdir(out_dir / name)}
    return dict(sorted({**earlier, **{name: _absolute(path) for name, path in inputs.items()}}.items()))


def _recorded(out_dir: Path) -> dict[str, str]:
    """Return the inputs on record by their names; none if the record is missing, damaged, or somebody else's."""
    try:
        record = json.loads((out_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    cases = record.get(CASES_KEY) if isinstance(record, dict) else None
    if not isinstance(cases, dict):
        return {}
    return {name: path for name, path in cases.items() if _is_case_name(name) and _is_path(path)}


def _is_case_name(name: str) -> bool:
    """Tell whether a case could have been given the name, so that no record leads out of the output folder."""
    return any(part and safe_case_name(part) == part for part in (name, re.sub(r"-\d+$", "", name)))


def _is_path(value: object) -> bool:
    """Tell whether the value of a record can be one of ours, which can be written again."""
    return isinstance(value, str) and is_encodable(Path(value))


def _absolute(path: Path) -> str:
    """Return the resolved path; what is no text in it is written out, as a text file cannot hold it."""
    return os.path.realpath(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _key(path: Path) -> str:
    return os.path.normcase(_absolute(path))

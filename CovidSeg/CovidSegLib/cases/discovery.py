"""Find the cases in the INPUTs of the command line: their CTs and their names.

An INPUT is an image file, a DICOM folder or zip, a folder with `imaging.*` (one case), or a folder of cases. At most a
slice or two of an image are decoded here, to tell labelmaps from CTs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..readers.archive import lists_images
from ..readers.image_kinds import is_dicom_file, is_dicom_zip, is_labelmap, is_slice, study_of
from ..readers.inputs import IMAGING_STEM, SUPPORTED, SYSTEM_FOLDERS, image_suffix, is_windows_own, stem_of
from ..texts import Text
from ..texts import text as _
from .names import image_extension
from .recorded_inputs import name_cases
from .state import LABELMAP_FILE, UNCERTAINTY_FILE


@dataclass(frozen=True)
class Case:
    """One CT to segment: its name in the output, and the file or DICOM folder to read."""

    name: str
    path: Path


@dataclass(frozen=True)
class Discovery:
    """The cases that were found, in order, and notes for the user on what was left out."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()


class _Kind(Enum):
    """What a path turned out to be."""

    CT = auto()
    LABELMAP = auto()
    OTHER_ZIP = auto()
    DANGLING_LINK = auto()
    UNDER_OUT = auto()
    CASE_ALREADY = auto()


class _Finding(NamedTuple):
    """A path that counts, and what it is."""

    kind: _Kind
    path: Path


#: The notes on what was left out, in their order.
_LEFT_OUT = {
    _Kind.LABELMAP: _("ignored {count} labelmap(s), the first: {path}"),
    _Kind.OTHER_ZIP: _(
        "ignored {count} zip(s) of other images than DICOM, the first: {path} (unpack such a zip, or give it by itself)"
    ),
    _Kind.DANGLING_LINK: _("ignored {count} link(s) to nothing, the first: {path}"),
    _Kind.UNDER_OUT: _("ignored what lies under the output folder: {path}"),
    _Kind.CASE_ALREADY: _("ignored {count} other path(s) to files that are cases already, the first: {path}"),
}


def discover_cases(inputs: Sequence[str | Path], *, out_dir: str | Path) -> Discovery:
    """Return the cases of all INPUTs, each once, with unique names: those that they had in `out_dir` before, if any.

    Args:
        inputs: Files and folders as given on the command line.
        out_dir: The output folder; images under it are not taken from a folder of cases.

    Raises:
        InputError: An INPUT does not exist, nothing usable is in it, or slices are given instead of their folder.
    """
    _refuse_slices(Path(given) for given in inputs)
    out_real = _real(Path(out_dir))
    findings: list[_Finding] = []
    cts: dict[str, Path] = {}
    for given in inputs:
        for kind, path in _findings_of(Path(given), out_real=out_real):
            is_again = kind is _Kind.CT and cts.setdefault(_real(path), path) != path
            findings.append(_Finding(_Kind.CASE_ALREADY if is_again else kind, path))
    paths = list(cts.values())
    names = name_cases(paths, out_dir=Path(out_dir))
    return Discovery(cases=tuple(map(Case, names, paths)), notes=_notes(findings))


def _notes(findings: Sequence[_Finding]) -> tuple[Text, ...]:
    """Return a line for each kind of findings that was left out; one that overlapping INPUTs hold counts once."""
    notes = []
    for left_out, text in _LEFT_OUT.items():
        paths = list(dict.fromkeys(path for kind, path in findings if kind is left_out))
        if paths:
            notes.append(text.format(count=len(paths), path=paths[0]))
    return tuple(notes)


def _refuse_slices(inputs: Iterable[Path]) -> None:
    """Refuse several slices of a folder, which a shell makes of `folder/*.dcm`: each would be a case, and fail."""
    first: dict[Path, Path] = {}
    for path in inputs:
        if image_extension(path.name) is not None or path == first.get(path.parent) or not path.is_file():
            continue
        if is_slice(path) and first.setdefault(path.parent, path) != path:
            text = _("several slices of folder '{folder}' were given as single DICOM files: give the folder itself.")
            raise InputError(text.format(folder=path.parent))


def _findings_of(given: Path, *, out_real: str) -> list[_Finding]:
    """Return what one INPUT holds; at least one CT."""
    if not given.exists():
        text = _("input '{path}' does not exist: check the path.")
        if given.is_symlink():
            text = _("input '{path}' does not exist (a link to nothing): check the path.")
        raise InputError(text.format(path=given))
    if not given.is_dir():
        if image_extension(given.name) is None and not is_dicom_file(given):
            text = _("input '{path}' is not an image that CovidSeg reads: give {formats}.")
            raise InputError(text.format(path=given, formats=SUPPORTED))
        return [_Finding(_Kind.CT, given)]
    real = _real(given)
    # Results can be met only where the INPUT is the output folder or contains it.
    skipped = None if _is_under(real, out_real) and real != out_real else out_real
    findings = list(_walk(given, out_real=skipped, visited=set()))
    if not any(finding.kind is _Kind.CT for finding in findings):
        raise InputError(_nothing_in(given, out_real=out_real, findings=findings))
    return findings


def _nothing_in(folder: Path, *, out_real: str, findings: Sequence[_Finding]) -> Text:
    if _real(folder) == out_real:
        text = _(
            "input '{folder}' is the output folder as well, which is left out: choose another output folder (-o OUT)."
        )
        return text.format(folder=folder)
    inside = {finding.kind for finding in findings if _is_under(_real(finding.path), _real(folder))}
    text = _("nothing usable in input '{folder}': give a folder that holds CTs, as {formats}.")
    if _Kind.LABELMAP in inside:
        text = _("nothing usable in input '{folder}' but labelmaps: give a folder that holds CTs, as {formats}.")
    if _Kind.OTHER_ZIP in inside:
        text = _(
            "nothing usable in input '{folder}' but zips of other images than DICOM: unpack them, or give each by "
            "itself; in a folder CovidSeg takes {formats}."
        )
    return text.format(folder=folder, formats=SUPPORTED)


def _walk(folder: Path, *, out_real: str | None, visited: set[str]) -> Iterator[_Finding]:
    """Yield what is in and below a folder, in name order; each real folder once, so that links cannot loop."""
    real = _real(folder)
    if real in visited:
        return
    visited.add(real)
    if _is_under(real, out_real):
        yield _Finding(_Kind.UNDER_OUT, folder)
        return
    imaging = _imaging_of(folder)
    if imaging is not None:
        yield _Finding(_Kind.CT, imaging)
        return
    if _is_one_study(folder, out_real=out_real):
        yield _Finding(_Kind.CT, folder)
        return
    if _first_dicom_file(folder):
        # DICOM beside other images or studies: rather take a CT twice than lose one.
        yield _Finding(_Kind.CT, folder)
    for entry in _entries(folder):
        kind = _kind_of_image(entry, out_real=out_real)
        if kind is not None:
            yield _Finding(kind, entry)
    for entry in _entries(folder):
        if entry.is_dir() and entry.name.lower() not in SYSTEM_FOLDERS:
            yield from _walk(entry, out_real=out_real, visited=visited)


def _imaging_of(folder: Path) -> Path | None:
    """Return the folder's `imaging.*`; if there are several, the folder itself, which the reader then refuses."""
    found = [
        entry
        for entry in _entries(folder)
        if stem_of(entry.name).lower() == IMAGING_STEM and image_suffix(entry) and entry.is_file()
    ]
    if len(found) > 1:
        return folder
    return found[0] if found else None


def _is_one_study(folder: Path, *, out_real: str | None) -> bool:
    """Tell whether everything in and below the folder is DICOM of one study, and so one case.

    Exports put every series into a folder of its own; the reader chooses the chest series among them. Results of an
    earlier run below the folder do not count, nor does what lies beside the DICOM files of a disc.
    """
    is_disc = any(_is_table_of_contents(entry) for entry in _entries(folder))
    studies: set[str] = set()
    folders, visited = [folder], set()
    while folders:
        current = folders.pop()
        real = _real(current)
        if real in visited or current.name.lower() in SYSTEM_FOLDERS or _is_under(real, out_real):
            continue
        visited.add(real)
        entries = _entries(current)
        if not is_disc and any(image_extension(entry.name) and entry.is_file() for entry in entries):
            return False
        dicom = _first_dicom_file(current)
        if dicom is not None:
            studies.add(study_of(dicom))
        if len(studies) > 1:
            return False
        folders += [entry for entry in entries if entry.is_dir()]
    return len(studies) == 1


def _first_dicom_file(folder: Path) -> Path | None:
    """Return the first DICOM file directly in the folder that belongs to a study, or None."""
    for entry in _entries(folder):
        if _is_table_of_contents(entry) or image_extension(entry.name) is not None:
            continue
        if entry.is_file() and is_dicom_file(entry):
            return entry
    return None


def _is_table_of_contents(path: Path) -> bool:
    """Tell whether the file is a disc's DICOMDIR, which belongs to no study and mostly lies beside a viewer."""
    return path.name.upper() == "DICOMDIR" and path.is_file()


def _kind_of_image(path: Path, *, out_real: str | None) -> _Kind | None:
    """Return what an image file is, None for anything else; a damaged image is still a case."""
    extension = image_extension(path.name)
    if extension is None:
        return None
    if path.is_symlink() and not path.exists():
        return _Kind.DANGLING_LINK
    if not path.is_file() or _is_under(_real(path), out_real):
        return None
    if extension == ".zip":
        if is_dicom_zip(path):
            return _Kind.CT
        return _Kind.OTHER_ZIP if lists_images(path) else None
    return _Kind.LABELMAP if is_labelmap(path) or _is_uncertainty_map(path) else _Kind.CT


def _is_uncertainty_map(path: Path) -> bool:
    """Tell whether the file is a map of uncertainty that an earlier run wrote beside its labelmap, and so no CT."""
    return path.name == UNCERTAINTY_FILE and path.with_name(LABELMAP_FILE).is_file()


def _entries(folder: Path) -> list[Path]:
    """Return what is in the folder and not hidden, in an order that does not depend on the file system."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and not is_windows_own(entry)]
    except OSError as error:
        text = _("folder '{folder}' cannot be read ({reason}): check its permissions.")
        raise InputError(text.format(folder=folder, reason=error.strerror)) from error
    return sorted(entries, key=lambda entry: (entry.name.casefold(), entry.name))


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def _is_under(real: str, out_real: str | None) -> bool:
    if out_real is None:
        return False
    return real == out_real or real.startswith(out_real.rstrip(os.sep) + os.sep)

"""Fetch the paper's 20 CTs and masks from Zenodo, verify them, and lay them out as cases.

This has not been run against the real host. It is tested against a local server that breaks connections off, ignores
requests for a part of a file, and sends wrong data. Nothing else in the project uses the network; the extension never
does.

Source: paper, section on the dataset; Ma et al., "COVID-19 CT Lung and Infection Segmentation Dataset", Zenodo 3757476.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from CovidSegLib.cases.folder import replace_file
from CovidSegLib.errors import InputError
from CovidSegLib.readers.archive import extracted

from ..whole_files import write_whole
from .transfer import DownloadError, Patience, RemoteFile, fetch, fetch_text

RECORD = "3757476"
HOST = "https://zenodo.org"
#: The two archives, and what their files are called in a case.
ARCHIVES: Mapping[str, str] = {
    "COVID-19-CT-Seg_20cases.zip": "imaging.nii.gz",
    "Lung_and_Infection_Mask.zip": "segmentation.nii.gz",
}


def download(
    output_dir: Path,
    *,
    record: str = RECORD,
    host: str = HOST,
    patience: Patience | None = None,
    tell: Callable[[str], object],
    show_progress: bool = False,
) -> list[str]:
    """Download, verify and lay out the dataset; complete files are kept, interrupted downloads are continued.

    Leaves `record.json` (as the server gave it, with the checksums), `archives/` (may be deleted afterwards), and per
    case `imaging.nii.gz` and `segmentation.nii.gz`. A case appears whole or not at all.

    Args:
        output_dir: Made if need be.
        record: Number of the record.
        host: Scheme and host of a server with Zenodo's interface, `/api/records/<record>`.
        patience: How long to wait for the server; None: the defaults.
        tell: Called with a line per step.
        show_progress: Show a bar on a terminal.

    Returns:
        The names of all cases.

    Raises:
        DownloadError: The server fails for good, or what it sends does not match its record.
        InputError: An archive is damaged, unsafe, or does not hold what is expected.
        OSError: The disk is full or not writable; what has arrived is kept, and continued by the next run.
    """
    patience = patience or Patience()
    scheme = urlsplit(host).scheme
    if scheme not in ("https", "http"):
        raise DownloadError(f"{host}: no address of a web server; give one like {HOST}")
    text = fetch_text(f"{host.rstrip('/')}/api/records/{record}", patience=patience)
    files = files_of_record(text, scheme=scheme)
    archives_dir = output_dir / "archives"
    archives_dir.mkdir(parents=True, exist_ok=True)
    write_whole(output_dir / "record.json", text)
    paths = {}
    for name in ARCHIVES:
        paths[name] = archives_dir / name
        tell(f"{name}: {fetch(files[name], paths[name], patience=patience, show_progress=show_progress)}")
    return lay_out(paths, output_dir=output_dir, tell=tell)


def files_of_record(text: bytes, *, scheme: str = "https") -> dict[str, RemoteFile]:
    """Return the two archives that a record (JSON) names, by their names.

    Args:
        text: The record, as the server gave it.
        scheme: Of the host; an address in the record may have this one or https.

    Raises:
        DownloadError: No record, an archive is missing from it, or an address or a checksum is unusable.
    """
    try:
        entries = {entry["key"]: entry for entry in json.loads(text)["files"]}
        files = {
            name: RemoteFile(name, str(e["links"]["self"]), int(e["size"]), str(e["checksum"]))
            for name, e in entries.items()
            if name in ARCHIVES
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"the server's answer is no Zenodo record ({type(error).__name__}: {error}); check --record and --url"
        ) from error
    if missing := [name for name in ARCHIVES if name not in files]:
        raise DownloadError(f"the record has no file '{missing[0]}', but {', '.join(sorted(entries)) or 'none'}")
    for file in files.values():
        if urlsplit(file.url).scheme not in ("https", scheme):
            raise DownloadError(f"{file.name}: the record gives an address that is not fetched: {file.url}")
        if not re.fullmatch(r"(md5|sha256|sha512):[0-9a-f]+", file.checksum) or file.size < 1:
            raise DownloadError(f"{file.name}: the record gives no usable size and checksum ({file.checksum!r})")
    return files


def lay_out(archives: Mapping[str, Path], *, output_dir: Path, tell: Callable[[str], object]) -> list[str]:
    """Unpack the archives into case folders, leaving complete cases alone; return the names of all cases.

    Everything is unpacked and checked before the first case appears.

    Raises:
        InputError: An archive is damaged, unsafe or far too large once unpacked, or a case lacks its CT or its mask.
    """
    with ExitStack() as unpacked:
        kinds = {}
        for name, path in archives.items():
            files = unpacked.enter_context(extracted(path, inside=output_dir))
            kinds[ARCHIVES[name]] = _by_case(files, archive=path)
        imaging, segmentation = (kinds[kind] for kind in ARCHIVES.values())
        if not imaging or (alone := sorted(set(imaging) ^ set(segmentation))):
            what = f"'{alone[0]}' is in only one of both archives" if imaging else "they hold no CTs (.nii.gz)"
            raise InputError(f"{output_dir / 'archives'}: {what}; nothing was laid out")
        for case in sorted(imaging):
            new = _lay_out_case({kind: files[case] for kind, files in kinds.items()}, folder=output_dir / case)
            tell(f"{case}: {'laid out' if new else 'already there'}")
    return sorted(imaging)


def case_of(file_name: str) -> str:
    """Return the case that a file of the archives belongs to.

    Masks are named after the case. CTs are named either so or after their origin, as "coronacases_org_case007" or
    "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm".
    """
    stem = file_name.removesuffix(".nii.gz")
    stem = re.sub(r"^coronacases_org_(case)?", "coronacases_", stem)
    return re.sub(r"^radiopaedia_org_covid-19-pneumonia-(.+?)(-dcm)?$", r"radiopaedia_\1", stem)


def _by_case(files: list[Path], *, archive: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if not file.name.endswith(".nii.gz"):
            continue
        case = case_of(file.name)
        if case in found:
            raise InputError(f"{archive}: two files belong to case '{case}'; nothing was laid out")
        found[case] = file
    return found


def _lay_out_case(files: Mapping[str, Path], *, folder: Path) -> bool:
    """Move a case's files into its folder, all or none; return False if they are there already."""
    if all((folder / name).exists() for name in files):
        return False
    if folder.exists():
        raise InputError(f"{folder}: incomplete, and not written by this command; move it away and run again")
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        for name, file in files.items():
            shutil.move(file, aside / name)
        replace_file(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return True

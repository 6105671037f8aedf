"""Fetch files over HTTP connections that may break off: continue where they ended, and verify the result.

Only `download` uses this; nothing else in the project touches the network.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from CovidSegLib import __version__
from CovidSegLib.cases.folder import replace_file
from CovidSegLib.errors import CovidSegError

#: Small, because a connection that is reset loses the chunk being read.
_CHUNK = 1 << 16
_MAX_TEXT_BYTES = 4 << 20
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
#: What a connection that fails or breaks off raises.
_BROKEN = (OSError, http.client.HTTPException)


class DownloadError(CovidSegError):
    """The server cannot be reached, or what it sends does not match its record."""


class _TransientError(Exception):
    """A failure that may not recur at the next try."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        tries: Number of tries in a row without a new byte before giving up.
        pause_s: Pause after the first failure; it doubles after each further one.
        timeout_s: How long a connection may stay silent.
    """

    tries: int = 6
    pause_s: float = 2.0
    timeout_s: float = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record: its name, address, size in bytes and checksum ("md5:...")."""

    name: str
    url: str
    size: int
    checksum: str


def fetch_text(url: str, *, patience: Patience) -> bytes:
    """Return what is at an address that answers with JSON.

    Raises:
        DownloadError: The server fails for good.
    """
    failures = 0
    while True:
        try:
            with _open(url, headers={"Accept": "application/json"}, timeout_s=patience.timeout_s) as response:
                return _read(response, limit=_MAX_TEXT_BYTES)
        except _TransientError as error:
            failures += 1
            _wait_or_give_up(url, str(error), failures=failures, patience=patience)


def fetch(file: RemoteFile, path: Path, *, patience: Patience, show_progress: bool) -> str:
    """Download a file to `path`, continuing what an earlier run left; return a remark on what was done.

    Until it is complete the file is called `<name>.<checksum>.part`, so that an old part is never continued with the
    file of a record that has changed.

    Raises:
        DownloadError: The server fails for good, or the file does not have the record's size and checksum.
        OSError: The disk is full or not writable.
    """
    if path.exists() and path.stat().st_size == file.size and _checksum_fits(path, file):
        return "already there, checksum verified"
    part = path.with_name(f"{path.name}.{file.checksum.partition(':')[2][:12]}.part")
    with _bar(file, done=_size(part), show=show_progress) as moved:
        _fetch_part(file, part, patience=patience, moved=moved)
    if not _checksum_fits(part, file):
        part.unlink()
        raise DownloadError(
            f"{file.name}: what arrived does not have the record's checksum {file.checksum}; it was deleted. "
            "Run the command again; if that does not help, the file on the server is damaged."
        )
    replace_file(part, path)
    return f"{file.size / 1e6:.1f} MB, checksum verified"


def _fetch_part(file: RemoteFile, part: Path, *, patience: Patience, moved: Callable[[int], object]) -> None:
    """Append to the part until it has the record's size."""
    failures = 0
    if _size(part) > file.size:
        part.unlink()
    best = _size(part)
    while _size(part) < file.size:
        try:
            _fetch_once(file, part, offset=_size(part), patience=patience, moved=moved)
            problem = "the server ended the transfer too early"
        except _TransientError as error:
            problem = str(error)
        if _size(part) > best:
            best, failures = _size(part), 0
            continue
        failures += 1
        _wait_or_give_up(file.name, problem, failures=failures, patience=patience)


def _fetch_once(
    file: RemoteFile, part: Path, *, offset: int, patience: Patience, moved: Callable[[int], object]
) -> None:
    """Ask for the bytes from `offset` on and write what comes."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with _open(file.url, headers=headers, timeout_s=patience.timeout_s) as response:
        if offset and not _continues(response, part, size=file.size):
            moved(-offset)
            offset = 0  # the whole file comes: begin again
        with part.open("r+b" if offset else "wb") as sink:
            sink.seek(offset)
            while chunk := _read(response):
                if sink.tell() + len(chunk) > file.size:
                    sink.truncate(0)
                    raise DownloadError(f"{file.name}: the server sends more than the {file.size} bytes of the record")
                sink.write(chunk)
                moved(len(chunk))


def _continues(response: Any, part: Path, *, size: int) -> bool:
    """Tell whether an answer continues the part; False if it is the whole file.

    Raises:
        DownloadError: It is another piece, or of a file of another size; the part is deleted.
    """
    if response.status != 206:
        return False
    offset = _size(part)
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if match is None or int(match[1]) != offset or match[2] not in (str(size), "*"):
        part.unlink()
        raise DownloadError(
            f"the server continues with {content_range!r} where byte {offset} of {size} was asked for; "
            "what had arrived was deleted, run the command again"
        )
    return True


def _open(url: str, *, headers: Mapping[str, str], timeout_s: float) -> Any:
    """Return the server's answer to a request.

    Raises:
        DownloadError: The server refuses for good.
        _TransientError: It may answer later.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"covidseg-train/{__version__}", **headers})
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _TRY_AGAIN:
            raise _TransientError(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(
            f"{url}: the server answers {error.code} {error.reason}; check --record and --url"
        ) from error
    except ValueError as error:
        raise DownloadError(f"{url}: no address that can be fetched ({error}); check --url") from error
    except _BROKEN as error:
        raise _TransientError(_reason(error)) from error


def _read(response: Any, *, limit: int = _CHUNK) -> bytes:
    try:
        return response.read(limit)  # type: ignore[no-any-return]
    except _BROKEN as error:
        raise _TransientError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


def _wait_or_give_up(name: str, problem: str, *, failures: int, patience: Patience) -> None:
    if failures >= patience.tries:
        raise DownloadError(
            f"{name}: given up after {failures} tries: {problem}. Check the network and run the command again: "
            "what has arrived is kept."
        )
    time.sleep(patience.pause_s * 2 ** (failures - 1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum_fits(path: Path, file: RemoteFile) -> bool:
    algorithm, _, expected = file.checksum.partition(":")
    with path.open("rb") as stream:
        # Against damage on the way, not against an attacker: Zenodo's records have MD5.
        digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return digest.hexdigest() == expected


@contextmanager
def _bar(file: RemoteFile, *, done: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a progress bar by a number of bytes; the bar is shown on a terminal only."""
    from tqdm import tqdm

    disable = None if show else True  # None: shown on a terminal only
    with tqdm(total=file.size, initial=done, unit="B", unit_scale=True, desc=file.name, disable=disable) as bar:
        yield bar.update

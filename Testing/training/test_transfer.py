"""Transfers that break off, stall, lie or fill the disk, from a local server; the real host is never asked."""

from __future__ import annotations

import errno
import hashlib
import http.client
import socket
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from helpers_download import (
    CASES,
    CT,
    HURRIED,
    MASK,
    FakeZenodo,
    assert_complete,
    content_of,
    fetch_cases,
    laid_out,
    zip_of,
)

from CovidSegTraining.experiment.download import download
from CovidSegTraining.experiment.transfer import DownloadError, Patience


def test_transfer_that_breaks_off_is_continued_where_it_ended(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.break_after[CT] = 4000
    fetch_cases(zenodo, tmp_path)
    assert_complete(tmp_path)
    assert len(zenodo.files[CT]) > 8000
    assert zenodo.asked_for(CT) == [None, "bytes=4000-", "bytes=8000-"]


def test_next_run_continues_what_the_last_one_left(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _leave_4000_bytes(zenodo, tmp_path)
    fetch_cases(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == ["bytes=4000-"]
    assert_complete(tmp_path)


def _leave_4000_bytes(zenodo: FakeZenodo, folder: Path) -> None:
    """Let a run end after the first bytes of the CTs; the server is a good one afterwards."""
    zenodo.break_after[CT] = 4000
    zenodo.ignores_range = True
    with pytest.raises(DownloadError, match=r"given up after 3 tries: the server ended the transfer too early.*kept"):
        fetch_cases(zenodo, folder)
    assert [path.stat().st_size for path in (folder / "archives").iterdir()] == [4000]
    assert laid_out(folder) == []
    assert len(zenodo.asked_for(CT)) == 4  # one with progress, three without
    zenodo.break_after.clear()
    zenodo.ignores_range = False
    zenodo.asked.clear()


def test_server_that_ignores_ranges_is_read_from_the_beginning(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.ignores_range = True
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / f"{CT}.{hashlib.md5(zenodo.files[CT]).hexdigest()[:12]}.part").write_bytes(b"other bytes")
    fetch_cases(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == ["bytes=11-"]
    assert_complete(tmp_path)


def test_answer_about_another_piece_is_refused_and_the_part_deleted(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _leave_4000_bytes(zenodo, tmp_path)
    zenodo.content_range = f"bytes 0-3999/{len(zenodo.files[CT])}"
    with pytest.raises(DownloadError, match=r"the server continues with 'bytes 0-3999/.*' where byte 4000"):
        fetch_cases(zenodo, tmp_path)
    assert list((tmp_path / "archives").iterdir()) == []


def test_server_that_stalls_is_asked_again(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.stalls = 1
    fetch_cases(zenodo, tmp_path, patience=Patience(tries=2, pause_s=0.0, timeout_s=0.2))
    assert zenodo.asked_for(CT) == [None, None]
    assert_complete(tmp_path)


def test_more_bytes_than_the_record_says_are_refused(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.changes[CT] = {"size": 5000}
    with pytest.raises(DownloadError, match="sends more than the 5000 bytes of the record"):
        fetch_cases(zenodo, tmp_path)
    assert laid_out(tmp_path) == []


def test_fewer_bytes_than_the_record_says_are_refused(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.changes[MASK] = {"size": len(zenodo.files[MASK]) + 10}
    with pytest.raises(DownloadError, match=rf"the server continues with 'bytes .*/{len(zenodo.files[MASK])}'"):
        fetch_cases(zenodo, tmp_path)
    assert laid_out(tmp_path) == []


def test_part_of_a_changed_record_is_not_continued(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _leave_4000_bytes(zenodo, tmp_path)
    zenodo.files[CT] = zip_of({f"{case}.nii.gz": content_of(case, "ct") for case in CASES})
    fetch_cases(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == [None]
    assert_complete(tmp_path)


def test_wrong_checksum_is_refused_and_the_file_deleted(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.changes[MASK] = {"checksum": "md5:" + "0" * 32}
    with pytest.raises(DownloadError, match=rf"{MASK}: what arrived does not have the record's checksum md5:0000"):
        fetch_cases(zenodo, tmp_path)
    assert [path.name for path in (tmp_path / "archives").iterdir()] == [CT]
    assert laid_out(tmp_path) == []


def test_archive_damaged_on_disk_is_fetched_again(tmp_path: Path, zenodo: FakeZenodo) -> None:
    fetch_cases(zenodo, tmp_path)
    path = tmp_path / "archives" / CT
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    zenodo.asked.clear()
    fetch_cases(zenodo, tmp_path)
    assert zenodo.asked == [("3757476", None), (CT, None)]


def test_missing_record_is_told_at_once(tmp_path: Path, zenodo: FakeZenodo) -> None:
    with pytest.raises(DownloadError, match=r"records/1: the server answers 404 Not Found; check --record and --url"):
        download(tmp_path / "data", host=zenodo.address, record="1", patience=HURRIED, tell=print)
    assert zenodo.asked == [("1", None)]
    assert not (tmp_path / "data").exists()


def test_busy_server_is_asked_again_and_given_up_in_the_end(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.statuses = [503, 429]
    fetch_cases(zenodo, tmp_path)
    assert_complete(tmp_path)
    zenodo.statuses = [503] * 3
    with pytest.raises(DownloadError, match="given up after 3 tries: the server answers 503"):
        fetch_cases(zenodo, tmp_path)


def test_pauses_double_whatever_breaks_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_arguments: object, **_options: object) -> None:
        raise http.client.BadStatusLine("nonsense")

    pauses_s: list[float] = []
    monkeypatch.setattr("urllib.request.urlopen", answer)
    monkeypatch.setattr("time.sleep", pauses_s.append)
    with pytest.raises(DownloadError, match="given up after 4 tries: nonsense"):
        download(tmp_path, host="http://localhost", patience=Patience(tries=4, pause_s=2.0), tell=print)
    assert pauses_s == [2.0, 4.0, 8.0]


def test_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"given up after 3 tries: .*refused.*Check the network"):
            download(tmp_path, host=host, patience=HURRIED, tell=print)


class _FullDisk:
    """A file that takes only so many bytes."""

    def __init__(self, stream: BinaryIO, *, room: int) -> None:
        self._stream, self._room = stream, room

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: bytes) -> int:
        if self._stream.tell() + len(data) > self._room:
            self._stream.write(data[: self._room - self._stream.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._stream.write(data)


def test_full_disk_while_fetching_keeps_what_has_arrived(
    tmp_path: Path, zenodo: FakeZenodo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = real_open(path, mode, *args, **kwargs)
        return _FullDisk(stream, room=5000) if path.name.startswith(CT) and mode != "rb" else stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            fetch_cases(zenodo, tmp_path)
    assert len(zenodo.asked_for(CT)) == 1  # asking again would not make room
    assert laid_out(tmp_path) == []
    fetch_cases(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == [None, "bytes=5000-"]
    assert_complete(tmp_path)

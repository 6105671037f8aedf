"""`covidseg-train download` against a local server with every bad habit; the real host is never asked."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from CovidSegLib.errors import InputError

from CovidSegTraining import cli_data
from CovidSegTraining.cli_common import Parser
from CovidSegTraining.download import ARCHIVES, case_of, download, files_of_record
from CovidSegTraining.transfer import DownloadError, Patience

CT, MASK = ARCHIVES
HURRIED = Patience(tries=3, pause_s=0.0, timeout_s=5.0)
CASES = ["coronacases_001", "coronacases_007", "radiopaedia_10_85902_1"]
CT_NAMES = ["coronacases_org_001", "coronacases_org_case007", "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm"]


def _content(case: str, kind: str) -> bytes:
    """Return bytes that belong to a case; they do not shrink in a zip, as images in `.nii.gz` do not."""
    return np.random.default_rng([*case.encode(), *kind.encode()]).bytes(3000)


def _zip(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


@dataclass
class FakeZenodo:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        files: Name to bytes.
        changes: Name to changed entries of the record.
        break_after: Name to bytes after which each answer breaks off.
        stalls: Answers that begin and then wait, so many.
        statuses: Answers that are only this status; the first is used up first.
        asked: Path's last part and the `Range` of each request.
    """

    files: dict[str, bytes]
    address: str = ""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    break_after: dict[str, int] = field(default_factory=dict)
    ignores_range: bool = False
    content_range: str | None = None
    stalls: int = 0
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        entries = [
            {
                "key": name,
                "size": len(content),
                "checksum": "md5:" + hashlib.md5(content).hexdigest(),
                "links": {"self": f"{self.address}/api/records/3757476/files/{name}/content/{name}"},
                **self.changes.get(name, {}),
            }
            for name, content in self.files.items()
        ]
        return {"id": 3757476, "files": entries}

    def asked_for(self, name: str) -> list[str | None]:
        return [asked for path, asked in self.asked if path == name]


@pytest.fixture
def zenodo() -> Iterator[FakeZenodo]:
    """A running server with three cases, and a file that nobody needs."""
    state = FakeZenodo(
        files={
            CT: _zip({f"{n}.nii.gz": _content(case, "ct") for n, case in zip(CT_NAMES, CASES, strict=True)}),
            MASK: _zip({f"masks/{case}.nii.gz": _content(case, "mask") for case in CASES} | {"readme.txt": b"x"}),
            "Lung_Mask.zip": b"not fetched",
        }
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def _answer(request: BaseHTTPRequestHandler, state: FakeZenodo) -> None:
    name, asked = request.path.rpartition("/")[2], request.headers.get("Range")
    state.asked.append((name, asked))
    if state.statuses:
        request.send_error(state.statuses.pop(0))
        return
    if name == "3757476":
        body = json.dumps(state.record()).encode()
    elif name in state.files:
        body = state.files[name]
    else:
        request.send_error(404)
        return
    begin = 0
    if asked and not state.ignores_range:
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        request.send_response(206)
        told = state.content_range or f"bytes {begin}-{len(body) - 1}/{len(body)}"
        request.send_header("Content-Range", told)
    else:
        request.send_response(200)
    request.send_header("Content-Length", str(len(body) - begin))
    request.end_headers()
    if state.stalls and name in state.files:
        state.stalls -= 1
        time.sleep(0.5)
    end = min(len(body), begin + state.break_after.get(name, len(body)))
    request.wfile.write(body[begin:end])


def _download(zenodo: FakeZenodo, folder: Path, *, patience: Patience = HURRIED) -> list[str]:
    return download(folder, host=zenodo.address, patience=patience, tell=lambda text: None)


def _laid_out(folder: Path) -> list[str]:
    """Return all that is in the folder but archives and record."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("archives", "record.json"))


def _assert_complete(folder: Path) -> None:
    assert _laid_out(folder) == CASES
    for case in CASES:
        assert sorted(path.name for path in (folder / case).iterdir()) == ["imaging.nii.gz", "segmentation.nii.gz"]
        assert (folder / case / "imaging.nii.gz").read_bytes() == _content(case, "ct")
        assert (folder / case / "segmentation.nii.gz").read_bytes() == _content(case, "mask")


def test_cases_are_laid_out_and_the_record_is_kept(tmp_path: Path, zenodo: FakeZenodo) -> None:
    assert _download(zenodo, tmp_path / "new" / "data") == CASES
    _assert_complete(tmp_path / "new" / "data")
    assert json.loads((tmp_path / "new" / "data" / "record.json").read_text()) == zenodo.record()
    assert sorted(path.name for path in (tmp_path / "new" / "data" / "archives").iterdir()) == sorted(ARCHIVES)
    assert zenodo.asked == [("3757476", None), (CT, None), (MASK, None)]


def test_second_run_fetches_and_changes_nothing(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _download(zenodo, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*/*")}
    zenodo.asked.clear()
    lines: list[str] = []
    assert download(tmp_path, host=zenodo.address, patience=HURRIED, tell=lines.append) == CASES
    assert zenodo.asked == [("3757476", None)]
    assert lines == [f"{name}: already there, checksum verified" for name in ARCHIVES] + [
        f"{case}: already there" for case in CASES
    ]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*/*")} == before


def test_transfer_that_breaks_off_is_continued_where_it_ended(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.break_after[CT] = 4000
    _download(zenodo, tmp_path)
    _assert_complete(tmp_path)
    assert len(zenodo.files[CT]) > 8000
    assert zenodo.asked_for(CT) == [None, "bytes=4000-", "bytes=8000-"]


def test_next_run_continues_what_the_last_one_left(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _leave_4000_bytes(zenodo, tmp_path)
    _download(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == ["bytes=4000-"]
    _assert_complete(tmp_path)


def _leave_4000_bytes(zenodo: FakeZenodo, folder: Path) -> None:
    """Let a run end after the first bytes of the CTs; the server is a good one afterwards."""
    zenodo.break_after[CT] = 4000
    zenodo.ignores_range = True
    with pytest.raises(DownloadError, match=r"given up after 3 tries: the server ended the transfer too early.*kept"):
        _download(zenodo, folder)
    assert [path.stat().st_size for path in (folder / "archives").iterdir()] == [4000]
    assert _laid_out(folder) == []
    assert len(zenodo.asked_for(CT)) == 4  # one with progress, three without
    zenodo.break_after.clear()
    zenodo.ignores_range = False
    zenodo.asked.clear()


def test_server_that_ignores_ranges_is_read_from_the_beginning(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.ignores_range = True
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / f"{CT}.{hashlib.md5(zenodo.files[CT]).hexdigest()[:12]}.part").write_bytes(b"other bytes")
    _download(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == ["bytes=11-"]
    _assert_complete(tmp_path)


def test_answer_about_another_piece_is_refused_and_the_part_deleted(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _leave_4000_bytes(zenodo, tmp_path)
    zenodo.content_range = f"bytes 0-3999/{len(zenodo.files[CT])}"
    with pytest.raises(DownloadError, match=r"the server continues with 'bytes 0-3999/.*' where byte 4000"):
        _download(zenodo, tmp_path)
    assert list((tmp_path / "archives").iterdir()) == []


def test_server_that_stalls_is_asked_again(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.stalls = 1
    _download(zenodo, tmp_path, patience=Patience(tries=2, pause_s=0.0, timeout_s=0.2))
    assert zenodo.asked_for(CT) == [None, None]
    _assert_complete(tmp_path)


def test_more_bytes_than_the_record_says_are_refused(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.changes[CT] = {"size": 5000}
    with pytest.raises(DownloadError, match="sends more than the 5000 bytes of the record"):
        _download(zenodo, tmp_path)
    assert _laid_out(tmp_path) == []


def test_fewer_bytes_than_the_record_says_are_refused(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.changes[MASK] = {"size": len(zenodo.files[MASK]) + 10}
    with pytest.raises(DownloadError, match=rf"the server continues with 'bytes .*/{len(zenodo.files[MASK])}'"):
        _download(zenodo, tmp_path)
    assert _laid_out(tmp_path) == []


def test_part_of_a_changed_record_is_not_continued(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _leave_4000_bytes(zenodo, tmp_path)
    zenodo.files[CT] = _zip({f"{case}.nii.gz": _content(case, "ct") for case in CASES})
    _download(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == [None]
    _assert_complete(tmp_path)


def test_wrong_checksum_is_refused_and_the_file_deleted(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.changes[MASK] = {"checksum": "md5:" + "0" * 32}
    with pytest.raises(DownloadError, match=rf"{MASK}: what arrived does not have the record's checksum md5:0000"):
        _download(zenodo, tmp_path)
    assert [path.name for path in (tmp_path / "archives").iterdir()] == [CT]
    assert _laid_out(tmp_path) == []


def test_archive_damaged_on_disk_is_fetched_again(tmp_path: Path, zenodo: FakeZenodo) -> None:
    _download(zenodo, tmp_path)
    path = tmp_path / "archives" / CT
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    zenodo.asked.clear()
    _download(zenodo, tmp_path)
    assert zenodo.asked == [("3757476", None), (CT, None)]


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"this is no zip at all", "damaged or incomplete"),
        (_zip({"coronacases_001.nii.gz": bytes(5000)})[:-60], "damaged or incomplete"),
        (_zip({"../coronacases_001.nii.gz": b"x"}), "an entry leads out of the zip"),
        (_zip({"coronacases_001.nii.gz": b"x", "coronacases_org_001.nii.gz": b"x"}), "two files belong to case"),
        (_zip({f"{case}.nii.gz": b"x" for case in CASES[:2]}), "'radiopaedia_10_85902_1' is in only one of both"),
    ],
)
def test_bad_archive_lays_out_nothing(tmp_path: Path, zenodo: FakeZenodo, archive: bytes, message: str) -> None:
    for name in ARCHIVES:
        folder, before = tmp_path / name, zenodo.files[name]
        zenodo.files[name] = archive
        with pytest.raises(InputError, match=message):
            _download(zenodo, folder)
        assert _laid_out(folder) == []
        zenodo.files[name] = before


def test_archives_without_cts_lay_out_nothing(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.files |= {CT: _zip({"a.txt": b"x"}), MASK: _zip({"a.txt": b"x"})}
    with pytest.raises(InputError, match="they hold no CTs"):
        _download(zenodo, tmp_path)


def test_folder_of_a_case_that_is_not_ours_is_left_alone(tmp_path: Path, zenodo: FakeZenodo) -> None:
    (tmp_path / CASES[0]).mkdir()
    (tmp_path / CASES[0] / "imaging.nii.gz").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"coronacases_001: incomplete, and not written by this command"):
        _download(zenodo, tmp_path)
    assert (tmp_path / CASES[0] / "imaging.nii.gz").read_bytes() == b"somebody's"


def test_missing_record_is_told_at_once(tmp_path: Path, zenodo: FakeZenodo) -> None:
    with pytest.raises(DownloadError, match=r"records/1: the server answers 404 Not Found; check --record and --url"):
        download(tmp_path / "data", host=zenodo.address, record="1", patience=HURRIED)
    assert zenodo.asked == [("1", None)]
    assert not (tmp_path / "data").exists()


def test_busy_server_is_asked_again_and_given_up_in_the_end(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.statuses = [503, 429]
    _download(zenodo, tmp_path)
    _assert_complete(tmp_path)
    zenodo.statuses = [503] * 3
    with pytest.raises(DownloadError, match="given up after 3 tries: the server answers 503"):
        _download(zenodo, tmp_path)


def test_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"given up after 3 tries: .*refused.*Check the network"):
            download(tmp_path, host=host, patience=HURRIED)


@pytest.mark.parametrize("host", ["file:///etc", "zenodo.org", "ftp://zenodo.org"])
def test_address_that_is_no_web_server_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(DownloadError, match="no address of a web server"):
        download(tmp_path, host=host, patience=HURRIED)


def _record(**changes: Any) -> bytes:
    entry = {"size": 3, "checksum": "md5:" + "a" * 32, "links": {"self": "https://host/file"}, **changes}
    return json.dumps({"files": [{"key": name, **entry} for name in ARCHIVES]}).encode()


def test_record_gives_address_size_and_checksum() -> None:
    file = files_of_record(_record())[CT]
    assert (file.name, file.url, file.size, file.checksum) == (CT, "https://host/file", 3, "md5:" + "a" * 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"<html>please log in</html>", "no Zenodo record"),
        (b"[]", "no Zenodo record"),
        (b'{"message": "gone"}', "no Zenodo record"),
        (b'{"files": [{"key": "COVID-19-CT-Seg_20cases.zip"}]}', "no Zenodo record .KeyError: 'links'"),
        (b'{"files": []}', "no file 'COVID-19-CT-Seg_20cases.zip', but none"),
        (_record(links={"self": "file:///etc/passwd"}), "an address that is not fetched: file:///etc/passwd"),
        (_record(links={"self": "http://host/file"}), "an address that is not fetched"),
        (_record(checksum="crc32:12345678"), "no usable size and checksum"),
        (_record(size=0), "no usable size and checksum"),
    ],
)
def test_unusable_record_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        files_of_record(text)


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
            _download(zenodo, tmp_path)
    assert len(zenodo.asked_for(CT)) == 1  # asking again would not make room
    assert _laid_out(tmp_path) == []
    _download(zenodo, tmp_path)
    assert zenodo.asked_for(CT) == [None, "bytes=5000-"]
    _assert_complete(tmp_path)


def test_full_disk_while_laying_out_leaves_no_half_case(
    tmp_path: Path, zenodo: FakeZenodo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_move = shutil.move

    def full(source: Path, target: Path) -> None:
        if target.parent.name.startswith(".coronacases_007") and target.name == "segmentation.nii.gz":
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real_move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", full)
        with pytest.raises(OSError, match="No space left"):
            _download(zenodo, tmp_path)
    assert _laid_out(tmp_path) == CASES[:1]
    _download(zenodo, tmp_path)
    _assert_complete(tmp_path)


@pytest.mark.parametrize(
    ("file_name", "case"),
    [
        *((f"{name}.nii.gz", case) for name, case in zip(CT_NAMES, CASES, strict=True)),
        *((f"{case}.nii.gz", case) for case in CASES),
        ("radiopaedia_org_covid-19-pneumonia-4_85506_1-dcm.nii.gz", "radiopaedia_4_85506_1"),
    ],
)
def test_file_belongs_to_case(file_name: str, case: str) -> None:
    assert case_of(file_name) == case


def _run(*arguments: str) -> int:
    parser = Parser(prog="covidseg-train")
    cli_data.add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(arguments)
    code: int = options.command(options)
    return code


def test_command_prints_what_it_did(tmp_path: Path, zenodo: FakeZenodo, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("download", "-o", str(tmp_path), "--url", zenodo.address) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == f"{CT}: 0.0 MB, checksum verified"
    assert captured.out.splitlines()[-1] == f"3 cases -> {tmp_path}"
    assert captured.err == ""  # no bar where there is no terminal
    _assert_complete(tmp_path)


def test_help_says_that_the_real_host_was_never_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _run("download", "--help")
    assert "Not run against the real host" in " ".join(capsys.readouterr().out.split())

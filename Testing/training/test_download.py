"""`covidseg-train download` against a local server: records, archives, cases; the real host is never asked."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.errors import InputError
from helpers_download import (
    CASES,
    CT,
    CT_NAMES,
    HURRIED,
    MASK,
    FakeZenodo,
    assert_complete,
    fetch_cases,
    laid_out,
    zip_of,
)
from helpers_training import run_command

from CovidSegTraining.experiment.download import ARCHIVES, case_of, download, files_of_record
from CovidSegTraining.experiment.transfer import DownloadError


def test_cases_are_laid_out_and_the_record_is_kept(tmp_path: Path, zenodo: FakeZenodo) -> None:
    assert fetch_cases(zenodo, tmp_path / "new" / "data") == CASES
    assert_complete(tmp_path / "new" / "data")
    assert json.loads((tmp_path / "new" / "data" / "record.json").read_text()) == zenodo.record()
    assert sorted(path.name for path in (tmp_path / "new" / "data" / "archives").iterdir()) == sorted(ARCHIVES)
    assert zenodo.asked == [("3757476", None), (CT, None), (MASK, None)]


def test_second_run_fetches_and_changes_nothing(tmp_path: Path, zenodo: FakeZenodo) -> None:
    fetch_cases(zenodo, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*/*")}
    zenodo.asked.clear()
    lines: list[str] = []
    assert download(tmp_path, host=zenodo.address, patience=HURRIED, tell=lines.append) == CASES
    assert zenodo.asked == [("3757476", None)]
    assert lines == [f"{name}: already there, checksum verified" for name in ARCHIVES] + [
        f"{case}: already there" for case in CASES
    ]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*/*")} == before


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"this is no zip at all", "damaged or incomplete"),
        (zip_of({"coronacases_001.nii.gz": bytes(5000)})[:-60], "damaged or incomplete"),
        (zip_of({"../coronacases_001.nii.gz": b"x"}), "an entry leads out of the zip"),
        (zip_of({"coronacases_001.nii.gz": b"x", "coronacases_org_001.nii.gz": b"x"}), "two files belong to case"),
        (zip_of({f"{case}.nii.gz": b"x" for case in CASES[:2]}), "'radiopaedia_10_85902_1' is in only one of both"),
    ],
)
def test_bad_archive_lays_out_nothing(tmp_path: Path, zenodo: FakeZenodo, archive: bytes, message: str) -> None:
    for name in ARCHIVES:
        folder, before = tmp_path / name, zenodo.files[name]
        zenodo.files[name] = archive
        with pytest.raises(InputError, match=message):
            fetch_cases(zenodo, folder)
        assert laid_out(folder) == []
        zenodo.files[name] = before


def test_archives_without_cts_lay_out_nothing(tmp_path: Path, zenodo: FakeZenodo) -> None:
    zenodo.files |= {CT: zip_of({"a.txt": b"x"}), MASK: zip_of({"a.txt": b"x"})}
    with pytest.raises(InputError, match="they hold no CTs"):
        fetch_cases(zenodo, tmp_path)


def test_case_that_a_killed_run_left_half_is_laid_out_anew(tmp_path: Path, zenodo: FakeZenodo) -> None:
    half = tmp_path / f".{CASES[0]}.part"
    half.mkdir()
    (half / "half.nii.gz").write_bytes(b"x")
    fetch_cases(zenodo, tmp_path)
    assert_complete(tmp_path)
    assert sorted(path.name for path in (tmp_path / CASES[0]).iterdir()) == ["imaging.nii.gz", "segmentation.nii.gz"]
    assert not half.exists()


def test_folder_of_a_case_that_is_not_ours_is_left_alone(tmp_path: Path, zenodo: FakeZenodo) -> None:
    (tmp_path / CASES[0]).mkdir()
    (tmp_path / CASES[0] / "imaging.nii.gz").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"coronacases_001: incomplete, and not written by this command"):
        fetch_cases(zenodo, tmp_path)
    assert (tmp_path / CASES[0] / "imaging.nii.gz").read_bytes() == b"somebody's"


@pytest.mark.parametrize("host", ["file:///etc", "zenodo.org", "ftp://zenodo.org"])
def test_address_that_is_no_web_server_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(DownloadError, match="no address of a web server"):
        download(tmp_path, host=host, patience=HURRIED, tell=print)


def _record(**changes: Any) -> bytes:
    entry = {"size": 3, "checksum": "md5:" + "a" * 32, "links": {"self": "https://host/file"}, **changes}
    other = {"key": "README.md", "checksum": "none"}  # not wanted, so whatever it says will do
    return json.dumps({"files": [other, *({"key": name, **entry} for name in ARCHIVES)]}).encode()


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
            fetch_cases(zenodo, tmp_path)
    assert laid_out(tmp_path) == CASES[:1]
    fetch_cases(zenodo, tmp_path)
    assert_complete(tmp_path)


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


def test_command_prints_what_it_did(tmp_path: Path, zenodo: FakeZenodo, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("download", "-o", str(tmp_path), "--url", zenodo.address) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == f"{CT}: 0.0 MB, checksum verified"
    assert captured.out.splitlines()[-1] == f"3 cases -> {tmp_path}"
    assert captured.err == ""  # no bar where there is no terminal
    assert_complete(tmp_path)


def test_help_says_that_the_real_host_was_never_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("download", "--help")
    assert "Not run against the real host" in " ".join(capsys.readouterr().out.split())

"""Whether a case folder is the complete result that was asked for, and whether it may be replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.cases.state import (
    CASE_FILES,
    CaseKey,
    files_of_case,
    holds_result,
    read_report,
    refuse_foreign_files,
    why_incomplete,
)
from CovidSegLib.errors import InputError

KEY = CaseKey(fingerprint="f1", bundle_fingerprint="b1", options={"mode": "accurate", "device": "auto"})


def report(**changes: Any) -> dict[str, Any]:
    """Return the least that a report.json of ours holds, for `KEY`."""
    return {
        "poi_percent": 1.5,
        "regions": {},
        "severity": {},
        "input": {"fingerprint": "f1"},
        "model": {"fingerprint": "b1"},
        "runtime": {"options": {"mode": "accurate", "device": "auto"}},
        "warnings": [],
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete case for `KEY`."""
    (tmp_path / "a").mkdir()
    for name in CASE_FILES:
        (tmp_path / "a" / name).touch()
    return _with_report(tmp_path / "a", report())


def _with_report(folder: Path, content: object) -> Path:
    (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _why(folder: Path, *, key: CaseKey = KEY, preview: bool = True, uncertainty: bool = True) -> str | None:
    return why_incomplete(folder, key=key, preview=preview, uncertainty=uncertainty)


def test_files_of_a_case_follow_the_options() -> None:
    always = ("segmentation.seg.nrrd", "labelmap.nii.gz", "report.json", "report.csv")
    assert files_of_case(preview=False) == always
    assert files_of_case(preview=True) == (*always, "preview.png")
    assert files_of_case(preview=False, uncertainty=True) == (*always, "uncertainty.nii.gz")
    assert files_of_case(preview=True, uncertainty=True) == CASE_FILES


def test_folder_holds_a_result_if_its_report_is_whole_or_lies_damaged_beside_its_labelmap(folder: Path) -> None:
    for name in CASE_FILES:
        if name not in ("report.json", "labelmap.nii.gz"):
            (folder / name).unlink()
    assert holds_result(folder)
    (folder / "report.json").write_text("{", encoding="utf-8")
    assert holds_result(folder)
    (folder / "labelmap.nii.gz").unlink()
    assert not holds_result(folder)
    assert holds_result(_with_report(folder, report()))
    (folder / "report.json").unlink()
    (folder / "labelmap.nii.gz").touch()
    assert not holds_result(folder)


def test_complete_case_is_complete_for_what_it_was_made_for_only(folder: Path) -> None:
    assert _why(folder) is None
    for change, reason in (
        ({"fingerprint": "f2"}, "the input has changed"),
        ({"bundle_fingerprint": "b2"}, "the model has changed"),
        ({"options": {"mode": "fast", "device": "auto"}}, "option mode has changed from accurate to fast"),
        ({"options": {"mode": "fast", "device": "cpu"}}, "option device has changed from auto to cpu"),
        ({"options": {**KEY.options, "series": "2"}}, "option series has changed from None to 2"),
        ({"options": {"mode": "accurate"}}, "option device has changed from auto to None"),
    ):
        assert _why(folder, key=CaseKey(**{**vars(KEY), **change})) == reason


@pytest.mark.parametrize("name", CASE_FILES)
def test_file_that_is_missing_or_is_a_folder_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert _why(folder) == f"{name} is missing"
    (folder / name).mkdir()
    assert _why(folder) == f"{name} is missing"
    wanted = files_of_case(preview=False)
    assert _why(folder, preview=False, uncertainty=False) == (f"{name} is missing" if name in wanted else None)


def test_map_of_uncertainty_is_not_asked_for_by_default(folder: Path) -> None:
    (folder / "uncertainty.nii.gz").unlink()
    assert why_incomplete(folder, key=KEY, preview=True) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input": {}}, "the input has changed"),
        ({"model": {}}, "the model has changed"),
        ({"runtime": {}}, "report.json does not say with which options it was made"),
        ({"runtime": {"options": "all"}}, "report.json does not say with which options it was made"),
        ({"model": None}, "report.json cannot be read"),
    ],
)
def test_report_that_does_not_tell_what_it_was_made_of_is_no_result(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    assert _why(_with_report(folder, report(**changes))) == reason


@pytest.mark.parametrize("section", ["poi_percent", "regions", "severity", "input", "model", "runtime", "warnings"])
def test_report_is_one_of_ours_if_its_sections_have_their_types(folder: Path, section: str) -> None:
    assert read_report(folder) == report()
    assert read_report(_with_report(folder, report(**{section: "text"}))) is None
    less = report()
    del less[section]
    # Without lungs there is no percentage: null, as if it were not there.
    assert read_report(_with_report(folder, less)) == (less if section == "poi_percent" else None)


@pytest.mark.parametrize("percent", [None, 0, 100, 12.5])
def test_percentage_may_be_whole_or_undefined(folder: Path, percent: float | None) -> None:
    assert read_report(_with_report(folder, report(poi_percent=percent))) == report(poi_percent=percent)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"[" * 100_000])
def test_file_that_is_no_report_is_none(folder: Path, content: bytes) -> None:
    (folder / "report.json").write_bytes(content)
    assert read_report(folder) is None
    (folder / "report.json").unlink()
    assert read_report(folder) is None


def _refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        refuse_foreign_files(folder)
    return str(error.value)


def test_folder_of_a_case_alone_may_be_replaced(folder: Path) -> None:
    clutter = (".DS_Store", "Thumbs.db", "desktop.ini", "._labelmap.nii.gz", ".report.csv.partial-0123456789ab")
    clutter += (".covidseg.lock",)  # of a `quantify` that was killed
    for name in clutter:
        (folder / name).touch()
    refuse_foreign_files(folder)
    refuse_foreign_files(folder.parent / "not there")


def test_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert _refused(tmp_path / "a") == (
        f"'{tmp_path / 'a'}' is a file where the case's folder should be: move it, or choose another output folder "
        "(-o OUT)."
    )


def test_other_files_stop_a_run_whether_or_not_there_is_a_result(folder: Path) -> None:
    for name in ("notes.txt", "letter.txt"):
        (folder / name).touch()
    for name in CASE_FILES:
        assert f"folder '{folder}' is in the way and holds other files ('letter.txt')" in _refused(folder)
        (folder / name).unlink()
    assert "('letter.txt')" in _refused(folder)


@pytest.mark.parametrize("name", ["old figures", "report.json", "._figures", ".report.csv.partial-0123456789ab"])
def test_folder_beside_a_result_is_never_deleted_whatever_its_name(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    assert f"('{name}')" in _refused(folder)

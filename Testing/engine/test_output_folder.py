"""The output folder: runs that start together, and what `--overwrite` may not delete."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from CovidSegLib.batch import make_out_dir
from CovidSegLib.case_state import refuse_foreign_files
from CovidSegLib.errors import InputError
from CovidSegLib.run_lock import run_lock

DICOM = bytes(128) + b"DICM"


@pytest.mark.parametrize(
    ("name", "content"),
    [("IM0001", DICOM), ("IM1.DCM", b""), ("slice.ima", DICOM), ("corrected.mrb", b""), ("ct.nii.gz", b"")],
)
def test_ct_or_scene_beside_a_result_is_never_overwritten(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "report.json").write_text("{}")
    refuse_foreign_files(tmp_path, overwrite=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"holds other files \\('{name}'\\)"):
        refuse_foreign_files(tmp_path, overwrite=True)


def test_output_folder_is_usable_though_another_run_clears_the_same_test_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch

    def touched_and_cleared(path: Path) -> None:
        touch(path)
        path.unlink()

    monkeypatch.setattr(Path, "touch", touched_and_cleared)
    make_out_dir(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_macos_keeps_beside_files_on_other_systems_drives_is_no_work_of_the_users(
    tmp_path: Path, overwrite: bool
) -> None:
    for name in ("report.json", "._report.json", "labelmap.nii.gz", "._labelmap.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    refuse_foreign_files(tmp_path, overwrite=overwrite)


def test_folder_is_locked_on_a_network_drive_of_windows_that_numbers_a_file_anew_whenever_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[int] = []
    msvcrt = SimpleNamespace(LK_NBLCK=2, locking=lambda file, mode, count: locked.append(count))
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(sys, "platform", "win32")

    def never_the_same(*_: object) -> bool:
        assert len(locked) < 3, "the lock is taken again and again"
        return False

    monkeypatch.setattr(os.path, "samestat", never_the_same)
    with run_lock(tmp_path):
        assert locked == [1]
    assert list(tmp_path.iterdir()) == []

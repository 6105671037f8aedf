"""The output folder: runs that start together, and what `--overwrite` may not delete."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from CovidSegLib.cases.batch import make_out_dir
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.cases.state import refuse_foreign_files
from CovidSegLib.errors import InputError


@pytest.mark.parametrize(
    "name",
    [
        *("IM0001", "slice.ima", "ct.nii.gz", "ct.mhd", "labels.tif", "mask.img", "mask.hdr", "mask.mgz"),
        *("corrected.mrb", "corrected.seg.nrrd", "x.seg.vtm", "lesions.mrk.json", "F.fcsv", "reg.h5", "reg.tfm"),
        *("lung.stl", "mesh.vtp", "notes.docx", "notes.txt", "report (1).json", ".hidden"),
    ],
)
def test_file_of_the_users_beside_a_result_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "report.json").write_text("{}")
    refuse_foreign_files(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"holds other files \\('{re.escape(name)}'\\)"):
        refuse_foreign_files(tmp_path)


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


def test_what_macos_keeps_beside_files_on_other_systems_drives_is_no_work_of_the_users(tmp_path: Path) -> None:
    for name in ("report.json", "._report.json", "labelmap.nii.gz", "._labelmap.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    refuse_foreign_files(tmp_path)


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

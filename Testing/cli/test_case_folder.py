from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from CovidSegLib.cases import folder as case_folder
from CovidSegLib.cases.folder import new_case_folder, new_file, recover


def _write_case(target: Path, text: str) -> None:
    with new_case_folder(target) as partial:
        (partial / "a.txt").write_text(text)
        (partial / "b.txt").write_text(text)


def _tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_case_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "case"
    with new_case_folder(target) as partial:
        (partial / "a.txt").write_text("new")
        assert not target.exists()
        assert partial.parent == tmp_path
        assert partial.name.startswith(".case.partial-")
    assert _tree(tmp_path) == {"case/a.txt": "new"}


def test_replaced_case_goes_whole(tmp_path: Path) -> None:
    _write_case(tmp_path / "case", "old")
    (tmp_path / "case" / "extra.txt").write_text("old")
    _write_case(tmp_path / "case", "new")
    assert _tree(tmp_path) == {"case/a.txt": "new", "case/b.txt": "new"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_error_while_writing_leaves_the_old_case_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    _write_case(tmp_path / "case", "old")
    with pytest.raises(type(error)), new_case_folder(tmp_path / "case") as partial:
        (partial / "a.txt").write_text("half")
        raise error
    assert _tree(tmp_path) == {"case/a.txt": "old", "case/b.txt": "old"}


def test_old_case_comes_back_if_the_new_one_cannot_be_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_case(tmp_path / "case", "old")
    rename = case_folder._rename

    def refuse(source: Path, target: Path) -> None:
        if ".partial-" in source.name:
            raise PermissionError(errno.EACCES, "held by a virus scanner")
        rename(source, target)

    monkeypatch.setattr(case_folder, "_rename", refuse)
    with pytest.raises(PermissionError):
        _write_case(tmp_path / "case", "new")
    assert _tree(tmp_path) == {"case/a.txt": "old", "case/b.txt": "old"}


def test_rename_waits_for_a_file_held_open_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_folder, "_RENAME_PAUSE_S", 0.0)
    attempts, rename = [], Path.rename

    def held_twice(self: Path, target: Path) -> Path:
        attempts.append(self)
        if len(attempts) <= 2:
            raise PermissionError(errno.EACCES, "in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", held_twice)
    _write_case(tmp_path / "case", "new")
    assert len(attempts) == 3
    assert _tree(tmp_path) == {"case/a.txt": "new", "case/b.txt": "new"}


_DYING_WRITER = """
import os, shutil, sys
from pathlib import Path
from CovidSegLib.cases.folder import new_case_folder

target, left = Path(sys.argv[1]), int(sys.argv[2])

def dies_in_time(function):
    def wrapper(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*args, **kwargs)
    return wrapper

Path.rename, Path.mkdir, Path.write_text = map(dies_in_time, (Path.rename, Path.mkdir, Path.write_text))
os.unlink, os.rmdir = dies_in_time(os.unlink), dies_in_time(os.rmdir)
with new_case_folder(target) as partial:
    (partial / "a.txt").write_text("new")
    (partial / "b.txt").write_text("new")
"""
_STEPS = 8  # mkdir, two files, two renames, and two files and a folder to delete


@pytest.mark.parametrize("steps", range(_STEPS + 1))
def test_after_dying_at_any_step_a_start_leaves_one_whole_case(tmp_path: Path, steps: int) -> None:
    _write_case(tmp_path / "case", "old")
    package_dir = Path(case_folder.__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", _DYING_WRITER, str(tmp_path / "case"), str(steps)],
        env={**os.environ, "PYTHONPATH": str(package_dir)},
        check=False,
    )
    assert run.returncode == (0 if steps == _STEPS else 9)

    recover(tmp_path)
    text = "new" if steps >= 5 else "old"
    assert _tree(tmp_path) == {"case/a.txt": text, "case/b.txt": text}
    assert [entry.name for entry in tmp_path.iterdir()] == ["case"]
    _write_case(tmp_path / "case", "newer")
    assert _tree(tmp_path) == {"case/a.txt": "newer", "case/b.txt": "newer"}


def test_recovery_finishes_undoes_and_spares_what_is_not_ours(tmp_path: Path) -> None:
    for name in (
        ".gone.old-0123456789ab",
        ".gone.partial-0123456789ab",
        "done",
        ".done.old-0123456789ab",
        ".fresh.partial-ba9876543210",
        ".my.partial-notes",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for half in (".summary.csv.partial-0123456789ab", ".ct.nii.gz.partial-0123456789ab.nii.gz"):
        (tmp_path / half).write_text("half")
    assert recover(tmp_path) == ["gone: an interrupted replacement was undone"]
    assert _tree(tmp_path) == {
        ".my.partial-notes/file": ".my.partial-notes",
        "done/file": "done",
        "gone/file": ".gone.old-0123456789ab",
    }


def test_file_is_replaced_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "summary.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="full"), new_file(target) as partial:
        partial.write_text("ha")
        raise OSError("full")
    assert _tree(tmp_path) == {"summary.csv": "old"}
    with new_file(target) as partial:
        partial.write_text("new")
    assert _tree(tmp_path) == {"summary.csv": "new"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_link_in_the_way_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious.txt").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "case").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    _write_case(tmp_path / "out" / "case", "new")
    assert _tree(tmp_path) == {"elsewhere/precious.txt": "precious", "out/case/a.txt": "new", "out/case/b.txt": "new"}


def test_file_waits_for_a_virus_scanner_to_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_folder, "_RENAME_PAUSE_S", 0.0)
    attempts, replace = [], os.replace

    def held_twice(source: Path, target: Path) -> None:
        attempts.append(source)
        if len(attempts) <= 2:
            raise PermissionError(errno.EACCES, "Access is denied", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", held_twice)
    with new_file(tmp_path / "summary.csv") as partial:
        partial.write_text("new")
    assert _tree(tmp_path) == {"summary.csv": "new"}


def test_table_that_is_open_in_a_spreadsheet_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_folder, "_RENAME_PAUSE_S", 0.0)
    target = tmp_path / "summary.csv"
    target.write_text("old")

    def refuse(source: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Access is denied", str(source))  # so Windows names it first

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError) as caught, new_file(target) as partial:
        partial.write_text("new")
    assert caught.value.filename == str(target)
    assert _tree(tmp_path) == {"summary.csv": "old"}

"""One run at a time per output folder, whoever comes and goes meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from CovidSegLib.cases import run_lock as module
from CovidSegLib.cases.run_lock import LOCK_NAME, run_lock
from CovidSegLib.errors import InputError


def test_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(InputError, match="another CovidSeg run is writing"), run_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    with run_lock(tmp_path):
        assert (tmp_path / LOCK_NAME).is_file()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_file_that_a_run_that_just_ended_removed_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, tries = module._lock, []

    def after_the_former_run_has_ended(stream: IO[bytes]) -> None:
        if not tries:
            (tmp_path / LOCK_NAME).unlink()
        tries.append(stream)
        lock(stream)

    monkeypatch.setattr(module, "_lock", after_the_former_run_has_ended)
    with run_lock(tmp_path), pytest.raises(InputError, match="another CovidSeg run is writing"), run_lock(tmp_path):
        pass
    assert len(tries) == 3


def test_run_goes_on_where_the_file_system_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_stream: IO[bytes]) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_lock", unknown)
    with run_lock(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_two_runs_where_the_file_system_knows_no_locks_may_clear_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown_and_cleared_by_the_other_run(_stream: IO[bytes]) -> None:
        (tmp_path / LOCK_NAME).unlink()
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_lock", unknown_and_cleared_by_the_other_run)
    with run_lock(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_run_whose_lock_file_the_user_removed_ends_well(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        (tmp_path / LOCK_NAME).unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_lock_file_is_removed_while_no_other_run_can_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, refused = Path.unlink, []

    def tried_by_another_run(path: Path, **options: Any) -> None:
        with path.open("ab") as stream:
            try:
                module._lock(stream)
            except BlockingIOError:
                refused.append(path.name)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", tried_by_another_run)
    with run_lock(tmp_path):
        pass
    assert refused == [LOCK_NAME]


def test_lock_file_is_closed_before_it_is_removed_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[IO[bytes]] = []
    unlink, lock = Path.unlink, module._lock

    def remembered(stream: IO[bytes]) -> None:
        opened.append(stream)
        lock(stream)

    def refused_while_open(path: Path, **options: Any) -> None:
        if not opened[-1].closed:
            raise PermissionError(errno.EACCES, "used by another process", str(path))
        unlink(path, **options)

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=lambda *_: None))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(module, "_lock", remembered)
    monkeypatch.setattr(Path, "unlink", refused_while_open)
    with run_lock(tmp_path):
        assert (tmp_path / LOCK_NAME).is_file()
    assert list(tmp_path.iterdir()) == []


def test_second_run_is_refused_on_windows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held_by_another_run(_file: int, _mode: int, _count: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=held_by_another_run))
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match="another CovidSeg run is writing"), run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).is_file()  # the other run's to remove


@pytest.mark.parametrize("error", [None, BlockingIOError(), OSError(errno.ENOLCK, "No locks available")])
def test_lock_file_is_left_closed_whatever_comes_of_locking_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    opened: list[IO[bytes]] = []

    def locked(stream: IO[bytes]) -> None:  # or not; while it is open, Windows lets nobody remove it
        opened.append(stream)
        if error is not None:
            raise error

    monkeypatch.setattr(module, "_lock", locked)
    with contextlib.suppress(InputError), run_lock(tmp_path):
        pass
    assert [stream.closed for stream in opened] == [True]

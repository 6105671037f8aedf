"""One run at a time per output folder, whoever comes and goes meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest
from CovidSegLib import run_lock as module
from CovidSegLib.errors import InputError
from CovidSegLib.run_lock import LOCK_NAME, run_lock


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

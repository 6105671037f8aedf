"""A run that is killed or interrupted anywhere, started again, ends as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import write_ct
from helpers_cli import PATIENCE_S, segment, start_process, summary, tree_without_times, wait_for

pytestmark = [
    pytest.mark.usefixtures("fake_engine"),
    pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals"),
]


@pytest.fixture
def cts(tmp_path: Path) -> Path:
    for number in range(3):
        write_ct(tmp_path / "in" / f"slow{number}.nii.gz", infected_slices=number + 1)
    return tmp_path / "in"


@pytest.fixture
def undisturbed(cts: Path, tmp_path: Path) -> dict[str, object]:
    assert segment(cts, "-o", tmp_path / "undisturbed") == 0
    return tree_without_times(tmp_path / "undisturbed")


def _files_of_partial(out: Path, case: str) -> Iterator[Path]:
    for folder in out.glob(f".{case}.partial-*"):
        yield from (path for path in folder.iterdir() if not path.name.startswith("."))


def _assert_only_whole_cases(out: Path) -> None:
    for folder in out.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("files", [0, 2, 5])
def test_killed_in_mid_write_and_started_again_ends_as_undisturbed(
    cts: Path, tmp_path: Path, undisturbed: dict[str, object], workers: int, files: int
) -> None:
    out = tmp_path / "out"
    process = start_process(cts, "-o", out, "--workers", str(workers), write_pause_s=0.1)
    wait_for(lambda: bool(list(out.glob(".slow1.partial-*"))) and len(list(_files_of_partial(out, "slow1"))) >= files)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _assert_only_whole_cases(out)
    assert not (out / "slow2").exists() or workers == 2
    assert segment(cts, "-o", out) == 0
    assert tree_without_times(out) == undisturbed
    if workers == 1:
        assert summary(out)[0]["status"] == "skipped"


def test_killed_while_overwriting_and_started_again_ends_as_undisturbed(
    cts: Path, tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    out = tmp_path / "out"
    assert segment(cts, "-o", out) == 0
    process = start_process(cts, "-o", out, "--overwrite", write_pause_s=0.05)
    wait_for(lambda: len(list(_files_of_partial(out, "slow1"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _assert_only_whole_cases(out)
    assert segment(cts, "-o", out) == 0
    assert tree_without_times(out) == undisturbed
    assert {row["status"] for row in summary(out)} == {"skipped"}


def _kill_at_random(cts: Path, out: Path, *, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        extra = chance.choice(([], ["--overwrite"], ["--workers", "2"]))
        lock = out / ".covidseg.lock"
        lock.unlink(missing_ok=True)  # of the run killed before, to see when this one begins
        process = start_process(cts, "-o", out, *extra, write_pause_s=0.02)
        wait_for(lock.exists)
        time.sleep(chance.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _assert_only_whole_cases(out)


def test_killed_at_random_points_ends_as_undisturbed(cts: Path, tmp_path: Path, undisturbed: dict[str, object]) -> None:
    _kill_at_random(cts, tmp_path / "out", seed=1, kills=4)
    assert segment(cts, "-o", tmp_path / "out") == 0
    assert tree_without_times(tmp_path / "out") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_killed_very_often_at_random_points_ends_as_undisturbed(
    cts: Path, tmp_path: Path, undisturbed: dict[str, object], seed: int
) -> None:
    _kill_at_random(cts, tmp_path / "out", seed=seed, kills=15)
    assert segment(cts, "-o", tmp_path / "out") == 0
    assert tree_without_times(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_cleanly_and_the_run_can_go_on(
    cts: Path, tmp_path: Path, undisturbed: dict[str, object], workers: int
) -> None:
    out = tmp_path / "out"
    process = start_process(cts, "-o", out, "--workers", str(workers), write_pause_s=0.2)
    wait_for(lambda: len(list(_files_of_partial(out, "slow1"))) >= 1)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors == "covidseg: error: stopped by the user; run the same command again to go on\n"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    rows = [(row["status"], row["message"]) for row in summary(out)]
    under_way = ("not run", "stopped by the user while it was under way")
    assert rows[1] == under_way and rows[2][0] == "not run"
    if workers == 1:
        assert rows[2] == ("not run", "") and "\n1 done, 1 stopped, 1 not run\n" in printed
    else:
        assert f"{rows.count(under_way)} stopped" in printed
    assert segment(cts, "-o", out) == 0
    assert tree_without_times(out) == undisturbed


def test_second_run_into_the_same_folder_is_refused(
    cts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = start_process(cts, "-o", out, write_pause_s=0.2)
    wait_for(lambda: (out / ".covidseg.lock").exists() and bool(list(out.glob(".slow0.partial-*"))))
    assert segment(cts, "-o", out) == 2
    assert "another CovidSeg run is writing to" in capsys.readouterr().err
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert [row["status"] for row in summary(out)] == ["done"] * 3
    assert not (out / ".covidseg.lock").exists()

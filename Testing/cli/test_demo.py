from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.cases.one_case import Engine
from CovidSegLib.cli import build_parser
from CovidSegLib.commands import demo as demo_command
from CovidSegLib.phantom import Phantom, make_phantom
from fake_engine import FAKE_ENGINE, FakeResult
from helpers_cli import CASE_FILES, summary


def _small_phantom(**options: float) -> Phantom:
    return make_phantom(**options, size_ijk=(64, 52, 32), spacing_ijk_mm=(5.7, 5.7, 9.6))  # type: ignore[arg-type]


def _demo_phantom() -> Phantom:
    return _small_phantom(seed=demo_command.DEMO_SEED, infection_percent=demo_command.DEMO_INFECTION_PERCENT)


def _perfect_segment(ct, *, mode, device, bundle, progress, cancelled, uncertainty) -> FakeResult:  # type: ignore[no-untyped-def]
    """Return the phantom's own truth."""
    return FakeResult(ct=ct, labelmap=_demo_phantom().labelmap_kji, mode=mode, device=device, bundle=bundle)


def _blind_segment(ct, **options) -> FakeResult:  # type: ignore[no-untyped-def]
    """Return the truth without its infection."""
    perfect = _perfect_segment(ct, **options)
    return dataclasses.replace(perfect, labelmap=np.where(perfect.labelmap == 3, 1, perfect.labelmap))


@pytest.fixture
def small_phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.phantom.make_phantom", _small_phantom)


def _run(out: Path, segment) -> int:  # type: ignore[no-untyped-def]
    engine: Engine = dataclasses.replace(FAKE_ENGINE, segment=segment)
    return demo_command.run_demo(build_parser().parse_args(["demo", "-o", str(out)]), engine=engine)


@pytest.mark.usefixtures("small_phantom")
def test_demo_prints_true_and_found_poi_and_every_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # again over what is there
        assert _run(tmp_path / "demo", _perfect_segment) == 0
    printed = capsys.readouterr().out
    truth = _demo_phantom().truth
    assert truth.poi_percent is not None
    assert 15.0 < truth.poi_percent < 25.0
    assert f"true POI {truth.poi_percent:.1f} %, found POI {truth.poi_percent:.1f} %" in printed
    paths = [Path(line.strip()) for line in printed.split("written:")[-1].splitlines() if line.startswith("  ")]
    assert all(path.is_file() for path in paths)
    assert {path.name for path in paths} == CASE_FILES | {"phantom-ct.nii.gz", "summary.csv", "run.json"}
    assert summary(tmp_path / "demo")[0]["status"] == "done"


@pytest.mark.usefixtures("small_phantom")
def test_demo_fails_if_the_poi_is_more_than_3_points_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path / "demo", _blind_segment) == 1
    assert "more than 3 points off" in capsys.readouterr().err


@pytest.mark.usefixtures("small_phantom")
def test_output_of_the_demo_that_is_a_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").write_text("mine")
    assert _run(tmp_path / "demo", _perfect_segment) == 2
    assert "is a file: give an output folder (-o OUT)" in capsys.readouterr().err
    assert (tmp_path / "demo").read_text() == "mine"


@pytest.mark.usefixtures("small_phantom")
def test_phantom_of_an_earlier_demo_stays_if_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import SimpleITK

    def full(_image: object, path: str, **_options: object) -> None:
        Path(path).write_text("half")
        raise OSError("no space left on device")

    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "phantom-ct.nii.gz").write_text("earlier")
    monkeypatch.setattr(SimpleITK, "WriteImage", full)
    assert _run(tmp_path / "demo", _perfect_segment) == 1
    assert "no space left" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["phantom-ct.nii.gz"]
    assert (tmp_path / "demo" / "phantom-ct.nii.gz").read_text() == "earlier"


@pytest.mark.usefixtures("small_phantom")
def test_stopped_demo_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(ct: object, **options: object) -> FakeResult:
        raise KeyboardInterrupt

    assert _run(tmp_path / "demo", stopped) == 130
    assert "stopped by the user" in capsys.readouterr().err

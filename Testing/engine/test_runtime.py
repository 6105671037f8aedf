"""What a run tells and costs: progress, cancelling, seconds, memory, versions; and where its files are."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib import __version__, resources
from CovidSegLib.errors import Cancelled, CovidSegError, ModelError
from CovidSegLib.progress import Progress, Reporter
from CovidSegLib.resources import resource_path
from CovidSegLib.runtime import Clock, peak_memory_mb, runtime_record, versions


def test_progress_reads_as_a_line() -> None:
    assert str(Progress("network", 3, 18)) == "network 3/18"
    assert str(Progress("network", 0, 1, "continuing on cpu")) == "network 0/1: continuing on cpu"


def test_reporter_passes_steps_on_and_needs_no_callables() -> None:
    seen: list[Progress] = []
    Reporter(progress=seen.append, cancelled=lambda: False).tell("back", 1, 4, "half")
    Reporter().tell("back", 1, 4)
    assert seen == [Progress("back", 1, 4, "half")]


def test_reporter_stops_the_run_before_it_tells_more() -> None:
    seen: list[Progress] = []
    with pytest.raises(Cancelled, match="Cancelled"):
        Reporter(progress=seen.append, cancelled=lambda: True).tell("back", 1, 4)
    assert seen == [] and issubclass(Cancelled, CovidSegError)


def test_clock_measures_stages_even_if_they_fail() -> None:
    clock = Clock()
    with clock.stage("load"):
        time.sleep(0.02)
    with pytest.raises(ValueError, match="x"), clock.stage("network"):
        raise ValueError("x")
    assert list(clock.stages_s) == ["load", "network"]
    assert 0.02 <= clock.stages_s["load"] < 5.0


def test_record_has_the_contracts_keys() -> None:
    clock = Clock()
    with clock.stage("network"):
        pass
    record = runtime_record(device="cpu", precision="int8", mode="fast", clock=clock)
    assert {"device", "mode", "seconds", "stages", "peak_memory_mb", "versions"} <= set(record)
    assert (record["device"], record["precision"], record["mode"]) == ("cpu", "int8", "fast")
    assert record["seconds"] == sum(record["stages"].values())
    assert versions()["covidseg"] == __version__
    assert {"python", "torch", "monai", "numpy", "simpleitk"} <= set(record["versions"])


def test_peak_memory_is_that_of_this_process_in_mb() -> None:
    held = np.ones(100_000_000, np.uint8)
    peak_mb = peak_memory_mb()
    assert peak_mb is not None and 100 < peak_mb < 100_000
    assert held.nbytes == 100_000_000


def test_peak_memory_is_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr("ctypes.windll", None, raising=False)
    assert peak_memory_mb() is None


def test_resources_are_found_in_the_source_tree() -> None:
    assert resource_path("Terminology").is_dir()
    assert resource_path("Terminology", "CovidSeg.term.json").is_file()


def test_resources_inside_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "CovidSegLib"
    for root in (package, tmp_path):
        (root / "Resources" / "Models").mkdir(parents=True)
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    assert resource_path("Models") == package / "Resources" / "Models"
    (package / "Resources" / "Models").rmdir()
    assert resource_path("Models") == tmp_path / "Resources" / "Models"


def test_missing_resource_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"'Models/none' is missing: the installation is incomplete"):
        resource_path("Models", "none")

"""The benchmark runs, compares with the reference, and says what it did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from CovidSegLib.phantom import make_phantom
from helpers_bundle import write_tiny_bundle

BENCH = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_inference.py"


def test_benchmark_of_a_small_case_prints_stages_ratios_and_dice(tmp_path: Path) -> None:
    phantom = make_phantom(seed=5, size_ijk=(96, 80, 48), spacing_ijk_mm=(3.8, 3.8, 6.4), infection_percent=20.0)
    ct_file = tmp_path / "ct.nii.gz"
    sitk.WriteImage(phantom.ct.geometry.to_sitk(phantom.ct.hu_kji), str(ct_file))
    bundle = write_tiny_bundle(tmp_path / "tiny", ct=phantom.ct, spacing_ijk_mm=(4.0, 4.0, 6.0))

    options = {"--ct": ct_file, "--bundle": bundle, "--threads": 1, "--runs": 1, "-o": tmp_path / "out"}
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick", *(str(part) for option in options.items() for part in option)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    (section,) = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))["sections"]
    records = section["records"]
    assert list(records) == ["reference", "accurate", "fast"]
    assert set(records["reference"]["stages_s"]) == {"read", "preprocess", "network", "back", "write"}
    assert set(records["fast"]["stages_s"]) == {"read", "preprocess", "network", "back", "quantify", "write"}
    assert all(0.0 <= value <= 1.0 for value in records["accurate"]["dice"].values())
    assert [record["precision"] for record in records.values()].count("float32") >= 1
    assert all(record["peak_memory_mb"] > 100 for record in records.values())
    assert all(record["process_s"] > sum(record["stages_s"].values()) for record in records.values())
    assert (tmp_path / "out" / "bench.md").read_text(encoding="utf-8").strip() == done.stdout.strip()
    for text in (
        "network, times faster",
        "| network |",
        "process, start to end",
        "medians of 1 run(s)",
        "--quick",
        "1 torch thread(s)",
        "Dice infection",
    ):
        assert text in done.stdout


def test_times_are_medians_and_memory_is_the_highest_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent))
    from bench_inference import median_of_runs

    seconds = ((5.0, 1.0, 9.0), (3.0, 2.0, 8.0), (4.0, 3.0, 1.0))
    runs = [
        {"stages_s": {"read": read, "network": network}, "process_s": process, "peak_memory_mb": 100.0 + read}
        for read, network, process in seconds
    ]

    assert median_of_runs(runs) == {
        "stages_s": {"read": 4.0, "network": 2.0},
        "process_s": 8.0,
        "peak_memory_mb": 105.0,
        "stages_of_runs_s": [run["stages_s"] for run in runs],
    }

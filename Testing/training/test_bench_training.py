"""The benchmark of training runs, and what it prints follows from the seconds it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_training.py"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """The document of a tiny measurement, and its Markdown."""
    output = tmp_path_factory.mktemp("bench")
    options = ["--patch", "32", "32", "16", "--width", "2", "--batches", "5", "--device", "cpu", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCH), *options, "--workers", "0", "-o", str(output)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = (output / "bench-train.md").read_text(encoding="utf-8")
    assert text.strip() == done.stdout.strip()
    return json.loads((output / "bench-train.json").read_text(encoding="utf-8")), text


def test_rates_ratios_and_hours_follow_from_the_seconds(measured: tuple[dict, str]) -> None:
    document, text = measured
    seconds = document["seconds"]
    assert list(seconds) == ["network", "pipeline", "monai"] and all(value > 0 for value in seconds.values())
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| (")]
    assert [row[0][:3] for row in rows] == ["(a)", "(b)", "(c)"]
    # 2 patches of 160 x 160 x 80 have 125 times the voxels of 2 of 32 x 32 x 16.
    for row, value in zip(rows, seconds.values(), strict=True):
        assert float(row[1]) == pytest.approx(5 / value, rel=0.01)
        assert float(row[3]) == pytest.approx(seconds["network"] / value, abs=0.006)
        assert float(row[4].replace(",", "")) == pytest.approx(value / 5 * 235_000 * 125 / 3600, rel=0.01, abs=1)
    ratio = seconds["network"] / seconds["pipeline"]
    assert f"- (b) / (a): {ratio:.2f}, aim at least 0.8" in text
    assert f"- (b) / (c): {seconds['monai'] / seconds['pipeline']:.2f}" in text


def test_conditions_are_said(measured: tuple[dict, str]) -> None:
    _, text = measured
    for words in ("--patch 32 32 16", "4 phantoms of 53 x 51 x 21", "1 torch thread(s)", "5 batches of 2 patches"):
        assert words in text

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib import phantom
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.phantom import Phantom, make_phantom
from CovidSegLib.pipeline import SegmentationResult, segment
from CovidSegLib.volume import CTVolume

from CovidSegTraining import benchmark
from CovidSegTraining.benchmark import BenchmarkOptions, find_cases, run_benchmark, score_labels
from CovidSegTraining.quality.aims import AIMS, judge_aims
from CovidSegTraining.quality.benchmark_report import complete_report, to_markdown, write_report
from CovidSegTraining.scores import poi_percent


@pytest.fixture(scope="module")
def figures(phantom_data: Path, threshold_bundle: Path) -> dict[str, Any]:
    """The whole benchmark, robustness of one chest included, on phantoms."""
    bundle = load_bundle(threshold_bundle)
    tell: list[str] = []
    result = run_benchmark(phantom_data, bundle=bundle, options=BenchmarkOptions(device="cpu"), tell=tell.append)
    only = BenchmarkOptions(device="cpu", only=("chest_a",), robustness=True)
    result["variants"] += [
        row
        for row in run_benchmark(phantom_data, bundle=bundle, options=only, tell=tell.append)["variants"]
        if row["kind"] == "robustness"
    ]
    assert len(tell) == len(result["cases"]) + len(result["variants"]) + 1 + 5
    return result


def test_only_measured_cases_are_found_each_in_its_group(phantom_data: Path) -> None:
    assert [(case.group, case.name) for case in find_cases(phantom_data)] == [
        ("kept-out", "coronacases_003"),
        ("lungs", "imlab_001"),
        ("chest", "chest_a"),
        ("chest", "normal001"),
        ("chest", "tumour_5mm_sharp"),
        ("chest", "tumour_5mm_soft"),
    ]


def _row(figures: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in figures["cases"] if row["name"] == name)


def test_kept_out_case_is_scored_in_valid_voxels_only(figures: dict[str, Any], ill: Phantom) -> None:
    row = _row(figures, "coronacases_003")
    assert row["error"] is None
    assert row["poi_labels"] == pytest.approx(poi_percent(ill.labelmap_kji[6:-6]))
    # A threshold finds most lung, and takes vessels and walls for infection.
    assert row["scores"]["lungs"]["dice"] > 0.9
    assert row["scores"]["left"]["dice"] > 0.85 and row["scores"]["right"]["dice"] > 0.85
    assert 0.1 < row["scores"]["infection"]["dice"] < 0.9
    for scores in row["scores"].values():
        assert all(0 <= value <= 1 for value in scores.values())
    assert set(row["scores"]) == {"lungs", "left", "right", "infection"}


def test_lung_mask_is_compared_with_all_that_is_labelled(figures: dict[str, Any]) -> None:
    assert set(_row(figures, "imlab_001")["scores"]) == {"lungs"}
    assert _row(figures, "imlab_001")["scores"]["lungs"]["dice"] > 0.9


def test_whole_chests_have_quantities_and_no_scores(figures: dict[str, Any], ill: Phantom) -> None:
    row = _row(figures, "chest_a")
    assert "scores" not in row
    assert row["lung_ml"] == pytest.approx(ill.truth.lung_ml, rel=0.15)
    assert row["poi_percent"] == pytest.approx(100 * row["infection_ml"] / row["lung_ml"], rel=1e-4)
    assert not row["sides_mistaken"] and row["seconds"] > 0


def test_phantoms_are_scored_against_their_exact_labels(
    phantom_data: Path, threshold_bundle: Path, ill: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"size_ijk": ill.ct.geometry.size_ijk, "spacing_ijk_mm": ill.ct.geometry.spacing_ijk_mm}
    monkeypatch.setattr(phantom, "make_phantom", partial(make_phantom, **small))
    monkeypatch.setattr(benchmark, "storage_variants", lambda ct: [])
    options = BenchmarkOptions(device="cpu", mode="fast", only=("imlab_001",), phantoms=1)
    found = run_benchmark(phantom_data, bundle=load_bundle(threshold_bundle), options=options, tell=str)
    row = _row(found, "phantom_1")
    assert row["group"] == "phantom" and row["scores"]["lungs"]["dice"] > 0.85
    assert row["poi_labels"] == pytest.approx(20.0, abs=1.0)
    assert row["poi_error"] == pytest.approx(row["poi_percent"] - row["poi_labels"], abs=1e-4)  # reports are rounded


def test_two_kernels_of_one_scan_are_compared(figures: dict[str, Any]) -> None:
    kernels = figures["kernels"]
    assert kernels["dice"]["lungs"] > 0.99
    assert kernels["poi_change"] == pytest.approx(kernels["sharp"] - kernels["soft"])


def test_stored_flipped_or_swapped_is_the_same_case(figures: dict[str, Any]) -> None:
    rows = [row for row in figures["variants"] if row["kind"] == "storage"]
    assert [row["name"] for row in rows[::5]] == ["coronacases_003", "imlab_001"] and len(rows) == 10
    for row in rows:
        assert row["error"] is None
        assert abs(row["poi_change"]) < 0.2
        assert row["label_agreement"] > 0.995
        assert not row["sides_mistaken"] and row["other_side_share"] < 0.001


@pytest.mark.parametrize(("share", "mistakes"), [(0.01, 0), (0.011, 1)])
def test_a_lobe_on_the_other_side_than_in_the_untouched_run_is_a_mistake(
    figures: dict[str, Any], share: float, mistakes: int
) -> None:
    first, *others = figures["variants"]
    changed = {**figures, "variants": [{**first, "other_side_share": share}, *others]}
    aims = {row["aim"]: row for row in judge_aims(changed)}
    assert aims["left-right mistakes, all runs"]["value"] == mistakes


def test_robustness_runs_are_compared_at_the_same_place(figures: dict[str, Any]) -> None:
    rows = {row["variant"]: row for row in figures["variants"] if row["kind"] == "robustness"}
    assert len(rows) == 13
    for name in (
        "1 mm slices",
        "half a voxel shifted",
        "noise 20 HU",
        "rotated 10 degrees",
        "cropped to the lungs",
        "picture of -1100..200 HU",
    ):
        assert rows[name]["error"] is None
        assert rows[name]["dice"]["lungs"] > 0.9


def test_every_aim_is_judged(figures: dict[str, Any]) -> None:
    aims = {row["aim"]: row for row in judge_aims(figures)}
    assert len(aims) == len(AIMS) == 10
    assert all(row["value"] is not None for row in aims.values())
    assert aims["left-right mistakes, all runs"]["value"] == 0
    assert aims["left-right mistakes, all runs"]["first_met"] is True
    agreement = aims["kept-out cases, infection, agreement, mean"]
    assert agreement["value"] == _row(figures, "coronacases_003")["scores"]["infection"]["dice"]
    assert agreement["first_met"] is (agreement["value"] >= 0.65) and agreement["final_met"] is False


def test_report_is_written_with_command_machine_and_wording(
    figures: dict[str, Any], threshold_bundle: Path, tmp_path: Path
) -> None:
    command = ["covidseg-train", "benchmark", "--data", "a folder"]
    report = complete_report(figures, bundle=load_bundle(threshold_bundle), command=command, mode="accurate")
    write_report(report, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert written["command"] == "covidseg-train benchmark --data 'a folder'"
    assert len(written["date"]) == 10
    assert re.search(r"threads, (int8|bfloat16|float32) on the CPU$", written["machine"])
    assert written["bundle"]["sha256"] == load_bundle(threshold_bundle).sha256
    text = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert text == to_markdown(report)
    assert "agreement with the paper's model, not accuracy" in text and "not for clinical use" in text
    for name in ("coronacases_003", "imlab_001", "chest_a", "rotated 10 degrees", "One scan in two kernels"):
        assert name in text
    widths = {line.count("|") for line in text.split("## Cases")[1].split("##")[0].splitlines() if line.startswith("|")}
    assert len(widths) == 1  # every row of the table has every cell


def test_failed_case_is_reported_counts_as_nothing_and_the_rest_goes_on(
    tmp_path: Path, phantom_data: Path, threshold_bundle: Path
) -> None:
    data = tmp_path / "data"
    (data / "ct").mkdir(parents=True)
    (data / "ct" / "normal001.nii.gz").write_bytes(b"damaged")
    source = phantom_data / "ct" / "chest_a.nii.gz"
    (data / "ct" / "ok.nii.gz").write_bytes(source.read_bytes())
    bundle = load_bundle(threshold_bundle)
    figures = run_benchmark(data, bundle=bundle, options=BenchmarkOptions(device="cpu"), tell=lambda _: None)
    assert "normal001" in _row(figures, "normal001")["error"]
    assert _row(figures, "ok")["error"] is None
    control = next(row for row in judge_aims(figures) if row["aim"] == "normal001, POI")
    assert control["value"] == math.inf and control["first_met"] is False
    report = complete_report(figures, bundle=bundle, command=["x"], mode="fast")
    assert "failed:" in to_markdown(report)
    write_report(report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["aims"][3]["value"] is None


def test_phantom_that_fails_does_not_cost_the_figures_of_the_others(
    phantom_data: Path, threshold_bundle: Path, ill: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_lungs(ct: CTVolume, **options: Any) -> SegmentationResult:
        if ct is ill.ct:
            raise InputError("no lungs found")
        return segment(ct, **options)

    monkeypatch.setattr(phantom, "make_phantom", lambda **_: ill)
    monkeypatch.setattr(benchmark, "storage_variants", lambda ct: [])
    monkeypatch.setattr(benchmark, "segment", without_lungs)
    options = BenchmarkOptions(device="cpu", mode="fast", only=("imlab_001",), phantoms=1)
    found = run_benchmark(phantom_data, bundle=load_bundle(threshold_bundle), options=options, tell=str)
    assert _row(found, "phantom_1") == {"group": "phantom", "name": "phantom_1", "error": "no lungs found"}
    assert _row(found, "imlab_001")["error"] is None
    report = complete_report(found, bundle=load_bundle(threshold_bundle), command=["x"], mode="fast")
    assert "| phantom | phantom_1 | failed: no lungs found |" in to_markdown(report)


def test_unknown_case_and_empty_folder_are_refused(tmp_path: Path, phantom_data: Path, threshold_bundle: Path) -> None:
    bundle = load_bundle(threshold_bundle)
    with pytest.raises(InputError, match=r"no case 'nobody'.*coronacases_003"):
        run_benchmark(phantom_data, bundle=bundle, options=BenchmarkOptions(only=("nobody",)), tell=print)
    with pytest.raises(InputError, match="no case to measure"):
        run_benchmark(tmp_path, bundle=bundle, options=BenchmarkOptions(), tell=print)


def test_scores_of_labelmaps_as_by_hand() -> None:
    truth, found = np.zeros((6, 6, 6), dtype=np.uint8), np.zeros((6, 6, 6), dtype=np.uint8)
    truth[2:4, 2:4, 1] = 1
    truth[2:4, 2:4, 4] = 2
    found[2:4, 2:4, 1] = 3  # the left lung is called infection
    found[2:4, 2:4, 4] = 2
    scores = score_labels(truth, found, regions=("lungs", "left", "right", "infection"), spacing_kji_mm=(1.0, 1.0, 1.0))
    assert [scores[region]["dice"] for region in ("lungs", "left", "right", "infection")] == [1.0, 0.0, 1.0, 0.0]
    assert math.isnan(scores["infection"]["sensitivity"])
    assert scores["infection"]["specificity"] == pytest.approx(1 - 4 / 216)

"""Figures in the panel: right after a run and after every edit, and what can be done with them."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment, measuring_held, module, table_texts

pytestmark = pytest.mark.slicer


def test_table_shows_both_lungs_and_each(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    truth = journey.phantom.truth
    table = table_texts(journey.ui.resultsTable)
    assert list(table) == ["Both lungs", "Left lung", "Right lung"]
    assert table["Both lungs"]["Infected\n(%)"] == f"{truth.poi_percent:.1f}"
    assert table["Both lungs"]["Infection\n(ml)"] == f"{truth.infection_ml:.1f}"
    volume_ml = sum(float(table[name]["Volume\n(ml)"]) for name in ("Left lung", "Right lung"))
    assert float(table["Both lungs"]["Volume\n(ml)"]) == pytest.approx(volume_ml, abs=1.1)


def test_severity_is_explained_on_hover(host: Any) -> None:
    from CovidSegLib.results.severity import DEFINITION

    journey = Journey(host)
    journey.run()
    assert "CT-1" in journey.ui.severityLabel.text
    assert journey.ui.severityLabel.toolTip == DEFINITION


def test_ground_glass_and_consolidation_add_up_to_the_infection(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    words = journey.ui.compositionLabel.text.replace("(", "").split()
    glass_ml, dense_ml = float(words[1]), float(words[7])
    assert glass_ml + dense_ml == pytest.approx(journey.phantom.truth.infection_ml, abs=1.1)


def test_edit_marks_the_figures_stale_at_once_and_renews_them_soon(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    lung_ml = journey.panel.results.figures.current["regions"]["lungs"]["volume_ml"]
    infection_kji = journey.phantom.labelmap_kji == 3
    half = infection_kji.copy()
    half[::2] = False
    started_s = time.monotonic()
    edit_segment(journey, "infection", half)
    assert journey.panel.results.figures.stale
    assert not journey.ui.staleLabel.isHidden()
    assert "being measured" in journey.ui.staleLabel.text
    journey.wait_for_figures()
    assert time.monotonic() - started_s < 5.0, "a second on an idle machine"
    voxel_ml = journey.phantom.ct.geometry.voxel_volume_ml
    figures = journey.panel.results.figures.current
    assert figures["regions"]["lungs"]["infection_ml"] == pytest.approx(half.sum() * voxel_ml)
    assert figures["regions"]["lungs"]["volume_ml"] == pytest.approx(lung_ml), "erasing gives voxels back to the lung"
    assert journey.ui.staleLabel.isHidden()
    table = segmentation.GetNodeReference("CovidSeg.table")
    assert table.GetCellText(0, 2) == f"{half.sum() * voxel_ml:.1f}"


def test_old_figures_are_neither_copied_nor_saved_as_those_of_the_edited_segments(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    for name in ("copyButton", "csvButton", "reportButton"):
        assert not getattr(journey.ui, name).enabled
        assert getattr(journey.ui, name).toolTip == "Wait until the figures are measured."
    journey.wait_for_figures()
    assert journey.ui.reportButton.enabled
    segmentation.GetSegmentation().RemoveSegment("infection")
    host.wait_until(lambda: "infection segment is missing" in journey.ui.staleLabel.text)
    assert not journey.ui.reportButton.enabled
    assert "infection segment is missing" in journey.ui.reportButton.toolTip


def test_figures_before_correction_stay_to_compare_with(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    assert journey.ui.comparisonLabel.isHidden()
    before_ml = journey.phantom.truth.infection_ml
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    text = journey.ui.comparisonLabel.text
    assert text.startswith(
        f"Before correction: {journey.phantom.truth.poi_percent:.1f} %, {before_ml:.1f} ml infection"
    )
    assert f"now 0.0 %, 0.0 ml ({-before_ml:+.1f} ml)" in text
    assert not journey.ui.mostInfectedButton.enabled
    assert journey.ui.mostInfectedButton.toolTip == "No infection was found."


def test_change_that_rounds_to_nothing_has_no_minus(host: Any) -> None:
    then, now = (
        {"poi_percent": 20.0, "regions": {"lungs": {"infection_ml": infection_ml, "volume_ml": volume_ml}}}
        for infection_ml, volume_ml in ((400.0, 2000.0), (399.98, 1990.0))
    )
    assert module("panel.texts").comparison_text(now, before=then).endswith("(+0.0 ml)")


def test_edit_while_measuring_is_not_lost(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    infection_kji = journey.phantom.labelmap_kji == 3
    with measuring_held():
        edit_segment(journey, "infection", infection_kji & (np.arange(infection_kji.shape[0]) < 20)[:, None, None])
        host.wait_until(lambda: journey.panel._measurer.busy, what="measuring")
        edit_segment(journey, "infection", np.zeros_like(infection_kji))
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["regions"]["lungs"]["infection_ml"] == 0.0


def test_new_name_or_colour_is_no_edit(host: Any) -> None:
    journey = Journey(host)
    segment = journey.run().GetSegmentation().GetSegment("infection")
    segment.SetName("mine")
    segment.SetColor(0.0, 1.0, 0.0)
    host.process_events()
    assert not journey.panel.results.figures.stale


def test_deleted_infection_segment_is_said_and_not_taken_for_zero(host: Any) -> None:
    journey = Journey(host)
    journey.run().GetSegmentation().RemoveSegment("infection")
    host.wait_until(lambda: "infection segment is missing" in journey.ui.staleLabel.text)
    assert not journey.ui.plotsButton.enabled


def test_copy_puts_a_table_into_the_clipboard(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.copyButton.click()
    rows = [line.split("\t") for line in host.app.clipboard().text().splitlines()]
    assert rows[0] == ["region", "volume_ml", "infection_ml", "poi_percent", "mean_hu", "mass_g"]
    assert float(rows[1][3]) == pytest.approx(journey.phantom.truth.poi_percent, abs=1e-3)


def test_csv_holds_the_figures(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    journey.dialogs.answers = [str(tmp_path / "figures.csv")]
    journey.ui.csvButton.click()
    rows = list(csv.DictReader((tmp_path / "figures.csv").open(encoding="utf-8")))
    assert [row["region"] for row in rows] == ["lungs", "left_lung", "right_lung"]
    assert float(rows[0]["infection_ml"]) == pytest.approx(journey.phantom.truth.infection_ml, abs=1e-3)
    assert "Saved" in journey.ui.exportLabel.text


def test_what_was_saved_is_not_said_of_another_result(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    journey.dialogs.answers = [str(tmp_path / "figures.csv")]
    journey.ui.csvButton.click()
    journey.wait_for_figures()
    assert "Saved" in journey.ui.exportLabel.text
    journey.parameters.segmentation = None
    assert journey.ui.exportLabel.text == ""


def test_suggested_file_name_is_one_on_every_system(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    journey.run().SetName("4: Thorax 1.0/0.7")
    suggested = []
    monkeypatch.setattr(
        journey.dialogs, "file_to_save", lambda _title, *, suggestion, kinds: suggested.append(suggestion) or ""
    )
    journey.ui.csvButton.click()
    assert suggested == ["4_ Thorax 1.0_0.7.csv"]


def test_figures_that_their_segments_left_behind_say_so_and_are_not_copied(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    segmentation.GetSegmentation().RemoveSegment("infection")
    host.wait_until(lambda: "infection segment is missing" in journey.ui.staleLabel.text)
    assert "may not be those of the segments" in journey.ui.staleLabel.text
    for name in ("copyButton", "csvButton", "reportButton"):
        assert not getattr(journey.ui, name).enabled
        assert "infection segment is missing" in getattr(journey.ui, name).toolTip
    journey.dialogs.answers = [1]
    journey.run()
    assert journey.ui.copyButton.enabled
    assert journey.ui.staleLabel.text == ""


def test_update_pressed_in_the_pause_after_an_edit_measures_once(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    journey.run()
    figures, attempts = module("panel.figures"), []
    measure = figures.measure
    monkeypatch.setattr(figures, "measure", lambda *ct, **others: attempts.append(1) or measure(*ct, **others))
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.ui.updateButton.click()
    until_s = time.monotonic() + 3 * figures.UPDATE_AFTER_MS / 1000
    host.wait_until(lambda: time.monotonic() > until_s)
    journey.wait_for_figures()
    assert len(attempts) == 1


def test_figures_whose_measuring_failed_after_an_edit_say_so_and_are_not_copied(
    host: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journey = Journey(host)
    journey.run()
    attempts = []

    def fail(*_arrays: Any, **_options: Any) -> Any:
        attempts.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(module("panel.figures"), "measure", fail)
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    host.wait_until(lambda: "RuntimeError: a bug" in journey.ui.staleLabel.text)
    assert "may not be those of the segments" in journey.ui.staleLabel.text
    assert "The Python console shows the details" in journey.ui.staleLabel.text
    assert "Press Details" not in journey.ui.staleLabel.text
    assert "Traceback" in caplog.text
    for name in ("copyButton", "csvButton", "reportButton"):
        assert not getattr(journey.ui, name).enabled
        assert "RuntimeError: a bug" in getattr(journey.ui, name).toolTip
    until_s = time.monotonic() + 0.3
    host.wait_until(lambda: time.monotonic() > until_s)
    assert len(attempts) == 1, "nobody asked for another"
    monkeypatch.undo()
    journey.ui.updateButton.click()
    journey.wait_for_figures()
    assert journey.ui.copyButton.enabled
    assert journey.ui.staleLabel.isHidden()


def test_details_of_a_report_that_was_not_saved_are_logged(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journey = Journey(host)
    journey.run()
    monkeypatch.setattr(module("panel.results"), "save_case", lambda **_options: 1 / 0)
    journey.dialogs.answers = [str(tmp_path)]
    journey.ui.reportButton.click()
    host.wait_until(lambda: "ZeroDivisionError" in journey.ui.exportLabel.text)
    assert "The Python console shows the details" in journey.ui.exportLabel.text
    assert "Traceback" in caplog.text


def test_file_that_cannot_be_written_is_said(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    journey.dialogs.answers = [str(tmp_path / "nowhere" / "figures.csv")]
    journey.ui.csvButton.click()
    assert "No such file or directory" in journey.ui.exportLabel.text


def test_all_rows_of_the_tables_can_be_seen_in_a_large_font(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    table = journey.ui.resultsTable
    table.horizontalHeader().styleSheet = "font-size: 24pt"
    journey.panel.results._show()
    assert table.height >= table.horizontalHeader().sizeHint.height() + table.verticalHeader().length()


def test_report_is_a_case_folder_with_the_figures_of_now(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    for _ in range(2):
        journey.dialogs.answers = [str(tmp_path)]
        journey.ui.reportButton.click()
        host.wait_until(lambda: not journey.panel._measurer.busy, timeout_s=30)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["phantom-1", "phantom-1-2"]
    files = {path.name for path in (tmp_path / "phantom-1").iterdir()}
    assert files == {"segmentation.seg.nrrd", "labelmap.nii.gz", "report.json", "report.csv", "preview.png"}
    report = json.loads((tmp_path / "phantom-1" / "report.json").read_text(encoding="utf-8"))
    assert report["poi_percent"] == 0.0
    assert any("corrected by hand" in warning for warning in report["warnings"])
    assert "Saved the report in" in journey.ui.exportLabel.text


def test_results_of_a_scene_that_was_saved_come_back(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.ui.modeSelector.setCurrentIndex(1)
    journey.run()
    half = journey.phantom.labelmap_kji == 3
    half[::2] = False
    edit_segment(journey, "infection", half)
    journey.wait_for_figures()
    headline = journey.ui.headlineLabel.text
    path = host.save_scene(tmp_path / "scene.mrb")
    journey.ui.modeSelector.setCurrentIndex(0)
    host.load_scene(path)
    journey.settle()
    assert journey.parameters.mode.value == "fast"
    assert journey.parameters.inputVolume.GetName() == "phantom-1"
    assert journey.segmentation.GetName() == "phantom-1 CovidSeg"
    journey.wait_for_figures()
    assert journey.ui.headlineLabel.text == headline
    assert "Before correction" in journey.ui.comparisonLabel.text
    assert journey.ui.segmentButton.enabled


def test_segmentation_of_others_is_no_result(host: Any) -> None:
    journey = Journey(host)
    other = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "heart")
    journey.settle()
    journey.parameters.segmentation = other
    host.wait_until(lambda: "no segments of CovidSeg" in journey.ui.staleLabel.text)
    assert journey.ui.headlineLabel.text == "No results yet"
    assert journey.ui.segmentButton.enabled


def test_voxels_changed_by_somebody_are_measured_as_they_are_now(host: Any) -> None:
    from vtk.util.numpy_support import vtk_to_numpy

    journey = Journey(host)
    journey.run()
    before_hu = journey.panel.results.figures.current["regions"]["lungs"]["hu"]["mean"]
    image = journey.volume.GetImageData()
    vtk_to_numpy(image.GetPointData().GetScalars())[:] += 10
    image.GetPointData().GetScalars().Modified()
    image.Modified()
    journey.ui.resultsSection.collapsed = False
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["regions"]["lungs"]["hu"]["mean"] == pytest.approx(before_hu + 10)


def test_ct_whose_voxels_are_gone_is_told_after_an_edit(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    journey.volume.SetAndObserveImageData(None)
    segmentation.GetSegmentation().RemoveSegment("left_lung")
    host.wait_until(lambda: "has no image data" in journey.ui.staleLabel.text, what="the reason")
    assert not journey.panel.results.figures.measuring


@pytest.mark.parametrize(
    "damage", ["[]", '{"regions": {}, "severity": {}}', '{"regions": [], "severity": 3}', "nonsense"]
)
def test_damaged_report_of_a_saved_scene_counts_as_none(host: Any, damage: str) -> None:
    from CovidSegLib.scenes.report import REPORT_ATTRIBUTE

    journey = Journey(host)
    segmentation = journey.run()
    journey.parameters.segmentation = None
    segmentation.SetAttribute(REPORT_ATTRIBUTE, damage)
    with measuring_held():
        journey.parameters.segmentation = segmentation
        assert journey.ui.headlineLabel.text == "No results yet"
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(journey.phantom.truth.poi_percent)

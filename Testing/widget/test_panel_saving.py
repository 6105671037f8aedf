"""What the panel saves: where it begins to look for a folder, and what the case is called."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.scenes.selftest import truth_engine
from helpers_panel import Journey, edit_segment, module

pytestmark = pytest.mark.slicer


def test_saving_begins_in_the_folder_that_was_saved_into_last(host: Any, tmp_path: Path) -> None:
    dialogs = module("panel.consent").SlicerDialogs()
    host.dialogs.answer(("", ""), (str(tmp_path / "a" / "figures.csv"), "Table (*.csv)"), str(tmp_path / "b"), "")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    starts = []
    for _ in range(2):
        dialogs.file_to_save("Save figures", suggestion="CT.csv", kinds="Table (*.csv)")
        starts.append(host.dialogs.last.start)
    for _ in range(2):
        dialogs.folder("Folder for the case report")
        starts.append(host.dialogs.last.start)
    home = str(Path.home() / "CT.csv")
    assert starts == [home, home, str(tmp_path / "a"), str(tmp_path / "b")]


def test_saving_begins_at_home_if_the_last_folder_cannot_be_looked_at_any_more(host: Any) -> None:
    consent = module("panel.consent")
    host.qt.QSettings().setValue(consent.FOLDER_KEY, "/" + "n" * 300)
    host.dialogs.answer("")
    consent.SlicerDialogs().folder("Folder for the case report")
    assert host.dialogs.last.start == str(Path.home())


def test_report_of_a_renamed_ct_has_its_new_name_alone(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    journey.volume.SetName("A/1")
    journey.dialogs.answers = [str(tmp_path)]
    journey.ui.reportButton.click()
    host.wait_until(lambda: not journey.panel._measurer.busy, timeout_s=30)
    text = (tmp_path / "A_1" / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["case"] == "A_1"
    assert "phantom-1" not in text


NO_LEFT_LUNG = "No left lung in the segmentation: its figures are n/a."
CUT_OFF = "The lungs reach the first or the last slice"


def saved_report(journey: Journey, folder: Path) -> Path:
    """Press Save report, and return the case's folder."""
    folder.mkdir()
    journey.dialogs.answers = [str(folder)]
    journey.ui.reportButton.click()
    journey.host.wait_until(lambda: not journey.panel._measurer.busy, timeout_s=30)
    (case,) = folder.iterdir()
    return case


def warnings_in(folder: Path) -> list[str]:
    warnings: list[str] = json.loads((folder / "report.json").read_text(encoding="utf-8"))["warnings"]
    return warnings


def edit_lung(journey: Journey, segment_id: str, mask_kji: np.ndarray) -> None:
    edit_segment(journey, segment_id, mask_kji)
    journey.wait_for_figures()


def test_report_of_corrected_segments_warns_as_the_command_line_does(host: Any, tmp_path: Path) -> None:
    import SimpleITK
    from CovidSegLib.cli import main

    journey = Journey(host)
    journey.engine.warnings = ("Told by the run.",)
    journey.run()
    right = np.isin(journey.phantom.labelmap_kji, (2, 3))
    right[0] = right.any(axis=0)
    edit_lung(journey, "left_lung", np.zeros_like(right))
    edit_lung(journey, "right_lung", right)
    case = saved_report(journey, tmp_path / "panel")
    *warnings, note = warnings_in(case)
    assert "corrected by hand in 3D Slicer" in note
    assert "Told by the run." in warnings
    assert journey.ui.warningsLabel.text.splitlines() == warnings

    ct = journey.phantom.ct
    SimpleITK.WriteImage(ct.geometry.to_sitk(ct.hu_kji), str(tmp_path / "a.nii.gz"))
    paths = (tmp_path / "a.nii.gz", case / "segmentation.seg.nrrd", "-o", tmp_path / "figures")
    assert main(["quantify", *map(str, paths)]) == 0
    *expected, _note = warnings_in(tmp_path / "figures")
    assert NO_LEFT_LUNG in expected
    assert any(text.startswith(CUT_OFF) for text in expected)
    assert set(warnings) == {*expected, "Told by the run."}


def test_missing_lung_that_was_painted_is_no_longer_warned_of(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    left = journey.phantom.labelmap_kji == 1
    half = dataclasses.replace(journey.phantom, labelmap_kji=np.where(left, 0, journey.phantom.labelmap_kji))
    journey.engine._truth = truth_engine(half)
    journey.engine.warnings = (NO_LEFT_LUNG, "Told by the run.")
    journey.run()
    assert NO_LEFT_LUNG in journey.ui.warningsLabel.text
    edit_lung(journey, "left_lung", left)
    assert NO_LEFT_LUNG not in journey.ui.warningsLabel.text
    assert "Told by the run." in journey.ui.warningsLabel.text
    assert NO_LEFT_LUNG not in warnings_in(saved_report(journey, tmp_path / "out"))


def test_lungs_that_were_painted_up_to_the_first_slice_are_warned_of_until_they_are_not(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    assert CUT_OFF not in journey.ui.warningsLabel.text
    right = journey.phantom.labelmap_kji == 2
    to_the_end = right.copy()
    to_the_end[0] = right.any(axis=0)
    edit_lung(journey, "right_lung", to_the_end)
    assert CUT_OFF in journey.ui.warningsLabel.text
    edit_lung(journey, "right_lung", right)
    assert CUT_OFF not in journey.ui.warningsLabel.text


def test_chest_is_looked_for_once_and_not_after_every_edit(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = module("panel.measure")
    find, found = measuring.chest_in, []
    monkeypatch.setattr(measuring, "chest_in", lambda *ct, **grid: found.append(find(*ct, **grid)) or found[-1])
    journey = Journey(host)
    journey.run()
    edit_lung(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    assert len(found) == 1
    journey.volume.GetImageData().Modified()
    edit_lung(journey, "infection", journey.phantom.labelmap_kji == 3)
    assert len(found) == 2, "voxels that may have been changed"


def test_report_of_a_segmentation_without_a_run_records_no_options(host: Any, tmp_path: Path) -> None:
    from CovidSegLib.scenes.report import REPORT_ATTRIBUTE

    journey = Journey(host)
    journey.run().RemoveAttribute(REPORT_ATTRIBUTE)
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    report = json.loads((saved_report(journey, tmp_path / "out") / "report.json").read_text(encoding="utf-8"))
    assert report["runtime"]["options"] == {}

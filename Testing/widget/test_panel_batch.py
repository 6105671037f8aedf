"""Batch in the panel: the command line's folders and files, progress, cancel and resume."""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.progress import Progress
from helpers_panel import Journey, module

sys.path.append(str(Path(__file__).resolve().parents[1] / "cli"))  # the command line's small engine

pytestmark = pytest.mark.slicer


@pytest.fixture
def batch(host: Any, tmp_path: Path) -> Journey:
    """A journey with three small CTs in a folder, and a small engine for them."""
    from fake_engine import FAKE_ENGINE, write_ct

    for seed, name in enumerate(("a", "b", "c")):
        write_ct(tmp_path / "in" / f"{name}.nii.gz", seed=seed)
    journey = Journey(host, with_ct=False)
    journey.panel.batch._engine = FAKE_ENGINE
    journey.ui.batchSection.collapsed = False
    journey.ui.batchInputEdit.currentPath = str(tmp_path / "in")
    journey.ui.batchOutputEdit.currentPath = str(tmp_path / "out")
    return journey


def wait(journey: Journey) -> None:
    journey.host.wait_until(lambda: not journey.panel.batch.running, timeout_s=30, what="the batch")


def summary(tmp_path: Path) -> dict[str, str]:
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as stream:
        return {row["case"]: row["status"] for row in csv.DictReader(stream)}


def test_folder_is_segmented_as_on_the_command_line(batch: Journey, tmp_path: Path) -> None:
    assert batch.ui.batchButton.enabled
    batch.ui.batchButton.click()
    assert not batch.ui.batchButton.enabled
    wait(batch)
    assert summary(tmp_path) == {"a": "done", "b": "done", "c": "done"}
    assert batch.ui.batchStatusLabel.text == "3 done. The table of all cases is summary.csv."
    assert {path.name for path in (tmp_path / "out" / "a").iterdir()} >= {"report.json", "labelmap.nii.gz"}
    assert "a: POI" in batch.ui.batchLog.toPlainText()
    batch.ui.batchOpenButton.click()
    assert [Path(opened) for opened in batch.host.opened] == [tmp_path / "out"]


def test_name_of_a_case_stands_on_the_bar_as_it_is(batch: Journey, tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / "in" / f"{name}.nii.gz").unlink()
    (tmp_path / "in" / "a.nii.gz").rename(tmp_path / "in" / "100%pure %m.nii.gz")
    batch.ui.batchButton.click()
    wait(batch)
    assert batch.ui.batchProgressBar.text.replace("\N{WORD JOINER}", "").startswith("1 of 1, 100%pure %m: ")


def test_second_run_skips_what_is_complete(batch: Journey, tmp_path: Path) -> None:
    for _ in range(2):
        batch.ui.batchButton.click()
        wait(batch)
    assert batch.ui.batchStatusLabel.text.startswith("3 already complete.")
    batch.ui.batchOverwriteCheckBox.checked = True
    batch.ui.batchButton.click()
    wait(batch)
    assert batch.ui.batchStatusLabel.text.startswith("3 done.")


def test_next_batch_begins_with_an_empty_log_and_offers_results_only_at_its_end(batch: Journey) -> None:
    batch.ui.batchButton.click()
    wait(batch)
    assert not batch.ui.batchOpenButton.isHidden()
    assert batch.ui.batchProgressBar.value > 0
    batch.ui.batchButton.click()
    assert batch.ui.batchOpenButton.isHidden()
    assert batch.ui.batchProgressBar.value == 0
    wait(batch)
    assert not batch.ui.batchOpenButton.isHidden()
    assert "a: POI" not in batch.ui.batchLog.toPlainText()


def test_results_within_the_folder_with_cts_are_not_taken_for_cts(batch: Journey, tmp_path: Path) -> None:
    batch.ui.batchOutputEdit.currentPath = str(tmp_path / "in" / "results")
    for outcome in ("3 done.", "3 already complete."):
        batch.ui.batchButton.click()
        wait(batch)
        assert batch.ui.batchStatusLabel.text.startswith(outcome)
    assert "ignored what lies under the output folder" in batch.ui.batchLog.toPlainText()


def test_nothing_else_can_be_started_while_the_user_is_asked(batch: Journey) -> None:
    reasons = []

    def prepare() -> None:  # presses both buttons while a question is open
        batch.panel.segment.start()
        batch.panel.batch.start()
        reasons.extend(button.toolTip for button in (batch.ui.segmentButton, batch.ui.batchButton))

    batch.panel.place.prepare = prepare
    batch.ui.batchButton.click()
    assert reasons == ["CovidSeg is busy. Wait until it is done, or cancel it."] * 2
    wait(batch)
    assert batch.ui.batchStatusLabel.text.startswith("3 done.")
    assert batch.ui.batchButton.enabled


def test_failed_preparation_leaves_the_button_to_be_pressed_again(batch: Journey) -> None:
    from CovidSegLib.errors import Cancelled

    def decline() -> None:
        batch.panel.refresh()  # as the line of the device does after an installation
        raise Cancelled("Nothing was installed.")

    batch.panel.place.prepare = decline
    batch.ui.batchButton.click()
    assert batch.ui.batchStatusLabel.text == "Nothing was installed."
    assert batch.ui.batchButton.enabled


def test_details_of_a_failed_preparation_are_logged(batch: Journey, caplog: pytest.LogCaptureFixture) -> None:
    batch.panel.place.prepare = lambda: 1 / 0
    batch.ui.batchButton.click()
    assert "The Python console shows the details" in batch.ui.batchStatusLabel.text
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def maps(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in (tmp_path / "out").glob("*/uncertainty.nii.gz"))


def test_maps_of_uncertainty_are_written_if_they_are_asked_for(batch: Journey, tmp_path: Path) -> None:
    batch.ui.batchButton.click()
    wait(batch)
    assert maps(tmp_path) == []
    batch.ui.batchUncertaintyCheckBox.checked = True
    batch.ui.batchButton.click()
    assert not batch.ui.batchUncertaintyCheckBox.enabled
    wait(batch)
    assert batch.ui.batchUncertaintyCheckBox.enabled
    assert batch.ui.batchStatusLabel.text.startswith("3 done."), "complete but for the map: segmented again"
    assert maps(tmp_path) == ["a", "b", "c"]


def test_maps_are_those_of_the_command_line(batch: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_engine import FAKE_ENGINE
    from helpers_cli import segment, tree_without_times

    batch.ui.batchUncertaintyCheckBox.checked = True
    batch.ui.batchButton.click()
    wait(batch)
    monkeypatch.setattr("CovidSegLib.cases.batch.Engine", lambda: FAKE_ENGINE)
    assert segment(tmp_path / "in", "-o", tmp_path / "cli", "--uncertainty") == 0
    for case in ("a", "b", "c"):
        assert tree_without_times(tmp_path / "out" / case) == tree_without_times(tmp_path / "cli" / case)


def test_bad_case_does_not_stop_the_rest(batch: Journey, tmp_path: Path) -> None:
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"no image")
    batch.ui.batchButton.click()
    wait(batch)
    assert summary(tmp_path) == {"a": "done", "b": "failed", "c": "done"}
    assert batch.ui.batchStatusLabel.text.startswith("2 done, 1 failed.")
    assert batch.ui.batchStatusLabel.styleSheet.startswith("color:"), "coloured as a warning"
    assert "b: failed: " in batch.ui.batchLog.toPlainText()
    assert "Traceback" not in batch.ui.batchLog.toPlainText(), "the message says all there is to know"


def test_fault_in_a_case_is_logged_with_its_traceback_and_the_rest_goes_on(batch: Journey, tmp_path: Path) -> None:
    (tmp_path / "in" / "b.nii.gz").rename(tmp_path / "in" / "bug.nii.gz")
    batch.ui.batchButton.click()
    wait(batch)
    assert summary(tmp_path) == {"a": "done", "bug": "failed", "c": "done"}
    log = batch.ui.batchLog.toPlainText()
    assert "bug: failed: unexpected ValueError: index out of range (a fault in CovidSeg: report it with its" in log
    assert "--verbose" not in log
    assert "Traceback (most recent call last)" in log
    assert "fake_engine.py" in log


def test_log_names_the_controls_of_the_panel_and_no_options_of_the_command_line(batch: Journey, tmp_path: Path) -> None:
    batch.ui.batchButton.click()
    wait(batch)
    path = tmp_path / "out" / "a" / "segmentation.seg.nrrd"
    logic = batch.widget.logic
    corrected = logic.loadSegmentation(path)
    corrected.GetSegmentation().RemoveSegment("left_lung")
    logic.saveSegmentation(corrected, path=path)
    os.utime(path, (time.time() + 9, time.time() + 9))
    batch.ui.batchButton.click()
    wait(batch)
    log = batch.ui.batchLog.toPlainText()
    assert "was corrected after these figures were made: load it with its CT to see those of now" in log
    batch.parameters.mode = type(batch.parameters.mode)("fast")
    batch.ui.batchButton.click()
    wait(batch)
    log = batch.ui.batchLog.toPlainText()
    assert "choose another output folder ('Results to'), or replace the correction with 'Segment complete cases" in log


def test_errors_name_no_options_of_the_command_line(batch: Journey) -> None:
    failures, worded = module("failures"), batch.panel.batch._worded
    out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})
    errors = (MemoryError(), out_of_memory(), PermissionError(13, "denied", "a -o OUT"), PermissionError(13, "denied"))
    said = [worded(failures.explain(error)) for error in errors]
    assert said[0] == "not enough memory: close other programs or scenes, or choose the quality Fast"
    assert said[1].endswith("or choose the CPU ('Processor (CPU)')")
    assert said[2].startswith("no permission for 'a -o OUT'"), "the name of a file stays"
    assert all(text.endswith("choose another output folder ('Results to')") for text in said[2:])


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_output_folder_that_cannot_be_made_is_told_by_its_control(batch: Journey, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    batch.ui.batchButton.click()
    wait(batch)
    assert "Mend the link, or choose another output folder ('Results to')." in batch.ui.batchStatusLabel.text


def test_cancel_keeps_what_is_done_and_a_second_run_goes_on(
    batch: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = batch.panel.batch._on_news, []

    def hear(news: Any) -> None:
        real(news)
        seen.append(news)
        if isinstance(news, module("cases.one_case").Outcome):
            batch.ui.batchCancelButton.click()

    monkeypatch.setattr(batch.panel.batch, "_on_news", hear)
    _slow_down(batch)
    batch.ui.batchButton.click()
    wait(batch)
    assert batch.ui.batchStatusLabel.text.startswith("Stopped.")
    done = [case for case, status in summary(tmp_path).items() if status == "done"]
    assert done and len(done) < 3
    monkeypatch.undo()
    batch.ui.batchButton.click()
    wait(batch)
    assert set(summary(tmp_path).values()) == {"done", "skipped"}


def _slow_down(batch: Journey) -> None:
    """Let each case take long enough for the main thread to be heard."""
    engine = batch.panel.batch._engine
    segment = engine.segment

    def slowly(ct: Any, **options: Any) -> Any:
        for _ in range(50):
            time.sleep(0.005)
            options["progress"](Progress("network", 0, 1))
        return segment(ct, **options)

    batch.panel.batch._engine = dataclasses.replace(engine, segment=slowly)


@pytest.mark.parametrize(
    ("inputs", "out", "reason"),
    [
        ("", "out", "Choose a folder with CTs."),
        ("nowhere", "out", "The folder with CTs does not exist. Check its path."),
        pytest.param("n" * 300, "out", "The folder with CTs does not exist. Check its path.", id="cannot be looked at"),
        ("in", "", "Choose a folder for the results."),
        ("in", "in/a.nii.gz", "The place for the results is a file. Choose a folder."),
        ("in", "in/../in", "The results cannot go into the folder with the CTs. Choose another."),
    ],
)
def test_button_says_what_is_missing(batch: Journey, tmp_path: Path, inputs: str, out: str, reason: str) -> None:
    batch.ui.batchInputEdit.currentPath = str(tmp_path / inputs) if inputs else ""
    batch.ui.batchOutputEdit.currentPath = str(tmp_path / out) if out else ""
    assert not batch.ui.batchButton.enabled
    assert batch.ui.batchButton.toolTip == reason


def test_folder_without_cts_is_told(batch: Journey, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    batch.ui.batchInputEdit.currentPath = str(tmp_path / "empty")
    batch.ui.batchButton.click()
    wait(batch)
    assert "nothing usable in input" in batch.ui.batchStatusLabel.text
    assert "Traceback" not in batch.ui.batchLog.toPlainText()
    assert batch.ui.batchOpenButton.isHidden(), "no folder was made"


def test_fault_in_the_program_is_logged_with_its_traceback(batch: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.panel.batch.run_batch", lambda *_cases, **_options: 1 / 0)
    batch.ui.batchButton.click()
    wait(batch)
    assert "ZeroDivisionError" in batch.ui.batchStatusLabel.text
    assert "Traceback" in batch.ui.batchLog.toPlainText()


def test_scene_may_be_closed_meanwhile(batch: Journey, tmp_path: Path) -> None:
    batch.ui.batchButton.click()
    batch.host.close_scene()
    wait(batch)
    assert set(summary(tmp_path).values()) == {"done"}


def test_folders_of_the_last_batch_are_offered_the_next_time(batch: Journey, tmp_path: Path) -> None:
    batch.ui.batchButton.click()
    wait(batch)
    batch.host.close_panel(batch.widget)
    again = batch.host.open_panel()
    assert again.ui.batchInputEdit.currentPath == str(tmp_path / "in")
    assert again.ui.batchOutputEdit.currentPath == str(tmp_path / "out")

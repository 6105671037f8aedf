"""What the engine says is shown in the application's language, and stays English in the files of a case."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from CovidSegLib.errors import DeviceError, InputError
from CovidSegLib.texts import text as _
from helpers_panel import Journey, module

sys.path.append(str(Path(__file__).resolve().parents[1] / "cli"))  # the command line's small engine

pytestmark = pytest.mark.slicer

ENGLISH = "{case}: no lungs found: is this a chest CT in HU?"
GERMAN = "Keine Lunge in {case} gefunden: Ist das ein Thorax-CT in HU?"
"""Another order of words: not to be had by translating the pieces of a sentence."""


def speak_german(host: Any, *, context: str, english: str, german: str) -> None:
    host.translate = lambda where, said: german if (where, said) == (context, english) else said


def as_said_by(source: str, english: str, **values: object) -> str:
    """Return a text as a file of the engine would mark it."""
    text = _(english)
    text.source = source
    return text.format(**values)


def test_error_of_the_engine_is_shown_in_the_language_of_the_application(host: Any) -> None:
    speak_german(host, context="anatomy.chest", english=ENGLISH, german=GERMAN)
    journey = Journey(host)
    journey.engine.error = InputError(as_said_by("anatomy/chest.py", ENGLISH, case="CT 7"))
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.status == "Keine Lunge in CT 7 gefunden: Ist das ein Thorax-CT in HU?"
    journey.ui.detailsButton.click()
    assert "CT 7: no lungs found" in journey.dialogs.details[0], "what is reported to developers is English"


def test_change_of_device_is_told_in_the_language_of_the_application(host: Any) -> None:
    english = "{reason}: continuing on {device}"
    speak_german(host, context="CovidSegLib.inference", english=english, german="{reason}, weiter auf {device}")
    journey = Journey(host)
    journey.engine.message = as_said_by("inference.py", english, reason="cuda", device="cpu")
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "cuda, weiter auf cpu" in journey.status


def test_severity_is_explained_in_the_language_of_the_application(host: Any) -> None:
    from CovidSegLib.results.severity import DEFINITION

    speak_german(host, context="results.severity", english=DEFINITION, german="Klassen nach MosMed")
    journey = Journey(host)
    assert journey.run() is not None
    assert journey.ui.severityLabel.toolTip == "Klassen nach MosMed"


@pytest.fixture
def warned(host: Any) -> Journey:
    """A finished run that warns of something, in a German application."""
    speak_german(host, context="readers.checks", english="Thick slices ({mm:g} mm).", german="Dicke: {mm:g} mm.")
    journey = Journey(host)
    journey.engine.warnings = (as_said_by("readers/checks.py", "Thick slices ({mm:g} mm).", mm=8.0),)
    assert journey.run() is not None
    return journey


def test_warning_is_translated_in_the_panel_and_english_in_the_report(warned: Journey) -> None:
    from CovidSegLib.scenes.report import REPORT_ATTRIBUTE

    assert "Dicke: 8 mm." in warned.ui.warningsLabel.text
    report = json.loads(warned.segmentation.GetAttribute(REPORT_ATTRIBUTE))
    assert "Thick slices (8 mm)." in report["warnings"]


def test_warning_is_translated_in_a_saved_scene_too(warned: Journey, host: Any, tmp_path: Path) -> None:
    host.load_scene(host.save_scene(tmp_path / "scene.mrb"))
    host.wait_until(lambda: "Dicke: 8 mm." in warned.ui.warningsLabel.text)


def test_warnings_of_another_report_are_not_taken_for_this_ones(warned: Journey) -> None:
    from CovidSegLib.scenes.report import REPORT_ATTRIBUTE, stored_warnings

    report = json.loads(warned.segmentation.GetAttribute(REPORT_ATTRIBUTE))
    report["warnings"] = ["Something else."]
    warned.segmentation.SetAttribute(REPORT_ATTRIBUTE, json.dumps(report))
    assert stored_warnings(warned.segmentation) == ["Something else."]


def test_case_of_a_batch_is_told_in_the_language_of_the_application(host: Any, tmp_path: Path) -> None:
    from fake_engine import FAKE_ENGINE, write_ct

    def fail(ct: Any, **_options: Any) -> Any:
        raise InputError(as_said_by("anatomy/chest.py", ENGLISH, case=ct.name))

    speak_german(host, context="anatomy.chest", english=ENGLISH, german=GERMAN)
    write_ct(tmp_path / "in" / "a.nii.gz", seed=0)
    journey = Journey(host, with_ct=False)
    journey.panel.batch._engine = dataclasses.replace(FAKE_ENGINE, segment=fail)
    journey.ui.batchInputEdit.currentPath = str(tmp_path / "in")
    journey.ui.batchOutputEdit.currentPath = str(tmp_path / "out")
    journey.ui.batchButton.click()
    journey.wait_for_end()
    assert "a: failed: Keine Lunge in a gefunden" in journey.ui.batchLog.toPlainText()
    assert "no lungs found" in (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8"), "files are English"


def test_missing_device_is_told_in_the_language_of_the_application(host: Any) -> None:
    english = "torch finds {count} NVIDIA GPU(s)"
    speak_german(host, context="CovidSegLib.device", english=english, german="torch findet {count} NVIDIA-GPU(s)")

    def absent(_device: str) -> tuple[str, str]:
        raise DeviceError(as_said_by("device.py", english, count=0))

    journey = Journey(host)
    module("panel.device").ask_torch = absent
    journey.panel.device.look_again()
    assert "torch findet 0 NVIDIA-GPU(s)" in journey.ui.deviceStatusLabel.text
    assert "torch findet 0 NVIDIA-GPU(s)" in journey.ui.segmentButton.toolTip


UI_FILE = Path(__file__).resolve().parents[2] / "CovidSeg" / "Resources" / "UI" / "CovidSeg.ui"
INNERMOST = re.compile(r"\[[^\[\]]*\]")
NAMES = ("phantom-1", "CovidSeg", "ZeroDivisionError")
"""What stays as it is in every language."""


def words_left(text: str) -> list[str]:
    """Return the words of a text that no translator has seen: those outside the marks that `host.translate` sets."""
    while INNERMOST.search(text):
        text = INNERMOST.sub("", text)
    for name in NAMES:
        text = text.replace(name, "")
    return re.findall("[A-Za-z]{3,}", text)


def said_by(ui: Any) -> dict[str, str]:
    """Return every text and tooltip of the panel."""
    texts = {}
    for name, widget in vars(ui).items():
        for kind in ("text", "toolTip"):
            said = getattr(widget, kind, None)
            if isinstance(said, str):
                texts[f"{name}.{kind}"] = said
    return texts


def test_every_word_that_appears_in_the_panel_has_been_to_the_translator(host: Any) -> None:
    drawn = {element.text for element in ElementTree.parse(UI_FILE).iter("string")}  # which Qt has translated itself
    host.translate = lambda _context, said: f"[{said}]" if said.strip() else said
    journey = Journey(host)

    def look() -> None:
        seen = {name: words_left(said) for name, said in said_by(journey.ui).items() if said not in drawn}
        assert {name: words for name, words in seen.items() if words} == {}

    look()
    journey.engine.message = as_said_by("inference.py", "{reason}: continuing on {device}", reason="7", device="8")
    journey.start()
    look()
    journey.engine.let_pass()
    journey.wait_for_end()
    journey.wait_for_figures()
    assert "[7: continuing on 8]" in journey.status
    assert "[Thick slices" in journey.ui.warningsLabel.text
    look()
    journey.segmentation.GetSegmentation().RemoveSegment("infection")
    host.wait_until(lambda: journey.panel.results.figures.problem)
    look()
    for error in (MemoryError(), ZeroDivisionError(), OSError(28, "28")):
        journey.engine.error = error
        journey.dialogs.answers = [1]
        journey.start()
        journey.engine.let_pass()
        journey.wait_for_end()
        look()

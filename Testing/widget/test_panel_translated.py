"""What the engine says is shown in the application's language, and stays English in the files of a case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.texts import text as _
from helpers_panel import Journey

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
    speak_german(host, context="CovidSegLib.chest", english=ENGLISH, german=GERMAN)
    journey = Journey(host)
    journey.engine.error = InputError(as_said_by("chest.py", ENGLISH, case="CT 7"))
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
    from CovidSegLib.severity import DEFINITION

    speak_german(host, context="CovidSegLib.severity", english=DEFINITION, german="Klassen nach MosMed")
    journey = Journey(host)
    assert journey.run() is not None
    assert journey.ui.severityLabel.toolTip == "Klassen nach MosMed"


@pytest.fixture
def warned(host: Any) -> Journey:
    """A finished run that warns of something, in a German application."""
    speak_german(host, context="CovidSegLib.checks", english="Thick slices ({mm:g} mm).", german="Dicke: {mm:g} mm.")
    journey = Journey(host)
    journey.engine.warnings = (as_said_by("checks.py", "Thick slices ({mm:g} mm).", mm=8.0),)
    assert journey.run() is not None
    return journey


def test_warning_is_translated_in_the_panel_and_english_in_the_report(warned: Journey) -> None:
    from CovidSegLib.logic import REPORT_ATTRIBUTE

    assert "Dicke: 8 mm." in warned.ui.warningsLabel.text
    report = json.loads(warned.segmentation.GetAttribute(REPORT_ATTRIBUTE))
    assert "Thick slices (8 mm)." in report["warnings"]


def test_warning_is_translated_in_a_saved_scene_too(warned: Journey, host: Any, tmp_path: Path) -> None:
    host.load_scene(host.save_scene(tmp_path / "scene.mrb"))
    host.wait_until(lambda: "Dicke: 8 mm." in warned.ui.warningsLabel.text)


def test_warnings_of_another_report_are_not_taken_for_this_ones(warned: Journey) -> None:
    from CovidSegLib.logic import REPORT_ATTRIBUTE
    from CovidSegLib.widget_update import stored_warnings

    report = json.loads(warned.segmentation.GetAttribute(REPORT_ATTRIBUTE))
    report["warnings"] = ["Something else."]
    warned.segmentation.SetAttribute(REPORT_ATTRIBUTE, json.dumps(report))
    assert stored_warnings(warned.segmentation) == ["Something else."]

"""The application's own dialogs, which the other tests replace by prepared answers."""

from __future__ import annotations

from typing import Any

import pytest
from helpers_panel import module

pytestmark = pytest.mark.slicer

CHOICES = ("Keep them", "Replace them")


def dialogs() -> Any:
    return module("panel.consent").SlicerDialogs()


@pytest.mark.parametrize(("answer", "chosen"), [("Keep them", 0), ("Replace them", 1), ("Cancel", None)])
def test_choice_is_the_button_that_was_pressed(host: Any, answer: str, chosen: int | None) -> None:
    host.dialogs.answer(answer)
    assert dialogs().choose("What shall be done with them?", choices=CHOICES) == chosen


def test_answered_question_does_not_stay_in_the_main_window(host: Any) -> None:
    """Its parent owns it: Python's end of it does not delete it."""
    import qt

    host.dialogs.answer("Cancel")
    dialogs().choose("What shall be done with them?", choices=CHOICES)
    host.process_events()
    assert host.app.mainWindow().findChildren(qt.QMessageBox) == []


def test_confirmation_and_details_are_those_of_slicer(host: Any) -> None:
    host.dialogs.answer("OK", "Cancel", "OK")
    assert dialogs().confirm("Install now?")
    assert not dialogs().confirm("Install now?")
    dialogs().show_details("It failed.", details="Traceback")
    assert (host.dialogs.last.text, host.dialogs.last.details) == ("It failed.", "Traceback")

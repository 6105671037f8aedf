"""Pictures of the panel in each state, to be looked at; they are written under demo-out/panel.

A stand-in host draws them, not Slicer: style and fonts differ from the application's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment

pytestmark = pytest.mark.slicer

FOLDER = Path(__file__).resolve().parents[2] / "demo-out" / "panel"
WIDTH = 440
"""Of Slicer's module area on a screen of 1366 x 768."""


def grab(journey: Journey, name: str, **options: Any) -> None:
    import grab as pictures

    path = pictures.save(
        journey.widget, FOLDER / f"{name}.png", width=WIDTH, height=options.pop("height", 0), **options
    )
    assert path.stat().st_size > 5000


def open_only(journey: Journey, *sections: str) -> None:
    for section in ("segment", "results", "correct", "followUp", "batch"):
        getattr(journey.ui, f"{section}Section").collapsed = section not in sections
    journey.host.process_events()


def test_pictures_of_every_state_are_written(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    grab(journey, "1-empty")
    journey.add_ct()
    grab(journey, "2-ready")
    journey.start()
    journey.engine.let_pass(3)
    host.wait_until(lambda: "Patch 3" in journey.ui.progressBar.text)
    grab(journey, "3-running")
    journey.engine.let_pass()
    journey.wait_for_end()
    journey.wait_for_figures()
    grab(journey, "4-results")
    grab(journey, "4-results-dark", dark=True)
    grab(journey, "4-results-768", height=650)
    infection_kji = journey.phantom.labelmap_kji == 3
    edit_segment(journey, "infection", infection_kji & (np.arange(infection_kji.shape[0]) > 12)[:, None, None])
    open_only(journey, "results", "correct")
    grab(journey, "5-stale")
    journey.wait_for_figures()
    journey.ui.editInfectionButton.click()
    journey.ui.islandButton.click()
    journey.wait_for_figures()
    grab(journey, "6-corrected")
    second = journey.add_ct(seed=2)
    journey.parameters.inputVolume = second
    journey.run()
    open_only(journey, "followUp")
    for row, day in enumerate(("2020-03-31", "2020-04-14")):
        journey.ui.followUpTable.item(row, 1).setText(day)
    journey.ui.compareButton.click()
    grab(journey, "7-follow-up")


def test_pictures_of_uncertain_regions_are_written(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    open_only(journey, "segment", "correct")
    grab(journey, "10-no-map")
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    host.wait_until(lambda: journey.ui.nextRegionButton.enabled)
    journey.ui.nextRegionButton.click()
    open_only(journey, "segment", "correct")
    grab(journey, "10-uncertain-768", height=650)
    grab(journey, "10-uncertain-dark", dark=True)


def test_pictures_of_errors_and_batch_are_written(host: Any, tmp_path: Path) -> None:
    from CovidSegLib.errors import InputError

    journey = Journey(host)
    journey.engine.error = InputError("phantom-1: no lungs found: is this a chest CT in HU?")
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    grab(journey, "8-error")
    open_only(journey, "batch")
    journey.ui.batchInputEdit.currentPath = str(tmp_path)
    journey.ui.batchOutputEdit.currentPath = str(tmp_path / "out")
    journey.ui.batchLog.visible = True
    journey.ui.batchLog.appendPlainText("a: POI 12.3 %, CT-1, 20.1 s")
    grab(journey, "9-batch")


def test_pictures_on_dark_are_written(host: Any) -> None:
    import grab as pictures

    application = host.qt.QApplication.instance()
    light = host.qt.QPalette(application.palette())
    application.setPalette(pictures._dark())
    try:
        journey = Journey(host)
        journey.run()
        edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
        grab(journey, "5-stale-dark", dark=True)
        journey.wait_for_figures()
        journey.engine.error = MemoryError()
        journey.dialogs.answers = [1]
        journey.start()
        journey.engine.let_pass()
        journey.wait_for_end()
        grab(journey, "8-error-dark", dark=True)
    finally:
        application.setPalette(light)

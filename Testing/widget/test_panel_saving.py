"""What the panel saves: where it begins to look for a folder, and what the case is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_panel import Journey, module

pytestmark = pytest.mark.slicer


def test_saving_begins_in_the_folder_that_was_saved_into_last(host: Any, tmp_path: Path) -> None:
    dialogs = module("widget_consent").SlicerDialogs()
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
    consent = module("widget_consent")
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

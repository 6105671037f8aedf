"""The panel as it opens: what is chosen, what can be pressed, and what says why not."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers_panel import Journey, module

pytestmark = pytest.mark.slicer

UI_FILE = Path(__file__).resolve().parents[2] / "CovidSeg" / "Resources" / "UI" / "CovidSeg.ui"
SECTIONS = ("segment", "results", "correct", "followUp", "batch")
SLICERS_MENUS = ["f", "e", "v", "h"]  # File, Edit, View, Help: a second one would take turns with the menu


def test_empty_scene_says_what_to_do_first(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    assert not journey.ui.segmentButton.enabled
    assert journey.ui.segmentButton.toolTip == "Load a chest CT and choose it above."
    assert journey.ui.headlineLabel.text == "No results yet"
    assert "Not for clinical use" in journey.ui.disclaimerLabel.text
    assert not journey.ui.disclaimerLabel.isHidden()


def test_first_ct_is_chosen_and_can_be_segmented(host: Any) -> None:
    journey = Journey(host)
    other = journey.add_ct(seed=2)
    assert journey.parameters.inputVolume is journey.volume is not other
    assert journey.ui.inputVolumeSelector.currentNode() is journey.volume
    assert journey.segmentation is None, "a new segmentation by default"
    assert journey.ui.segmentButton.enabled
    assert journey.ui.segmentButton.toolTip == "Find lungs and infection in the CT."


def test_labelmap_is_not_offered_as_ct(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    host.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    journey.settle()
    assert journey.parameters.inputVolume is None
    assert journey.ui.inputVolumeSelector.nodeCount() == 0


def test_volume_without_voxels_is_refused_with_the_reason(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    journey.settle()
    assert not journey.ui.segmentButton.enabled
    assert "'empty' has no image data" in journey.ui.segmentButton.toolTip


def test_two_cts_of_one_name_are_told_apart(host: Any) -> None:
    journey = Journey(host)
    other = journey.add_ct(seed=2)
    for node in (journey.volume, other):
        node.SetName("CT")
    journey.parameters.inputVolume = other
    segmentation = journey.run()
    assert segmentation.GetNodeReference("CovidSeg.volume") is other
    journey.parameters.inputVolume = journey.volume
    assert journey.segmentation is None, "the other CT has no result"


def test_choice_survives_in_the_parameter_node(host: Any) -> None:
    journey = Journey(host)
    journey.ui.modeSelector.setCurrentIndex(1)
    journey.ui.deviceSelector.setCurrentIndex(1)
    journey.ui.islandSpinBox.value = 2.5
    journey.ui.rangeCheckBox.checked = True
    journey.ui.rangeFromSpinBox.value = -600
    values = journey.parameters
    assert (values.mode.value, values.device.value, values.islandMl) == ("fast", "cpu", 2.5)
    assert (values.rangeEnabled, values.rangeFromHu) == (True, -600)
    values.islandMl = 0.5
    assert journey.ui.islandSpinBox.value == 0.5
    host.close_panel(journey.widget)
    again = Journey(host, with_ct=False)
    assert again.parameters.mode.value == "fast"
    assert again.ui.modeSelector.currentText == "Fast"
    assert again.ui.islandSpinBox.value == 0.5


def test_every_parameter_has_its_widget_and_comes_back_with_the_scene(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    ui, parameters = journey.ui, journey.parameters
    bound = {widget.property("SlicerParameterName") for widget in vars(ui).values()} - {None}
    assert bound == set(parameters.allParameters)
    defaults = {name: getattr(parameters, name) for name in bound - {"inputVolume", "segmentation"}}
    for name in ("mapUncertainty", "insideInfection", "range", "batchOverwrite", "batchUncertainty"):
        getattr(ui, f"{name}CheckBox").checked = True
    for name in ("modeSelector", "deviceSelector"):
        getattr(ui, name).setCurrentIndex(1)
    ui.rangeFromSpinBox.value, ui.rangeToSpinBox.value, ui.islandSpinBox.value = -600, 50, 2.5
    chosen = {name: getattr(parameters, name) for name in defaults}
    assert [name for name in defaults if chosen[name] == defaults[name]] == []
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_scene()
    assert {name: getattr(journey.parameters, name) for name in defaults} == defaults
    host.load_scene(path)
    journey.settle()
    assert {name: getattr(journey.parameters, name) for name in defaults} == chosen
    assert ui.batchUncertaintyCheckBox.checked
    assert ui.rangeToSpinBox.value == 50
    assert journey.parameters.inputVolume.GetName() == "phantom-1"
    assert journey.segmentation.GetName() == "phantom-1 CovidSeg"


def test_ct_that_was_chosen_comes_back_with_the_scene_not_the_first_one(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    second = journey.add_ct(seed=2)
    journey.parameters.inputVolume = second
    path = host.save_scene(tmp_path / "scene.mrb")
    host.load_scene(path)
    journey.settle()
    assert journey.parameters.inputVolume.GetName() == "phantom-2"
    assert journey.ui.inputVolumeSelector.currentNode().GetName() == "phantom-2"


def test_run_goes_on_while_a_scene_is_added(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    path = host.save_scene(tmp_path / "scene.mrb")
    journey.start()
    assert host.scene.ReadFromMRB(str(path), False)
    journey.settle()
    assert not journey.panel.place.runner.stopping
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.segmentation is not None, journey.status


def test_every_disabled_button_says_why(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    for section in SECTIONS:
        getattr(journey.ui, f"{section}Section").collapsed = False
    host.process_events()
    buttons = journey.widget.parent.findChildren(host.qt.QPushButton)
    disabled = [button for button in buttons if not button.enabled]
    assert len(disabled) >= 10
    usual = {element.get("name"): _property(element, "toolTip") for element in _widgets()}
    for button in disabled:
        assert button.toolTip not in ("", usual[button.objectName]), button.objectName


def test_device_line_says_what_will_be_used(host: Any) -> None:
    journey = Journey(host)
    assert journey.ui.deviceStatusLabel.text.startswith("CPU (a test), 2 threads, about ")
    assert journey.ui.deviceButton.isHidden()


def test_reloaded_panel_is_on_show_as_it_was_before(host: Any) -> None:
    journey = Journey(host)
    again = host.reload_panel(journey.widget)
    assert again is not journey.widget
    assert again.ui.deviceStatusLabel.text.startswith("CPU (a test), 2 threads")
    assert again.panel.place.volume() is journey.volume


def test_torch_is_loaded_only_when_asked_for(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    device, loaded = module("panel.device"), []
    monkeypatch.setattr(device, "torch_is_loaded", lambda: bool(loaded))
    monkeypatch.setattr(device, "load_packages", lambda: loaded.append(True))
    journey.panel.refresh()
    assert journey.ui.deviceStatusLabel.text.startswith("Known once PyTorch is loaded.")
    assert not journey.ui.deviceButton.isHidden()
    assert journey.ui.segmentButton.enabled
    assert loaded == []
    journey.ui.deviceButton.click()
    assert loaded == [True]
    assert journey.ui.deviceStatusLabel.text.startswith("CPU (a test), 2 threads")
    assert journey.ui.deviceButton.isHidden()


def test_torch_that_does_not_work_is_said_when_it_is_loaded(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from CovidSegLib.dependencies import DependencyError

    journey = Journey(host)
    device = module("panel.device")

    def load() -> None:
        raise DependencyError("torch was not installed, or does not work (libcudart.so). Restart Slicer.")

    monkeypatch.setattr(device, "torch_is_loaded", lambda: False)
    monkeypatch.setattr(device, "load_packages", load)
    journey.panel.refresh()
    journey.ui.deviceButton.click()
    assert "does not work (libcudart.so)" in journey.ui.deviceStatusLabel.text
    assert "does not work (libcudart.so)" in journey.ui.segmentButton.toolTip


def test_absent_device_disables_segment_and_says_so(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from CovidSegLib.errors import DeviceError

    journey = Journey(host)

    def ask(device: str) -> Any:
        raise DeviceError("torch finds 0 NVIDIA GPU(s)")

    monkeypatch.setattr(module("panel.device"), "ask_torch", ask)
    journey.ui.deviceSelector.setCurrentIndex(2)
    assert not journey.ui.segmentButton.enabled
    assert "torch finds 0 NVIDIA GPU(s)" in journey.ui.deviceStatusLabel.text
    assert "Choose Automatic" in journey.ui.segmentButton.toolTip
    monkeypatch.setattr(module("panel.device"), "ask_torch", lambda device: ("cpu", "CPU"))
    journey.ui.deviceSelector.setCurrentIndex(0)
    assert journey.ui.segmentButton.enabled


def test_missing_torch_is_said_before_anything_is_fetched(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from CovidSegLib.dependencies import Missing

    journey = Journey(host)
    monkeypatch.setattr(module("panel.device"), "torch_is_loaded", lambda: False)
    monkeypatch.setattr(module("panel.device"), "find_missing", lambda: Missing(torch=True, packages=()))
    journey.panel.device.look_again()
    assert "PyTorch is not installed yet" in journey.ui.deviceStatusLabel.text
    assert journey.ui.segmentButton.enabled, "pressing it asks"


def test_sample_data_is_registered_when_slicer_has_started(host: Any) -> None:
    Journey(host, with_ct=False)
    assert host.samples == []
    host.complete_startup()
    assert [entry["sampleName"] for entry in host.samples] == ["CovidSegPhantom", "CTChest"]


def test_everything_fits_into_a_narrow_panel(host: Any) -> None:
    """At 1366 x 768 Slicer's module area is some 400 pixels wide."""
    journey = Journey(host)
    for section in SECTIONS:
        getattr(journey.ui, f"{section}Section").collapsed = False
    journey.run()
    host.process_events()
    assert journey.widget.parent.minimumSizeHint.width() <= 400


def _widgets() -> list[ElementTree.Element]:
    return list(ElementTree.parse(UI_FILE).getroot().iter("widget"))


def _property(element: ElementTree.Element, name: str) -> str:
    for entry in element.findall("property"):
        if entry.get("name") == name:
            return "".join(entry.itertext()).strip()
    return ""


INPUTS = {"qMRMLNodeComboBox", "QComboBox", "QSpinBox", "QDoubleSpinBox", "ctkPathLineEdit", "QSlider"}


def test_every_input_has_a_tooltip_and_a_label_or_text_of_its_own() -> None:
    widgets = _widgets()
    buddies = {_property(element, "buddy") for element in widgets}
    for element in widgets:
        name, kind = element.get("name", ""), element.get("class")
        if kind in INPUTS | {"QPushButton", "QCheckBox", "QTableWidget"}:
            assert _property(element, "toolTip"), f"{name} has no tooltip"
        if kind in INPUTS and name != "rangeFromSpinBox":  # the check box beside it names it
            assert name in buddies, f"{name} has no label"


def test_tab_order_names_every_widget_that_takes_the_keyboard() -> None:
    root = ElementTree.parse(UI_FILE).getroot()
    order = [stop.text for stop in root.iter("tabstop")]
    inputs = INPUTS | {"QPushButton", "QCheckBox", "QTableWidget", "QPlainTextEdit"}
    expected = {element.get("name") for element in _widgets() if element.get("class") in inputs}
    assert set(order) == expected
    assert len(order) == len(expected)


def test_tab_key_leads_out_of_every_table(host: Any) -> None:
    """By default it goes round and round within a table."""
    journey = Journey(host, with_ct=False)
    for name in ("resultsTable", "followUpTable", "changeTable"):
        assert not getattr(journey.ui, name).tabKeyNavigation


def test_what_only_the_program_reads_is_not_translated() -> None:
    for element in _widgets():
        for entry in element.findall("property"):
            if entry.get("name") in ("SlicerParameterName", "settingKey", "nodeTypes"):
                assert next(iter(entry)).get("notr") == "true", element.get("name")


def test_no_two_mnemonics_collide_within_what_is_open_together() -> None:
    """Segment and Results are open at first; each other section beside them, and Slicer's menus above."""
    letters: dict[str, list[str]] = {}
    for section in _widgets():
        if section.get("class") == "ctkCollapsibleButton":
            found = letters.setdefault(section.get("name", ""), [])
            for element in section.iter("widget"):
                text = _property(element, "text")
                if "&" in text:
                    found.append(text[text.index("&") + 1].lower())
    always = letters.pop("segmentSection") + letters.pop("resultsSection")
    for name, found in {**letters, "alone": []}.items():
        twice = [letter for letter, count in Counter(always + found + SLICERS_MENUS).items() if count > 1]
        assert not twice, f"{name}: {twice}"

"""The journeys of a user inside the Slicer application; run by run_in_slicer.py, skipped everywhere else.

The network is replaced by the phantom's truth, so that figures are known and torch is not needed; the journey with
the shipped network is skipped where torch or MONAI is missing, and says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    import slicer
except ImportError:
    slicer = None

INSIDE = getattr(slicer, "app", None) is not None

pytestmark = [
    pytest.mark.slicer,
    pytest.mark.skipif(not INSIDE, reason="runs inside the Slicer application: see Testing/slicer/README.md"),
]

TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], bool], *, timeout_s: float = TIMEOUT_S) -> None:
    """Let the application work until something is so."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"still waiting after {timeout_s:.0f} s"
        slicer.app.processEvents()
        time.sleep(0.01)


class SlowEngine:
    """An engine that works until it is cancelled or let go, as the network does from patch to patch."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.steps = 0
        self.go_on = False

    def __call__(self, ct: Any, *, progress: Any = None, cancelled: Any = None, **options: Any) -> Any:
        from CovidSegLib.progress import Reporter

        reporter = Reporter(progress, cancelled)
        while not self.go_on:
            reporter.tell("network", self.steps % 100, 100)
            self.steps += 1
            time.sleep(0.01)
        return self.engine(ct, **options)


class ClosedDialogs:
    """Dialogs in which the user closes every question."""

    def __init__(self, dialogs: Any, asked: list[str]) -> None:
        self._dialogs = dialogs
        self._asked = asked

    def choose(self, text: str, **options: Any) -> None:
        self._asked.append(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialogs, name)


@pytest.fixture
def widget() -> Iterator[Any]:
    """CovidSeg's widget on an empty scene; nothing is installed and nobody is asked."""
    slicer.mrmlScene.Clear()
    widget = slicer.modules.covidseg.widgetRepresentation().self()
    widget.enter()
    place = widget.panel.place
    prepare, place.prepare = place.prepare, lambda: None
    engine = widget.logic._engine
    yield widget
    place.runner.cancel()
    wait_until(lambda: not place.runner.busy)
    place.prepare, widget.logic._engine = prepare, engine
    widget.exit()
    slicer.mrmlScene.Clear()


@pytest.fixture
def phantom(widget: Any) -> Any:
    """A synthetic CT, chosen in the panel; the panel's engine answers with its truth."""
    from CovidSegLib.scenes.selftest import add_phantom_volume, truth_engine

    phantom, volume = add_phantom_volume(widget.logic.context)
    widget.logic._engine = truth_engine(phantom)
    widget.panel.place.parameters.inputVolume = volume
    wait_until(lambda: widget.ui.segmentButton.enabled)
    return phantom


def segment(widget: Any) -> Any:
    """Press Segment, wait, and return the segmentation that came of it."""
    widget.ui.segmentButton.click()
    wait_until(lambda: not widget.panel.segment.running)
    segmentation = widget.panel.place.segmentation()
    assert segmentation is not None, widget.ui.statusLabel.text
    return segmentation


def nodes(class_name: str) -> list[str]:
    return sorted(node.GetID() for node in slicer.util.getNodesByClass(class_name))


def poi_percent(segmentation: Any, widget: Any) -> Any:
    volume = widget.panel.place.volume()
    return widget.logic.quantifySegmentation(segmentation, volumeNode=volume).poi_percent


def terminology(segmentation: Any, n: int) -> str:
    """Return the code by which Slicer knows what a segment is."""
    import vtk

    tag = vtk.mutable("")
    one = segmentation.GetSegmentation().GetNthSegment(n)
    assert one.GetTag(one.GetTerminologyEntryTagName(), tag)
    return str(tag)


def test_module_is_loaded_and_says_what_it_is() -> None:
    module = slicer.modules.covidseg
    print(f"CovidSeg tested: {module.path}")
    assert "Not for clinical use" in module.helpText
    assert not module.hidden


def test_segment_button_says_why_it_is_disabled(widget: Any) -> None:
    assert not widget.ui.segmentButton.enabled
    assert widget.ui.segmentButton.toolTip


def test_click_on_segment_fills_scene_and_results(widget: Any, phantom: Any) -> None:
    segmentation = segment(widget)
    ids = [segmentation.GetSegmentation().GetNthSegmentID(n) for n in range(3)]
    assert ids == ["left_lung", "right_lung", "infection"]
    assert poi_percent(segmentation, widget) == pytest.approx(phantom.truth.poi_percent)
    wait_until(lambda: widget.ui.resultsTable.rowCount > 0)
    assert not widget.ui.resultsSection.collapsed
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    parents = {
        hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        for node in (segmentation, widget.panel.place.volume())
    }
    assert len(parents) == 1


def test_segments_have_surfaces_and_terminology(widget: Any, phantom: Any) -> None:
    segmentation = segment(widget)
    assert segmentation.CreateClosedSurfaceRepresentation()
    for n in range(3):
        assert "SCT" in terminology(segmentation, n)


def test_volume_under_a_transform_keeps_its_segments_in_place(widget: Any, phantom: Any) -> None:
    import vtk

    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 40.0)
    transform.SetMatrixTransformToParent(matrix)
    widget.panel.place.volume().SetAndObserveTransformNodeID(transform.GetID())
    segmentation = segment(widget)
    assert segmentation.GetTransformNodeID() == transform.GetID()
    assert poi_percent(segmentation, widget) == pytest.approx(phantom.truth.poi_percent)


def test_cancel_leaves_the_scene_as_it_was(widget: Any, phantom: Any) -> None:
    engine = widget.logic._engine = SlowEngine(widget.logic.engine)
    before = nodes("vtkMRMLNode")
    widget.ui.segmentButton.click()
    wait_until(lambda: engine.steps > 3)
    assert not widget.ui.segmentButton.enabled
    widget.ui.cancelButton.click()
    wait_until(lambda: not widget.panel.segment.running)
    assert nodes("vtkMRMLSegmentationNode") == []
    assert nodes("vtkMRMLNode") == before
    assert widget.ui.segmentButton.enabled


def test_scene_closed_in_mid_run_is_safe(widget: Any, phantom: Any) -> None:
    engine = widget.logic._engine = SlowEngine(widget.logic.engine)
    widget.ui.segmentButton.click()
    wait_until(lambda: engine.steps > 3)
    slicer.mrmlScene.Clear()
    wait_until(lambda: not widget.panel.place.runner.busy)
    assert nodes("vtkMRMLSegmentationNode") == []
    assert nodes("vtkMRMLScalarVolumeNode") == []


def test_volume_deleted_in_mid_run_gives_a_message_and_no_result(widget: Any, phantom: Any) -> None:
    engine = widget.logic._engine = SlowEngine(widget.logic.engine)
    widget.ui.segmentButton.click()
    wait_until(lambda: engine.steps > 3)
    slicer.mrmlScene.RemoveNode(widget.panel.place.volume())
    engine.go_on = True
    wait_until(lambda: not widget.panel.segment.running)
    assert nodes("vtkMRMLSegmentationNode") == []
    assert widget.ui.statusLabel.text


def test_error_is_shown_with_details(widget: Any, phantom: Any) -> None:
    from CovidSegLib.errors import InputError

    def engine(ct: Any, **options: Any) -> Any:
        raise InputError("no lungs found: is this a chest CT in HU?")

    widget.logic._engine = engine
    widget.ui.segmentButton.click()
    wait_until(lambda: not widget.panel.segment.running)
    assert "no lungs found" in widget.ui.statusLabel.text
    assert not widget.ui.detailsButton.isHidden()


def test_erased_infection_changes_the_figures_and_not_the_lungs(widget: Any, phantom: Any) -> None:
    segmentation = segment(widget)
    volume = widget.panel.place.volume()
    before = widget.logic.quantifySegmentation(segmentation, volumeNode=volume)
    infection = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "infection", volume)
    infection[: infection.shape[0] // 2] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(infection, segmentation, "infection", volume)
    after = widget.logic.quantifySegmentation(segmentation, volumeNode=volume)
    assert after.lungs.infection_ml < before.lungs.infection_ml
    assert after.lungs.volume_ml == pytest.approx(before.lungs.volume_ml)
    # The panel follows within seconds, or says that its figures are old.
    shown = f"{after.poi_percent:.1f}"
    wait_until(lambda: shown in widget.ui.headlineLabel.text or not widget.ui.staleLabel.isHidden())


def test_correction_is_confined_as_chosen(widget: Any, phantom: Any) -> None:
    if slicer.app.layoutManager() is None:
        pytest.skip("without the main window nobody corrects anything")
    segment(widget)
    modes, check_box = slicer.vtkMRMLSegmentationNode, widget.ui.insideInfectionCheckBox
    try:
        widget.ui.editInfectionButton.click()
        node = slicer.mrmlScene.GetSingletonNode("CovidSeg", "vtkMRMLSegmentEditorNode")
        assert (node.GetActiveEffectName(), node.GetSelectedSegmentID()) == ("Paint", "infection")
        assert node.GetOverwriteMode() == node.OverwriteNone
        assert node.GetMaskMode() == modes.EditAllowedInsideAllSegments
        check_box.checked = True
        assert node.GetMaskMode() == modes.EditAllowedInsideSingleSegment
        assert node.GetMaskSegmentID() == "infection"
        widget.ui.editLungsButton.click()
        assert node.GetMaskMode() == modes.EditAllowedInsideSingleSegment
        assert "Erase" not in widget.panel.correct.editor.widget.effectNameOrder(), "Slicer would add to the infection"
    finally:
        check_box.checked = False


def test_segmenting_again_asks_before_it_replaces_corrected_segments(widget: Any, phantom: Any) -> None:
    segmentation = segment(widget)
    volume = widget.panel.place.volume()
    infection = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "infection", volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(infection * 0, segmentation, "infection", volume)
    wait_until(lambda: "0.0" in widget.ui.headlineLabel.text or not widget.ui.staleLabel.isHidden())
    asked: list[str] = []
    dialogs = widget.panel.place.dialogs
    widget.panel.place.dialogs = ClosedDialogs(dialogs, asked)
    try:
        widget.ui.segmentButton.click()
        wait_until(lambda: not widget.panel.segment.running)
    finally:
        widget.panel.place.dialogs = dialogs
    assert len(asked) == 1
    assert poi_percent(segmentation, widget) == 0.0


def test_saved_scene_comes_back_with_results_and_parameters(widget: Any, phantom: Any, tmp_path: Path) -> None:
    segmentation = segment(widget)
    name, poi = segmentation.GetName(), poi_percent(segmentation, widget)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(path)
    wait_until(lambda: widget.panel.place.segmentation() is not None)
    assert widget.panel.place.segmentation().GetName() == name
    assert widget.panel.place.volume() is not None
    assert poi_percent(widget.panel.place.segmentation(), widget) == pytest.approx(poi)


def test_samples_are_offered(widget: Any) -> None:
    import CovidSeg

    # The hook for the end of Slicer's start may come after this script; the widget knows the icons as the module does.
    CovidSeg.CovidSeg.registerSamples(widget)
    names = {source.sampleName for source in slicer.modules.sampleDataSources["CovidSeg"]}
    assert {"CovidSegPhantom", "CTChest"} <= names


def test_shipped_network_segments_the_sample_phantom(widget: Any) -> None:
    from CovidSegLib.dependencies import find_missing
    from CovidSegLib.scenes.samples import add_phantom

    if missing := find_missing():
        pytest.skip(f"not installed in this Slicer: {missing}")
    volume = add_phantom(widget.logic.context)
    outputs = widget.logic.process(volume, mode="fast", device=os.environ.get("COVIDSEG_DEVICE", "auto"))
    regions = outputs.report["regions"]
    # The phantom's lungs together; an empty or flooded result is far off.
    assert 2000.0 < regions["lungs"]["volume_ml"] < 9000.0
    assert outputs.report["poi_percent"] == pytest.approx(20.0, abs=12.0)


def test_map_of_uncertainty_lies_over_the_ct_and_is_switched_off(widget: Any, phantom: Any) -> None:
    if slicer.app.layoutManager() is None:
        pytest.skip("without the main window Slicer has no slice views")
    widget.ui.mapUncertaintyCheckBox.checked = True
    try:
        node = segment(widget).GetNodeReference("CovidSeg.uncertainty")
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        assert composite.GetForegroundVolumeID() == node.GetID()
        widget.ui.uncertaintyMapCheckBox.click()
        assert not composite.GetForegroundVolumeID()
        # The truth is sure of everything.
        wait_until(lambda: "No uncertain region" in widget.ui.regionLabel.text)
    finally:
        widget.ui.mapUncertaintyCheckBox.checked = False

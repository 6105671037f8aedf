"""Runs into an existing segmentation, and runs that fail: nothing of anybody else's is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers_mrml import FakeEngine, add_surfaces, add_volume, hierarchy_items, hu_of, nodes_of, table_cells

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib import dependencies  # noqa: E402
from CovidSegLib import logic as logic_module  # noqa: E402
from CovidSegLib.dependencies import DependencyError  # noqa: E402
from CovidSegLib.errors import Cancelled, InputError  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.scene import SceneContext  # noqa: E402
from CovidSegLib.scenes.segments import oriented_image, segment_mask  # noqa: E402

pytestmark = pytest.mark.slicer


def segment_ids(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


def add_heart(node: Any, *, case: Any, before: str = "") -> np.ndarray:
    """Add another person's segment and return its mask."""
    mask_kji = np.zeros(case.labels_kji.shape, dtype=np.uint8)
    mask_kji[3:9, 4:12, 8:15] = 1
    segment = slicer.vtkSegment()
    segment.SetName("heart")
    segment.SetColor(0.1, 0.2, 0.3)
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment.AddRepresentation(representation, oriented_image(mask_kji, matrix=case.matrix))
    assert node.GetSegmentation().AddSegment(segment, "heart", before)
    return mask_kji.astype(bool)


def state(context: Any, *, node: Any, volume: Any) -> dict[str, Any]:
    """Return all that a failed run must leave as it was."""
    segmentation = node.GetSegmentation()
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    return {
        "nodes": nodes_of(context),
        "items": hierarchy_items(context),
        "ids": segment_ids(node),
        "masks": {
            segment_id: segment_mask(node, segment_id=segment_id, volume_node=volume).tobytes()
            for segment_id in segment_ids(node)
        },
        "names": [segmentation.GetSegment(segment_id).GetName() for segment_id in segment_ids(node)],
        "geometry": segmentation.GetConversionParameter(parameter),
        "transform": node.GetTransformNodeID(),
        "attributes": {name: node.GetAttribute(name) for name in node.GetAttributeNames()},
        "table": node.GetNodeReferenceID("CovidSeg.table"),
        "volume": node.GetNodeReferenceID("CovidSeg.volume"),
    }


def test_second_run_replaces_segments_and_table_in_place(context: Any, logic: Any, case: Any) -> None:
    first = logic.process(case.volume)
    first.segmentationNode.GetSegmentation().GetSegment("infection").SetName("renamed")
    nodes = nodes_of(context)
    labels_kji = case.labels_kji.copy()
    labels_kji[labels_kji == Label.INFECTION] = Label.BACKGROUND
    changed = add_volume(context, hu_kji=hu_of(labels_kji), matrix=case.matrix)
    nodes_with_ct = nodes_of(context)
    second = logic.process(changed, outputSegmentation=first.segmentationNode)
    assert second.segmentationNode is first.segmentationNode
    assert second.tableNode is first.tableNode
    assert nodes_of(context) == nodes_with_ct != nodes
    assert segment_ids(second.segmentationNode) == ["left_lung", "right_lung", "infection"]
    assert second.segmentationNode.GetSegmentation().GetSegment("infection").GetName() == "COVID-19 infection"
    assert table_cells(second.tableNode)["both lungs"]["infection_ml"] == "0.0"
    assert not segment_mask(second.segmentationNode, segment_id="infection", volume_node=changed).any()


def test_other_peoples_segments_keep_voxels_name_colour_and_place(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    heart_kji = add_heart(node, case=case, before="right_lung")
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    logic.process(case.volume, outputSegmentation=node)
    assert segment_ids(node) == ["left_lung", "heart", "right_lung", "infection"]
    segment = node.GetSegmentation().GetSegment("heart")
    assert (segment.GetName(), segment.GetColor()) == ("heart", pytest.approx((0.1, 0.2, 0.3)))
    np.testing.assert_array_equal(segment_mask(node, segment_id="heart", volume_node=case.volume), heart_kji)
    infection_kji = segment_mask(node, segment_id="infection", volume_node=case.volume)
    np.testing.assert_array_equal(infection_kji, case.labels_kji == Label.INFECTION)


def test_result_goes_into_an_empty_segmentation_of_the_user(context: Any, logic: Any, case: Any) -> None:
    node = context.add_node("vtkMRMLSegmentationNode", name="mine")
    outputs = logic.process(case.volume, outputSegmentation=node)
    assert outputs.segmentationNode is node
    assert node.GetName() == "mine"
    assert node.GetDisplayNode() is not None
    assert segment_ids(node) == ["left_lung", "right_lung", "infection"]


def test_repeated_runs_without_output_make_separate_results(logic: Any, case: Any) -> None:
    first, second = logic.process(case.volume), logic.process(case.volume)
    assert first.segmentationNode is not second.segmentationNode
    assert first.segmentationNode.GetName() != second.segmentationNode.GetName()
    assert first.tableNode is not second.tableNode


def test_segments_under_another_transform_are_not_moved(context: Any, logic: Any, engine: Any, case: Any) -> None:
    node = context.add_node("vtkMRMLSegmentationNode", name="mine")
    add_heart(node, case=case)
    case.volume.SetAndObserveTransformNodeID(context.add_node("vtkMRMLLinearTransformNode", name="T").GetID())
    with pytest.raises(InputError, match="'mine' holds other segments and is under another transform"):
        logic.process(case.volume, outputSegmentation=node)
    assert engine.calls == [], "refused before the work, not after"


def test_segmentation_of_surfaces_is_refused(context: Any, logic: Any, case: Any) -> None:
    node = add_surfaces(context, name="mine")
    with pytest.raises(InputError, match="holds surfaces, not voxels"):
        logic.process(case.volume, outputSegmentation=node)


@pytest.mark.parametrize("failing_step", ["", "mark_computed"])
def test_result_that_was_made_surfaces_is_replaced_by_voxels(
    logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch, failing_step: str
) -> None:
    node = logic.process(case.volume).segmentationNode
    node.CreateClosedSurfaceRepresentation()
    segmentation = node.GetSegmentation()
    segmentation.SetSegmentIndex("infection", 0)
    segmentation.SetSourceRepresentationName("Closed surface")
    surfaces = [segmentation.GetSegment(segment_id) for segment_id in segment_ids(node)]
    if failing_step:
        fail_after(monkeypatch, step=failing_step)
        with pytest.raises(RuntimeError, match="boom"):
            logic.process(case.volume, outputSegmentation=node)
        assert segmentation.GetSourceRepresentationName() == "Closed surface"
        assert [segmentation.GetSegment(segment_id) for segment_id in segment_ids(node)] == surfaces
        return
    report = logic.process(case.volume, outputSegmentation=node).report
    assert segmentation.IsSourceRepresentationImageData()
    assert segment_ids(node) == ["infection", "left_lung", "right_lung"]
    assert logic.quantifySegmentation(node).poi_percent == pytest.approx(report["poi_percent"])


def test_output_that_is_no_segmentation_is_refused(context: Any, logic: Any, case: Any) -> None:
    with pytest.raises(InputError, match="not a segmentation of this scene"):
        logic.process(case.volume, outputSegmentation=case.volume)


def failing(error: Exception) -> Callable[..., Any]:
    def engine(ct: Any, **options: Any) -> Any:
        raise error

    return engine


@pytest.mark.parametrize("error", [InputError("no lungs found"), Cancelled(), MemoryError(), ValueError("bug")])
def test_failing_engine_leaves_the_scene_unchanged(context: Any, logic: Any, case: Any, error: Exception) -> None:
    node = logic.process(case.volume).segmentationNode
    before = state(context, node=node, volume=case.volume)
    logic._engine = failing(error)
    for output in (None, node):
        with pytest.raises(type(error)):
            logic.process(case.volume, outputSegmentation=output)
        assert state(context, node=node, volume=case.volume) == before


def test_cancel_after_the_last_patch_leaves_the_scene_unchanged(context: Any, logic: Any, case: Any) -> None:
    before = nodes_of(context)
    with pytest.raises(Cancelled):
        logic.process(case.volume, cancelled=lambda: True)
    assert nodes_of(context) == before


def test_missing_packages_are_told_unless_an_engine_is_given(
    context: Any, logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "_installed", lambda _name: None)
    with pytest.raises(DependencyError, match=r"^torch, .* press Segment once and agree"):
        logic_module.CovidSegLogic(context=context).process(case.volume)
    assert logic.process(case.volume).segmentationNode is not None


def test_ct_of_another_scene_is_refused_before_the_run(logic: Any, engine: FakeEngine, case: Any) -> None:
    other = SceneContext.headless()
    volume = add_volume(other, hu_kji=hu_of(case.labels_kji), matrix=case.matrix)
    with pytest.raises(InputError, match="The CT is not in this scene"):
        logic.process(volume)
    assert engine.calls == []


STEPS = ["output_segmentation", "replace_segments", "output_table", "show_table"]


@pytest.mark.parametrize("step", STEPS)
def test_failure_while_publishing_removes_new_nodes(
    context: Any, logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    context.place_beside(case.volume, neighbour=case.volume)
    nodes, items = nodes_of(context), hierarchy_items(context)
    fail_after(monkeypatch, step=step)
    with pytest.raises(RuntimeError, match="boom"):
        logic.process(case.volume)
    assert nodes_of(context) == nodes
    assert hierarchy_items(context) == items


@pytest.mark.parametrize("step", STEPS)
def test_failure_while_publishing_restores_existing_nodes(
    context: Any, logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    outputs = logic.process(case.volume)
    node = outputs.segmentationNode
    add_heart(node, case=case, before="right_lung")
    node.GetSegmentation().GetSegment("infection").SetName("edited by hand")
    before = state(context, node=node, volume=case.volume)
    cells = table_cells(outputs.tableNode)
    labels_kji = case.labels_kji.copy()
    labels_kji[labels_kji == Label.INFECTION] = Label.LEFT_LUNG
    changed = add_volume(context, hu_kji=hu_of(labels_kji), matrix=case.matrix)
    before["nodes"] = nodes_of(context)
    fail_after(monkeypatch, step=step)
    with pytest.raises(RuntimeError, match="boom"):
        logic.process(changed, outputSegmentation=node)
    assert state(context, node=node, volume=case.volume) == before
    assert table_cells(outputs.tableNode) == cells


def fail_after(monkeypatch: pytest.MonkeyPatch, *, step: str) -> None:
    """Let a step of `publish` do its work, then fail."""
    original = getattr(logic_module, step)

    def broken(*arguments: Any, **options: Any) -> Any:
        original(*arguments, **options)
        raise RuntimeError("boom")

    monkeypatch.setattr(logic_module, step, broken)


def test_ct_removed_meanwhile_is_told_and_nothing_appears(context: Any, logic: Any, engine: Any, case: Any) -> None:
    engine.before_return = lambda: context.remove_node(case.volume)
    with pytest.raises(InputError, match="removed from the scene while"):
        logic.process(case.volume)
    for class_name in ("vtkMRMLSegmentationNode", "vtkMRMLTableNode"):
        assert context.scene.GetNumberOfNodesByClass(class_name) == 0


def test_ct_with_another_grid_meanwhile_is_told(context: Any, logic: Any, engine: FakeEngine, case: Any) -> None:
    engine.before_return = lambda: case.volume.SetOrigin(0.0, 0.0, 50.0)
    with pytest.raises(InputError, match="another grid while it was segmented"):
        logic.process(case.volume)


def test_segments_lie_on_the_ct_if_the_worker_runs_the_middle_step(logic: Any, engine: Any, case: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ct = logic.volumeFromNode(case.volume)
    with ThreadPoolExecutor(max_workers=1) as worker:
        result = worker.submit(engine, ct).result()
    outputs = logic.publish(result, volumeNode=case.volume)
    mask_kji = segment_mask(outputs.segmentationNode, segment_id="infection", volume_node=case.volume)
    np.testing.assert_array_equal(mask_kji, case.labels_kji == Label.INFECTION)


def look_of(node: Any) -> dict[str, tuple[float, bool]]:
    display = node.GetDisplayNode()
    ids = ("left_lung", "right_lung", "infection")
    return {name: (display.GetSegmentOpacity2DFill(name), display.GetSegmentVisibility(name)) for name in ids}


def test_second_run_shows_the_segments_as_the_first_ones_were_shown(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetDisplayNode().SetSegmentOpacity2DFill("infection", 0.3)
    node.GetDisplayNode().SetSegmentVisibility("left_lung", False)
    before = look_of(node)
    logic.process(case.volume, outputSegmentation=node)
    assert look_of(node) == before == {"left_lung": (1.0, False), "right_lung": (1.0, True), "infection": (0.3, True)}


def test_failure_while_publishing_restores_how_segments_are_shown(
    logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetDisplayNode().SetSegmentOpacity2DFill("infection", 0.3)
    before = look_of(node)
    monkeypatch.setattr("CovidSegLib.logic.show_table", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logic.process(case.volume, outputSegmentation=node)
    assert look_of(node) == before

"""The map of uncertainty lies on its CT, is found again, replaced, laid over the slices, and goes without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, FakeEngine, doubt_about, hierarchy_items, nodes_of, rotation, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.errors import Cancelled, InputError  # noqa: E402
from CovidSegLib.scenes.outputs import TABLE_ROLE, VOLUME_ROLE  # noqa: E402
from CovidSegLib.scenes.uncertainty import (  # noqa: E402
    OVERLAY_OPACITY,
    find_map,
    is_map,
    map_array,
    map_image,
    map_is_shown,
    show_map,
)
from CovidSegLib.scenes.volume import ijk_to_ras  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

pytestmark = pytest.mark.slicer


def add_slice_views(context: Any) -> list[Any]:
    """Add what holds the layers of three slice views together, as the application has it."""
    composites = []
    for name in ("Red", "Yellow", "Green"):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        composite.SetLayoutName(name)
        composites.append(context.scene.AddNode(composite))
    return composites


def turned(context: Any) -> Any:
    """Return a transform node that turns and moves."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((10.0, 5.0, -8.0))
    matrix[:3, 3] = (30.0, -20.0, 100.0)
    node = context.add_node("vtkMRMLLinearTransformNode", name="turned")
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_map_lies_on_the_grid_of_the_ct(logic: Any, engine: FakeEngine, case: Any) -> None:
    outputs = logic.process(case.volume, uncertainty=True)
    node = outputs.uncertaintyNode
    assert engine.calls[0]["uncertainty"] is True
    assert node is find_map(outputs.segmentationNode)
    assert node.GetName() == "CT uncertainty"
    assert node.GetImageData().GetScalarType() == vtk.VTK_UNSIGNED_CHAR
    np.testing.assert_array_equal(map_array(node), doubt_about(case.labels_kji))
    np.testing.assert_allclose(ijk_to_ras(node), case.matrix, atol=1e-9)
    assert node.GetNodeReference(VOLUME_ROLE) is case.volume
    assert is_map(node)
    assert not is_map(case.volume)


def test_map_is_made_only_if_it_is_asked_for(logic: Any, engine: FakeEngine, case: Any) -> None:
    outputs = logic.process(case.volume)
    assert engine.calls[0]["uncertainty"] is False
    assert outputs.uncertaintyNode is None
    assert find_map(outputs.segmentationNode) is None


def test_map_is_beside_its_ct_and_under_its_transform(context: Any, logic: Any, case: Any) -> None:
    hierarchy = context.subject_hierarchy()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, case.volume)
    transform = turned(context)
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    node = logic.process(case.volume, uncertainty=True).uncertaintyNode
    assert node.GetParentTransformNode() is transform
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_second_run_replaces_voxels_grid_and_transform_and_makes_no_other_map(
    context: Any, logic: Any, case: Any
) -> None:
    first = logic.process(case.volume, uncertainty=True)
    first.uncertaintyNode.GetDisplayNode().SetThreshold(10.0, 100.0)
    case.volume.SetOrigin(1.0, 2.0, 3.0)
    transform = turned(context)
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    first.uncertaintyNode.SetAndObserveImageData(map_image(np.zeros_like(case.labels_kji)))
    nodes, items = nodes_of(context), hierarchy_items(context)
    second = logic.process(case.volume, outputSegmentation=first.segmentationNode, uncertainty=True)
    assert second.uncertaintyNode is first.uncertaintyNode
    assert (nodes_of(context), hierarchy_items(context)) == (nodes, items)
    np.testing.assert_array_equal(map_array(second.uncertaintyNode), doubt_about(case.labels_kji))
    assert second.uncertaintyNode.GetOrigin() == (1.0, 2.0, 3.0)
    assert second.uncertaintyNode.GetParentTransformNode() is transform
    assert second.uncertaintyNode.GetDisplayNode().GetLowerThreshold() == 10.0, "the user's display stays"


def test_run_without_a_map_removes_the_old_one(context: Any, logic: Any, case: Any) -> None:
    composites = add_slice_views(context)
    outputs = logic.process(case.volume)
    nodes, items = nodes_of(context), hierarchy_items(context)
    logic.process(case.volume, outputSegmentation=outputs.segmentationNode, uncertainty=True)
    show_map(context, map_node=find_map(outputs.segmentationNode))
    logic.process(case.volume, outputSegmentation=outputs.segmentationNode)
    assert find_map(outputs.segmentationNode) is None
    assert (nodes_of(context), hierarchy_items(context)) == (nodes, items)
    assert {composite.GetForegroundVolumeID() for composite in composites} == {None}


def test_two_results_of_one_ct_have_a_map_each(logic: Any, case: Any) -> None:
    first, second = (logic.process(case.volume, uncertainty=True) for _ in range(2))
    assert first.uncertaintyNode is not second.uncertaintyNode
    logic.removeOutputs(second)
    assert find_map(first.segmentationNode) is first.uncertaintyNode


def test_outputs_are_removed_with_their_map(context: Any, logic: Any, case: Any) -> None:
    logic.removeOutputs(logic.process(case.volume))
    nodes, items = nodes_of(context), hierarchy_items(context)
    outputs = logic.process(case.volume, uncertainty=True)
    voxels = vtk.vtkWeakReference()
    voxels.Set(outputs.uncertaintyNode.GetImageData())
    logic.removeOutputs(outputs)
    del outputs
    assert (nodes_of(context), hierarchy_items(context)) == (nodes, items)
    assert voxels.Get() is None, "nobody keeps the voxels"


@pytest.mark.parametrize("again", [False, True])
def test_failure_when_the_map_is_placed_leaves_the_scene_as_it_was(
    context: Any, logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    hierarchy = context.subject_hierarchy()
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), case.volume)
    before = logic.process(case.volume, uncertainty=True) if again else None
    nodes, items = nodes_of(context), hierarchy_items(context)
    if before is not None:
        old_kji = np.full_like(case.labels_kji, 7)
        before.uncertaintyNode.SetAndObserveImageData(map_image(old_kji))
        before.uncertaintyNode.SetOrigin(4.0, 5.0, 6.0)
        before.uncertaintyNode.SetAndObserveTransformNodeID(None)
        before.uncertaintyNode.SetNodeReferenceID(VOLUME_ROLE, None)
        case.volume.SetAndObserveTransformNodeID(turned(context).GetID())
        nodes = nodes_of(context)
    place = type(context).place_beside

    def fail(self: Any, node: Any, *, neighbour: Any) -> None:
        if is_map(node):
            raise InputError("no place")
        place(self, node, neighbour=neighbour)

    monkeypatch.setattr(type(context), "place_beside", fail)
    with pytest.raises(InputError, match="no place"):
        logic.process(case.volume, outputSegmentation=before and before.segmentationNode, uncertainty=True)
    assert (nodes_of(context), hierarchy_items(context)) == (nodes, items)
    if before is not None:
        assert find_map(before.segmentationNode) is before.uncertaintyNode
        np.testing.assert_array_equal(map_array(before.uncertaintyNode), old_kji)
        assert before.uncertaintyNode.GetOrigin() == (4.0, 5.0, 6.0)
        assert before.uncertaintyNode.GetParentTransformNode() is None
        assert before.uncertaintyNode.GetNodeReferenceID(VOLUME_ROLE) is None


def test_cancelled_run_keeps_the_map_of_the_last_one(context: Any, logic: Any, case: Any) -> None:
    outputs = logic.process(case.volume, uncertainty=True)
    nodes = nodes_of(context)
    with pytest.raises(Cancelled):
        logic.process(case.volume, outputSegmentation=outputs.segmentationNode, cancelled=lambda: True)
    assert find_map(outputs.segmentationNode) is outputs.uncertaintyNode
    assert nodes_of(context) == nodes


def test_saved_scene_finds_its_map_again(context: Any, logic: Any, case: Any, tmp_path: Path) -> None:
    from CovidSegLib.scene import SceneContext

    composites = add_slice_views(context)
    case.volume.SetAndObserveTransformNodeID(turned(context).GetID())
    outputs = logic.process(case.volume, uncertainty=True)
    show_map(context, map_node=outputs.uncertaintyNode)
    assert composites[0].GetForegroundOpacity() == OVERLAY_OPACITY
    path = tmp_path / "scene.mrml"
    for node in (case.volume, outputs.uncertaintyNode, outputs.segmentationNode):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / f"{node.GetID()}.seg.nrrd"))
        assert node.GetStorageNode().WriteData(node)
    context.scene.SetURL(str(path))
    context.scene.SetRootDirectory(str(tmp_path))
    assert context.scene.Commit(str(path))
    other = SceneContext.headless()
    add_slice_views(other)
    other.scene.SetURL(str(path))
    assert other.scene.Import()
    segmentation = other.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    node = find_map(segmentation)
    assert is_map(node)
    np.testing.assert_array_equal(map_array(node), doubt_about(case.labels_kji))
    assert map_array(node).dtype == np.uint8
    np.testing.assert_allclose(ijk_to_ras(node), case.matrix, atol=1e-5)
    assert node.GetParentTransformNode().GetName() == "turned"
    assert map_is_shown(other, map_node=node)
    again = type(logic)(context=other, engine=FakeEngine())
    volume = segmentation.GetNodeReference("CovidSeg.volume")
    assert again.process(volume, outputSegmentation=segmentation, uncertainty=True).uncertaintyNode is node
    other.scene.Clear(1)


def test_overlay_is_clear_where_there_is_no_doubt_and_brighter_with_more(logic: Any, case: Any) -> None:
    node = logic.process(case.volume, uncertainty=True).uncertaintyNode
    percent = np.zeros_like(case.labels_kji)
    percent[0, 0, :5] = (0, 24, 25, 40, 50)
    node.SetAndObserveImageData(map_image(percent))
    connection = node.GetDisplayNode().GetOutputImageDataConnection()
    connection.GetProducer().Update()
    output = connection.GetProducer().GetOutputDataObject(0)
    rgba = vtk_to_numpy(output.GetPointData().GetScalars()).astype(int)[:5]
    assert list(rgba[:, 3]) == [0, 0, 255, 255, 255]
    assert rgba[2, 0] < rgba[3, 0] < rgba[4, 0]
    np.testing.assert_allclose(rgba[:, 0], rgba[:, 1], atol=2)
    assert not rgba[:, 2].any(), "yellow"


def test_map_is_laid_over_the_slices_and_taken_away(context: Any, logic: Any, case: Any) -> None:
    composites = add_slice_views(context)
    node = logic.process(case.volume, uncertainty=True).uncertaintyNode
    assert not map_is_shown(context, map_node=node)
    show_map(context, map_node=node)
    assert map_is_shown(context, map_node=node)
    assert {(c.GetForegroundVolumeID(), c.GetForegroundOpacity()) for c in composites} == {(node.GetID(), 0.4)}
    for composite in composites:
        composite.SetForegroundOpacity(0.0)  # as with the slider of a slice view
    assert not map_is_shown(context, map_node=node)
    composites[0].SetForegroundVolumeID(case.volume.GetID())
    show_map(context, map_node=None)
    assert not map_is_shown(context, map_node=node)
    assert [c.GetForegroundVolumeID() for c in composites] == [case.volume.GetID(), None, None], "the user's own stays"


def test_deleted_map_is_made_anew(context: Any, logic: Any, case: Any) -> None:
    composites = add_slice_views(context)
    outputs = logic.process(case.volume, uncertainty=True)
    show_map(context, map_node=outputs.uncertaintyNode)
    context.scene.RemoveNode(outputs.uncertaintyNode)
    assert find_map(outputs.segmentationNode) is None
    show_map(context, map_node=None)
    again = logic.process(case.volume, outputSegmentation=outputs.segmentationNode, uncertainty=True)
    assert find_map(outputs.segmentationNode) is again.uncertaintyNode is not None
    show_map(context, map_node=again.uncertaintyNode)
    assert {composite.GetForegroundVolumeID() for composite in composites} == {again.uncertaintyNode.GetID()}


def test_run_into_a_clone_leaves_the_originals_map_and_table_alone(context: Any, logic: Any, case: Any) -> None:
    """A clone made in the Data module refers to the nodes of its original."""
    first = logic.process(case.volume, uncertainty=True)
    cells = first.tableNode.GetTable()
    clone = cloned(context, node=first.segmentationNode)
    second = logic.process(case.volume, outputSegmentation=clone)
    assert find_map(clone) is None
    assert find_map(first.segmentationNode) is first.uncertaintyNode
    assert second.tableNode is not first.tableNode
    assert first.tableNode.GetTable() is cells
    third = logic.process(
        case.volume, outputSegmentation=cloned(context, node=first.segmentationNode), uncertainty=True
    )
    assert third.uncertaintyNode is not first.uncertaintyNode is find_map(first.segmentationNode)


def test_failed_run_into_a_clone_leaves_it_the_originals_map_and_table(
    context: Any, logic: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = logic.process(case.volume, uncertainty=True)
    clone = cloned(context, node=first.segmentationNode)
    nodes = nodes_of(context)

    def fail(*_nodes: Any, **_options: Any) -> None:
        raise InputError("later")

    monkeypatch.setattr("CovidSegLib.scenes.uncertainty._make_display", fail)
    with pytest.raises(InputError, match="later"):
        logic.process(case.volume, outputSegmentation=clone, uncertainty=True)
    assert nodes_of(context) == nodes
    assert find_map(clone) is first.uncertaintyNode
    assert clone.GetNodeReference(TABLE_ROLE) is first.tableNode


def cloned(context: Any, *, node: Any) -> Any:
    """Return a copy of a node in the scene, made as Slicer makes a clone."""
    copy = context.scene.CreateNodeByClass(node.GetClassName())
    copy.Copy(node)
    return context.scene.AddNode(copy)

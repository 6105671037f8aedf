"""A segmentation that comes as a file finds its CT by the voxels on which it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, add_surfaces, add_volume, hu_of

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")

from CovidSegLib.results.terminology import TERMINOLOGY_TAG, terminology_entry  # noqa: E402
from CovidSegLib.scenes.adopt import adopt  # noqa: E402
from CovidSegLib.scenes.outputs import CT_NAME_ATTRIBUTE, ct_of  # noqa: E402
from CovidSegLib.scenes.volume import geometry_of  # noqa: E402
from CovidSegLib.segmentation_file import write_seg_nrrd  # noqa: E402

pytestmark = pytest.mark.slicer


@pytest.fixture
def from_file(logic: Any, case: Any, tmp_path: Path) -> Any:
    """A segmentation as the command line writes it, loaded beside its CT."""
    path = tmp_path / "segmentation.seg.nrrd"
    write_seg_nrrd(path, labelmap_kji=case.labels_kji, geometry=geometry_of(case.volume)[0])
    return logic.loadSegmentation(path)


def another_volume(context: Any, case: Any, *, matrix: np.ndarray | None = None, cut_kji: Any = ()) -> Any:
    hu_kji = np.ascontiguousarray(hu_of(case.labels_kji)[cut_kji])
    return add_volume(context, hu_kji=hu_kji, matrix=case.matrix if matrix is None else matrix)


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_file_of_the_command_line_is_measured_with_the_chosen_ct(
    context: Any, logic: Any, case: Any, from_file: Any
) -> None:
    assert ct_of(from_file) is None
    assert adopt(context, segmentation_node=from_file, chosen=case.volume, others=()) is case.volume
    assert ct_of(from_file) is case.volume
    run = logic.process(case.volume)
    figures = logic.quantifySegmentation(from_file).to_dict()
    assert figures == {key: run.report[key] for key in figures}


def test_it_is_edited_on_the_grid_of_its_ct_and_lies_beside_it(context: Any, case: Any, from_file: Any) -> None:
    hierarchy = context.subject_hierarchy()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "patient")
    hierarchy.CreateItem(folder, case.volume)
    adopt(context, segmentation_node=from_file, chosen=case.volume, others=())
    role = from_file.GetReferenceImageGeometryReferenceRole()
    assert from_file.GetNodeReference(role) is case.volume
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(from_file)) == folder


def test_only_ct_on_whose_voxels_it_lies_is_found_if_another_is_chosen(context: Any, case: Any, from_file: Any) -> None:
    shifted = case.matrix.copy()
    shifted[:3, 3] += case.matrix[:3, 0] / 2
    other = another_volume(context, case, matrix=shifted)
    assert adopt(context, segmentation_node=from_file, chosen=other, others=(other, case.volume)) is case.volume


def test_of_two_cts_on_one_grid_the_chosen_one_is_taken_and_else_none(context: Any, case: Any, from_file: Any) -> None:
    twin = another_volume(context, case)
    assert adopt(context, segmentation_node=from_file, chosen=None, others=(case.volume, twin)) is None
    assert adopt(context, segmentation_node=from_file, chosen=twin, others=(case.volume, twin)) is twin


def test_ct_that_lacks_one_slice_of_the_segments_is_not_theirs(context: Any, case: Any, from_file: Any) -> None:
    held = np.flatnonzero(case.labels_kji.any(axis=(1, 2)))
    first, end = int(held[0]), int(held[-1]) + 1
    parts = []
    for start, stop in ((first + 1, end), (first, end - 1), (first, end)):
        moved = case.matrix.copy()
        moved[:3, 3] += start * case.matrix[:3, 2]
        parts.append(another_volume(context, case, matrix=moved, cut_kji=np.s_[start:stop]))
    for part in parts[:2]:
        assert adopt(context, segmentation_node=from_file, chosen=part, others=(part,)) is None
        assert ct_of(from_file) is None
    assert adopt(context, segmentation_node=from_file, chosen=parts[2], others=()) is parts[2]


def test_ct_without_voxels_is_passed_over(context: Any, case: Any, from_file: Any) -> None:
    hollow = context.add_node("vtkMRMLScalarVolumeNode", name="CT")
    assert adopt(context, segmentation_node=from_file, chosen=hollow, others=(hollow, case.volume)) is case.volume


def test_segment_without_voxels_lies_on_any_ct_but_all_of_them_on_none(context: Any, case: Any, from_file: Any) -> None:
    segmentation = from_file.GetSegmentation()
    segmentation.RemoveSegment("infection")
    segmentation.AddSegment(slicer.vtkSegment(), "infection")  # on a grid of its own
    assert adopt(context, segmentation_node=from_file, chosen=case.volume, others=()) is case.volume
    hollow = context.add_node("vtkMRMLSegmentationNode", name="hollow")
    for segment_id in ("left_lung", "right_lung", "infection"):
        hollow.GetSegmentation().AddEmptySegment(segment_id)
    assert adopt(context, segmentation_node=hollow, chosen=case.volume, others=()) is None


def test_ct_under_a_transform_of_its_own_is_not_theirs(context: Any, case: Any, from_file: Any) -> None:
    transform = context.add_node("vtkMRMLLinearTransformNode", name="moved")
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    assert adopt(context, segmentation_node=from_file, chosen=case.volume, others=()) is None
    from_file.SetAndObserveTransformNodeID(transform.GetID())
    assert adopt(context, segmentation_node=from_file, chosen=case.volume, others=()) is case.volume


def test_segmentation_whose_ct_was_removed_takes_only_one_of_the_same_name(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    twin = another_volume(context, case)
    twin.SetName("another date")
    context.remove_node(case.volume)
    assert adopt(context, segmentation_node=node, chosen=twin, others=(twin,)) is None
    twin.SetName("CT_1")  # as a scene names what is loaded again
    assert adopt(context, segmentation_node=node, chosen=twin, others=(twin,)) is twin


@pytest.mark.parametrize(
    ("known", "loaded", "same"),
    [
        *(("CT", "CT", True), ("CT", "CT_1", True), ("CT_12", "CT", True), ("CT_1", "CT_1_1", True)),
        *(("CT_20200301", "CT_20200415", False), ("CT", "CT_20200301", False), ("case_001", "case_002", False)),
        *(("case_2", "case_3", False), ("CT", "CT_0", False), ("CT", "CTA_1", False), ("CT", None, False)),
    ],
)
def test_name_is_that_of_the_removed_ct_also_with_the_number_that_a_scene_appends(
    context: Any, case: Any, from_file: Any, known: str, loaded: str | None, *, same: bool
) -> None:
    from_file.SetAttribute(CT_NAME_ATTRIBUTE, known)
    case.volume.SetName(loaded)
    found = adopt(context, segmentation_node=from_file, chosen=case.volume, others=())
    assert found is (case.volume if same else None)


def test_ct_without_a_grid_is_passed_over(context: Any, case: Any, from_file: Any) -> None:
    flat = another_volume(context, case)
    flat.SetSpacing(1.0, 1.0, 0.0)
    assert adopt(context, segmentation_node=from_file, chosen=flat, others=(flat, case.volume)) is case.volume


def test_ct_that_slicer_knows_of_a_segmentation_is_its_own(context: Any, case: Any, from_file: Any) -> None:
    twin = another_volume(context, case)
    from_file.SetReferenceImageGeometryParameterFromVolumeNode(twin)
    assert adopt(context, segmentation_node=from_file, chosen=case.volume, others=(case.volume,)) is None
    assert adopt(context, segmentation_node=from_file, chosen=case.volume, others=(case.volume, twin)) is twin


def test_ct_with_the_tilt_that_reading_lets_pass_is_theirs(context: Any, case: Any, from_file: Any) -> None:
    tilted = case.matrix.copy()
    reach = case.labels_kji.shape[0]
    tilted[:3, 2] += 0.03 / reach * case.matrix[:3, 0]  # 0.03 voxels at the last slice
    other = another_volume(context, case, matrix=tilted)
    assert adopt(context, segmentation_node=from_file, chosen=other, others=()) is other


def test_segments_of_others_and_surfaces_are_left_alone(context: Any, case: Any) -> None:
    mine = context.add_node("vtkMRMLSegmentationNode", name="mine")
    mine.GetSegmentation().AddEmptySegment("heart")
    surfaces = add_surfaces(context, name="surfaces")
    ball = add_surfaces(context, name="surface of the infection")
    ball.GetSegmentation().GetNthSegment(0).SetTag(TERMINOLOGY_TAG, terminology_entry("infection"))
    for node in (mine, surfaces, ball):
        assert adopt(context, segmentation_node=node, chosen=case.volume, others=()) is None
        assert ct_of(node) is None

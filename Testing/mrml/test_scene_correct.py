"""Corrections: the editor confines them as asked, islands go and come back, old results are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_edit import EDITS, WHEN, draw, mask_of, report_of, specks
from helpers_mrml import GRIDS, INFECTION_HU, LUNG_HU, SIZE_IJK, TEXTURE_HU, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.results.followup import figures_of  # noqa: E402
from CovidSegLib.scenes.correct import (  # noqa: E402
    PREVIOUS_ATTRIBUTE,
    EditMask,
    editor_node,
    erasing_adds_to_mask,
    previous_result,
    remember_previous,
    remove_infection_islands,
    set_up_editor,
)
from CovidSegLib.scenes.edited import is_edited, mark_computed  # noqa: E402
from CovidSegLib.scenes.segments import oriented_image  # noqa: E402
from CovidSegLib.scenes.volume import remember_hu_scale  # noqa: E402

pytestmark = pytest.mark.slicer


def editable(editor: Any, *, case: Any) -> np.ndarray:
    """Return where the editor node lets its segment be changed, as Slicer works it out."""
    from vtk.util.numpy_support import vtk_to_numpy

    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(*(bound for size in SIZE_IJK for bound in (0, size - 1)))
    grid.SetGeometryFromImageToWorldMatrix(vtk_matrix(case.matrix))
    grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    ct, range_hu = None, None
    if editor.GetSourceVolumeIntensityMask():
        ct = slicer.vtkOrientedImageData()
        ct.ShallowCopy(case.volume.GetImageData())
        ct.SetGeometryFromImageToWorldMatrix(vtk_matrix(case.matrix))
        range_hu = editor.GetSourceVolumeIntensityMaskRange()
    node, mask = editor.GetSegmentationNode(), slicer.vtkOrientedImageData()
    assert node.GenerateEditMask(
        mask,
        editor.GetMaskMode(),
        grid,
        editor.GetSelectedSegmentID(),
        editor.GetMaskSegmentID() or "",
        ct,
        range_hu,
        node.GetDisplayNode(),
    )
    return np.asarray(vtk_to_numpy(mask.GetPointData().GetScalars()).reshape(mask.GetDimensions()[::-1]) == 0)


def set_up(context: Any, *, case: Any, node: Any, segment_id: str = "infection", **options: Any) -> Any:
    return set_up_editor(context, segmentation_node=node, volume_node=case.volume, segment_id=segment_id, **options)


@pytest.mark.parametrize("segment_id", ["infection", "left_lung"])
def test_editor_lets_segments_overlap_and_has_the_chosen_one_selected(
    context: Any, logic: Any, case: Any, segment_id: str
) -> None:
    node = logic.process(case.volume).segmentationNode
    editor = set_up(context, case=case, node=node, segment_id=segment_id)
    assert editor.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    assert editor.GetSelectedSegmentID() == segment_id
    assert editor.GetSegmentationNode() is node
    assert editor.GetSourceVolumeNode() is case.volume
    assert not editor.GetSourceVolumeIntensityMask()


@pytest.mark.parametrize("case", ["axial_lps", "oblique"], indirect=True)
def test_editing_is_confined_to_both_lungs(context: Any, logic: Any, case: Any) -> None:
    editor = set_up(context, case=case, node=logic.process(case.volume).segmentationNode, mask=EditMask.LUNGS)
    np.testing.assert_array_equal(editable(editor, case=case), case.labels_kji > 0)


def test_editing_is_confined_to_the_infection(context: Any, logic: Any, case: Any) -> None:
    editor = set_up(context, case=case, node=logic.process(case.volume).segmentationNode, mask=EditMask.INFECTION)
    np.testing.assert_array_equal(editable(editor, case=case), case.labels_kji == Label.INFECTION)


def test_editing_everywhere_is_possible(context: Any, logic: Any, case: Any) -> None:
    editor = set_up(context, case=case, node=logic.process(case.volume).segmentationNode, mask=EditMask.EVERYWHERE)
    assert editable(editor, case=case).all()


def test_other_peoples_segments_are_no_place_to_paint(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().AddEmptySegment("heart", "heart")
    heart_kji = np.zeros(case.labels_kji.shape, dtype=bool)
    heart_kji[:4] = True
    draw(node, segment_id="heart", mask_kji=heart_kji, case=case, logic=logic)
    node.GetDisplayNode().SetSegmentVisibility("left_lung", False)
    editor = set_up(context, case=case, node=node, mask=EditMask.LUNGS)
    np.testing.assert_array_equal(editable(editor, case=case), case.labels_kji > 0)
    np.testing.assert_array_equal(mask_of(node, segment_id="heart", case=case), heart_kji)


def test_range_of_hu_confines_editing_further(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    editor = set_up(context, case=case, node=node, range_hu=(INFECTION_HU, INFECTION_HU + TEXTURE_HU))
    np.testing.assert_array_equal(editable(editor, case=case), case.labels_kji == Label.INFECTION)
    set_up(context, case=case, node=node, range_hu=(LUNG_HU, LUNG_HU + TEXTURE_HU))
    healthy_kji = (case.labels_kji > 0) & (case.labels_kji != Label.INFECTION)
    np.testing.assert_array_equal(editable(editor, case=case), healthy_kji)


def test_range_of_hu_means_hu_also_where_the_ct_holds_other_values(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    hu_kji = slicer.util.arrayFromVolume(case.volume).copy()
    slicer.util.arrayFromVolume(case.volume)[:] = hu_kji + 1024
    remember_hu_scale(case.volume, hu_kji=hu_kji)
    editor = set_up(context, case=case, node=node, range_hu=(INFECTION_HU - 1, INFECTION_HU + TEXTURE_HU))
    np.testing.assert_array_equal(editable(editor, case=case), case.labels_kji == Label.INFECTION)


@pytest.mark.parametrize(
    ("mask", "segment_id", "added"),
    [
        (EditMask.INFECTION, "left_lung", True),
        (EditMask.INFECTION, "infection", False),
        (EditMask.LUNGS, "infection", False),
        (EditMask.EVERYWHERE, "left_lung", False),
    ],
)
def test_it_is_known_where_slicer_adds_to_the_infection_what_is_erased(
    context: Any, logic: Any, case: Any, mask: EditMask, segment_id: str, added: bool
) -> None:
    node = logic.process(case.volume).segmentationNode
    editor = set_up(context, case=case, node=node, segment_id=segment_id, mask=mask)
    assert erasing_adds_to_mask(editor) is added
    tools = slicer.vtkSlicerSegmentEditorLogic()
    tools.SetMRMLApplicationLogic(context.logic("Data").GetMRMLApplicationLogic())
    tools.SetMRMLScene(context.scene)
    tools.SetSegmentEditorNode(editor)
    infection = mask_of(node, segment_id="infection", case=case)
    brush = oriented_image(np.ones(SIZE_IJK[::-1], dtype=np.uint8), matrix=case.matrix)
    tools.ModifySegmentByLabelmap(node, segment_id, brush, tools.ModificationModeRemove, True, False)
    assert bool((mask_of(node, segment_id="infection", case=case) & ~infection).any()) is added


def test_there_is_one_editor_node_apart_from_slicers_own(context: Any, logic: Any, case: Any) -> None:
    own = slicer.vtkMRMLSegmentEditorNode()
    own.SetSingletonTag("SegmentEditor")
    own = context.scene.AddNode(own)
    node = logic.process(case.volume).segmentationNode
    editor = set_up(context, case=case, node=node, mask=EditMask.INFECTION)
    assert set_up(context, case=case, node=node) is editor is editor_node(context)
    assert context.scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode") == 2
    assert own.GetSegmentationNode() is None
    assert editor.GetMaskSegmentID() in (None, "")


@pytest.mark.parametrize(
    ("removed", "options", "message"),
    [
        (("infection",), {}, "The infection segment is missing"),
        (("left_lung", "right_lung"), {}, "Both lung segments are missing"),
        ((), {"range_hu": (-300.0, -300.0)}, "is empty"),
    ],
)
def test_what_cannot_be_edited_is_said(
    context: Any, logic: Any, case: Any, removed: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    node = logic.process(case.volume).segmentationNode
    for segment_id in removed:
        node.GetSegmentation().RemoveSegment(segment_id)
    with pytest.raises(InputError, match=message):
        set_up(context, case=case, node=node, **options)


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_islands_are_removed_from_the_infection_and_undo_brings_them_back(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    infection_kji = case.labels_kji == Label.INFECTION
    draw(node, segment_id="infection", mask_kji=infection_kji | specks(case), case=case, logic=logic)
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(node.GetSegmentation())
    voxel_ml = abs(np.linalg.det(case.matrix[:3, :3])) / 1000.0
    lungs = [mask_of(node, segment_id=name, case=case) for name in ("left_lung", "right_lung")]
    removal = remove_infection_islands(
        context, segmentation_node=node, min_ml=2.5 * voxel_ml, save_state=history.SaveState
    )
    assert removal.removed_count == 2
    assert removal.removed_ml == pytest.approx(3 * voxel_ml)
    np.testing.assert_array_equal(mask_of(node, segment_id="infection", case=case), infection_kji)
    for name, before_kji in zip(("left_lung", "right_lung"), lungs, strict=True):
        np.testing.assert_array_equal(mask_of(node, segment_id=name, case=case), before_kji)
    history.RestorePreviousState()
    np.testing.assert_array_equal(mask_of(node, segment_id="infection", case=case), infection_kji | specks(case))


def test_surfaces_follow_when_islands_go(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    infection_kji = case.labels_kji == Label.INFECTION
    node.CreateClosedSurfaceRepresentation()
    expected = surface_points(node)
    draw(node, segment_id="infection", mask_kji=infection_kji | specks(case), case=case, logic=logic)
    assert surface_points(node) != expected
    remove_infection_islands(context, segmentation_node=node, min_ml=0.1, save_state=lambda: None)
    assert surface_points(node) == expected


def surface_points(node: Any) -> int:
    surface = vtk.vtkPolyData()
    node.GetClosedSurfaceRepresentation("infection", surface)
    return int(surface.GetNumberOfPoints())


def test_without_small_islands_nothing_is_changed_or_saved_for_undo(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    mark_computed(node)
    saved: list[None] = []
    removal = remove_infection_islands(
        context, segmentation_node=node, min_ml=0.001, save_state=lambda: saved.append(None)
    )
    assert removal.removed_count == 0
    assert saved == []
    assert not is_edited(node)


def test_emptied_infection_has_no_islands(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    EDITS["erased"](node, case, logic)
    removal = remove_infection_islands(context, segmentation_node=node, min_ml=1.0, save_state=lambda: None)
    assert (removal.removed_count, removal.kept_count) == (0, 0)


def test_removing_islands_without_infection_or_with_a_negative_size_is_an_error(
    context: Any, logic: Any, case: Any
) -> None:
    node = logic.process(case.volume).segmentationNode
    with pytest.raises(InputError, match="Give 0 ml or more"):
        remove_infection_islands(context, segmentation_node=node, min_ml=-1.0, save_state=lambda: None)
    node.GetSegmentation().RemoveSegment("infection")
    with pytest.raises(InputError, match="The infection segment is missing"):
        remove_infection_islands(context, segmentation_node=node, min_ml=1.0, save_state=lambda: None)


def test_result_that_was_replaced_last_is_remembered(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    assert previous_result(node) is None
    first = report_of(logic, node=node, case=case)
    remember_previous(node, report=first, when=WHEN)
    previous = previous_result(node)
    assert previous is not None
    assert (previous.when, previous.figures) == ("2020-04-06T12:30:00", figures_of(first))
    EDITS["erased"](node, case, logic)
    remember_previous(node, report=report_of(logic, node=node, case=case), when=WHEN)
    previous = previous_result(node)
    assert previous is not None
    assert previous.figures["poi_percent"] == 0.0


@pytest.mark.parametrize("text", ["no json", "[]", "3", '{"when": "now"}', '{"when": "now", "figures": {}}'])
def test_damaged_previous_result_is_none(logic: Any, case: Any, text: str) -> None:
    node = logic.process(case.volume).segmentationNode
    node.SetAttribute(PREVIOUS_ATTRIBUTE, text)
    assert previous_result(node) is None


def test_history_of_an_earlier_version_is_left_alone(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.SetAttribute("CovidSeg.history", '[{"label": "Previous result", "when": "", "figures": {}, "severity": null}]')
    assert previous_result(node) is None

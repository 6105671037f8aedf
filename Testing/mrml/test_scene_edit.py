"""Corrections: the editor confines them as asked, they are noticed and remembered, old results are kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, INFECTION_HU, LUNG_HU, SIZE_IJK, TEXTURE_HU, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.scene import SceneContext  # noqa: E402
from CovidSegLib.scene_edit import (  # noqa: E402
    MAX_RESULTS,
    EditMask,
    ResultsHistory,
    editor_node,
    remove_infection_islands,
    set_up_editor,
)
from CovidSegLib.scene_edited import (  # noqa: E402
    COMPUTED_ATTRIBUTE,
    EditWatcher,
    is_edited,
    mark_computed,
)
from CovidSegLib.scene_segments import oriented_image, segment_mask  # noqa: E402

pytestmark = pytest.mark.slicer


def draw(node: Any, *, segment_id: str, mask_kji: np.ndarray, case: Any, logic: Any) -> None:
    """Set a segment's voxels as an editor effect does, letting segments overlap."""
    segmentations = logic.context.logic("Segmentations")
    labels = oriented_image(mask_kji.astype(np.uint8), matrix=case.matrix)
    assert segmentations.SetBinaryLabelmapToSegment(labels, node, segment_id, segmentations.MODE_REPLACE)


def mask_of(node: Any, *, segment_id: str, case: Any) -> np.ndarray:
    return segment_mask(node, segment_id=segment_id, volume_node=case.volume)


def specks(case: Any) -> np.ndarray:
    """Return two specks of 1 and 2 voxels away from the infection."""
    mask_kji = np.zeros(case.labels_kji.shape, dtype=bool)
    mask_kji[0, 0, 0] = True
    mask_kji[-1, -1, -2:] = True
    return mask_kji


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


def set_up(context: Any, *, case: Any, node: Any, **options: Any) -> Any:
    return set_up_editor(context, segmentation_node=node, volume_node=case.volume, **options)


def test_editor_lets_segments_overlap_and_has_the_infection_selected(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    editor = set_up(context, case=case, node=node)
    assert editor.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    assert editor.GetSelectedSegmentID() == "infection"
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
        (("infection",), {}, "No infection segment"),
        (("left_lung", "right_lung"), {}, "No lung segment"),
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


EDITS: dict[str, Callable[..., None]] = {
    "painted": lambda node, case, logic: draw(
        node,
        segment_id="infection",
        mask_kji=specks(case) | (case.labels_kji == Label.INFECTION),
        case=case,
        logic=logic,
    ),
    "erased": lambda node, case, logic: draw(
        node, segment_id="infection", mask_kji=np.zeros(case.labels_kji.shape, bool), case=case, logic=logic
    ),
    "lung painted": lambda node, case, logic: draw(
        node, segment_id="left_lung", mask_kji=specks(case), case=case, logic=logic
    ),
    "removed": lambda node, case, logic: node.GetSegmentation().RemoveSegment("infection"),
}

NO_EDITS: dict[str, Callable[..., None]] = {
    "renamed": lambda node, case, logic: node.GetSegmentation().GetSegment("infection").SetName("x"),
    "coloured": lambda node, case, logic: node.GetSegmentation().GetSegment("infection").SetColor(0.0, 1.0, 0.0),
    "hidden": lambda node, case, logic: node.GetDisplayNode().SetSegmentVisibility("infection", False),
    "surface made": lambda node, case, logic: node.CreateClosedSurfaceRepresentation(),
    "same voxels again": lambda node, case, logic: draw(
        node, segment_id="infection", mask_kji=case.labels_kji == Label.INFECTION, case=case, logic=logic
    ),
    "layers separated": lambda node, case, logic: node.GetSegmentation().SeparateSegmentLabelmap("left_lung"),
    "other segment added": lambda node, case, logic: node.GetSegmentation().AddEmptySegment("heart"),
    "measured": lambda node, case, logic: logic.quantifySegmentation(node, volumeNode=case.volume),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_is_told_and_remembered(logic: Any, case: Any, edit: Callable[..., None]) -> None:
    node = logic.process(case.volume).segmentationNode
    mark_computed(node)
    told: list[bool] = []
    watcher = EditWatcher(node, on_edited=lambda: told.append(is_edited(node)))
    edit(node, case, logic)
    assert told == [True]
    assert is_edited(node)
    watcher.stop()


@pytest.mark.parametrize("change", NO_EDITS.values(), ids=NO_EDITS)
def test_what_leaves_the_voxels_alone_is_no_edit(logic: Any, case: Any, change: Callable[..., None]) -> None:
    node = logic.process(case.volume).segmentationNode
    mark_computed(node)
    told: list[None] = []
    watcher = EditWatcher(node, on_edited=lambda: told.append(None))
    change(node, case, logic)
    assert told == []
    assert not is_edited(node)
    watcher.stop()


def test_other_peoples_segment_in_the_lungs_layer_is_no_edit(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().AddEmptySegment("heart")
    mark_computed(node)
    told: list[None] = []
    watcher = EditWatcher(node, on_edited=lambda: told.append(None))
    draw(node, segment_id="heart", mask_kji=specks(case), case=case, logic=logic)
    assert told == []
    assert not is_edited(node)
    watcher.stop()


def test_undo_is_told_and_brings_back_the_unedited_state(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    mark_computed(node)
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(node.GetSegmentation())
    history.SaveState()
    told: list[bool] = []
    watcher = EditWatcher(node, on_edited=lambda: told.append(is_edited(node)))
    EDITS["erased"](node, case, logic)
    history.RestorePreviousState()
    history.RestoreNextState()
    assert told == [True, False, True]
    watcher.stop()


def test_covidsegs_own_changes_are_not_told(logic: Any, case: Any, engine: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    told: list[None] = []
    watcher = EditWatcher(node, on_edited=lambda: told.append(None))
    EDITS["erased"](node, case, logic)
    with watcher.ignoring(), watcher.ignoring():
        result = engine(logic.volumeFromNode(case.volume))
        logic.publish(result, volumeNode=case.volume, segmentationNode=node)
        mark_computed(node)
    assert told == [None]
    assert not is_edited(node)
    EDITS["erased"](node, case, logic)
    assert told == [None, None]
    watcher.stop()


def test_watching_goes_on_after_an_error_in_covidsegs_own_change(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    told: list[None] = []
    watcher = EditWatcher(node, on_edited=lambda: told.append(None))
    with pytest.raises(RuntimeError), watcher.ignoring():
        raise RuntimeError
    EDITS["erased"](node, case, logic)
    assert told == [None]
    watcher.stop()


def test_stopped_or_forgotten_watchers_say_nothing(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    told: list[str] = []
    stopped = EditWatcher(node, on_edited=lambda: told.append("stopped"))
    forgotten = EditWatcher(node, on_edited=lambda: told.append("forgotten"))
    reference = weakref.ref(forgotten)
    stopped.stop()
    stopped.stop()
    del forgotten
    gc.collect()
    assert reference() is None
    EDITS["erased"](node, case, logic)
    assert told == []


def test_edits_are_seen_also_where_nobody_watched(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    mark_computed(node)
    EDITS["painted"](node, case, logic)
    assert is_edited(node)


def test_segments_that_covidseg_did_not_make_count_as_edited_but_no_segments_do_not(
    context: Any, logic: Any, case: Any
) -> None:
    made = logic.process(case.volume).segmentationNode
    assert not is_edited(made)
    made.RemoveAttribute(COMPUTED_ATTRIBUTE)  # as if somebody else had made them
    assert is_edited(made)
    node = context.add_node("vtkMRMLSegmentationNode", name="empty")
    assert not is_edited(node)


@pytest.mark.parametrize("edited", [False, True])
def test_saved_scene_knows_whether_segments_were_edited(logic: Any, case: Any, tmp_path: Any, edited: bool) -> None:
    node = logic.process(case.volume).segmentationNode
    mark_computed(node)
    ResultsHistory(node).add(label='"before"; a:b', report=report_of(logic, node=node, case=case), when=WHEN)
    if edited:
        EDITS["painted"](node, case, logic)
    logic.saveSegmentation(node, path=tmp_path / "saved.seg.nrrd")
    attributes = attributes_after_reload(logic.context, node=node)
    again = logic.loadSegmentation(tmp_path / "saved.seg.nrrd")
    for name, value in attributes.items():
        again.SetAttribute(name, value)
    assert is_edited(again) is edited
    assert ResultsHistory(again).results() == ResultsHistory(node).results()


def attributes_after_reload(context: Any, *, node: Any) -> dict[str, str]:
    """Return the node's attributes as a scene file gives them back."""
    context.scene.SetSaveToXMLString(1)
    context.scene.Commit()
    other = SceneContext.headless()
    other.scene.SetLoadFromXMLString(1)
    other.scene.SetSceneXMLString(context.scene.GetSceneXMLString())
    other.scene.Import()
    loaded = other.scene.GetFirstNodeByName(node.GetName())
    return {name: loaded.GetAttribute(name) for name in loaded.GetAttributeNames()}


WHEN = datetime(2020, 4, 6, 12, 30)


def report_of(logic: Any, *, node: Any, case: Any) -> dict[str, Any]:
    return logic.quantifySegmentation(node, volumeNode=case.volume).to_dict()  # type: ignore[no-any-return]


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
    with pytest.raises(InputError, match="No infection segment"):
        remove_infection_islands(context, segmentation_node=node, min_ml=1.0, save_state=lambda: None)


def test_results_are_kept_oldest_first(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    history = ResultsHistory(node)
    assert history.results() == ()
    before = report_of(logic, node=node, case=case)
    history.add(label="before correction", report=before, when=WHEN)
    EDITS["erased"](node, case, logic)
    history.add(label="after correction", report=report_of(logic, node=node, case=case), when=WHEN)
    first, last = ResultsHistory(node).results()
    assert (first.label, last.label) == ("before correction", "after correction")
    assert first.figures["poi_percent"] == before["poi_percent"]
    assert last.figures["poi_percent"] == 0.0
    assert (first.severity, last.severity) == (before["severity"]["class"], "CT-0")
    history.clear()
    assert history.results() == ()


def test_first_result_and_the_latest_stay_when_there_are_many(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    history, report = ResultsHistory(node), report_of(logic, node=node, case=case)
    for number in range(MAX_RESULTS + 3):
        history.add(label=str(number), report=report, when=WHEN)
    labels = [result.label for result in history.results()]
    assert labels == ["0", *(str(number) for number in range(4, MAX_RESULTS + 3))]


@pytest.mark.parametrize("text", ["no json", '[{"label": "x"}]', "3"])
def test_damaged_results_are_an_error_that_says_what_to_do(logic: Any, case: Any, text: str) -> None:
    node = logic.process(case.volume).segmentationNode
    node.SetAttribute("CovidSeg.history", text)
    with pytest.raises(InputError, match="Clear them"):
        ResultsHistory(node).results()

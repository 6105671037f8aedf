"""Edits are noticed and remembered: painted, undone, made unwatched, saved with the scene."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers_edit import EDITS, WHEN, draw, report_of, specks

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.scene import SceneContext  # noqa: E402
from CovidSegLib.scenes.correct import previous_result, remember_previous  # noqa: E402
from CovidSegLib.scenes.edited import COMPUTED_ATTRIBUTE, EditWatcher, is_edited, mark_computed  # noqa: E402

pytestmark = pytest.mark.slicer


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
    remember_previous(node, report=report_of(logic, node=node, case=case), when=WHEN)
    if edited:
        EDITS["painted"](node, case, logic)
    logic.saveSegmentation(node, path=tmp_path / "saved.seg.nrrd")
    attributes = attributes_after_reload(logic.context, node=node)
    again = logic.loadSegmentation(tmp_path / "saved.seg.nrrd")
    for name, value in attributes.items():
        again.SetAttribute(name, value)
    assert is_edited(again) is edited
    assert previous_result(again) == previous_result(node) is not None


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

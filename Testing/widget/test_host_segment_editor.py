"""The stand-in for Slicer's segment editor does by itself what Slicer's does, whether a panel wants it or not."""

from __future__ import annotations

from typing import Any

import pytest

slicer = pytest.importorskip("slicer")

pytestmark = pytest.mark.slicer


def editor_on_a_segment(host: Any) -> tuple[Any, Any, Any]:
    """Return a segment editor with its node, and a segmentation with the segment "a" that it edits."""
    editor = slicer.qMRMLSegmentEditorWidget()
    node = host.scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    node.SetSingletonTag("editor")
    segmentation = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.GetSegmentation().AddEmptySegment("a")
    editor.setMRMLSegmentEditorNode(node)
    editor.setMRMLScene(host.scene)
    editor.setSegmentationNode(segmentation)
    return editor, node, segmentation


def test_segment_editor_keeps_its_tool_while_the_scene_is_closed(host: Any) -> None:
    editor, _node, _segmentation = editor_on_a_segment(host)
    held: list[Any] = []

    def lay_down(*_event: Any) -> None:
        editor.setActiveEffectByName("")
        held.append(editor.activeEffect())

    tag = host.scene.AddObserver(host.scene.StartCloseEvent, lay_down)
    editor.setActiveEffectByName("Paint")
    host.close_scene()
    host.scene.RemoveObserver(tag)
    assert held[0].name == "Paint", "Slicer's editor does nothing then"
    editor.updateWidgetFromMRML()
    assert editor.activeEffect() is None


def test_segment_editor_lifts_a_mask_before_its_segment_is_named(host: Any) -> None:
    _editor, node, _segmentation = editor_on_a_segment(host)
    modes = slicer.vtkMRMLSegmentationNode
    node.SetMaskMode(modes.EditAllowedInsideSingleSegment)
    assert node.GetMaskMode() == modes.EditAllowedEverywhere
    node.SetMaskSegmentID("a")
    node.SetMaskMode(modes.EditAllowedInsideSingleSegment)
    assert node.GetMaskMode() == modes.EditAllowedInsideSingleSegment


def test_segment_editor_chooses_a_segmentation_by_itself(host: Any) -> None:
    editor, node, segmentation = editor_on_a_segment(host)
    node.SetAndObserveSegmentationNode(None)
    host.scene.RemoveNode(segmentation)
    other = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    assert editor.segmentationNode() is other


def test_segment_editor_takes_up_the_tool_of_its_node_when_a_scene_was_read(host: Any) -> None:
    editor, node, _segmentation = editor_on_a_segment(host)
    held: list[Any] = []
    tag = host.scene.AddObserver(host.scene.EndImportEvent, lambda *_: held.append(editor.activeEffect()))
    host.scene.StartState(host.scene.ImportState)
    node.SetActiveEffectName("Paint")
    host.scene.EndState(host.scene.ImportState)
    host.scene.RemoveObserver(tag)
    assert held == [None], "Slicer's editor does nothing before the batch has ended"
    assert editor.activeEffect().name == "Paint"
    assert editor.observes


def test_undo_by_key_asks_for_no_lock(host: Any) -> None:
    editor, _node, segmentation = editor_on_a_segment(host)
    editor.setMaximumNumberOfUndoStates(2)
    editor.saveStateForUndo()
    segmentation.GetSegmentation().AddEmptySegment("b")
    segmentation.SetSelectable(False)
    editor.readOnly = True
    editor.press_undo_key()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 2, "no keys are installed"
    editor.installKeyboardShortcuts()
    editor.press_undo_key()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_segment_editor_without_a_scene_names_no_segmentation(host: Any) -> None:
    editor, node, segmentation = editor_on_a_segment(host)
    assert editor.segmentationNode() is segmentation
    editor.setMRMLScene(None)
    assert editor.segmentationNode() is None
    assert node.GetSegmentationNode() is segmentation

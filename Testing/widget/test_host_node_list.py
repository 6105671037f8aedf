"""The stand-in for Slicer's list of nodes leaves nodes out by ID as Slicer does, and knows no more than Slicer."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slicer


@pytest.fixture
def selector(host: Any) -> Any:
    """A list of volumes, of which there are three."""
    import slicer

    for name in ("a", "b", "c"):
        host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.noneEnabled = True
    box.setMRMLScene(host.scene)
    return box


def names(selector: Any) -> list[str]:
    return [selector.nodeFromIndex(index).GetName() for index in range(selector.nodeCount())]


def test_hidden_nodes_are_left_out_and_come_back(selector: Any, host: Any) -> None:
    model = selector.sortFilterProxyModel()
    b = host.scene.GetFirstNodeByName("b")
    assert model.hiddenNodeIDs == ()
    model.hiddenNodeIDs = [b.GetID()]
    assert names(selector) == ["a", "c"]
    assert model.hiddenNodeIDs == (b.GetID(),)
    model.hiddenNodeIDs = []
    assert names(selector) == ["a", "b", "c"]


def test_hidden_node_cannot_be_chosen(selector: Any, host: Any) -> None:
    b = host.scene.GetFirstNodeByName("b")
    selector.sortFilterProxyModel().hiddenNodeIDs = [b.GetID()]
    selector.setCurrentNode(b)
    assert selector.currentNode() is None


def test_chosen_node_that_is_hidden_gives_way_to_the_entry_before_it(selector: Any, host: Any) -> None:
    seen: list[Any] = []
    selector.setCurrentNode(host.scene.GetFirstNodeByName("b"))
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: seen.append(node and node.GetName()))
    for hidden in ("b", "a"):
        model = selector.sortFilterProxyModel()
        model.hiddenNodeIDs = [*model.hiddenNodeIDs, host.scene.GetFirstNodeByName(hidden).GetID()]
    assert seen == ["a", None]


def test_what_slicer_does_not_have_is_refused(selector: Any) -> None:
    model = selector.sortFilterProxyModel()
    with pytest.raises(AttributeError, match="setHiddenNodeIDs"):
        model.setHiddenNodeIDs([])  # in C++ alone: it is no slot
    with pytest.raises(AttributeError, match="hiddenNodeIds"):
        model.hiddenNodeIds = []
    with pytest.raises(Exception, match="a list of texts"):
        model.hiddenNodeIDs = "vtkMRMLScalarVolumeNode1"


def test_list_tells_nobody_of_another_scene(selector: Any, host: Any) -> None:
    assert selector.mrmlScene() is host.scene
    with pytest.raises(Exception, match="no signal mrmlSceneChanged"):
        selector.connect("mrmlSceneChanged(vtkMRMLScene*)", print)

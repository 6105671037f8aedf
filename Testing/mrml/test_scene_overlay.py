"""The map of uncertainty covers what the user has in front of the CT, view by view, and gives it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib.scenes.uncertainty import follow_foregrounds, remove_map, show_map  # noqa: E402

pytestmark = pytest.mark.slicer


class Views:
    """A CT with a map, and three slice views: in front of the first two lies a volume each, with an opacity."""

    def __init__(self, context: Any, *, logic: Any, volume: Any) -> None:
        self.context, self.logic, self.volume = context, logic, volume
        self.composites = [self._view(name) for name in ("Red", "Yellow", "Green")]
        self.pet, self.other = (context.add_node("vtkMRMLScalarVolumeNode", name=name) for name in ("PET", "other"))
        self.segmentation = logic.process(volume, uncertainty=True).segmentationNode
        self.map = self.segmentation.GetNodeReference("CovidSeg.uncertainty")
        self.put(0, self.pet, opacity=0.5)
        self.put(1, self.other, opacity=0.25)

    def _view(self, name: str) -> Any:
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        composite.SetLayoutName(name)
        return self.context.scene.AddNode(composite)

    def put(self, view: int, node: Any, *, opacity: float) -> None:
        self.composites[view].SetForegroundVolumeID(node.GetID() if node is not None else None)
        self.composites[view].SetForegroundOpacity(opacity)

    def fronts(self) -> list[tuple[str | None, float]]:
        """Return name and opacity of what lies in front, view by view."""
        found = []
        for composite in self.composites:
            node = self.context.scene.GetNodeByID(composite.GetForegroundVolumeID() or "")
            found.append((node and node.GetName(), composite.GetForegroundOpacity()))
        return found


USERS_OWN = [("PET", 0.5), ("other", 0.25), (None, 0.0)]


@pytest.fixture
def views(context: Any, logic: Any, case: Any) -> Views:
    """The views with the user's volumes in front."""
    return Views(context, logic=logic, volume=case.volume)


def test_covered_volumes_come_back_view_by_view(views: Views) -> None:
    assert views.fronts() == USERS_OWN
    show_map(views.context, map_node=views.map)
    assert views.fronts() == [("CT uncertainty", 0.4)] * 3
    show_map(views.context, map_node=None)
    assert views.fronts() == USERS_OWN
    assert not any(composite.GetAttributeNames() for composite in views.composites), "nothing is left behind"


def test_map_shown_twice_still_gives_back_the_users_own(views: Views) -> None:
    for _ in range(2):
        show_map(views.context, map_node=views.map)
        views.composites[0].SetForegroundOpacity(0.9)  # of the map: not what was there before
    show_map(views.context, map_node=None)
    assert views.fronts() == USERS_OWN


def test_map_of_another_result_takes_the_place_of_the_first(views: Views) -> None:
    second = views.logic.process(views.volume, uncertainty=True).uncertaintyNode
    show_map(views.context, map_node=views.map)
    show_map(views.context, map_node=second)
    show_map(views.context, map_node=None)
    assert views.fronts() == USERS_OWN


@pytest.mark.parametrize("deleted_by", ["user", "run without a map"])
def test_deleted_map_gives_back_the_users_own(views: Views, deleted_by: str) -> None:
    show_map(views.context, map_node=views.map)
    if deleted_by == "user":
        views.context.scene.RemoveNode(views.map)
        follow_foregrounds(views.context)
    else:
        remove_map(views.context, segmentation_node=views.segmentation)
    assert views.fronts() == USERS_OWN


def test_volume_that_was_deleted_meanwhile_does_not_come_back(views: Views) -> None:
    show_map(views.context, map_node=views.map)
    views.context.scene.RemoveNode(views.pet)
    follow_foregrounds(views.context)
    assert views.fronts() == [("CT uncertainty", 0.4)] * 3
    show_map(views.context, map_node=None)
    assert views.fronts() == [(None, 0.5), *USERS_OWN[1:]]


@pytest.mark.parametrize("chosen", ["volume", "none"])
def test_what_the_user_puts_in_front_meanwhile_stays(views: Views, chosen: str) -> None:
    show_map(views.context, map_node=views.map)
    views.put(0, views.other if chosen == "volume" else None, opacity=0.7)
    follow_foregrounds(views.context)
    views.context.scene.RemoveNode(views.map)
    follow_foregrounds(views.context)
    assert views.fronts() == [("other" if chosen == "volume" else None, 0.7), *USERS_OWN[1:]]


def test_what_the_user_puts_in_front_stays_if_the_map_is_deleted_before_the_panel_looks(views: Views) -> None:
    show_map(views.context, map_node=views.map)
    views.put(0, views.other, opacity=0.7)
    views.context.scene.RemoveNode(views.map)
    follow_foregrounds(views.context)
    assert views.fronts() == [("other", 0.7), *USERS_OWN[1:]]


def test_nothing_is_remembered_beyond_the_scene(views: Views) -> None:
    show_map(views.context, map_node=views.map)
    views.context.scene.Clear(0)
    assert not any(composite.GetAttributeNames() for composite in views.composites)
    views.context.add_node("vtkMRMLScalarVolumeNode", name="new")
    follow_foregrounds(views.context)
    show_map(views.context, map_node=None)
    assert views.fronts() == [(None, 0.0)] * 3


def test_saved_scene_remembers_what_is_covered(views: Views, tmp_path: Path) -> None:
    from CovidSegLib.scene import SceneContext

    show_map(views.context, map_node=views.map)
    path = tmp_path / "scene.mrml"
    views.context.scene.SetURL(str(path))
    views.context.scene.SetRootDirectory(str(tmp_path))
    assert views.context.scene.Commit(str(path))
    other = SceneContext.headless()
    for name in ("taken 1", "taken 2", "taken 3"):  # so that loaded nodes get other IDs
        other.add_node("vtkMRMLScalarVolumeNode", name=name)
    other.scene.SetURL(str(path))
    assert other.scene.Import()
    show_map(other, map_node=None)
    loaded = [
        other.scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        for index in range(other.scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode"))
    ]
    fronts = {}
    for composite in loaded:
        node = other.scene.GetNodeByID(composite.GetForegroundVolumeID() or "")
        fronts[composite.GetLayoutName()] = (node and node.GetName(), composite.GetForegroundOpacity())
    assert fronts == dict(zip(("Red", "Yellow", "Green"), USERS_OWN, strict=True))
    other.scene.Clear(1)

"""Scene and module logics, and the terminology that gives segments their display names."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, add_volume

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.errors import CovidSegError  # noqa: E402
from CovidSegLib.results.terminology import TERMINOLOGY, terminology_entry  # noqa: E402
from CovidSegLib.scene import HEADLESS_LOGICS, TERMINOLOGY_CONTEXT, SceneContext  # noqa: E402

pytestmark = pytest.mark.slicer


def test_headless_scene_has_every_logic_registered(context: Any) -> None:
    for name, class_name in HEADLESS_LOGICS.items():
        logic = context.logic(name)
        assert logic.IsA(class_name)
        assert logic.GetMRMLApplicationLogic().GetModuleLogic(name) is logic


def test_outside_the_application_the_current_scene_is_headless() -> None:
    context = SceneContext.current()
    assert context.scene.IsA("vtkMRMLScene")
    assert context.scene is not SceneContext.current().scene


def test_removed_volume_frees_display_node_and_voxels(context: Any) -> None:
    before = context.scene.GetNumberOfNodes()
    volume = add_volume(context, hu_kji=np.zeros((8, 8, 8), dtype=np.int16), matrix=GRIDS["oblique"])
    voxels = vtk.vtkWeakReference()
    voxels.Set(volume.GetImageData())
    context.remove_node(volume)
    del volume
    assert context.scene.GetNumberOfNodes() == before
    assert voxels.Get() is None


def test_headless_start_prints_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    context = SceneContext.headless()
    add_volume(context, hu_kji=np.zeros((8, 8, 8), dtype=np.int16), matrix=GRIDS["oblique"])
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize(
    ("segment_id", "type_name", "modifier", "region"),
    [
        ("left_lung", "Lung", "Left", None),
        ("right_lung", "Lung", "Right", None),
        ("infection", "Inflammation", None, "Lung"),
    ],
)
def test_terminology_resolves_with_display_names(
    context: Any, segment_id: str, type_name: str, modifier: str | None, region: str | None
) -> None:
    terminologies = context.logic("Terminologies")
    entry = slicer.vtkSlicerTerminologyEntry()
    assert terminologies.DeserializeTerminologyEntry(terminology_entry(segment_id), entry)
    for part in (entry.GetCategoryObject(), entry.GetTypeObject(), entry.GetTypeModifierObject()):
        part.SetCodeMeaning(None)  # the words must come from a loaded list, by code
    entry.GetRegionObject().SetCodeMeaning(None)
    assert terminologies.UpdateEntryFromLoadedTerminologies(entry, [], [])
    assert entry.GetTerminologyContextName() == TERMINOLOGY_CONTEXT
    assert entry.GetTypeObject().GetCodeMeaning() == type_name
    assert entry.GetTypeModifierObject().GetCodeMeaning() == modifier
    assert entry.GetRegionObject().GetCodeMeaning() == region
    label = entry.GetTypeModifierObject() if modifier else entry.GetTypeObject()
    assert (
        label.GetSlicerLabel()
        == {
            "left_lung": "left lung",
            "right_lung": "right lung",
            "infection": "COVID-19 infection",
        }[segment_id]
    )


@pytest.mark.parametrize("segment_id", TERMINOLOGY)
def test_each_segment_is_found_in_exactly_our_list(context: Any, segment_id: str) -> None:
    terms = TERMINOLOGY[segment_id]
    names = context.logic("Terminologies").FindTerminologyNames(
        terms.category.scheme,
        terms.category.value,
        terms.type.scheme,
        terms.type.value,
        terms.type_modifier.scheme,
        terms.type_modifier.value,
        [],
        None,
        None,
    )
    assert list(names) == [TERMINOLOGY_CONTEXT]


def test_without_slicer_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slicer", None)
    with pytest.raises(CovidSegError, match=r"pip install 'covidseg\[slicer\]'"):
        SceneContext.current()


def test_in_the_application_its_scene_and_logics_are_used(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        def __init__(self, name: str) -> None:
            self.name = name

        def logic(self) -> Any:
            return context.logic(self.name)

    modules = type("Modules", (), {name.lower(): Module(name) for name in HEADLESS_LOGICS})()
    monkeypatch.setattr(slicer, "mrmlScene", context.scene, raising=False)
    monkeypatch.setattr(slicer, "modules", modules, raising=False)
    current = SceneContext.current()
    assert current.scene is context.scene
    assert current.logic("Segmentations") is context.logic("Segmentations")


def test_item_that_somebody_put_into_a_folder_stays_there(context: Any) -> None:
    volume = add_volume(context, hu_kji=np.zeros((8, 8, 8), dtype=np.int16), matrix=GRIDS["oblique"])
    hierarchy = context.subject_hierarchy()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Mine")
    table = context.add_node("vtkMRMLTableNode", name="results")
    item = hierarchy.CreateItem(folder, table)
    context.place_beside(table, neighbour=volume)
    assert hierarchy.GetItemByDataNode(table) == item
    assert hierarchy.GetItemParent(item) == folder


def test_removing_a_node_twice_or_none_is_fine(context: Any) -> None:
    table = context.add_node("vtkMRMLTableNode", name="results")
    context.remove_node(table)
    context.remove_node(table)
    context.remove_node(None)

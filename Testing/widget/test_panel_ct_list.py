"""The list of CTs offers CTs alone: no map of uncertainty that CovidSeg made, however it came into the scene."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers_panel import Journey, module

pytestmark = pytest.mark.slicer


def offered(selector: Any) -> list[str]:
    """Return the names of the nodes in a list."""
    return [selector.nodeFromIndex(index).GetName() for index in range(selector.nodeCount())]


def journey_with_map(host: Any) -> Journey:
    journey = Journey(host)
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    return journey


def map_of(journey: Journey) -> Any:
    return journey.segmentation.GetNodeReference("CovidSeg.uncertainty")


def test_map_is_not_offered_after_the_run_and_the_ct_stays_chosen(host: Any) -> None:
    journey = journey_with_map(host)
    assert map_of(journey) is not None
    assert offered(journey.ui.inputVolumeSelector) == [journey.volume.GetName()]
    assert journey.ui.inputVolumeSelector.currentNode() is journey.volume
    assert journey.parameters.inputVolume is journey.volume


def test_map_cannot_be_chosen_in_the_list(host: Any) -> None:
    journey = journey_with_map(host)
    journey.ui.inputVolumeSelector.setCurrentNode(map_of(journey))
    assert journey.parameters.inputVolume is None
    assert journey.ui.segmentButton.toolTip == "Load a chest CT and choose it above."


def test_phantom_of_the_sample_data_comes_on_show_fitted_into_the_views(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = Journey(host)
    samples = module("scenes.samples")
    monkeypatch.setattr(samples, "phantom_ct", lambda: journey.phantom.ct)  # the one offered takes seconds
    (node,) = samples.PhantomMaker()(None)
    red = host.app.layoutManager().sliceWidget("Red")
    assert red.mrmlSliceCompositeNode().GetBackgroundVolumeID() == node.GetID()
    assert max(red.mrmlSliceNode().GetFieldOfView()[:2]) >= 360.0, "72 voxels of 5 mm"


def test_ct_that_comes_later_is_offered_beside_the_first(host: Any) -> None:
    journey = journey_with_map(host)
    second = journey.add_ct(seed=2)
    assert offered(journey.ui.inputVolumeSelector) == [journey.volume.GetName(), second.GetName()]


def test_map_of_a_loaded_scene_is_not_offered(host: Any, tmp_path: Path) -> None:
    journey = journey_with_map(host)
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_scene()
    host.load_scene(path)
    journey.settle()
    assert map_of(journey) is not None
    assert offered(journey.ui.inputVolumeSelector) == [journey.parameters.inputVolume.GetName()]


def test_ct_of_the_next_scene_is_offered_though_it_has_the_id_of_the_last_ones_map(host: Any) -> None:
    journey = journey_with_map(host)
    map_id = map_of(journey).GetID()
    host.close_scene()
    assert list(journey.ui.inputVolumeSelector.sortFilterProxyModel().hiddenNodeIDs) == []
    cts = [journey.add_ct(), journey.add_ct(seed=2)]
    assert map_id in [ct.GetID() for ct in cts]
    assert offered(journey.ui.inputVolumeSelector) == [ct.GetName() for ct in cts]


def test_panel_that_is_opened_later_does_not_offer_a_map_either(host: Any) -> None:
    journey = journey_with_map(host)
    host.close_panel(journey.widget)
    again = host.open_panel()
    assert offered(again.ui.inputVolumeSelector) == [journey.volume.GetName()]


def test_follow_up_lists_results_and_no_map(host: Any) -> None:
    journey = journey_with_map(host)
    journey.ui.followUpSection.collapsed = False
    table = journey.ui.followUpTable
    names = [[table.item(row, column).text() for column in (0, 2)] for row in range(table.rowCount)]
    assert names == [[journey.volume.GetName(), journey.segmentation.GetName()]]


def test_volume_that_another_module_hides_is_never_chosen_unasked(host: Any) -> None:
    journey = Journey(host, with_ct=False)
    host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "helper").HideFromEditorsOn()
    journey.settle()
    assert journey.parameters.inputVolume is None
    ct = journey.add_ct()
    assert journey.parameters.inputVolume is ct


def test_saved_choice_comes_back_though_the_application_draws_while_it_reads(host: Any, tmp_path: Path) -> None:
    """The progress window of a large scene lets timers run between the nodes."""
    journey = Journey(host)
    chosen = journey.add_ct(seed=2)
    journey.parameters.inputVolume = chosen
    segmentation = journey.run()
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_scene()

    def draw(*_: Any) -> None:
        end = time.monotonic() + 0.06
        while time.monotonic() < end:
            host.process_events()

    tag = host.scene.AddObserver(host.scene.NodeAddedEvent, draw)
    host.load_scene(path)
    host.scene.RemoveObserver(tag)
    journey.settle()
    assert journey.parameters.inputVolume.GetName() == chosen.GetName()
    assert journey.parameters.segmentation.GetName() == segmentation.GetName()


def test_chosen_result_is_shown_over_its_own_ct_and_alone(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    second_ct = journey.add_ct(seed=2)
    journey.parameters.inputVolume = second_ct
    second = journey.run()
    composite = host.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()

    def shown() -> list[Any]:
        visible = [node.GetDisplayNode().GetSegmentVisibility("infection") for node in (first, second)]
        return [host.scene.GetNodeByID(composite.GetBackgroundVolumeID()), *map(bool, visible)]

    assert shown() == [second_ct, False, True]
    journey.parameters.segmentation = first
    assert shown() == [journey.volume, True, False]
    journey.parameters.inputVolume = second_ct
    assert shown() == [second_ct, False, True]


def test_saved_scene_is_shown_as_it_was_saved(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run().GetDisplayNode().SetSegmentVisibility("left_lung", False)
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_scene()
    host.load_scene(path)
    journey.settle()
    assert not journey.segmentation.GetDisplayNode().GetSegmentVisibility("left_lung")

"""The map of uncertainty covers what the user has in front of the CT; switched off, that is there again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers_panel import Journey

pytestmark = pytest.mark.slicer

USERS_OWN = {"Red": ("PET", 0.5), "Yellow": ("PET", 0.25), "Green": (None, 0.0)}
COVERED = dict.fromkeys(USERS_OWN, ("CovidSegPhantom uncertainty", 0.4))


def composite(host: Any, view: str) -> Any:
    return host.app.layoutManager().sliceWidget(view).mrmlSliceCompositeNode()


def fronts(host: Any) -> dict[str, tuple[str | None, float]]:
    """Return name and opacity of what lies in front of the CT in each slice view."""
    found = {}
    for view in host.app.layoutManager().sliceViewNames():
        node = host.scene.GetNodeByID(composite(host, view).GetForegroundVolumeID() or "")
        found[view] = (node and node.GetName(), composite(host, view).GetForegroundOpacity())
    return found


def map_of(journey: Journey) -> Any:
    return journey.segmentation.GetNodeReference("CovidSeg.uncertainty")


@pytest.fixture
def journey(host: Any) -> Journey:
    """A result whose map was laid over the slices, in two of which the user had a volume in front."""
    journey = Journey(host)
    journey.volume.SetName("CovidSegPhantom")
    pet = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "PET")
    for view, (name, opacity) in USERS_OWN.items():
        composite(host, view).SetForegroundVolumeID(pet.GetID() if name else None)
        composite(host, view).SetForegroundOpacity(opacity)
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    assert fronts(host) == COVERED
    return journey


def test_users_volumes_come_back_when_the_map_is_switched_off(journey: Journey) -> None:
    for expected in (USERS_OWN, COVERED, USERS_OWN):
        journey.ui.uncertaintyMapCheckBox.click()
        assert fronts(journey.host) == expected


def test_users_volumes_come_back_when_the_panel_is_closed(journey: Journey) -> None:
    journey.host.close_panel(journey.widget)
    assert fronts(journey.host) == USERS_OWN
    again = journey.host.open_panel()
    assert not again.ui.uncertaintyMapCheckBox.checked
    again.ui.uncertaintyMapCheckBox.click()
    assert fronts(journey.host) == COVERED


def test_other_module_on_show_leaves_the_map_in_front(journey: Journey) -> None:
    journey.widget.exit()
    assert fronts(journey.host) == COVERED


def test_users_volumes_come_back_when_the_map_is_deleted(journey: Journey) -> None:
    journey.host.scene.RemoveNode(map_of(journey))
    journey.settle()
    assert fronts(journey.host) == USERS_OWN
    assert not journey.ui.uncertaintyMapCheckBox.checked


def test_volume_that_was_deleted_meanwhile_does_not_come_back(journey: Journey) -> None:
    journey.host.scene.RemoveNode(journey.host.scene.GetFirstNodeByName("PET"))
    journey.settle()
    assert fronts(journey.host) == COVERED
    journey.ui.uncertaintyMapCheckBox.click()
    assert {name for name, _opacity in fronts(journey.host).values()} == {None}


def test_volume_that_the_user_puts_in_front_meanwhile_stays(journey: Journey) -> None:
    front = composite(journey.host, "Green")
    front.SetForegroundVolumeID(journey.host.scene.GetFirstNodeByName("PET").GetID())
    front.SetForegroundOpacity(0.8)
    journey.ui.uncertaintyMapCheckBox.click()
    assert fronts(journey.host) == {**USERS_OWN, "Green": ("PET", 0.8)}


def test_users_volumes_come_back_when_a_run_removes_the_map(journey: Journey) -> None:
    journey.ui.mapUncertaintyCheckBox.checked = False
    journey.run()
    assert map_of(journey) is None
    assert fronts(journey.host) == USERS_OWN


def test_map_goes_when_a_result_without_one_is_chosen(journey: Journey) -> None:
    with_map = journey.segmentation
    journey.parameters.segmentation = None  # as "new segmentation" is
    journey.settle()
    assert fronts(journey.host) == USERS_OWN
    assert not journey.ui.uncertaintyMapCheckBox.checked
    journey.parameters.segmentation = with_map
    journey.settle()
    assert fronts(journey.host) == USERS_OWN
    journey.ui.uncertaintyMapCheckBox.click()
    assert fronts(journey.host) == COVERED


def test_undone_run_covers_the_volumes_again_and_still_gives_them_back(journey: Journey) -> None:
    journey.ui.mapUncertaintyCheckBox.checked = False
    journey.run()
    journey.ui.undoRunButton.click()
    assert set(fronts(journey.host).values()) == {(map_of(journey).GetName(), 0.4)}
    journey.ui.uncertaintyMapCheckBox.click()
    assert fronts(journey.host) == USERS_OWN


def test_nothing_of_a_closed_scene_comes_back(journey: Journey) -> None:
    host = journey.host
    host.close_scene()
    assert set(fronts(host).values()) == {(None, 0.0)}
    journey.volume = None
    journey.add_ct()
    journey.settle()
    assert {name for name, _opacity in fronts(host).values()} == {None}


def test_scene_saved_with_the_map_in_front_still_gives_the_volumes_back(journey: Journey, tmp_path: Path) -> None:
    host = journey.host
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_scene()
    host.load_scene(path)
    journey.settle()
    assert fronts(host) == COVERED
    journey.ui.uncertaintyMapCheckBox.click()
    assert fronts(host) == USERS_OWN


def test_ct_stored_with_an_offset_is_shown_in_the_lung_window(host: Any) -> None:
    """Else lungs and body would be white."""
    import slicer

    journey = Journey(host)
    slicer.util.arrayFromVolume(journey.volume)[:] += 1024
    journey.volume.Modified()
    truth = journey.engine

    def engine(ct: Any, **options: Any) -> Any:
        result = truth(ct, **options)
        return SimpleNamespace(**vars(result), report=result.report, hu_kji=ct.hu_kji - 1024)

    journey.widget.logic._engine = engine
    journey.run()
    display = journey.volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == pytest.approx((1500.0, 424.0), abs=0.1)

"""A result that comes as a file, from a batch or the command line: its CT is found, it is measured and corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.segmentation_file import write_seg_nrrd
from helpers_panel import Journey, edit_segment

pytestmark = pytest.mark.slicer


def load_result(journey: Journey, folder: Path, *, phantom: Any) -> Any:
    """Load the true segments of a phantom as `covidseg segment` writes them."""
    path = folder / "segmentation.seg.nrrd"
    write_seg_nrrd(path, labelmap_kji=phantom.labelmap_kji, geometry=phantom.ct.geometry)
    return journey.widget.logic.loadSegmentation(path)


def test_result_of_a_batch_is_measured_and_corrected_once_it_is_chosen(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    node = load_result(journey, tmp_path, phantom=journey.phantom)
    journey.settle()
    assert journey.segmentation is None, "nobody has chosen it"
    journey.parameters.segmentation = node
    journey.wait_for_figures()
    figures = journey.panel.results.figures
    assert figures.current["poi_percent"] == pytest.approx(journey.phantom.truth.poi_percent)
    journey.ui.editInfectionButton.click()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    assert figures.current["poi_percent"] == 0.0
    assert figures.current["regions"]["lungs"]["volume_ml"] == pytest.approx(journey.phantom.truth.lung_ml)


def test_result_chosen_before_its_ct_is_loaded_is_measured_when_it_comes(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    phantom = journey.phantom
    node = load_result(journey, tmp_path, phantom=phantom)
    host.scene.RemoveNode(journey.volume)
    journey.parameters.segmentation = node
    journey.settle()
    assert "The CT of this segmentation is not in the scene. Load it" in journey.panel.results.figures.problem
    journey.volume = None
    journey.add_ct(seed=1)
    journey.wait_for_figures()
    assert journey.parameters.inputVolume is journey.volume and journey.segmentation is node
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(phantom.truth.poi_percent)


def test_ct_of_a_chosen_result_is_chosen_with_it(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    volume, phantom = journey.volume, journey.phantom
    other = journey.add_ct(seed=2)
    other.SetOrigin(*(coordinate + 0.4 for coordinate in other.GetOrigin()))
    journey.parameters.inputVolume = other
    journey.parameters.segmentation = load_result(journey, tmp_path, phantom=phantom)
    journey.wait_for_figures()
    assert journey.parameters.inputVolume is volume


def test_oddities_of_its_ct_are_told_and_stay_told_after_an_edit(host: Any, tmp_path: Path) -> None:
    import slicer

    journey = Journey(host)
    slicer.util.arrayFromVolume(journey.volume)[:] += 1024
    journey.volume.GetImageData().Modified()
    journey.parameters.segmentation = load_result(journey, tmp_path, phantom=journey.phantom)
    journey.wait_for_figures()
    figures = journey.panel.results.figures
    told = [warning for warning in figures.warnings if "stored with an offset" in warning]
    assert len(told) == 1
    assert figures.current["regions"]["lungs"]["hu"]["mean"] < -500
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    assert [warning for warning in figures.warnings if "stored with an offset" in warning] == told

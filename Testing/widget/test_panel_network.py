"""The panel over the real engine: pipeline, bundle and network, on real MRML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.phantom import make_phantom
from helpers_bundle import write_tiny_bundle
from helpers_panel import Journey, phantom_of

pytestmark = pytest.mark.slicer

COARSE_MM = (6.0, 6.0, 8.0)


def with_real_engine(host: Any, bundle: Path | None) -> Journey:
    """Return a journey that segments with the network of a bundle, the shipped one if None."""
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.dependencies import load_packages
    from CovidSegLib.pipeline import segment

    load_packages()
    journey = Journey(host)
    journey.widget.logic._engine = segment
    journey.panel.place._bundle = load_bundle(bundle)
    return journey


def press_and_wait(journey: Journey, *, timeout_s: float) -> Any:
    journey.ui.segmentButton.click()
    journey.host.wait_until(lambda: not journey.panel.place.runner.busy, timeout_s=timeout_s, what="the network")
    journey.wait_for_figures()
    return journey.segmentation


def test_network_of_a_bundle_gives_what_the_pipeline_gives(host: Any, tmp_path: Path) -> None:
    from CovidSegLib.pipeline import segment
    from CovidSegLib.scenes.segments import segment_mask
    from CovidSegLib.scenes.uncertainty import find_map, map_array

    ct = phantom_of(1).ct
    folder = write_tiny_bundle(tmp_path / "bundle", ct=ct, spacing_ijk_mm=COARSE_MM)
    journey = with_real_engine(host, folder)
    journey.ui.mapUncertaintyCheckBox.checked = True
    segmentation = press_and_wait(journey, timeout_s=60)
    assert journey.status.startswith("Done in"), journey.status
    expected = segment(ct, bundle=folder, device="cpu", uncertainty=True)
    infection_kji = segment_mask(segmentation, segment_id="infection", volume_node=journey.volume)
    np.testing.assert_array_equal(infection_kji, expected.labelmap == 3)
    assert expected.uncertainty is not None
    assert expected.uncertainty.any()
    np.testing.assert_array_equal(map_array(find_map(segmentation)), expected.uncertainty)
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(expected.quantities.poi_percent)
    assert "reckoned from the last run" in journey.ui.deviceStatusLabel.toolTip


def test_network_is_cancelled_between_patches(host: Any, tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", ct=phantom_of(1).ct, spacing_ijk_mm=(2.0, 2.0, 3.0))
    journey = with_real_engine(host, folder)
    journey.ui.segmentButton.click()
    host.wait_until(lambda: "Patch" in journey.ui.progressBar.text, timeout_s=60)
    journey.ui.cancelButton.click()
    journey.host.wait_until(lambda: not journey.panel.place.runner.busy, timeout_s=60)
    assert journey.status == "Cancelled. The scene is as it was."
    assert journey.segmentation is None


@pytest.mark.slow
def test_shipped_bundle_finds_the_phantoms_infection(host: Any) -> None:
    """The demo's phantom at full size through the shipped network, within the demo's tolerance."""
    from CovidSegLib.commands.demo import DEMO_INFECTION_PERCENT, DEMO_SEED, POI_TOLERANCE
    from CovidSegLib.scenes.samples import add_ct_volume

    journey = with_real_engine(host, None)
    phantom = make_phantom(seed=DEMO_SEED, infection_percent=DEMO_INFECTION_PERCENT)
    journey.parameters.inputVolume = add_ct_volume(host.context, ct=phantom.ct, name="demo")
    press_and_wait(journey, timeout_s=900)
    poi = journey.panel.results.figures.current["poi_percent"]
    assert poi == pytest.approx(phantom.truth.poi_percent, abs=POI_TOLERANCE)

"""A CT in, labels and numbers out: on its own grid, whatever its storage; refused, stopped and warned as promised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.bundle import Bundle, load_bundle
from CovidSegLib.errors import Cancelled, InputError, ModelError
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.pipeline import segment
from CovidSegLib.progress import Progress
from CovidSegLib.volume import CTVolume
from helpers_model import Sided, threshold_tensors, write_bundle
from helpers_phantom import dice, reordered, reordered_ct, rotated, small_phantom

REPORT_KEYS = [
    "case",
    "poi_percent",
    "regions",
    "composition",
    "severity",
    "geometry",
    "input",
    "model",
    "runtime",
    "warnings",
]


@pytest.fixture(scope="module")
def threshold_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose U-Net makes left lung of air, infection of what is denser, background of tissue."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundles") / "threshold", tensors=threshold_tensors()))


@pytest.fixture(scope="module")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with random weights whose head prefers no class; pieces of any size are kept."""
    folder = tmp_path_factory.mktemp("bundles") / "random"
    recipe = {"min_lung_piece_ml": 0.0, "min_lung_piece_share": 0.0, "min_infection_ml": 0.0}
    return load_bundle(write_bundle(folder, postprocessing=recipe))


@pytest.fixture
def sided_bundle(threshold_bundle: Bundle) -> Bundle:
    """A bundle with a network that knows left from right; for images of one patch, that is mode fast."""
    bundle = replace(threshold_bundle)
    bundle.__dict__["network"] = Sided()
    return bundle


def run(ct: CTVolume, bundle: Bundle, **options: Any) -> Any:
    return segment(ct, bundle=bundle, device="cpu", **({"mode": "fast"} | options))


def test_labelmap_lies_on_the_grid_of_the_ct(threshold_bundle: Bundle) -> None:
    phantom = small_phantom(3)
    before = phantom.ct.hu_kji.copy()
    result = run(phantom.ct, threshold_bundle)
    assert result.labelmap.shape == phantom.ct.hu_kji.shape and result.labelmap.dtype == np.uint8
    assert result.geometry == phantom.ct.geometry
    assert not any("cover only what is shown" in warning for warning in result.warnings)
    assert set(np.unique(result.labelmap)) <= {0, 1, 2, 3}
    assert np.array_equal(phantom.ct.hu_kji, before)
    assert dice(result.labelmap > 0, phantom.labelmap_kji > 0) > 0.9


@pytest.mark.parametrize("mode", ["accurate", "fast"])
def test_lungs_of_a_phantom_are_found_in_both_modes(threshold_bundle: Bundle, mode: str) -> None:
    phantom = small_phantom(7, infection_percent=0.0)
    result = run(phantom.ct, threshold_bundle, mode=mode)
    assert dice(result.labelmap > 0, phantom.lung_side_kji > 0) > 0.9
    assert result.runtime["mode"] == mode


def test_report_has_exactly_the_contracts_keys(threshold_bundle: Bundle) -> None:
    ct = small_phantom(3).ct
    result = run(ct, threshold_bundle)
    report = result.report()
    assert [key for key in report if key != "disclaimer"] == REPORT_KEYS
    assert report["case"] == ct.name
    assert report["input"] == {"fingerprint": ct.fingerprint}
    assert report["model"] == threshold_bundle.to_dict()
    assert {"device", "mode", "seconds", "stages", "peak_memory_mb", "versions"} <= set(report["runtime"])
    assert list(report["runtime"]["stages"]) == ["preprocess", "load", "network", "back", "quantify"]
    assert set(report["regions"]) == {"lungs", "left_lung", "right_lung"}
    assert set(report["severity"]) == {"class", "worse_lung_class", "definition"}
    lungs_ml = np.count_nonzero(result.labelmap) * ct.geometry.voxel_volume_ml
    assert report["regions"]["lungs"]["volume_ml"] == pytest.approx(lungs_ml, abs=0.001)
    json.dumps(report, allow_nan=False)


def test_series_of_a_dicom_is_reported(threshold_bundle: Bundle) -> None:
    ct = replace(small_phantom(3).ct, series="4 LUNG 1.0", warnings=("Few slices.",))
    report = run(ct, threshold_bundle).report()
    assert report["input"]["series"] == "4 LUNG 1.0"
    assert report["warnings"][0] == "Few slices."


def test_left_is_the_patients_left(sided_bundle: Bundle) -> None:
    phantom = small_phantom(3, infection_percent=0.0)
    result = run(phantom.ct, sided_bundle)
    for label in (Label.LEFT_LUNG, Label.RIGHT_LUNG):
        assert dice(result.labelmap == label, phantom.lung_side_kji == label) > 0.9


#: Two turns of the axes and two exchanges, with different flips.
STORAGES = [
    ((1, 2, 0), (False, True, True)),
    ((2, 0, 1), (True, False, True)),
    ((0, 2, 1), (True, True, False)),
    ((2, 1, 0), (True, True, True)),
]


@pytest.mark.parametrize(("order", "flips"), STORAGES)
def test_storage_order_does_not_change_the_labels_even_of_a_random_network(
    random_bundle: Bundle, order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    ct = small_phantom(3).ct
    straight = run(ct, random_bundle)
    stored = reordered_ct(ct, order=order, flips=flips)
    other = run(stored, random_bundle)
    assert other.labelmap.shape == stored.geometry.shape_kji and other.geometry == stored.geometry
    expected = reordered(straight.labelmap, order=order, flips=flips)
    assert straight.labelmap.any()
    for label in np.unique(expected):
        assert dice(other.labelmap == label, expected == label) > 0.999


@pytest.mark.parametrize("flips", [(False, False, True), (True, True, False)])
def test_left_stays_left_in_flipped_storage(sided_bundle: Bundle, flips: tuple[bool, bool, bool]) -> None:
    phantom = small_phantom(3, infection_percent=0.0)
    result = run(reordered_ct(phantom.ct, order=(2, 0, 1), flips=flips), sided_bundle)
    expected = reordered(phantom.lung_side_kji, order=(2, 0, 1), flips=flips)
    for label in (Label.LEFT_LUNG, Label.RIGHT_LUNG):
        assert dice(result.labelmap == label, expected == label) > 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labelmap_keeps_ct_geometry_if_oblique(sided_bundle: Bundle, axis: int) -> None:
    phantom = small_phantom(3, infection_percent=0.0)
    ct = replace(phantom.ct, geometry=rotated(phantom.ct.geometry, degrees=25.0, axis=axis))
    result = run(ct, sided_bundle)
    assert result.geometry == ct.geometry
    assert np.array_equal(result.labelmap, run(phantom.ct, sided_bundle).labelmap)


def test_missing_lung_is_a_result_with_null_and_a_warning(threshold_bundle: Bundle) -> None:
    # This network knows the left lung only.
    phantom = small_phantom(3, missing_lung="right", infection_percent=0.0)
    report = run(phantom.ct, threshold_bundle).report()
    assert report["regions"]["right_lung"]["poi_percent"] is None
    assert report["regions"]["left_lung"]["poi_percent"] is not None
    assert any("right lung" in warning.lower() for warning in report["warnings"])


@pytest.mark.parametrize("kind", ["image", "padding"])
def test_cropped_field_of_view_is_warned_about(kind: str, threshold_bundle: Bundle) -> None:
    ct = small_phantom(3).ct
    values = ct.hu_kji.copy()
    if kind == "image":
        values = np.ascontiguousarray(values[:, :, 24:-24])
    else:
        values[:, :, :24] = values[:, :, -24:] = -1024
    k, j, i = values.shape
    result = run(CTVolume(values, Geometry((i, j, k), (4.0, 3.9, 5.0)), "cut", "sha256:0"), threshold_bundle)
    assert any("field of view is cropped" in warning for warning in result.warnings)
    assert not any("cropped" in warning for warning in run(ct, threshold_bundle).warnings)


def test_scan_that_ends_within_the_lungs_is_warned_about(threshold_bundle: Bundle) -> None:
    whole = small_phantom(3).ct
    k, j, i = whole.hu_kji[34:].shape
    cut = replace(whole, hu_kji=whole.hu_kji[34:], geometry=replace(whole.geometry, size_ijk=(i, j, k)))
    (warning,) = run(cut, threshold_bundle).warnings
    assert "reach the first or the last slice" in warning and "cover only what is shown" in warning


def test_grey_and_offset_cts_are_segmented_with_a_warning(threshold_bundle: Bundle) -> None:
    ct = small_phantom(3).ct
    straight = run(ct, threshold_bundle)
    grey = np.rint((np.clip(ct.hu_kji, -1250.0, 250.0) + 1250) * 255 / 1500).astype(np.uint8)
    for values, words in ((grey, "8-bit grey"), ((ct.hu_kji + 1024).astype(np.int16), "offset")):
        result = run(replace(ct, hu_kji=values), threshold_bundle)
        assert any(words in warning for warning in result.warnings)
        assert dice(result.labelmap > 0, straight.labelmap > 0) > 0.97
        assert np.abs(result.hu_kji.astype(float) - np.clip(ct.hu_kji, -1250, 250))[ct.hu_kji < 250].max() < 4


def test_progress_goes_through_the_stages_in_order(threshold_bundle: Bundle) -> None:
    seen: list[Progress] = []
    run(small_phantom(3).ct, threshold_bundle, mode="accurate", progress=seen.append)
    stages = list(dict.fromkeys(step.stage for step in seen))
    assert stages == ["preprocess", "network", "back", "quantify"]
    patches = [step.done for step in seen if step.stage == "network"]
    assert patches == list(range(patches[-1] + 1))


def test_cancel_at_any_step_leaves_nothing(threshold_bundle: Bundle, tmp_path: Path) -> None:
    ct = small_phantom(3).ct
    steps = list[Progress]()
    run(ct, threshold_bundle, progress=steps.append)
    for stop_at in {0, 1, len(steps) // 2, len(steps) - 1}:
        seen = list[Progress]()
        with pytest.raises(Cancelled):
            run(ct, threshold_bundle, progress=seen.append, cancelled=lambda n=stop_at, s=seen: len(s) >= n)
        assert seen == steps[:stop_at]


def test_two_runs_give_the_same_labels_and_numbers(random_bundle: Bundle) -> None:
    ct = small_phantom(3).ct
    first, second = run(ct, random_bundle), run(ct, random_bundle)
    assert np.array_equal(first.labelmap, second.labelmap)
    assert first.quantities == second.quantities


def test_unknown_mode_is_refused_before_any_work(threshold_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="mode must be one of accurate, fast, not 'quick'"):
        run(small_phantom(3).ct, threshold_bundle, mode="quick")


@pytest.mark.parametrize("name", ["bottle", "no"])  # the message begins with "no"
def test_no_lungs_error_names_the_case(threshold_bundle: Bundle, name: str) -> None:
    water = CTVolume(np.zeros((20, 30, 30), np.int16) - 5, Geometry((30, 30, 20), (5.0,) * 3), name, "sha256:0")
    with pytest.raises(InputError, match=rf"^{name}: no lungs found: is this a chest CT in HU\?"):
        run(water, threshold_bundle)


def test_network_that_finds_nothing_is_an_error_that_names_the_case(threshold_bundle: Bundle) -> None:
    class Nothing(Sided):
        def forward(self, x: Any) -> Any:
            return super().forward(x * 0 + 1)

    bundle = replace(threshold_bundle)
    bundle.__dict__["network"] = Nothing()
    ct = small_phantom(3).ct
    with pytest.raises(InputError, match=f"^{ct.name}: no lungs found"):
        run(ct, bundle)


def test_missing_bundle_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model bundle"):
        segment(small_phantom(3).ct, bundle=tmp_path)


def test_bundle_may_be_a_folder(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "threshold", tensors=threshold_tensors())
    assert segment(small_phantom(3).ct, bundle=folder, device="cpu", mode="fast").model["name"] == "threshold"


def test_read_only_and_float_input_is_accepted(threshold_bundle: Bundle) -> None:
    ct = small_phantom(3).ct
    values = ct.hu_kji.astype(np.float32)
    values.flags.writeable = False
    result = run(replace(ct, hu_kji=values), threshold_bundle)
    assert np.array_equal(result.labelmap, run(ct, threshold_bundle).labelmap)

"""How long a run will take: the glance against the run's own grid, counting, and arithmetic known by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from CovidSegLib import patch_predictor
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.expected_time import (
    CT_S,
    GRID_S,
    LOAD_S,
    SCENE_CT_S,
    SCENE_S,
    Processor,
    Rates,
    Work,
    first_rates,
    network_shape,
    planned_work,
)
from CovidSegLib.geometry import Geometry
from CovidSegLib.inference import MODES, TILINGS, patch_count
from CovidSegLib.patch_predictor import precision_on
from CovidSegLib.phantom import make_phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from CovidSegLib.volume import CTVolume, read_ct

RECIPE = PreprocessingRecipe()
WORK = Work(patches=4, in_patches=8.0, in_grid=4.0, in_ct=10.0)
PHANTOM = make_phantom(seed=3, size_ijk=(128, 104, 80), spacing_ijk_mm=(3.0, 3.0, 4.0)).ct


def in_patches(shape_kji: tuple[int, ...], *, mode: str) -> float:
    """Return the millions of voxels that a run puts through the network, as MONAI counts them."""
    tiling = TILINGS[mode].fitted_to(shape_kji)
    return float(patch_count(shape_kji, tiling=tiling) * np.prod(tiling.patch_kji)) / 1e6


def assert_glance_is_near(ct: CTVolume) -> None:
    shape = network_shape(ct.hu_kji, geometry=ct.geometry, recipe=RECIPE)
    real = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=RECIPE).image_kji.shape
    for mode in MODES:
        ratio = planned_work(shape, mode=mode, ct_voxels=1).in_patches / in_patches(real, mode=mode)
        assert 1 / 1.5 <= ratio <= 1.5, (mode, shape, real)


def test_glance_plans_the_patches_of_the_run() -> None:
    assert_glance_is_near(PHANTOM)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["cap001", "normal001", "ricord_covid", "tumour_5mm_soft"])
def test_glance_plans_the_patches_of_the_run_on_real_cts(data_dir: Path, name: str) -> None:
    assert_glance_is_near(read_ct(data_dir / "ct" / f"{name}.nii.gz"))


def test_glance_follows_the_patients_axes() -> None:
    """The same chest stored with its axes swapped and flipped is planned alike."""
    g = PHANTOM.geometry
    i, j, k = g.direction_matrix.T
    swapped = Geometry(
        size_ijk=(g.size_ijk[2], g.size_ijk[0], g.size_ijk[1]),
        spacing_ijk_mm=(g.spacing_ijk_mm[2], g.spacing_ijk_mm[0], g.spacing_ijk_mm[1]),
        direction_lps=tuple(np.column_stack([-k, i, j]).ravel()),
    )
    values = PHANTOM.hu_kji.transpose(1, 2, 0)[:, :, ::-1]
    assert network_shape(values, geometry=swapped, recipe=RECIPE) == network_shape(
        PHANTOM.hu_kji, geometry=g, recipe=RECIPE
    )


def test_glance_leaves_the_ct_as_it_is_and_takes_stored_offsets() -> None:
    before = PHANTOM.hu_kji.copy()
    expected = network_shape(PHANTOM.hu_kji, geometry=PHANTOM.geometry, recipe=RECIPE)
    np.testing.assert_array_equal(PHANTOM.hu_kji, before)
    offset = np.clip(PHANTOM.hu_kji, -1024, None) + 1024
    assert network_shape(offset, geometry=PHANTOM.geometry, recipe=RECIPE) == expected


def test_glance_at_what_is_no_chest_says_so() -> None:
    with pytest.raises(InputError, match="no lungs found"):
        network_shape(np.full((40, 50, 50), 40, np.int16), geometry=Geometry((50, 50, 40), (4, 4, 4)), recipe=RECIPE)


def test_work_is_known_by_hand() -> None:
    """Accurate: 2 x 2 x 2 patches of 80 x 160 x 160; fast: one tile, rounded up to multiples of 16."""
    accurate = planned_work((110, 172, 240), mode="accurate", ct_voxels=2_000_000)
    assert (accurate.patches, accurate.in_patches) == (8, pytest.approx(8 * 2.048))
    assert (accurate.in_grid, accurate.in_ct) == (pytest.approx(0.110 * 0.172 * 240), 2.0)
    fast = planned_work((110, 172, 240), mode="fast", ct_voxels=2_000_000)
    assert (fast.patches, fast.in_patches) == (1, pytest.approx(0.112 * 0.176 * 240))


def test_seconds_are_those_of_network_rest_and_loading() -> None:
    rest_s = 4.0 * GRID_S + 10.0 * CT_S + SCENE_S + 10.0 * SCENE_CT_S
    assert Rates(0.5).seconds(WORK, loaded=True) == pytest.approx(4.0 + rest_s)
    assert Rates(0.5, rest=2.0).seconds(WORK, loaded=False) == pytest.approx(4.0 + 2.0 * (rest_s + LOAD_S))


def test_measured_rates_predict_the_run_they_come_from() -> None:
    stages_s = {"preprocess": 1.0, "load": 9.0, "network": 6.0, "back": 2.0, "quantify": 0.5}
    rates = Rates.measured(stages_s, work=WORK)
    assert rates is not None
    from_and_to_the_scene_s = rates.rest * WORK.scene_s
    assert rates.seconds(WORK, loaded=True) == pytest.approx(9.5 + from_and_to_the_scene_s), "but for loading"
    assert Rates.from_dict(rates.to_dict()) == rates
    twice = Work(patches=8, in_patches=16.0, in_grid=4.0, in_ct=10.0)
    assert rates.seconds(twice, loaded=True) == pytest.approx(9.5 + 6.0 + from_and_to_the_scene_s)


@pytest.mark.parametrize("stages_s", [{}, {"network": 3.0}, {"preprocess": 1.0, "network": 0.0}])
def test_run_without_seconds_measures_nothing(stages_s: dict[str, float]) -> None:
    assert Rates.measured(stages_s, work=WORK) is None


@pytest.mark.parametrize("network_s", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(network_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Rates.from_dict({"network_s": network_s, "rest": 1.0})


def test_first_estimate_follows_cores_arithmetic_and_width() -> None:
    def network_s(precision: str, *, cores: int = 1, width: int = 16) -> float:
        return first_rates(Processor(cores, precision), width=width).network_s

    one = network_s("bfloat16")
    assert network_s("bfloat16", cores=2) == pytest.approx(one / 2)
    assert network_s("bfloat16", cores=64) == pytest.approx(one / 8)
    assert 4 * one < network_s("bfloat16", width=32) < 5 * one
    assert network_s("float32") > 2 * one
    assert network_s("float32") > 2 * network_s("int8")


@pytest.mark.parametrize("quantized", [True, False])
def test_with_torch_the_first_estimate_is_for_the_precision_of_the_run(quantized: bool) -> None:
    here = Processor.here(quantized=quantized)
    assert here == Processor(torch.get_num_threads(), precision_on("cpu", quantized=quantized))


def test_first_estimate_on_a_processor_whose_integers_are_wrong_is_for_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("gains_from_bfloat16", False), ("gains_from_int8", True)):
        monkeypatch.setattr(patch_predictor, name, lambda _device, answer=answer: answer)
    for exact, precision in ((True, "int8"), (False, "float32")):
        monkeypatch.setattr(patch_predictor, "integers_are_exact", lambda exact=exact: exact)
        assert Processor.here(quantized=True).precision == precision


def test_no_torch_is_imported_and_no_weights_are_read() -> None:
    code = (
        "import sys, numpy as np\n"
        "from CovidSegLib.bundle import load_bundle\n"
        "from CovidSegLib.expected_time import *\n"
        "from CovidSegLib.phantom import make_phantom\n"
        "ct, bundle = make_phantom(seed=1, size_ijk=(72, 60, 40), spacing_ijk_mm=(5.0, 5.0, 7.5)).ct, load_bundle()\n"
        "shape = network_shape(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing)\n"
        "work = planned_work(shape, mode='accurate', ct_voxels=ct.hu_kji.size)\n"
        "here = Processor.here(quantized=bundle.is_quantized)\n"
        "assert first_rates(here, width=16).seconds(work, loaded=False) > 1 and here.cores >= 1\n"
        "assert not {'torch', 'monai', 'safetensors'} & set(sys.modules), 'heavy'\n"
    )
    path = str(Path(load_bundle.__code__.co_filename).parents[1])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=None, cwd=path, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("flags", "quantized", "precision"),
    [
        ("sse avx512_vnni", True, "int8"),
        ("avx_vnni", True, "int8"),
        ("avx_vnni", False, "float32"),
        ("avx512_bf16 avx512_vnni", True, "bfloat16"),
        ("avx2", True, "float32"),
    ],
)
def test_without_torch_the_system_tells_what_the_processor_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, flags: str, quantized: bool, precision: str
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor : 0\nflags : fpu {flags}\n")
    assert Processor.here(quantized=quantized).precision == precision

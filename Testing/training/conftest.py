"""A data folder of phantoms laid out as the real one, and a bundle whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from CovidSegLib.phantom import Phantom, make_phantom
from helpers_download import FakeZenodo, running_zenodo
from helpers_training import SPACING_IJK_MM, threshold_state, write_nifti

from CovidSegTraining.export import export_weights

SIZE = {"size_ijk": (96, 84, 56), "spacing_ijk_mm": (3.8, 3.8, 5.8)}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ill() -> Phantom:
    """A patient with infection."""
    return make_phantom(seed=11, infection_percent=12.0, **SIZE)


@pytest.fixture(scope="session")
def healthy() -> Phantom:
    """A patient without infection."""
    return make_phantom(seed=12, infection_percent=0.0, **SIZE)


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory, ill: Phantom, healthy: Phantom) -> Path:
    """A data folder with every kind of case; the labelled ones know only part of their slices."""
    root = tmp_path_factory.mktemp("phantoms")
    geometry = ill.ct.geometry
    valid = np.ones(ill.labelmap_kji.shape, dtype=np.uint8)
    valid[:6] = valid[-6:] = 0
    for name in ("coronacases_001", "coronacases_003"):
        folder = root / "muller20" / name
        write_nifti(folder / "imaging.nii.gz", ill.ct.hu_kji, geometry=geometry)
        write_nifti(folder / "segmentation.nii.gz", ill.labelmap_kji, geometry=geometry)
        write_nifti(folder / "valid.nii.gz", valid, geometry=geometry)
    for name, mask in (("imlab_001", healthy.lung_side_kji > 0), ("elastix", healthy.lung_side_kji == 2)):
        folder = root / "lungs" / name
        write_nifti(folder / "imaging.nii.gz", healthy.ct.hu_kji, geometry=healthy.ct.geometry)
        write_nifti(folder / "lungs.nii.gz", mask.astype(np.uint8), geometry=healthy.ct.geometry)
    noise = np.random.default_rng(0).normal(0, 5, ill.ct.hu_kji.shape)
    for name, hu in (
        ("normal001", healthy.ct.hu_kji),
        ("chest_a", ill.ct.hu_kji),
        ("tumour_5mm_soft", ill.ct.hu_kji),
        ("tumour_5mm_sharp", (ill.ct.hu_kji + noise).astype(np.int16)),
    ):
        write_nifti(root / "ct" / f"{name}.nii.gz", hu, geometry=geometry)
    return root


@pytest.fixture(scope="session")
def threshold_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that labels by HU, on a coarse grid."""
    folder = tmp_path_factory.mktemp("bundle") / "threshold"
    run = tmp_path_factory.mktemp("run")
    torch.save(threshold_state(), run / "average.pt")
    settings = {
        "network": {"architecture": "unet3d", "width": 2, "classes": 4},
        "preprocessing": {"spacing_ijk_mm": list(SPACING_IJK_MM)},
    }
    (run / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    export_weights(run / "average.pt", bundle_dir=folder)
    return folder


@pytest.fixture
def zenodo() -> Iterator[FakeZenodo]:
    """A running server that downloads are tested against."""
    with running_zenodo() as state:
        yield state

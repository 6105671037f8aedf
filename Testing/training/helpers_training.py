"""Small patients, caches and bundles for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from CovidSegLib.geometry import Geometry
from CovidSegLib.network import NetworkConfig, build_network

from CovidSegTraining.augmentation import AugmentationRecipe
from CovidSegTraining.cache import CachedCase, write_case
from CovidSegTraining.cli import build_parser
from CovidSegTraining.product.label_codes import Code

#: A whole chest is a small image at this spacing.
SPACING_IJK_MM = (4.0, 4.0, 6.0)
#: What `threshold_state` calls aerated lung, and infection.
LUNG_BELOW_HU, INFECTION_BELOW_HU = -650.0, -400.0

#: Augmentation that changes nothing.
NEUTRAL = AugmentationRecipe(
    rotation_deg=0.0,
    scale=(1.0, 1.0),
    anisotropy=0.0,
    elastic_probability=0.0,
    inflation_probability=0.0,
    noise_probability=0.0,
    intensity_probability=0.0,
    blur_probability=0.0,
    sharpen_probability=0.0,
    thick_probability=0.0,
    export_8bit_probability=0.0,
    crop_probability=0.0,
)


def run_command(*arguments: object) -> int:
    """Run a command of `covidseg-train` and return its exit code; errors, which `main` would print, get out."""
    texts = [str(argument) for argument in arguments]
    options = build_parser().parse_args(texts)
    options.command_line = ["covidseg-train", *texts]
    return int(options.command(options))


def threshold_state() -> dict[str, torch.Tensor]:
    """Return weights (width 2) with which the network labels each voxel by its HU alone, all lung as left.

    h = 1 - x = (250 - HU) / 750 passes through the top level; the head's lines in h cross at the thresholds.
    """
    torch.manual_seed(0)
    network = build_network(NetworkConfig(width=2))
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.fill_(1.0 - 1e-3)
        if ".2.weight" in name or ".5.weight" in name:
            tensor.fill_(1.0)
    for name, source, value in (("down.0.0", 0, -1), ("down.0.3", 0, 1), ("up.0.0", 2, 1), ("up.0.3", 0, 1)):
        state[f"{name}.weight"][0, source, 1, 1, 1] = value  # `up.0.0` sees two expanded channels before the skip
    state["down.0.0.bias"][0] = 1.0
    at_infection, at_lung = ((250.0 - hu) / 750.0 for hu in (INFECTION_BELOW_HU, LUNG_BELOW_HU))
    steep = 40.0
    state["head.weight"][:, 0, 0, 0, 0] = torch.tensor([0.0, 2 * steep, 0.0, steep])
    state["head.bias"][:] = torch.tensor([0.0, -steep * (at_infection + at_lung), -100.0, -steep * at_infection])
    return state


def write_nifti(path: Path, array_kji: np.ndarray, *, geometry: Geometry) -> None:
    """Write an image, and the folder for it."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(geometry.to_sitk(np.ascontiguousarray(array_kji)), str(path))


def ball_case(*, seed: int, shape_kji: tuple[int, int, int] = (24, 40, 40)) -> CachedCase:
    """Return tissue with an airy ball on either side (left: high i) and an infected spot in the left one."""
    rng = np.random.default_rng(seed)
    k, j, i = np.indices(shape_kji)
    middle_k, middle_j, width = shape_kji[0] / 2, shape_kji[1] / 2, shape_kji[2]

    def ball(center_i: float, radius: float) -> np.ndarray:
        return (k - middle_k) ** 2 + (j - middle_j) ** 2 + (i - center_i) ** 2 < radius**2

    codes = np.zeros(shape_kji, dtype=np.uint8)
    codes[ball(0.25 * width, 8.0)] = Code.RIGHT_LUNG
    codes[ball(0.75 * width, 8.0)] = Code.LEFT_LUNG
    codes[ball(0.75 * width, 3.5)] = Code.INFECTION
    hu = np.choose(codes, [40, -850, -850, -300]) + rng.normal(0, 10, shape_kji)
    return CachedCase(hu_kji=hu.astype(np.int16), codes_kji=codes, weight=1.0)


def write_ball_cache(folder: Path, *, count: int = 2) -> Path:
    """Write a cache of `ball_case`s."""
    folder.mkdir(parents=True)
    for n in range(count):
        write_case(folder / f"ball_{n}.npz", ball_case(seed=n))
    return folder

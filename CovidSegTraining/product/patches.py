"""Training patches of the product recipe: drawn from prepared cases, deformed and degraded at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from CovidSegLib.errors import InputError
from CovidSegLib.preprocess import PreprocessingRecipe, unit_window

from ..augmentation import degrade, sample_patch
from ..cache import case_files, preparation_of, read_case
from ..data import refuse_measured_only
from .centers import PatchCenters, has_centers
from .fit_config import FitConfig, Stage
from .lesions import paint_lesions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case on the network's grid: HU int16 and label codes uint8, both (k, j, i)."""

    name: str
    hu_kji: np.ndarray
    codes_kji: np.ndarray
    weight: float


def load_cases(folder: Path, *, preprocessing: PreprocessingRecipe | None = None) -> list[TrainingCase]:
    """Return the cases of a cache folder written by `prepare`.

    Args:
        folder: The cache.
        preprocessing: How the cases must have been prepared, as far as they record it; None accepts any.

    Raises:
        InputError: There are none; one is damaged, measured only, prepared in another way, or has nothing to teach; or
            all have weight 0.
    """
    wanted = None if preprocessing is None else preparation_of(preprocessing)
    cases = []
    for path in case_files(folder):
        refuse_measured_only(Path(path.name))
        cached = read_case(path)
        # The run records this preprocessing as its network's input; weights learnt on another grid would be worthless.
        if wanted is not None and cached.preprocessing not in ("", wanted):
            raise InputError(
                f"{path}: prepared with other settings ({cached.preprocessing}) than fit.preprocessing ({wanted}); "
                "give the --config it was prepared with, or run 'covidseg-train prepare' with this one"
            )
        if not has_centers(cached.codes_kji):
            raise InputError(
                f"{path}: no voxel is known to be lung or background, so that there is nothing to learn; correct the "
                "case's labels and run 'covidseg-train prepare' again, or delete this file"
            )
        cases.append(TrainingCase(path.stem, cached.hu_kji, cached.codes_kji, cached.weight))
    if not cases:
        raise InputError(f"no prepared cases in {folder}: run 'covidseg-train prepare' first")
    if not any(case.weight > 0 for case in cases):
        raise InputError(
            f"{folder}: all cases have weight 0, so that none would be drawn; give some a weight above 0 under 'data' "
            "of the settings, and run 'covidseg-train prepare' again"
        )
    return cases


@dataclass(frozen=True)
class Batch:
    """Patches for one step.

    Attributes:
        image: (batch, 1, k, j, i) float32, the network's input in [-1, 1].
        codes: (batch, k, j, i) uint8 of `Code`.
        other: Like `image`: the same patches without the changes to slices, kernel, noise and field of view. In some
            patches the two are exchanged (`FitConfig.exchange_share`).
        shown: (batch, k, j, i) bool, false where a cropped field of view hides something in one of the two.
    """

    image: torch.Tensor
    codes: torch.Tensor
    other: torch.Tensor
    shown: torch.Tensor


class PatchSampler:
    """Draws random batches: a case by its weight, everything else by the settings."""

    def __init__(self, cases: list[TrainingCase], *, config: FitConfig, rng: np.random.Generator) -> None:
        import torch

        device = torch.device(config.device)
        self.config, self.rng = config, rng
        self.hu = [torch.from_numpy(c.hu_kji.astype(np.float32)).to(device) for c in cases]
        self.codes = [torch.from_numpy(c.codes_kji).to(device) for c in cases]
        self.centers = [PatchCenters(c.codes_kji, hu_kji=c.hu_kji, air_below_hu=config.air_below_hu) for c in cases]
        self.weights = np.array([c.weight for c in cases]) / sum(c.weight for c in cases)

    def batch(self, stage: Stage) -> Batch:
        """Return the next random batch."""
        import torch

        config, outside_hu = self.config, self.config.preprocessing.outside_hu
        images, labels, others, shown = [], [], [], []
        for _ in range(stage.batch):
            clean = self._patch(stage)
            degraded = degrade(*clean, recipe=config.augmentation, outside_hu=outside_hu, rng=self.rng)
            exchanged = config.exchange_share > 0 and self.rng.random() < config.exchange_share
            (hu, codes), (other_hu, _) = (clean, degraded) if exchanged else (degraded, clean)
            images.append(hu)
            labels.append(codes)
            others.append(other_hu)
            shown.append(degraded[1] == clean[1])  # nothing but a cropped field of view changes codes
        return Batch(
            image=self._network_input(images),
            codes=torch.stack(labels),
            other=self._network_input(others),
            shown=torch.stack(shown),
        )

    def _patch(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HU and codes (k, j, i) of a deformed patch, now and then with painted lesions."""
        config = self.config
        spacing_kji_mm = config.preprocessing.spacing_ijk_mm[::-1]
        n = int(self.rng.choice(len(self.hu), p=self.weights))
        hu, codes = sample_patch(
            self.hu[n],
            self.codes[n],
            center_kji=self.centers[n].draw(
                patch_kji=stage.patch_kji, infection_share=config.infection_share, rng=self.rng
            ),
            patch_kji=stage.patch_kji,
            spacing_kji_mm=spacing_kji_mm,
            recipe=config.augmentation,
            outside_hu=config.preprocessing.outside_hu,
            rng=self.rng,
        )
        return paint_lesions(hu, codes, spacing_kji_mm=spacing_kji_mm, recipe=config.lesions, rng=self.rng)

    def _network_input(self, patches_hu: list[torch.Tensor]) -> torch.Tensor:
        import torch

        window_hu = self.config.preprocessing.window_hu
        image = unit_window(torch.stack(patches_hu).clamp(*window_hu), window_hu=window_hu)
        return image[:, None].contiguous(memory_format=torch.channels_last_3d)

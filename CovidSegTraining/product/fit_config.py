"""Settings of a training run: the product recipe's defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from CovidSegLib.network import NetworkConfig
from CovidSegLib.preprocess import PreprocessingRecipe

from ..augmentation import AugmentationRecipe
from .lesions import LesionRecipe


@dataclass(frozen=True)
class Stage:
    """Part of a training run with patches of one size; `until` is the share of the run at which it ends."""

    until: float
    patch_kji: tuple[int, int, int]
    batch: int


@dataclass(frozen=True)
class FitConfig:
    """Settings of the product recipe.

    Attributes:
        steps: Optimisation steps; `minutes`, if given, ends the run earlier. The learning rate and
            the stages follow whichever is further on.
        freeze_norm_from: Share of the run after which batch normalisation uses fixed statistics, as it
            will in use; patches are too few per batch, and too different, for the two to agree by themselves.
        infection_share: Share of patches centred on an infected voxel, in cases that have some.
        air_below_hu: Background darker than this is airway, bowel gas or stomach: what a network takes for lung.
        air_weight: Of such voxels in the cross-entropy, where others weigh 1.
        infection_weight: Of infected voxels there: few as they are, they would be called too rarely.
        consistency_weight: Of the divergence from what the averaged weights say of the patches' other state, mostly the
            undegraded one (`losses.consistency_loss`); costs a third of a step's time if it is not 0.
        consistency_from: Share of the run before which it does not count: the averaged weights know too little yet.
        exchange_share: Share of patches, in the whole run, that are learnt undegraded, with the averaged weights asked
            about the degraded ones: what is found in soft images only shall be found in sharp ones, too.
        teacher: SHA-256 of the weights of a bundle that teaches in place of the averaged weights; "" if none does.
        bfloat16: Compute in it where the hardware is faster for it; elsewhere in float32, as if it were false.
    """

    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(width=16))
    preprocessing: PreprocessingRecipe = field(default_factory=PreprocessingRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    lesions: LesionRecipe = field(default_factory=LesionRecipe)
    stages: tuple[Stage, ...] = (Stage(0.28, (32, 96, 96), 2), Stage(1.0, (48, 112, 144), 1))
    steps: int = 100_000
    minutes: float | None = None
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: float = 0.03
    infection_share: float = 0.4
    air_below_hu: float = -500.0
    air_weight: float = 4.0
    infection_weight: float = 2.5
    consistency_weight: float = 25.0
    consistency_from: float = 0.5
    exchange_share: float = 0.5
    ema_decay: float = 0.995
    freeze_norm_from: float = 0.7
    seed: int = 0
    teacher: str = ""
    device: str = "cpu"
    bfloat16: bool = True
    save_every_s: float = 120.0

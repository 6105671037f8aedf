"""Which values of the product's settings are possible, and with which a run may be continued."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from CovidSegLib.errors import InputError, ModelError
from CovidSegLib.labels import Label
from CovidSegLib.network import SIZE_MULTIPLE, NetworkConfig
from CovidSegLib.preprocess import PreprocessingRecipe

from ..augmentation import AugmentationRecipe
from ..data import DataConfig
from ..networks import WIDEST
from ..settings import SEEDS_BELOW, first_difference, is_range
from .fit_config import FitConfig, Stage
from .lesions import LesionRecipe

if TYPE_CHECKING:
    from CovidSegLib.bundle import Bundle

    from .recipe import Settings

Condition = tuple[str, bool, str]

_SHARE = "0 to 1"
_NOT_NEGATIVE = "0 or above"
#: Settings that a run may be continued with other ones of.
_MAY_CHANGE = ("steps", "minutes", "device", "bfloat16", "save_every_s")


def conditions(settings: Settings) -> Iterator[Condition]:
    """Give key, whether its value is possible, and what it must be. Comparisons with a NaN are false: refused."""
    yield from _data_conditions(settings.data)
    yield from _network_conditions(settings.fit.network)
    yield from _preprocessing_conditions(settings.fit.preprocessing)
    yield from _augmentation_conditions(settings.fit.augmentation)
    yield from _lesion_conditions(settings.fit.lesions)
    yield from _stage_conditions(settings.fit.stages)
    yield from _training_conditions(settings.fit)


def _data_conditions(data: DataConfig) -> Iterator[Condition]:
    weights: dict[str, float] = {}
    if data.labelled is not None:
        weights |= {"labelled.weight": data.labelled.weight, "labelled.weak_weight": data.labelled.weak_weight}
    weights |= {f"whole_chests[{n}].weight": chest.weight for n, chest in enumerate(data.whole_chests)}
    weights |= {f"lungs[{n}].weight": mask.weight for n, mask in enumerate(data.lungs)}
    weights["phantoms.weight"] = data.phantoms.weight
    yield from _not_negative("data", weights)
    yield "data.phantoms.count", data.phantoms.count >= 0, _NOT_NEGATIVE
    yield "data.phantoms.first_seed", data.phantoms.first_seed >= 0, _NOT_NEGATIVE


def _network_conditions(network: NetworkConfig) -> Iterator[Condition]:
    yield "fit.network.architecture", network.architecture == "unet3d", "unet3d"
    yield "fit.network.width", 1 <= network.width <= WIDEST, f"1 to {WIDEST}"
    yield "fit.network.classes", network.classes == len(Label), f"{len(Label)}: background, both lungs, infection"


def _preprocessing_conditions(recipe: PreprocessingRecipe) -> Iterator[Condition]:
    key = "fit.preprocessing"
    yield f"{key}.spacing_ijk_mm", all(0 < mm <= 100 for mm in recipe.spacing_ijk_mm), "above 0 and at most 100 each"
    lower, upper = recipe.window_hu
    yield f"{key}.window_hu", is_range(recipe.window_hu) and lower < upper, "two numbers, the lower first"
    yield f"{key}.outside_hu", abs(recipe.outside_hu) < 1e6, "a value in HU"
    yield f"{key}.kernel_voxels", 1 <= recipe.kernel_voxels <= 4, "1 to 4"


def _augmentation_conditions(recipe: AugmentationRecipe) -> Iterator[Condition]:
    key = "fit.augmentation"
    yield from _shares(key, {name: value for name, value in vars(recipe).items() if name.endswith("_probability")})
    for name in ("scale", "inflation", "gain"):
        bounds = getattr(recipe, name)
        yield f"{key}.{name}", is_range(bounds) and bounds[0] > 0, "two numbers above 0, in order"
    thickness = recipe.thickness
    yield f"{key}.thickness", is_range(thickness) and thickness[0] >= 1, "two numbers from 1 on, in order"
    yield f"{key}.rotation_deg", 0 <= recipe.rotation_deg <= 180, "0 to 180"
    yield from _not_negative(key, {name: getattr(recipe, name) for name in ("anisotropy", "elastic_mm")})
    yield from _not_negative(key, {name: getattr(recipe, name) for name in ("noise_hu", "offset_hu")})


def _lesion_conditions(recipe: LesionRecipe) -> Iterator[Condition]:
    key = "fit.lesions"
    yield from _shares(key, {"probability": recipe.probability, "dense_share": recipe.dense_share})
    yield f"{key}.most", recipe.most >= 1, "at least 1"
    radius = recipe.radius_mm
    yield f"{key}.radius_mm", is_range(radius) and radius[0] > 0, "two numbers above 0, in order"


def _stage_conditions(stages: tuple[Stage, ...]) -> Iterator[Condition]:
    ends = [0.0, *(stage.until for stage in stages)]
    rising = all(earlier < later for earlier, later in pairwise(ends))
    yield "fit.stages", rising and ends[-1] == 1.0, "at least one, with `until` rising to 1.0 in the last"
    for n, stage in enumerate(stages):
        sides_fit = all(side >= 1 and side % SIZE_MULTIPLE == 0 for side in stage.patch_kji)
        yield f"fit.stages[{n}].patch_kji", sides_fit, f"multiples of {SIZE_MULTIPLE}"
        yield f"fit.stages[{n}].batch", stage.batch >= 1, "at least 1"
        # A norm over one value is undefined.
        deepest = stage.batch * math.prod(stage.patch_kji) // SIZE_MULTIPLE**3
        yield f"fit.stages[{n}].patch_kji", deepest > 1, "larger, or its batch: one voxel is left on the deepest level"


def _training_conditions(fit: FitConfig) -> Iterator[Condition]:
    yield "fit.steps", fit.steps >= 1, "at least 1"
    yield "fit.minutes", fit.minutes is None or 0 < fit.minutes < math.inf, "above 0, or null"
    yield "fit.learning_rate", 0 < fit.learning_rate <= 10, "above 0 and at most 10"
    yield "fit.weight_decay", 0 <= fit.weight_decay <= 1, _SHARE
    yield "fit.warm_up", 0 <= fit.warm_up < 1, "from 0 to below 1"
    yield "fit.ema_decay", 0 <= fit.ema_decay < 1, "from 0 to below 1"
    shares = ("infection_share", "consistency_from", "exchange_share", "freeze_norm_from")
    yield from _shares("fit", {name: getattr(fit, name) for name in shares})
    yield "fit.air_below_hu", abs(fit.air_below_hu) < 1e6, "a value in HU"
    weights = ("air_weight", "infection_weight", "consistency_weight", "save_every_s")
    yield from _not_negative("fit", {name: getattr(fit, name) for name in weights})
    yield "fit.seed", 0 <= fit.seed < SEEDS_BELOW, "0 or above, and below 2^63"
    yield "fit.teacher", fit.teacher == FitConfig.teacher, "left out: a bundle is given as --teacher"
    yield "fit.device", fit.device == FitConfig.device, "left out: it is given as --device"


def refuse_teacher_of_other_input(teacher: Bundle, *, config: FitConfig) -> None:
    """Make sure that a teacher can be asked about the patches of a run.

    Raises:
        ModelError: Its bundle prepares CTs in another way.
    """
    if teacher.preprocessing != config.preprocessing:
        raise ModelError(
            f"{teacher.path}: its preprocessing is another than fit.preprocessing of the settings, so that it "
            "cannot teach on these patches; give a bundle that was trained with the same"
        )


def _shares(key: str, values: Mapping[str, float]) -> Iterator[Condition]:
    for name, value in values.items():
        yield f"{key}.{name}", 0 <= value <= 1, _SHARE


def _not_negative(key: str, values: Mapping[str, float]) -> Iterator[Condition]:
    for name, value in values.items():
        yield f"{key}.{name}", 0 <= value < 1e9, _NOT_NEGATIVE


def refuse_other_settings(folder: Path, *, config: FitConfig) -> None:
    """Make sure that the run of a folder was begun with these settings, but for those of how long and where it runs.

    Raises:
        InputError: It was begun with others, or its settings are damaged.
    """
    path = folder / "config.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise InputError(f"{path}: damaged; delete it to go on with the settings given") from error
    now = json.loads(json.dumps(asdict(config)))  # lists, as the file has them
    now = _known_to(before, now)  # an earlier version may not have known a setting
    keys = [key for key in now if key not in _MAY_CHANGE]
    key, was, is_now = first_difference({k: before[k] for k in keys}, {k: now[k] for k in keys})
    if key:
        raise InputError(
            f"{folder}: begun with other settings (fit.{key} is {was!r} in config.json there, {is_now!r} "
            "here); give the --config that the run was begun with, or choose another folder"
        )


def _known_to(before: Any, now: Any) -> Any:
    """Return `now` without the keys, on any level, that `before` lacks."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return now
    return {key: _known_to(before[key], value) for key, value in now.items() if key in before}

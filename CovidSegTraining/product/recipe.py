"""The recipe of the bundled model, from one YAML file: what to learn from, and how. What it omits is the default."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from pathlib import Path

from ..data import DataConfig
from ..settings import SettingsError, from_plain, read_yaml
from .fit_checks import conditions
from .fit_config import FitConfig

PRODUCT = Path(__file__).parents[1] / "configs" / "product.yaml"


@dataclass(frozen=True)
class Settings:
    """A training recipe: what to learn from, and how."""

    data: DataConfig = field(default_factory=DataConfig)
    fit: FitConfig = field(default_factory=FitConfig)


def read_settings(path: Path | None = None) -> Settings:
    """Return the settings of a YAML file, or the product recipe.

    Raises:
        SettingsError: The file is missing or no YAML, a key is unknown, missing or there twice, or a value is of the
            wrong type or impossible.
    """
    path = path or PRODUCT
    try:
        values = read_yaml(path)
        settings = typing.cast(Settings, from_plain(Settings, {} if values is None else values))
        for key, fits, wanted in conditions(settings):
            if not fits:
                raise SettingsError(f"{key} must be {wanted}")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    return settings

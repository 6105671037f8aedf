"""What the self test inside Slicer needs: a synthetic CT in the scene, and an engine that answers with its truth.

Neither torch nor a model is needed, so that the scene side can be checked on any installation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import Geometry
from ..quantify import Quantities, quantify_labelmap
from .samples import add_ct_volume

if TYPE_CHECKING:
    from ..logic import Engine
    from ..phantom import Phantom
    from ..scene import SceneContext
    from ..volume import CTVolume

SEED = 1
SIZE_IJK = (72, 60, 40)
SPACING_IJK_MM = (5.0, 5.0, 7.5)


@dataclass(frozen=True)
class TruthResult:
    """A phantom's truth in the form of an engine's result."""

    labelmap: np.ndarray
    geometry: Geometry
    quantities: Quantities
    warnings: tuple[str, ...]
    uncertainty: np.ndarray | None = None

    def report(self) -> dict[str, Any]:
        """Return the figures as in report.json, without what only a real run has."""
        return {**self.quantities.to_dict(), "warnings": list(self.warnings)}


def truth_engine(phantom: Phantom) -> Engine:
    """Return an engine that answers any CT with the phantom's truth; its map of uncertainty, if asked for, is zero."""

    def engine(ct: CTVolume, **options: Any) -> Any:
        quantities = quantify_labelmap(ct.hu_kji, geometry=ct.geometry, labelmap_kji=phantom.labelmap_kji)
        sure = np.zeros_like(phantom.labelmap_kji) if options.get("uncertainty") else None
        return TruthResult(phantom.labelmap_kji, ct.geometry, quantities, ct.warnings, sure)

    return engine


def add_phantom_volume(context: SceneContext) -> tuple[Phantom, Any]:
    """Return a coarse phantom and a new volume node with its voxels."""
    from ..phantom import make_phantom

    phantom = make_phantom(seed=SEED, size_ijk=SIZE_IJK, spacing_ijk_mm=SPACING_IJK_MM)
    return phantom, add_ct_volume(context, ct=phantom.ct, name=phantom.ct.name)

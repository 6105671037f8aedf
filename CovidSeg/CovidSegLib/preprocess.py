"""From a CT in HU to what the network sees: oriented, cut to the chest, resampled, scaled.

HU window and voxel spacing are the paper's; METHOD section 2 lists what is not. HU are mapped
to [-1, 1] in the same way for every volume, as a z-score per volume would make the input depend
on the field of view. What lies outside the patient (air, table, padding) is shown as soft tissue,
so that no air outside can be taken for lung.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .anatomy.chest import Chest, find_chest
from .errors import ModelError
from .geometry import Geometry
from .orient import Orientation
from .resample import Axes, AxisGrid, covering_axis, image_axes, resample_kji
from .stored_settings import read_settings
from .texts import text as _

if TYPE_CHECKING:
    import torch

_HU = TypeVar("_HU", float, np.ndarray, "torch.Tensor")

#: In-plane the paper's patches are 160 voxels long and begin every 80 voxels: a single voxel beyond the last patch
#: costs another row of patches.
PATCH_VOXELS, PATCH_STEP_VOXELS = 160, 80
#: Of the room around the lungs in-plane (`chest.BOX_MARGINS_MM`), up to this much in all is given up to save a row.
SPARE_RIM_MM = 12.0


@dataclass(frozen=True)
class PreprocessingRecipe:
    """How a bundle wants its input; stored in the bundle, defaults are those of the paper where it has them.

    Attributes:
        spacing_ijk_mm: Voxel spacing along the patient's axes L, P, S (paper: 1.58 x 1.58 x 2.70 mm).
        window_hu: HU clipped to this range (paper: -1250 to 250), then mapped to [-1, 1].
        outside_hu: Value given to everything outside the patient.
        kernel_voxels: Half-width of the resampling's triangular kernel, in voxels of the network's grid. Above 1 it
            softens the image, for a network whose training patches were softened by their augmentation. Along axes on
            which the CT is coarser than that, interpolation is cubic.
    """

    spacing_ijk_mm: tuple[float, float, float] = (1.58, 1.58, 2.70)
    window_hu: tuple[float, float] = (-1250.0, 250.0)
    outside_hu: float = 40.0
    kernel_voxels: float = 1.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PreprocessingRecipe:
        """Return the recipe written by `to_dict`.

        Raises:
            ModelError: A key is unknown or a value impossible.
        """
        recipe = read_settings(cls, values, what=_("preprocessing recipe"))
        if min(recipe.spacing_ijk_mm) <= 0:
            raise ModelError(_("preprocessing recipe: the spacings must be positive"))
        if recipe.window_hu[0] >= recipe.window_hu[1]:
            raise ModelError(_("preprocessing recipe: the window's lower end must lie below its upper"))
        if not 1.0 <= recipe.kernel_voxels <= 4.0:
            raise ModelError(_("preprocessing recipe: the kernel must be 1 to 4 voxels wide"))
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class NetworkInput:
    """A CT as the network sees it, and how to find the way back.

    Attributes:
        image_kji: (k, j, i) float32 in [-1, 1] along the patient's axes S, P, L.
        axes: Grid of `image_kji` (k, j, i), in mm from the centre of the oriented CT's first voxel.
        source_axes: Grid of the oriented CT (k, j, i) in the same frame.
        orientation: How the CT's own axes map to the patient's.
        inside_kji: (k, j, i) bool: the patient.
        chest: Body and lungs as found on the coarse grid.
        window_hu: The HU that were mapped to -1 and to 1.
    """

    image_kji: np.ndarray
    axes: Axes
    source_axes: Axes
    orientation: Orientation
    inside_kji: np.ndarray
    chest: Chest
    window_hu: tuple[float, float]

    @property
    def hu_kji(self) -> np.ndarray:
        """(k, j, i) float32: what the network sees, in HU, clipped to the window."""
        lower, upper = self.window_hu
        return self.image_kji * np.float32((upper - lower) / 2.0) + np.float32((lower + upper) / 2.0)

    @property
    def spacing_kji_mm(self) -> tuple[float, float, float]:
        """Voxel spacing of `image_kji`."""
        return (self.axes[0].step_mm, self.axes[1].step_mm, self.axes[2].step_mm)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of `image_kji`."""
        return float(np.prod([axis.step_mm for axis in self.axes])) / 1000.0


def preprocess(
    hu_kji: np.ndarray, *, geometry: Geometry, recipe: PreprocessingRecipe, crop_to_chest: bool = True
) -> NetworkInput:
    """Return the network's input for a CT.

    Args:
        hu_kji: (k, j, i) HU on the CT's own grid; not modified.
        geometry: The CT's grid.
        recipe: Spacing, window and fill value.
        crop_to_chest: False keeps the whole volume, as training does: it cuts patches from it.

    Raises:
        InputError: No air-filled lung inside a body is found.

    Source: METHOD section 2; paper, section "Preprocessing".
    """
    orientation = Orientation.of(geometry)
    volume = orientation.view(hu_kji)
    spacing = orientation.spacing_mm(geometry)
    chest = find_chest(volume, spacing_mm=spacing)
    source = image_axes(volume.shape, spacing_kji_mm=spacing)
    target = chest_axes(source, chest=chest, recipe=recipe) if crop_to_chest else network_axes(source, recipe=recipe)
    image = resample_kji(volume, source=source, target=target, half_width=recipe.kernel_voxels, upsampling="cubic")
    inside = _hide_outside(image, volume, source=source, target=target, chest=chest, recipe=recipe)
    return NetworkInput(
        image_kji=scale_hu(image, window_hu=recipe.window_hu),
        axes=target,
        source_axes=source,
        orientation=orientation,
        inside_kji=inside,
        chest=chest,
        window_hu=recipe.window_hu,
    )


def scale_hu(image_hu: np.ndarray, *, window_hu: tuple[float, float]) -> np.ndarray:
    """Return `image_hu` (any shape) clipped to the window and mapped linearly to [-1, 1], float32."""
    lower, upper = window_hu
    return np.asarray(unit_window(np.clip(image_hu, lower, upper), window_hu=window_hu), dtype=np.float32)


def unit_window(hu: _HU, *, window_hu: tuple[float, float]) -> _HU:
    """Return HU mapped linearly so that the window becomes [-1, 1]; nothing is clipped.

    Args:
        hu: A number, or an array or tensor of floats of any shape, which is changed in place: it may be a whole CT.
        window_hu: The HU that become -1 and 1.
    """
    lower, upper = window_hu
    hu -= (lower + upper) / 2.0
    hu /= (upper - lower) / 2.0
    return hu


def chest_axes(source: Axes, *, chest: Chest, recipe: PreprocessingRecipe) -> Axes:
    """Return the grid (k, j, i) on which the network sees the chest."""
    k, j, i = network_axes(source, recipe=recipe, box_mm=chest.box_mm)
    return (k, j, i) if chest.touches_side else (k, without_spare_rim(j), without_spare_rim(i))


def network_axes(
    source: Axes, *, recipe: PreprocessingRecipe, box_mm: tuple[tuple[float, float], ...] | None = None
) -> Axes:
    """Return the grid (k, j, i) at the recipe's spacing that covers the volume, or the part of it in `box_mm`."""
    axes = [covering_axis(axis, step) for axis, step in zip(source, recipe.spacing_ijk_mm[::-1], strict=True)]
    if box_mm is not None:
        axes = [axis.part(*axis.range_around(*ends_mm)) for axis, ends_mm in zip(axes, box_mm, strict=True)]
    return (axes[0], axes[1], axes[2])


def without_spare_rim(axis: AxisGrid) -> AxisGrid:
    """Return an in-plane axis, cut on both sides to the length of whole patches if that cuts `SPARE_RIM_MM` at most."""
    excess = (axis.count - PATCH_VOXELS) % PATCH_STEP_VOXELS
    if axis.count <= PATCH_VOXELS or excess * axis.step_mm > SPARE_RIM_MM:
        return axis
    return axis.part(excess // 2, axis.count - (excess - excess // 2))


def _hide_outside(
    image: np.ndarray,
    volume: np.ndarray,
    *,
    source: Axes,
    target: Axes,
    chest: Chest,
    recipe: PreprocessingRecipe,
) -> np.ndarray:
    """Set everything outside the patient to `recipe.outside_hu` in place; return the mask of the patient."""
    if chest.padding is not None and chest.padding_hu is not None:
        # Where a cropped image ends, padding may touch lung: replace exactly the share it has in each voxel.
        near = resample_kji(chest.padding, source=chest.axes, target=target, half_width=recipe.kernel_voxels) > 0.0
        value = chest.padding_hu
        share = resample_kji(
            volume,
            source=source,
            target=target,
            convert=lambda plane: plane == value,
            half_width=recipe.kernel_voxels,
            upsampling="cubic",
        )
        image += np.where(near, share * (recipe.outside_hu - value), 0.0).astype(np.float32)
        inside = resample_kji(chest.inside | chest.padding, source=chest.axes, target=target) >= 0.5
        inside &= ~(near & (share > 0.5))
    else:
        inside = resample_kji(chest.inside, source=chest.axes, target=target) >= 0.5
    image[~inside] = recipe.outside_hu
    return inside

"""A scene's volume node as the engine's input, on the volume's own grid.

A parent transform is not applied to the voxels: the segmentation is put under the same transform, so that both stay on
one grid and no voxel is interpolated. Warnings say what a transform means for the measured volumes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..readers.checks import check_geometry, check_size, check_values, spacing_warnings
from ..readers.memory import require_memory
from ..readers.pixels import HuBuilder
from ..texts import text as _

if TYPE_CHECKING:
    from ..volume import CTVolume

#: Cosine between two axes above which a grid counts as sheared (rounded headers stay far below).
SHEAR_TOLERANCE = 1e-3

#: Relative change of volume above which a linear transform counts as scaling.
SCALE_TOLERANCE = 1e-3

#: Attribute of a volume node whose voxels are not HU: "factor offset", where HU = value * factor + offset.
HU_SCALE_ATTRIBUTE = "CovidSeg.huScale"

#: The range in which values and HU are compared; padding lies below it, and is mapped otherwise.
LUNG_TO_TISSUE_HU = (-1000.0, 150.0)


def volume_from_node(node: Any) -> CTVolume:
    """Return a copy of a volume node's voxels (HU) with geometry, fingerprint and warnings.

    Call on the main thread; the result no longer depends on the scene. The same limits hold as
    for files, but a sheared grid is accepted with a warning.

    Args:
        node: `vtkMRMLScalarVolumeNode` with one component.

    Raises:
        InputError: No volume, a labelmap, a colour or vector volume, no voxels, too few slices,
            values that are no HU, a grid that no CT has, or too large for memory.
    """
    from ..volume import CTVolume

    check_volume(node)
    label = _("Volume '{name}'").format(name=node.GetName())
    check_size(node.GetImageData().GetDimensions(), label=label)
    geometry, shear_warnings = geometry_of(node)
    check_geometry(geometry, label=label)
    require_memory(geometry.size_ijk, dtype=_voxels_of(node).dtype, label=label)
    hu_kji = copy_array(node)
    check_values(hu_kji, label=label)
    return CTVolume(
        hu_kji=hu_kji,
        geometry=geometry,
        name=node.GetName() or "volume",
        fingerprint=_fingerprint(hu_kji, matrix=ijk_to_ras(node)),
        warnings=(*shear_warnings, *transform_warnings(node), *spacing_warnings(geometry)),
    )


def copy_array(node: Any) -> np.ndarray:
    """Return the voxels as a new (k, j, i) array: int16 if they are whole numbers that fit, else float32.

    Raises:
        InputError: A voxel is NaN or infinite, or no Hounsfield unit.
    """
    values_kji = _voxels_of(node)
    builder = HuBuilder(values_kji.shape, label=_("Volume '{name}'").format(name=node.GetName()))
    for k, values_ji in enumerate(values_kji):
        builder.set_slice(k, values_ji)
    return builder.result()


def remember_hu_scale(node: Any, *, hu_kji: np.ndarray) -> None:
    """Keep in a volume node how its values become HU, for windows and thresholds, which are set in its own values.

    Args:
        node: The CT, whose values may be grey levels, or HU with an offset.
        hu_kji: (k, j, i) the HU that were segmented.
    """
    values_kji = _voxels_of(node)
    some = tuple(slice(None, None, max(1, size // 64)) for size in hu_kji.shape)  # a sample is enough
    hu, values = hu_kji[some].astype(float), values_kji[some].astype(float)
    compared = (hu > LUNG_TO_TISSUE_HU[0]) & (hu < LUNG_TO_TISSUE_HU[1])
    hu, values = hu[compared], values[compared]
    node.RemoveAttribute(HU_SCALE_ATTRIBUTE)
    if not hu.size or np.ptp(values) == 0 or np.allclose(hu, values, rtol=0.0, atol=0.5):
        return
    factor, offset = np.polyfit(values, hu, 1)
    if factor > 0:
        node.SetAttribute(HU_SCALE_ATTRIBUTE, f"{factor:.6g} {offset:.6g}")


def _voxels_of(node: Any) -> np.ndarray:
    """Return a (k, j, i) view of a volume's voxels; `slicer.util.arrayFromVolume` refuses most derived classes."""
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetImageData()
    return np.asarray(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]))


def from_hu(node: Any, *, hu: float) -> float:
    """Return a HU in a volume's own values, which are the same unless `remember_hu_scale` found otherwise."""
    try:
        factor, offset = map(float, (node.GetAttribute(HU_SCALE_ATTRIBUTE) or "1 0").split())
        return (hu - offset) / factor
    except (ValueError, ZeroDivisionError):  # damaged in a saved scene
        return hu


def _fingerprint(hu_kji: np.ndarray, *, matrix: np.ndarray) -> str:
    """Return `sha256:...` of voxels and (4, 4) grid matrix."""
    digest = hashlib.sha256(repr((hu_kji.shape, hu_kji.dtype.str)).encode())
    digest.update(np.ascontiguousarray(matrix, dtype=np.float64).data)
    digest.update(np.ascontiguousarray(hu_kji).data)
    return f"sha256:{digest.hexdigest()}"


def check_volume(node: Any) -> None:
    """Refuse what is not a CT volume with voxels.

    Raises:
        InputError: What is wrong, and what to choose instead.
    """
    if node is None or not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(_("No CT volume is chosen. Load a chest CT and choose it as the input volume."))
    name = node.GetName()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        text = _("'{name}' is a labelmap, not a CT. Choose the CT volume as input.")
        raise InputError(text.format(name=name))
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        text = _("The volume '{name}' has no image data. Load the CT again, or choose another volume.")
        raise InputError(text.format(name=name))
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        text = _(
            "The volume '{name}' has {count} values per voxel (a colour or vector image). "
            "Choose a CT with one value per voxel, in Hounsfield units."
        )
        raise InputError(text.format(name=name, count=components))


def ijk_to_ras(node: Any) -> np.ndarray:
    """Return the volume's own (4, 4) matrix from index_ijk to point_ras (mm), parent transforms left out."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))


def geometry_of(node: Any) -> tuple[Geometry, tuple[str, ...]]:
    """Return the geometry of a volume node's own grid, and a warning if its axes are not at right angles.

    The engine works on right-angled grids; a sheared grid is described to it by the nearest
    right-angled one (polar decomposition), while the segmentation keeps the sheared grid itself.

    Raises:
        InputError: A spacing of zero or a matrix that is not invertible.
    """
    matrix = ijk_to_ras(node)
    i, j, k = (int(size) for size in node.GetImageData().GetDimensions())
    spacing_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or spacing_mm.min() <= 0:
        text = _("The volume '{name}' has a spacing of zero or no position. Load the CT again.")
        raise InputError(text.format(name=node.GetName()))
    direction = matrix[:3, :3] / spacing_mm
    if abs(np.linalg.det(direction)) < 0.1:
        text = _("The axes of the volume '{name}' lie in one plane. Load the CT again.")
        raise InputError(text.format(name=node.GetName()))
    shear = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if shear <= SHEAR_TOLERANCE:
        return Geometry.from_ijk_to_ras(matrix, size_ijk=(i, j, k)), ()
    left, _stretch, right = np.linalg.svd(direction)
    upright = matrix.copy()
    upright[:3, :3] = (left @ right) * spacing_mm
    warning = _(
        "The volume's axes are not at right angles (cosine {cosine:.3f}: gantry tilt or shear). It was segmented "
        "in its own grid; volumes in ml are approximate."
    )
    return Geometry.from_ijk_to_ras(upright, size_ijk=(i, j, k)), (warning.format(cosine=shear),)


def transform_warnings(node: Any) -> tuple[str, ...]:
    """Return warnings of what a parent transform means for the measured volumes; none if it is rigid."""
    import vtk

    transform = node.GetParentTransformNode()
    if transform is None:
        return ()
    name = transform.GetName()
    if not transform.IsTransformToWorldLinear():
        warning = _(
            "The volume is under the deforming transform '{name}'. It was segmented in its own, undeformed grid; "
            "volumes in ml are approximate."
        )
        return (warning.format(name=name),)
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    factor = abs(matrix.Determinant())
    if abs(factor - 1.0) <= SCALE_TOLERANCE:
        return ()
    warning = _(
        "The volume is under the transform '{name}', which scales volumes by {factor:.3f}. "
        "Volumes in ml are those of the CT before that transform."
    )
    return (warning.format(name=name, factor=factor),)

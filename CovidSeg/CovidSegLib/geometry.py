"""Where a voxel grid lies in the patient: size, spacing, origin and direction, in LPS (mm)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Cosine between axes that are perpendicular but for the digits of a header.
_PERPENDICULAR = 1e-6


@dataclass(frozen=True)
class Geometry:
    """A regular voxel grid in patient space.

    Attributes:
        size_ijk: Voxels along i, j, k; the numpy array of the grid has shape (k, j, i).
        spacing_ijk_mm: Distance between voxel centres along i, j, k.
        origin_lps_mm: Centre of voxel (0, 0, 0).
        direction_lps: 3x3, row by row; column n is the unit vector of axis n (i, j, k).
    """

    size_ijk: tuple[int, int, int]
    spacing_ijk_mm: tuple[float, float, float]
    origin_lps_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction_lps: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def shape_kji(self) -> tuple[int, int, int]:
        """Shape of the numpy array of this grid."""
        i, j, k = self.size_ijk
        return (k, j, i)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (1 ml = 1000 mm3)."""
        return float(np.prod(self.spacing_ijk_mm)) / 1000.0

    @property
    def direction_matrix(self) -> np.ndarray:
        """(3, 3) float64; column n is the LPS unit vector of axis n (i, j, k)."""
        return np.asarray(self.direction_lps, dtype=np.float64).reshape(3, 3)

    @property
    def ijk_to_lps(self) -> np.ndarray:
        """(4, 4) float64 matrix from index_ijk to point_lps in mm (ITK, DICOM)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction_matrix * np.asarray(self.spacing_ijk_mm)
        matrix[:3, 3] = self.origin_lps_mm
        return matrix

    @property
    def ijk_to_ras(self) -> np.ndarray:
        """(4, 4) float64 matrix from index_ijk to point_ras in mm (Slicer, NIfTI)."""
        return np.asarray(LPS_TO_RAS @ self.ijk_to_lps)

    def straightened(self) -> Geometry:
        """Return the grid with the nearest perpendicular axes, itself if they are; spacing and origin stay."""
        axes = self.direction_matrix
        if np.abs(axes.T @ axes - np.eye(3)).max() <= _PERPENDICULAR:
            return self
        u, _stretch, vt = np.linalg.svd(axes)
        return replace(self, direction_lps=tuple(float(v) for v in (u @ vt).ravel()))

    @classmethod
    def from_ijk_to_ras(cls, matrix: np.ndarray, *, size_ijk: tuple[int, int, int]) -> Geometry:
        """Return the geometry whose `ijk_to_ras` is the (4, 4) `matrix`, free of shear."""
        lps = LPS_TO_RAS @ np.asarray(matrix, dtype=np.float64)
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        direction = lps[:3, :3] / spacing
        return cls(
            size_ijk=size_ijk,
            spacing_ijk_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
            origin_lps_mm=(float(lps[0, 3]), float(lps[1, 3]), float(lps[2, 3])),
            direction_lps=tuple(float(v) for v in direction.ravel()),
        )

    @classmethod
    def from_sitk(cls, image: sitk.Image | sitk.ImageFileReader) -> Geometry:
        """Return the geometry of the first three axes of a SimpleITK image, or of one whose header was read."""
        n = image.GetDimension()
        direction = np.asarray(image.GetDirection()).reshape(n, n)[:3, :3]
        return cls(
            size_ijk=tuple(int(v) for v in image.GetSize()[:3]),  # type: ignore[arg-type]
            spacing_ijk_mm=tuple(float(v) for v in image.GetSpacing()[:3]),  # type: ignore[arg-type]
            origin_lps_mm=tuple(float(v) for v in image.GetOrigin()[:3]),  # type: ignore[arg-type]
            direction_lps=tuple(float(v) for v in direction.ravel()),
        )

    def to_sitk(self, array_kji: np.ndarray) -> sitk.Image:
        """Return a SimpleITK image of the (k, j, i) array (or (k, j, i, c): a vector image) on this grid.

        Raises:
            ValueError: The array does not have this grid's shape.
        """
        import SimpleITK as sitk

        if tuple(array_kji.shape[:3]) != self.shape_kji:
            raise ValueError(f"array of shape {array_kji.shape} on a grid of shape {self.shape_kji}")
        image = sitk.GetImageFromArray(array_kji, isVector=array_kji.ndim == 4)
        image.SetSpacing(self.spacing_ijk_mm)
        image.SetOrigin(self.origin_lps_mm)
        image.SetDirection(self.direction_lps)
        return image

    def is_close_to(self, other: Geometry, *, tolerance_voxels: float = 0.01) -> bool:
        """Tell whether both grids have equal size and every corner agrees within a share of a voxel."""
        if self.size_ijk != other.size_ijk:
            return False
        corners = np.array(
            [[i, j, k, 1] for i in (0, self.size_ijk[0]) for j in (0, self.size_ijk[1]) for k in (0, self.size_ijk[2])]
        ).T
        offset_mm = np.abs((self.ijk_to_lps - other.ijk_to_lps) @ corners)[:3]
        return bool(offset_mm.max() <= tolerance_voxels * min(self.spacing_ijk_mm))

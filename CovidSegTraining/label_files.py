"""Read label images that belong to a CT, and bring them onto the network's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.preprocess import NetworkInput
from CovidSegLib.readers.label_image import read_label_image
from CovidSegLib.resample import resample_kji

#: A voxel on another grid counts as known if at least this share of it lies in the known part of a case (`read_known`);
#: otherwise it mixes in what is unknown, and must not be learnt.
KNOWN_SHARE = 0.99


def read_labels(path: Path, *, geometry: Geometry) -> np.ndarray:
    """Return the (k, j, i) uint8 labels of a file that lies on a CT's grid.

    Raises:
        InputError: The file is missing, damaged, cut short, lies on another grid, or holds what is no label.
    """
    import SimpleITK as sitk

    image = read_label_image(path, expected="Expected whole numbers on the CT's grid, beside the CT.")
    found = Geometry.from_sitk(image)
    # The labelmap of a CT whose axes are sheared a little has them straightened (`write_labelmap_nifti`).
    if not any(found.is_close_to(grid) for grid in (geometry, geometry.straightened())):
        raise InputError(
            f"{path}: its grid, {found.size_ijk} voxels of {found.spacing_ijk_mm} mm, differs from the CT's, "
            f"{geometry.size_ijk} of {geometry.spacing_ijk_mm} mm, in size, spacing, position or direction. "
            "Resample the labels to the CT, or take the case out."
        )
    values_kji = sitk.GetArrayFromImage(image)
    labels_kji = values_kji.astype(np.uint8)
    if not np.array_equal(labels_kji, values_kji):
        raise InputError(f"{path}: labels must be whole numbers from 0 to 255. Is this a mask?")
    return np.asarray(labels_kji)


def read_segmentation(path: Path, *, geometry: Geometry) -> np.ndarray:
    """Return the (k, j, i) uint8 labels (`labels.Label`) of a case's `segmentation.nii.gz`.

    Raises:
        InputError: As for `read_labels`; or it has another label, which would count as background here, as lung there.
    """
    labels_kji = read_labels(path, geometry=geometry)
    if (highest := int(labels_kji.max(initial=0))) > max(Label):
        raise InputError(f"{path}: label {highest} found; known are 0 to {max(Label)}. Correct the labels.")
    return labels_kji


def read_known(folder: Path, *, geometry: Geometry) -> np.ndarray | None:
    """Return where a case's image and labels are known, (k, j, i) bool by its `valid.nii.gz`; None: everywhere.

    Raises:
        InputError: The file is damaged, lies on another grid, or marks nothing.
    """
    path = folder / "valid.nii.gz"
    if not path.exists():
        return None
    known_kji = read_labels(path, geometry=geometry) > 0
    if not known_kji.any():
        raise InputError(f"{path}: no voxel is marked as known; correct or delete the file")
    return known_kji


def labels_on_network_grid(labels_kji: np.ndarray, *, network_input: NetworkInput, classes: int) -> np.ndarray:
    """Return labels 0..classes-1 on the network's grid: each one interpolated linearly, the largest share wins."""
    view = network_input.orientation.view(labels_kji)
    best = np.full(network_input.image_kji.shape, -1.0, dtype=np.float32)
    found = np.zeros(best.shape, dtype=np.uint8)
    for label in range(classes):
        share = share_on_network_grid(view == label, network_input=network_input)
        better = share > best
        found[better] = label
        np.maximum(best, share, out=best)
    return found


def share_on_network_grid(mask_spl: np.ndarray, *, network_input: NetworkInput) -> np.ndarray:
    """Return the share (0 to 1) of each voxel of the network's grid that a mask in patient axes covers."""
    return resample_kji(mask_spl, source=network_input.source_axes, target=network_input.axes)

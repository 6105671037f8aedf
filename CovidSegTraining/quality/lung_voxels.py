"""The voxels in the labelled lungs of a case: what the labels call them, and what a bundle does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from CovidSegLib.bundle import Bundle
from CovidSegLib.errors import InputError
from CovidSegLib.inference import predict
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.labels import Label
from CovidSegLib.postprocess import consistent_labels
from CovidSegLib.preprocess import preprocess
from CovidSegLib.progress import Reporter
from CovidSegLib.uncertainty import BORDER_MM
from CovidSegLib.volume import read_ct

from ..label_files import labels_on_network_grid, read_known, read_segmentation, share_on_network_grid

#: A voxel on the network's grid is measured if it lies wholly (but for rounding) in the known part of a case. This is
#: stricter than what is learnt from (`label_files.KNOWN_SHARE`).
WHOLLY_KNOWN_SHARE = 0.999


@dataclass(frozen=True)
class LungVoxels:
    """The voxels of one case or several that the labels call lung or infection, on the network's grid.

    Attributes:
        probabilities: (4, n) float32, the averaged softmax before any post-processing.
        truth: (n,) uint8 of `labels.Label`, the labels.
        found: (n,) uint8 of `labels.Label`, the bundle's answer after post-processing.
        deep: (n,) bool, farther than `uncertainty.BORDER_MM` from the border of the labelled lungs.
    """

    probabilities: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    deep: np.ndarray

    @property
    def infected(self) -> np.ndarray:
        """(n,) bool, by the labels."""
        return np.asarray(self.truth == Label.INFECTION)

    @property
    def called(self) -> np.ndarray:
        """(n,) bool, infected by the bundle's answer."""
        return np.asarray(self.found == Label.INFECTION)

    @classmethod
    def together(cls, parts: Sequence[LungVoxels]) -> LungVoxels:
        """Return the voxels of several cases as one."""
        return cls(
            np.concatenate([part.probabilities for part in parts], axis=1),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("truth", "found", "deep")),
        )


def lung_voxels(folder: Path, *, bundle: Bundle, mode: str, device: str) -> LungVoxels:
    """Return a case's voxels in the labelled lungs, where the labels are valid, predicted by the product's own steps.

    The lungs are those of the labels and not the network's, so that every bundle is measured on the same voxels.

    Args:
        folder: Holds `imaging.nii.gz`, `segmentation.nii.gz` and perhaps `valid.nii.gz`.
        bundle: The model.
        mode: As for `segment`.
        device: As for `resolve_device`.

    Raises:
        InputError: The case cannot be read, or its labels contain no lung where they are valid.
    """
    from scipy import ndimage

    ct = to_hounsfield(read_ct(folder))
    seen = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing)
    labels = read_segmentation(folder / "segmentation.nii.gz", geometry=ct.geometry)
    truth = labels_on_network_grid(labels, network_input=seen, classes=len(Label))
    asked = truth > 0
    if (valid := read_known(folder, geometry=ct.geometry)) is not None:
        asked &= share_on_network_grid(seen.orientation.view(valid), network_input=seen) >= WHOLLY_KNOWN_SHARE
    if not asked.any():
        raise InputError(f"{folder}: the labels know no lung where they are valid")
    deep = ndimage.distance_transform_edt(truth > 0, sampling=seen.spacing_kji_mm) > BORDER_MM
    prediction = predict(
        seen.image_kji,
        network=bundle.network,
        integers=bundle.integers,
        mode=mode,
        device=device,
        reporter=Reporter(),
    )
    probabilities = prediction.probabilities[:, asked]  # a copy; `consistent_labels` changes them in place
    found = consistent_labels(prediction.probabilities, network_input=seen, recipe=bundle.postprocessing)
    return LungVoxels(probabilities, truth[asked], found[asked], deep[asked])

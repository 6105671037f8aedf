"""The engine's steps as callables for `python -m monai.bundle run`: what `configs/inference.json` names.

CovidSeg itself does not use this file: `pipeline.segment` is the product, and a test holds that
both give the same labelmap. Each step takes a dictionary and returns it with more in it, as
MONAI's dictionary transforms do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .anatomy.lung_border import trim_lung_border
from .bundle import load_network
from .device import resolve_device
from .errors import InputError
from .inference import TILINGS, Tiling
from .intensity import to_hounsfield
from .network import NetworkConfig
from .postprocess import PostprocessingRecipe, consistent_labels
from .preprocess import PreprocessingRecipe, preprocess
from .progress import Reporter
from .restore import restore_labels
from .segmentation_file import write_labelmap_nifti
from .texts import text as _
from .volume import read_ct

if TYPE_CHECKING:
    import torch

Data = dict[str, Any]


def choose_device(device: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DeviceError: The device is absent.
    """
    import torch

    return torch.device(resolve_device(device))


def load_safetensors(path: Path | str, *, network: dict[str, Any], sha256: str) -> torch.nn.Module:
    """Return the network with the weights of a safetensors file, read without pickle once the checksum is verified.

    Args:
        path: The weights.
        network: Section `covidseg.network` of the bundle's metadata.
        sha256: Checksum of the file, in hexadecimal.

    Raises:
        ModelError: The file is missing, its checksum differs, or it fits another network.
    """
    return load_network(Path(path), config=NetworkConfig.from_dict(network), sha256=sha256)


def tiling_for(mode: str, *, image: torch.Tensor) -> Tiling:
    """Return the patches of "accurate" or "fast" for a (1, 1, k, j, i) image."""
    return TILINGS[mode].fitted_to(tuple(image.shape[2:]))


@dataclass(frozen=True)
class ReadCT:
    """Read the file or folder named by `image` into `ct`, in HU.

    Attributes:
        series: Which DICOM series, if there are several.
    """

    series: str | None = None

    def __call__(self, data: Data) -> Data:
        """Return `data` with `ct`; InputError if the image is no chest CT."""
        return {**data, "ct": to_hounsfield(read_ct(data["image"], series=self.series))}


@dataclass(frozen=True)
class Preprocess:
    """Make the network's input from `ct`: `image`, a (1, 1, k, j, i) tensor, and `network_input`, the way back."""

    recipe: PreprocessingRecipe

    def __call__(self, data: Data) -> Data:
        """Return `data` with `image` and `network_input`; InputError if no lung is found."""
        import torch

        ct = data["ct"]
        network_input = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=self.recipe)
        return {**data, "network_input": network_input, "image": torch.from_numpy(network_input.image_kji)[None, None]}


@dataclass(frozen=True)
class MakeConsistent:
    """Make `labels` (k, j, i) of `pred`, the (1, 4, k, j, i) probabilities of `image`.

    Attributes:
        recipe: Sizes of pieces to drop.
    """

    recipe: PostprocessingRecipe

    def __call__(self, data: Data) -> Data:
        """Return `data` with `labels`; InputError if no lung is left."""
        network_input, probabilities = data["network_input"], data["pred"][0].cpu().numpy()
        labels = consistent_labels(probabilities, network_input=network_input, recipe=self.recipe)
        if not labels.any():
            raise InputError(_("{case}: no lungs found: is this a chest CT in HU?").format(case=data["ct"].name))
        return {**data, "labels": labels}


@dataclass(frozen=True)
class RestoreLabels:
    """Bring `labels` back onto the CT's grid as `labelmap`."""

    def __call__(self, data: Data) -> Data:
        """Return `data` with `labelmap`, (k, j, i) uint8."""
        labelmap = restore_labels(
            data["labels"],
            network_input=data["network_input"],
            geometry=data["ct"].geometry,
            reporter=Reporter(),
        )
        trim_lung_border(labelmap, hu_kji=data["ct"].hu_kji, geometry=data["ct"].geometry)
        return {**data, "labelmap": labelmap}


@dataclass(frozen=True)
class SaveLabelmap:
    """Write `labelmap` as NIfTI.

    Attributes:
        output: File to write, ending in .nii.gz.
    """

    output: Path | str

    def __call__(self, data: Data) -> Data:
        """Return `data` unchanged, once the file is written; its folder is made if need be."""
        Path(self.output).parent.mkdir(parents=True, exist_ok=True)
        write_labelmap_nifti(Path(self.output), labelmap_kji=data["labelmap"], geometry=data["ct"].geometry)
        return data

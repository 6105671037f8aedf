"""The ranges of a network's activations, per channel, from which the steps of 8-bit quantization follow.

`covidseg-train quantize` measures them on the training CTs and stores them beside a bundle's weights; `int8.network`
quantizes by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..texts import text as _

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ActivationRange:
    """The range of the output of a layer.

    Attributes:
        lowest: (channels,) float32.
        highest: (channels,) float32.
    """

    lowest: torch.Tensor
    highest: torch.Tensor


#: By the layer's name in the network. The layers are those of `coded_layers`.
ActivationRanges = Mapping[str, ActivationRange]


def coded_layers(network: torch.nn.Module) -> dict[str, int]:
    """Return the layers whose outputs are coded in 8 bits, with their numbers of channels.

    They are all ReLUs, and the transposed convolutions.
    """
    from torch import nn

    layers, channels = {}, 0
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            channels = module.out_channels  # and those of the ReLU behind it
        if isinstance(module, (nn.ReLU, nn.ConvTranspose3d)):
            layers[name] = channels
    return layers


def to_bytes(activations: ActivationRanges) -> bytes:
    """Return activations as the contents of a safetensors file: a (2, channels) tensor for each layer."""
    import torch
    from safetensors.torch import save

    return save({name: torch.stack([a.lowest, a.highest]).float() for name, a in activations.items()})


def read_activations(path: Path, *, sha256: str, network: torch.nn.Module) -> ActivationRanges:
    """Return the activations that `to_bytes` wrote into a file.

    Raises:
        ModelError: The file is missing or damaged, its SHA-256 differs, or it is of another network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ModelError(_("{file} is damaged or was exchanged. Install the bundle again.").format(file=path))
        tensors = load(data)
    except OSError as error:
        raise ModelError(
            _("{file} cannot be read: {reason}. Install the bundle again.").format(file=path, reason=error.strerror)
        ) from error
    except SafetensorError as error:
        raise ModelError(_("{file} is damaged: {reason}.").format(file=path, reason=str(error))) from error
    if {name: tuple(t.shape) for name, t in tensors.items()} != {
        name: (2, channels) for name, channels in coded_layers(network).items()
    }:
        raise ModelError(_("{file} does not fit the network of its bundle.").format(file=path))
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError(_("{file} is damaged: values that are no numbers.").format(file=path))
    return {name: ActivationRange(*tensor.float()) for name, tensor in tensors.items()}

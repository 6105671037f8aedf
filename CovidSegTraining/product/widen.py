"""Widen trained weights: a network with more filters that computes the same, to go on training from.

Source: Chen, Goodfellow & Shlens, Net2Net: accelerating learning via knowledge transfer, ICLR 2016 (Net2WiderNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from CovidSegLib.network import NetworkConfig, build_network

if TYPE_CHECKING:
    import torch


def widened(state: dict[str, torch.Tensor], *, config: NetworkConfig, seed: int) -> dict[str, torch.Tensor]:
    """Return weights of the network `config` names that compute what `state` does, but for rounding.

    Each filter is copied several times, and each layer that reads it divides its weights among the copies. It does so
    unevenly, at random: copies that are read alike would get the same gradients and stay copies for ever.

    Args:
        state: Weights of a network whose number of filters divides `config.width`; any others are returned unchanged.
        config: The wider network.
        seed: Seed of the uneven shares.
    """
    import torch

    head = state.get("head.weight")
    if head is None or head.shape[1] >= config.width or config.width % head.shape[1]:
        return state
    copies = config.width // head.shape[1]
    wide = build_network(config)
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    input_axes = _input_axes(wide)
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in state.items():
        # The image's channel and the classes stay as many as they are.
        repeated = [axis for axis, size in enumerate(tensor.shape) if shapes.get(name, tensor.shape)[axis] > size]
        result[name] = tensor
        for axis in repeated:
            result[name] = result[name].repeat_interleave(copies, dim=axis)
        if input_axes.get(name) in repeated:
            result[name] = result[name] * _shares(
                result[name], axis=input_axes[name], copies=copies, generator=generator
            )
    return result


def _input_axes(network: torch.nn.Module) -> dict[str, int]:
    """Return for each kernel of a network, by its name, the axis that runs over the channels it reads."""
    from torch import nn

    return {
        f"{name}.weight": 0 if isinstance(module, nn.ConvTranspose3d) else 1
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d))
    }


def _shares(kernel: torch.Tensor, *, axis: int, copies: int, generator: torch.Generator) -> torch.Tensor:
    """Return the share of the weight that each copy of a channel carries; for each pair of channels they sum to 1."""
    import torch

    drawn = 0.5 + torch.rand(kernel.shape[:2], generator=generator).unflatten(axis, (-1, copies))
    shares = drawn / drawn.sum(dim=axis + 1, keepdim=True)
    return shares.flatten(axis, axis + 1)[..., None, None, None]

"""The networks of the experiment behind one interface: (n, 1, k, j, i) in, logits (n, classes, k, j, i) out.

The paper's 3D U-Net is the engine's; COVID-SegNet is in `experiment.covid_segnet`; UNet++, V-Net and the
nnU-Net-like DynUNet are MONAI's. None uses deep supervision: each has a single output, so that one loss serves all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from CovidSegLib.network import NetworkConfig, build_network

from .settings import SettingsError, from_plain

if TYPE_CHECKING:
    import torch

#: Sizes of a patch along each axis must be a multiple of this.
SIZE_MULTIPLE: Mapping[str, int] = {"unet3d": 16, "covid_segnet": 8, "unetplusplus": 16, "vnet": 16, "dynunet": 16}
#: Beyond this a network fits no machine: its weights and Adam's state alone would take terabytes.
WIDEST = 4096


@dataclass(frozen=True)
class WidthOptions:
    """Channels of the first level, 1 to `WIDEST`; each level below doubles them."""

    width: int

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise SettingsError(f"network.options.width must be 1 to {WIDEST}, not {self.width}")


@dataclass(frozen=True)
class UNet3DOptions(WidthOptions):
    """The paper's network (32 filters)."""

    width: int = 32


@dataclass(frozen=True)
class CovidSegNetOptions(WidthOptions):
    """COVID-SegNet (64 channels)."""

    width: int = 64


@dataclass(frozen=True)
class UNetPlusPlusOptions(WidthOptions):
    """UNet++; MONAI's 32, 32, 64, 128, 256 channels at width 32: the first two levels are alike."""

    width: int = 32


@dataclass(frozen=True)
class VNetOptions(WidthOptions):
    """V-Net (16 channels).

    Attributes:
        dropout: Probability of dropping a whole channel, in all of the network's dropouts.
    """

    width: int = 16
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout < 1.0:
            raise SettingsError(f"network.options.dropout must be from 0 to below 1, not {self.dropout:g}")


@dataclass(frozen=True)
class DynUNetOptions(WidthOptions):
    """Five levels as nnU-Net plans them: 32, 64, 128, 256, 320 channels at width 32 (at most ten times the first)."""

    width: int = 32


def build_experiment_network(
    name: str, *, classes: int = 4, options: Mapping[str, Any] | None = None
) -> torch.nn.Module:
    """Return a network with fresh weights, drawn from torch's random generator.

    Args:
        name: One of `SIZE_MULTIPLE`.
        classes: Output channels, at least 2.
        options: The network's own options, as in a recipe; options that are left out have their defaults.

    Raises:
        SettingsError: There is no such network or option, or a value is of the wrong type or impossible.
    """
    _check_name(name)
    if classes < 2:
        raise SettingsError(f"network.classes must be at least 2, not {classes}")
    kind, build = _NETWORKS[name]
    return build(classes, from_plain(kind, dict(options or {}), key="network.options"))


def check_patch(name: str, size: Sequence[int], *, key: str) -> None:
    """Make sure that a network can train on patches of a size.

    Args:
        name: The network.
        size: Of the patches, in voxels.
        key: The path of the size in the recipe, for errors.

    Raises:
        SettingsError: A side is no multiple of `SIZE_MULTIPLE`, or a single voxel would be left on the deepest
            level, where a norm over one value is undefined.
    """
    _check_name(name)
    multiple = SIZE_MULTIPLE[name]
    if any(side < 1 or side % multiple for side in size):
        raise SettingsError(f"{key} must be multiples of {multiple} for '{name}', not {list(size)}")
    if math.prod(size) == multiple ** len(size):
        raise SettingsError(f"{key} {list(size)} is too small for '{name}': double one side at least")


def _check_name(name: str) -> None:
    if name not in _NETWORKS:
        raise SettingsError(f"network.name must be one of {', '.join(_NETWORKS)}, not {name!r}")


def _unet3d(classes: int, options: UNet3DOptions) -> torch.nn.Module:
    return build_network(NetworkConfig(width=options.width, classes=classes))


def _covid_segnet(classes: int, options: CovidSegNetOptions) -> torch.nn.Module:
    from .experiment.covid_segnet import CovidSegNet

    return CovidSegNet(width=options.width, classes=classes)


def _unetplusplus(classes: int, options: UNetPlusPlusOptions) -> torch.nn.Module:
    import torch
    from monai.networks.nets import BasicUNetPlusPlus

    class UNetPlusPlus(BasicUNetPlusPlus):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[0]  # type: ignore[no-any-return]

    width = options.width
    features = (width, width, 2 * width, 4 * width, 8 * width, width)
    network = UNetPlusPlus(spatial_dims=3, in_channels=1, out_channels=classes, features=features)
    for unused in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):
        # MONAI computes these heads for deep supervision and discards them. They never get a gradient, for which
        # data-parallel training would wait in vain.
        setattr(network, unused, torch.nn.Identity())
    return network


def _vnet(classes: int, options: VNetOptions) -> torch.nn.Module:
    import torch
    from monai.networks.nets import vnet

    # MONAI's V-Net has a fixed width and some fixed dropouts: keep its forward pass, and replace all of its blocks.
    with torch.device("meta"):
        network: torch.nn.Module = vnet.VNet(spatial_dims=3, in_channels=1, out_channels=classes)
    elu = ("elu", {"inplace": True})
    width, dropout = options.width, options.dropout
    network.in_tr = vnet.InputTransition(3, 1, width, elu)
    for name, channels, convolutions, dropped in (
        ("down_tr32", width, 1, None),
        ("down_tr64", 2 * width, 2, None),
        ("down_tr128", 4 * width, 3, dropout),
        ("down_tr256", 8 * width, 2, dropout),
    ):
        setattr(network, name, vnet.DownTransition(3, channels, convolutions, elu, dropout_prob=dropped))
    for name, channels, above, convolutions, dropped in (
        ("up_tr256", 16 * width, 16 * width, 2, dropout),
        ("up_tr128", 16 * width, 8 * width, 2, dropout),
        ("up_tr64", 8 * width, 4 * width, 1, None),
        ("up_tr32", 4 * width, 2 * width, 1, None),
    ):
        block = vnet.UpTransition(3, channels, above, convolutions, elu, dropout_prob=(dropped, dropout))
        setattr(network, name, block)
    network.out_tr = vnet.OutputTransition(3, 2 * width, classes, elu)
    return network


def _dynunet(classes: int, options: DynUNetOptions) -> torch.nn.Module:
    from monai.networks.nets import DynUNet

    strides = (1, 2, 2, 2, 2)
    filters = [min(options.width * 2**level, 10 * options.width) for level in range(len(strides))]
    return DynUNet(  # type: ignore[no-any-return]
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        kernel_size=(3,) * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=filters,
    )


_NETWORKS: dict[str, tuple[type, Callable[[int, Any], torch.nn.Module]]] = {
    "unet3d": (UNet3DOptions, _unet3d),
    "covid_segnet": (CovidSegNetOptions, _covid_segnet),
    "unetplusplus": (UNetPlusPlusOptions, _unetplusplus),
    "vnet": (VNetOptions, _vnet),
    "dynunet": (DynUNetOptions, _dynunet),
}

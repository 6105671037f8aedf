"""The standard 3D U-Net of the paper, in torch.

Source: METHOD section 5; paper, section "Neural network". Each level is twice convolution,
ReLU, batch normalisation, in this order; at 32 filters it has 22,581,316 trainable parameters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .stored_settings import read_settings
from .texts import text as _

if TYPE_CHECKING:
    import torch

DEPTH = 4
#: Sizes along each axis must be a multiple of this: four poolings by two.
SIZE_MULTIPLE = 2**DEPTH


@dataclass(frozen=True)
class NetworkConfig:
    """Which network a bundle holds.

    Attributes:
        architecture: Only "unet3d" is known to the engine.
        width: Filters of the first level; each of the four levels below doubles them (paper: 32).
        classes: Output channels (paper: 4).
    """

    architecture: str = "unet3d"
    width: int = 32
    classes: int = 4

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Return the configuration stored in a bundle.

        Raises:
            ModelError: A key is unknown, or this version does not have the network.
        """
        config = read_settings(cls, values, what=_("network configuration"))
        if config.architecture != "unet3d" or config.width < 1 or config.classes < 2:
            raise ModelError(
                _(
                    "network configuration {found}: this version runs 'unet3d' with at least one filter and two classes"
                ).format(found=values)
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values for JSON."""
        return asdict(self)


def build_network(config: NetworkConfig) -> torch.nn.Module:
    """Return the network with fresh weights (Glorot uniform, zero bias).

    It maps (batch, 1, k, j, i) to logits (batch, classes, k, j, i); k, j, i must be multiples of 16.
    """
    return _unet3d_class()(config)  # type: ignore[no-any-return]


@cache
def _unet3d_class() -> type:
    """Return the U-Net class; defined late because torch must not be imported when Slicer starts."""
    import torch
    from torch import nn

    def double_convolution(channels_in: int, channels_out: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            layers += [
                nn.Conv3d(channels, channels_out, kernel_size=3, padding=1),
                nn.ReLU(inplace=True),
                # Keras' momentum 0.99 and epsilon 1e-3, as in the paper's code.
                nn.BatchNorm3d(channels_out, momentum=0.01, eps=1e-3),
            ]
        return nn.Sequential(*layers)

    class UNet3D(nn.Module):
        def __init__(self, config: NetworkConfig) -> None:
            super().__init__()
            filters = [config.width * 2**level for level in range(DEPTH + 1)]
            self.down = nn.ModuleList(
                double_convolution(1 if level == 0 else filters[level - 1], filters[level])
                for level in range(DEPTH + 1)
            )
            self.pool = nn.MaxPool3d(2)
            self.expand = nn.ModuleList(
                nn.ConvTranspose3d(filters[level + 1], filters[level], kernel_size=2, stride=2)
                for level in range(DEPTH)
            )
            self.up = nn.ModuleList(double_convolution(2 * filters[level], filters[level]) for level in range(DEPTH))
            self.head = nn.Conv3d(filters[0], config.classes, kernel_size=1)
            for module in self.modules():
                if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skips = []
            for level in range(DEPTH):
                x = self.down[level](x)
                skips.append(x)
                x = self.pool(x)
            x = self.down[DEPTH](x)
            for level in reversed(range(DEPTH)):
                x = self.up[level](torch.cat([self.expand[level](x), skips.pop()], dim=1))
            return self.head(x)  # type: ignore[no-any-return]

    return UNet3D

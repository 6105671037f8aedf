"""COVID-SegNet: a residual 3D U-Net with attention in the encoder and atrous convolutions at the bottom.

Source: Yan et al. 2020, "COVID-19 Chest CT Image Segmentation: A Deep Convolutional Neural Network
Solution". Its names, and those used here: feature variation (FV) block = `FeatureVariation`, contrast
enhancement branch = `global_gate`, position sensitive branch = `spatial_attention`, PASPP =
`ProgressiveAtrousPyramid`. The source leaves open how features are halved and how the fourth level gets
its channels: here by max-pooling, and by a residual block as on the levels above.

Torch is imported at the top because all of this is torch; `networks` imports it only to build one.
"""

from __future__ import annotations

import torch
from torch import nn

#: Voxels between the taps of the pyramid's four branches.
DILATIONS = (1, 2, 4, 8)


def unit(channels_in: int, channels_out: int, *, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Return convolution (same size, without bias: the norm has one), batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two units, plus the input (through a 1x1x1 convolution where the channels change)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.units = nn.Sequential(unit(channels_in, channels_out), unit(channels_out, channels_out))
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv3d(channels_in, channels_out, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, channels_out, k, j, i) of (n, channels_in, k, j, i)."""
        return self.units(x) + self.shortcut(x)  # type: ignore[no-any-return]


class FeatureVariation(nn.Module):
    """FV block: features weighed as a whole and place by place, fused, plus the input.

    F = unit1(x); out = x + unit3(concat[g * F, A * F, F]), with one number g per sample and a map A of
    the shape of F, both between 0 and 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = unit(channels, channels, kernel=1)
        # The source has a 3x3x3 convolution after the global pooling. On one voxel only the middle of its
        # kernel meets data, so 1x1x1 is the same function without the 26 of 27 weights that never learn.
        self.global_gate = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(channels, channels, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, 1, kernel_size=1),
            nn.Sigmoid(),
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv3d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, kernel_size=3, padding=1),
            nn.Sigmoid(),
        )
        self.fuse = unit(3 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x`, (n, channels, k, j, i)."""
        features = self.features(x)
        gated = self.global_gate(features) * features
        attended = self.spatial_attention(features) * features
        return x + self.fuse(torch.cat([gated, attended, features], dim=1))  # type: ignore[no-any-return]


class ProgressiveAtrousPyramid(nn.Module):
    """PASPP: four atrous branches of a quarter of the channels, joined two by two and then all.

    Both branches of a pair add the sum of the pair's inputs to what their atrous convolution finds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.reduce = nn.ModuleList(unit(channels, quarter, kernel=1) for _ in DILATIONS)
        self.atrous = nn.ModuleList(unit(quarter, quarter, dilation=dilation) for dilation in DILATIONS)
        self.join_pair = nn.ModuleList(unit(half, half, kernel=1) for _ in range(2))
        self.join_all = unit(channels, channels, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x`, (n, channels, k, j, i)."""
        inputs = [reduce(x) for reduce in self.reduce]
        halves = []
        for pair, join in enumerate(self.join_pair):
            first, second = 2 * pair, 2 * pair + 1
            shared = inputs[first] + inputs[second]
            branches = [self.atrous[n](inputs[n]) + shared for n in (first, second)]
            halves.append(join(torch.cat(branches, dim=1)))
        return self.join_all(torch.cat(halves, dim=1))  # type: ignore[no-any-return]


class CovidSegNet(nn.Module):
    """The whole network: (n, 1, k, j, i) to logits (n, classes, k, j, i)."""

    def __init__(self, *, width: int, classes: int) -> None:
        """Build with `width` channels on the first level (source: 64), twice as many on each below."""
        super().__init__()
        channels = [width * 2**level for level in range(4)]
        self.encode = nn.ModuleList(
            nn.Sequential(Residual(above, here), FeatureVariation(here))
            for above, here in zip([1, *channels[:2]], channels[:3], strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.bottom = nn.Sequential(Residual(channels[2], channels[3]), ProgressiveAtrousPyramid(channels[3]))
        upper = channels[:3]
        self.expand = nn.ModuleList(nn.ConvTranspose3d(2 * here, here, kernel_size=2, stride=2) for here in upper)
        self.decode = nn.ModuleList(Residual(2 * here, here) for here in upper)
        self.head = nn.Conv3d(width, classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of an image; k, j, i are multiples of 8, because they are halved three times."""
        skips = []
        for encode in self.encode:
            x = encode(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for level in (2, 1, 0):
            x = self.decode[level](torch.cat([self.expand[level](x), skips[level]], dim=1))
        return self.head(x)  # type: ignore[no-any-return]

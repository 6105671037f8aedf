"""Small model bundles made on the spot, and networks whose answer is known by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from CovidSegLib.network import NetworkConfig, build_network
from safetensors.torch import save
from torch import nn

#: Coarse, so that a whole chest is a small image.
SPACING_IJK_MM = (4.0, 4.0, 5.0)


def write_bundle(
    folder: Path,
    *,
    tensors: dict[str, torch.Tensor] | None = None,
    weights_bytes: bytes | None = None,
    version: str = "1.2.3",
    **changes: Any,
) -> Path:
    """Write a bundle; its network has 2 filters and random weights of a fixed seed unless given otherwise.

    Args:
        folder: The bundle's folder, made here.
        tensors: Weights instead of the random ones.
        weights_bytes: Bytes of the weights' file instead of safetensors.
        version: Of the weights.
        changes: Entries of the section `covidseg` to replace; None removes the entry.
    """
    data = weights_bytes if weights_bytes is not None else save(random_tensors() if tensors is None else tensors)
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "models" / "weights.safetensors").write_bytes(data)
    own: dict[str, Any] = {
        "weights": {"file": "weights.safetensors", "sha256": hashlib.sha256(data).hexdigest()},
        "network": {"architecture": "unet3d", "width": 2, "classes": 4},
        "preprocessing": {"spacing_ijk_mm": list(SPACING_IJK_MM)},
        "postprocessing": {},
    }
    own = {key: value for key, value in {**own, **changes}.items() if value is not None}
    metadata = {"version": version, "covidseg": own}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def random_tensors(*, width: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the weights of a fresh network as a bundle stores them."""
    torch.manual_seed(seed)
    return stored(build_network(NetworkConfig(width=width)).state_dict())


def stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a network's state without the counters, which bundles leave out."""
    return {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def threshold_tensors(*, left_below: float = -0.2, infection_below: float = 0.3) -> dict[str, torch.Tensor]:
    """Return weights with which the U-Net of width 2 looks at each voxel alone.

    The scaled image x passes through the topmost level untouched (as x + 1), and the head makes left lung
    of x < `left_below`, background of x > `infection_below`, infection in between.
    """
    state = {name: torch.zeros_like(tensor) for name, tensor in random_tensors().items()}
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.fill_(1.0 - 1e-3)  # plus epsilon: no scaling
        if ".2.weight" in name or ".5.weight" in name:  # batch normalisation
            tensor.fill_(1.0)
    for name, source in (("down.0.0", 0), ("down.0.3", 0), ("up.0.0", 2), ("up.0.3", 0)):
        state[f"{name}.weight"][0, source, 1, 1, 1] = 1.0  # `up.0.0` sees two expanded channels before the skip
    state["down.0.0.bias"][0] = 1.0
    slope = torch.tensor([120.0, 0.0, -40.0, 40.0])
    # Lines of x that cross at the cuts: left 0, infection 40 (x - a), background 120 (x - b) + 40 (b - a).
    at_zero = torch.tensor(
        [-120.0 * infection_below + 40.0 * (infection_below - left_below), 0.0, -100.0, -40.0 * left_below]
    )
    state["head.weight"][:, 0, 0, 0, 0] = slope
    state["head.bias"][:] = at_zero - slope  # of x = 0, that is h = 1
    return state


class Pointwise(nn.Module):
    """Logits that are known multiples of the voxel's own value; counts its calls."""

    def __init__(self, slopes: tuple[float, ...] = (3.0, -2.0, 0.5, 1.0)) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(slopes)[None, :, None, None, None])
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape[2:]))
        return x * self.slopes  # type: ignore[no-any-return, operator]


class Sided(Pointwise):
    """Air is lung, left in the half with high i, right in the other; tissue is background. For images of one patch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape[2:]))
        is_left = torch.arange(x.shape[4]) >= x.shape[4] // 2
        lung = torch.where(x < 0.0, 20.0, 0.0)
        return torch.cat([20.0 - lung, lung * is_left, lung * ~is_left, torch.zeros_like(x)], dim=1)

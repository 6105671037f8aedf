"""A tiny bundle for tests: the shipped configuration around a network of few filters."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from CovidSegLib.resources import resource_path
from CovidSegLib.volume import CTVolume
from safetensors.torch import save

SHIPPED = resource_path("Models", "covidseg_unet3d")


def write_tiny_bundle(folder: Path, *, ct: CTVolume, spacing_ijk_mm: tuple[float, float, float]) -> Path:
    """Write a bundle whose untrained network answers with every class somewhere in `ct`; return its folder.

    Args:
        folder: Where to write; made.
        ct: The CT that the test will segment.
        spacing_ijk_mm: What the network shall see; coarse is fast.
    """
    shutil.copytree(SHIPPED / "configs", folder / "configs")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    config = NetworkConfig(width=2)
    recipe = PreprocessingRecipe(spacing_ijk_mm=spacing_ijk_mm)
    weights = save(_balanced_network(config, image_kji=preprocess_image(ct, recipe=recipe)))
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(weights)
    metadata["covidseg"] = {
        "network": config.to_dict(),
        "preprocessing": recipe.to_dict(),
        # Nothing is too small to be believed: an untrained network's answer is patchy.
        "postprocessing": {"min_lung_piece_ml": 0.0, "min_lung_piece_share": 0.0, "min_infection_ml": 0.0},
        "weights": {"file": "model.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def preprocess_image(ct: CTVolume, *, recipe: PreprocessingRecipe) -> np.ndarray:
    """Return the (k, j, i) image that the network sees."""
    return preprocess(ct.hu_kji, geometry=ct.geometry, recipe=recipe).image_kji


def _balanced_network(config: NetworkConfig, *, image_kji: np.ndarray) -> dict[str, torch.Tensor]:
    """Return random weights in half precision whose classes are about equally likely in the image."""
    torch.manual_seed(0)
    network = build_network(config).eval()
    k, j, i = (n // 16 * 16 for n in image_kji.shape)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image_kji[:k, :j, :i].copy())[None, None])
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["head.bias"] -= logits[0].flatten(1).median(dim=1).values
    return {name: tensor.half() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}

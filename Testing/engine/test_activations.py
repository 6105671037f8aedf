"""The ranges of activations beside a bundle's weights: stored, verified, and used by the product."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from CovidSegLib import patch_predictor
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import ModelError
from CovidSegLib.int8.activations import ActivationRange, ActivationRanges, coded_layers, read_activations, to_bytes
from CovidSegLib.int8.convolution import integers_are_exact
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.phantom import make_phantom
from CovidSegLib.pipeline import segment
from helpers_model import write_bundle


def some_activations(network: torch.nn.Module) -> ActivationRanges:
    return {
        name: ActivationRange(-torch.arange(n) - 0.5, torch.arange(n) + 0.25)
        for name, n in coded_layers(network).items()
    }


def write_quantized(folder: Path, *, data: bytes | None = None, sha256: str | None = None) -> Path:
    """Write a bundle of two filters with activations, by default those of `some_activations`."""
    data = to_bytes(some_activations(build_network(NetworkConfig(width=2)))) if data is None else data
    entry = {"file": "activations.safetensors", "sha256": sha256 or hashlib.sha256(data).hexdigest()}
    write_bundle(folder, activations=entry)
    (folder / "models" / "activations.safetensors").write_bytes(data)
    return folder


def test_every_relu_and_transposed_convolution_is_coded() -> None:
    layers = coded_layers(build_network(NetworkConfig(width=4)))
    assert len(layers) == 5 * 2 + 4 * 2 + 4
    assert (layers["down.0.1"], layers["down.4.4"], layers["expand.3"], layers["up.0.4"]) == (4, 64, 32, 4)


def test_bundle_gives_the_activations_that_were_stored(tmp_path: Path) -> None:
    bundle = load_bundle(write_quantized(tmp_path / "tiny"))
    expected = some_activations(bundle.network)
    assert bundle.is_quantized and bundle.integers is not None
    assert bundle.integers.activations.keys() == expected.keys()
    for name, activation in bundle.integers.activations.items():
        assert torch.equal(activation.lowest, expected[name].lowest)
        assert torch.equal(activation.highest, expected[name].highest)


def test_bundle_without_activations_has_none(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "tiny"))
    assert not bundle.is_quantized and bundle.integers is None


def test_activations_that_are_missing_exchanged_damaged_or_of_another_network_are_refused(tmp_path: Path) -> None:
    other = to_bytes(some_activations(build_network(NetworkConfig(width=4))))
    endless = some_activations(build_network(NetworkConfig(width=2)))
    endless["up.0.1"].highest[1] = torch.inf
    for name, options, message in (
        ("exchanged", {"sha256": "0" * 64}, "is damaged or was exchanged"),
        ("damaged", {"data": b"no tensors"}, "is damaged"),
        ("other", {"data": other}, "does not fit the network"),
        ("endless", {"data": to_bytes(endless)}, "is damaged: values that are no numbers"),
    ):
        bundle = load_bundle(write_quantized(tmp_path / name, **options))  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=rf"activations\.safetensors {message}"):
            _ = bundle.integers
    missing = load_bundle(write_quantized(tmp_path / "missing"))
    (missing.path / "models" / "activations.safetensors").unlink()
    with pytest.raises(ModelError, match=r"activations\.safetensors cannot be read"):
        _ = missing.integers


def test_activations_are_read_by_no_pickle(tmp_path: Path) -> None:
    path, network = tmp_path / "activations.safetensors", build_network(NetworkConfig(width=2))
    torch.save({"down.0.1": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="is damaged"):
        read_activations(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), network=network)


@pytest.mark.parametrize(
    "entry", ["activations.safetensors", {"file": "a.safetensors"}, {"file": "../a", "sha256": ""}]
)
def test_malformed_entry_is_refused_when_the_bundle_is_loaded(tmp_path: Path, entry: object) -> None:
    with pytest.raises(ModelError, match=r"metadata\.json"):
        load_bundle(write_bundle(tmp_path / "tiny", activations=entry))


def test_shipped_activations_are_of_the_shipped_weights() -> None:
    bundle = load_bundle()
    assert bundle.integers is not None
    for name, activation in bundle.integers.activations.items():
        assert (activation.highest > activation.lowest).any(), name
        assert torch.isfinite(activation.lowest).all() and torch.isfinite(activation.highest).all()


@pytest.mark.skipif(not integers_are_exact(), reason="this CPU has no exact convolution of 8-bit integers")
def test_shipped_network_in_integers_finds_what_it_finds_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_predictor, "gains_from_bfloat16", lambda _device: False)
    monkeypatch.setattr(patch_predictor, "gains_from_int8", lambda _device: True)
    ct = make_phantom(seed=3, size_ijk=(160, 130, 80), spacing_ijk_mm=(2.4, 2.4, 4.0)).ct
    bundle = load_bundle()
    metadata = json.loads(json.dumps(bundle.metadata))
    del metadata["covidseg"]["activations"]
    exact = segment(ct, mode="fast", device="cpu", bundle=replace(bundle, metadata=metadata))
    found = segment(ct, mode="fast", device="cpu", bundle=bundle)
    assert (exact.runtime["precision"], found.runtime["precision"]) == ("float32", "int8")
    for label, least in ((1, 0.998), (2, 0.998), (3, 0.98)):
        a, b = exact.labelmap == label, found.labelmap == label
        assert 2 * np.count_nonzero(a & b) / (a.sum() + b.sum()) > least
    assert found.quantities.poi_percent == pytest.approx(exact.quantities.poi_percent, rel=0.01)

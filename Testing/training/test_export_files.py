"""What export reads and leaves alone: files that are no weights, metadata written by others, activations of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import ModelError
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.preprocess import PreprocessingRecipe

from CovidSegTraining.export import export_weights, half_precision, load_state


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a network of width 2, beside the settings of their run."""
    torch.manual_seed(1)
    path = tmp_path / "run" / "average.pt"
    path.parent.mkdir()
    torch.save(build_network(NetworkConfig(width=2)).state_dict(), path)
    settings = {"network": NetworkConfig(width=2).to_dict(), "preprocessing": PreprocessingRecipe().to_dict()}
    path.with_name("config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def _change(weights: Path) -> None:
    state = load_state(weights)
    torch.save({**state, "head.bias": state["head.bias"] + 1}, weights)


def _edit(bundle: Path, change: Callable[[dict[str, Any]], object], *, indent: int | None = None) -> str:
    """Change a bundle's metadata; return their text."""
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    change(metadata)
    path.write_text(json.dumps(metadata, indent=indent), encoding="utf-8")
    return path.read_text(encoding="utf-8")


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> Any:
        return Path.touch, (self._made,)


def test_code_in_a_file_of_weights_is_never_run(tmp_path: Path) -> None:
    torch.save({"head.bias": _Trap(tmp_path / "made")}, tmp_path / "average.pt")
    with pytest.raises(ModelError, match=r"average\.pt: damaged, or no weights"):
        load_state(tmp_path / "average.pt")
    assert not (tmp_path / "made").exists()


def test_weights_are_loaded_on_the_cpu_wherever_they_were_trained(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    load = torch.load

    def spy(path: Any, **options: Any) -> Any:
        asked.append(options.get("map_location"))
        return load(path, **options)

    monkeypatch.setattr(torch, "load", spy)
    load_state(weights)
    assert [str(device) for device in asked] == ["cpu"]


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"epoch": 3}, {"average": {"step": 1}}, {"average": 5}])
def test_file_that_holds_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "average.pt")
    with pytest.raises(ModelError, match=r"average\.pt: holds no weights"):
        load_state(tmp_path / "average.pt")


@pytest.mark.parametrize("content", [b"experiment:\n  network: unet3d\n", b"", b"\x80\x02.", b"]q\x00(K\x01e."])
def test_file_that_torch_never_wrote_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(ModelError, match=r"recipe\.yaml: damaged, or no weights. Give a file written by 'fit'"):
        load_state(tmp_path / "recipe.yaml")


def test_weights_that_lie_otherwise_in_memory_are_stored_alike(tmp_path: Path, weights: Path) -> None:
    sha256 = export_weights(weights, bundle_dir=tmp_path / "a")
    state = load_state(weights)
    for name, tensor in state.items():
        if tensor.ndim == 5:
            state[name] = tensor.to(memory_format=torch.channels_last_3d)
    assert not all(tensor.is_contiguous() for tensor in state.values())
    assert all(tensor.is_contiguous() for tensor in half_precision(state).values())
    torch.save(state, weights)
    assert export_weights(weights, bundle_dir=tmp_path / "b") == sha256


def test_metadata_that_are_no_text_are_named(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "bundle" / "configs" / "metadata.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"authors": "M\xfcller"}')
    with pytest.raises(ModelError, match=r"metadata\.json is damaged"):
        export_weights(weights, bundle_dir=tmp_path / "bundle")
    assert path.read_bytes() == b'{"authors": "M\xfcller"}'


def test_weights_without_the_settings_of_their_run_are_of_the_default_network(tmp_path: Path) -> None:
    path = tmp_path / "average.pt"
    torch.save(build_network(NetworkConfig()).state_dict(), path)
    export_weights(path, bundle_dir=tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.network_config, bundle.preprocessing) == (NetworkConfig(), PreprocessingRecipe())


def test_settings_without_a_preprocessing_leave_that_of_the_bundle(tmp_path: Path, weights: Path) -> None:
    export_weights(weights, bundle_dir=tmp_path / "bundle")
    weights.with_name("config.json").write_text('{"network": {"width": 2}}', encoding="utf-8")
    text = (tmp_path / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8")
    export_weights(weights, bundle_dir=tmp_path / "bundle")
    assert (tmp_path / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("change", ["lacks", "adds", "reshapes"])
def test_weights_that_differ_from_the_network_are_named_and_counted(tmp_path: Path, weights: Path, change: str) -> None:
    state = load_state(weights)
    names = ["head.bias", "head.weight"]
    for name in names:
        if change == "lacks":
            del state[name]
        elif change == "adds":
            state[f"{name}.more"] = torch.zeros(1)
        else:
            state[name] = torch.zeros(9)
    torch.save(state, weights)
    first = "head.bias.more" if change == "adds" else "head.bias"
    with pytest.raises(ModelError, match=rf"average\.pt: not of the network.*: {first} and 1 more differ"):
        export_weights(weights, bundle_dir=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_same_version_elsewhere_in_the_metadata_stays(tmp_path: Path, weights: Path) -> None:
    bundle = tmp_path / "bundle"
    export_weights(weights, bundle_dir=bundle, version="1.0.0")
    before = _edit(bundle, lambda metadata: metadata.update(supported={"version": "1.0.0"}))
    _change(weights)
    sha256 = export_weights(weights, bundle_dir=bundle, version="2.0.0")
    after = (bundle / "configs" / "metadata.json").read_text(encoding="utf-8")
    old = json.loads(before)["covidseg"]["weights"]["sha256"]
    assert after == before.replace(old, sha256).replace('"version": "1.0.0"', '"version": "2.0.0"', 1)


@pytest.mark.parametrize(("measured", "there"), [("activations", False), ("calibration", True), ("activations", True)])
def test_file_of_activations_goes_only_with_their_entry(
    tmp_path: Path, weights: Path, measured: str, *, there: bool
) -> None:
    bundle = tmp_path / "bundle"
    export_weights(weights, bundle_dir=bundle)
    entries = {
        "activations": {"file": "activations.safetensors", "sha256": "0" * 64},
        "calibration": {"temperature": 2.0},
    }
    _edit(bundle, lambda metadata: metadata["covidseg"].update({measured: entries[measured]}))
    file = bundle / "models" / "activations.safetensors"
    if there:
        file.write_bytes(b"measured")
    _change(weights)
    told: list[str] = []
    export_weights(weights, bundle_dir=bundle, version="1.0.0", tell=told.append)
    assert len(told) == 1 and f"metadata.json: {measured} went" in told[0]
    assert file.exists() is (there and measured != "activations")


def test_each_output_channel_has_its_own_step_in_8_bits(tmp_path: Path, weights: Path) -> None:
    state = load_state(weights)
    name = "expand.0.weight"  # a transposed convolution: its output channels are the second axis
    state[name][:, 0] *= 0.1
    torch.save(state, weights)
    export_weights(weights, bundle_dir=tmp_path / "bundle", int8=True)
    found = load_bundle(tmp_path / "bundle").network.state_dict()[name]
    for channel in range(found.shape[1]):
        exact = state[name][:, channel]
        assert (found[:, channel] - exact).abs().max() < 0.006 * exact.abs().max()

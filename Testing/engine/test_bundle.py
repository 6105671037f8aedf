"""Bundles: what fits is loaded and gives the same answer; what is damaged, exchanged or foreign is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from CovidSegLib.bundle import load_bundle, load_network
from CovidSegLib.errors import ModelError
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.preprocess import PreprocessingRecipe
from helpers_model import random_tensors, stored, write_bundle
from safetensors.torch import save


def metadata_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))


def rewrite(folder: Path, metadata: object) -> None:
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


@pytest.mark.parametrize("width", [2, 4])
def test_bundle_gives_the_network_that_was_stored(tmp_path: Path, width: int) -> None:
    torch.manual_seed(3)
    network = build_network(NetworkConfig(width=width)).eval()
    bundle = load_bundle(
        write_bundle(
            tmp_path / "tiny",
            tensors=stored(network.state_dict()),
            network={"architecture": "unet3d", "width": width, "classes": 4},
        )
    )
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(bundle.network(image), network(image))
    assert not bundle.network.training
    assert not any(p.requires_grad for p in bundle.network.parameters())
    assert bundle.network is bundle.network  # loaded once


def test_bundle_states_name_version_hash_and_recipes(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path / "tiny",
        preprocessing={"spacing_ijk_mm": [3, 3, 5], "outside_hu": 0.0},
        postprocessing={"min_infection_ml": 0.5},
    )
    bundle = load_bundle(folder)
    sha256 = metadata_of(folder)["covidseg"]["weights"]["sha256"]
    assert bundle.to_dict() == {
        "name": "tiny",
        "version": "1.2.3",
        "sha256": sha256,
        "fingerprint": bundle.fingerprint,
    }
    assert bundle.preprocessing == PreprocessingRecipe(spacing_ijk_mm=(3, 3, 5), outside_hu=0.0)
    assert bundle.postprocessing.min_infection_ml == 0.5
    assert bundle.network_config == NetworkConfig(width=2)
    assert load_bundle(write_bundle(tmp_path / "plain", postprocessing=None)).postprocessing.min_infection_ml == 0.06


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": {"spacing_ijk_mm": [3, 3, 5], "outside_hu": 1.0}},
        {"postprocessing": {"min_infection_ml": 0.5}},
        {"calibration": {"temperature": 1.5}},
        {"weights": {"file": "model.safetensors", "sha256": "0" * 64}},
        {"activations": {"file": "activations.safetensors", "sha256": "0" * 64}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_follows_all_that_results_depend_on(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_bundle(tmp_path / "tiny")
    before = load_bundle(folder).fingerprint
    metadata = metadata_of(folder)
    metadata["covidseg"] |= change
    rewrite(folder, metadata)
    assert load_bundle(folder).fingerprint not in (before, load_bundle().fingerprint)


def test_fingerprint_follows_neither_folder_description_nor_the_order_of_keys(tmp_path: Path) -> None:
    before = load_bundle(write_bundle(tmp_path / "tiny")).fingerprint
    folder = write_bundle(tmp_path / "other")
    metadata = metadata_of(folder)
    own = dict(reversed(metadata["covidseg"].items()))
    text = json.dumps({**metadata, "description": "another", "covidseg": own}, indent=4)
    (folder / "configs" / "metadata.json").write_text(text, encoding="utf-8")
    assert load_bundle(folder).fingerprint == before
    assert before.startswith("sha256:") and len(before) == len("sha256:") + 64


def test_half_precision_weights_are_computed_with_in_full_precision(tmp_path: Path) -> None:
    full = random_tensors()
    bundle = load_bundle(write_bundle(tmp_path / "half", tensors={name: t.half() for name, t in full.items()}))
    state = bundle.network.state_dict()
    for name, tensor in full.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.half().float())


def test_other_bytes_than_the_metadata_promise_are_refused_before_they_are_read(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    path = folder / "models" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"weights\.safetensors are damaged or were exchanged.*Install the bundle again"
    ):
        _ = load_bundle(folder).network


def test_truncated_weights_are_refused_even_with_a_matching_hash(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "cut", weights_bytes=save(random_tensors())[:-100])
    with pytest.raises(ModelError, match="do not fit"):
        _ = load_bundle(folder).network


def test_pickled_weights_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "trap",))

    folder = write_bundle(tmp_path / "pickled", weights_bytes=pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="do not fit"):
        _ = load_bundle(folder).network
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "c:x.safetensors", 5],
)
def test_weights_outside_the_models_folder_are_refused(tmp_path: Path, file: object) -> None:
    folder = write_bundle(tmp_path / "tiny", weights_bytes=b"x")
    metadata = metadata_of(folder)
    metadata["covidseg"]["weights"]["file"] = file
    rewrite(folder, metadata)
    with pytest.raises(ModelError, match=r"must be \.safetensors files in the bundle's models folder"):
        load_bundle(folder)


@pytest.mark.parametrize("file", ["model.pt", "weights.pkl", "", ".."])
def test_weights_in_another_format_are_refused(tmp_path: Path, file: str) -> None:
    folder = write_bundle(tmp_path / "tiny", weights_bytes=b"x")
    metadata = metadata_of(folder)
    metadata["covidseg"]["weights"]["file"] = file
    rewrite(folder, metadata)
    with pytest.raises(ModelError, match=r"\.safetensors"):
        load_bundle(folder)


def test_weights_of_another_width_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "wide", tensors=random_tensors(width=4))
    with pytest.raises(ModelError, match=r"do not fit the network the bundle names.*width=2"):
        _ = load_bundle(folder).network


def test_missing_and_extra_tensors_are_refused(tmp_path: Path) -> None:
    tensors = random_tensors()
    del tensors["head.bias"]
    with pytest.raises(ModelError, match=r"head\.bias and 0 more differ"):
        _ = load_bundle(write_bundle(tmp_path / "less", tensors=tensors)).network
    tensors = random_tensors() | {"extra": torch.zeros(1)}
    with pytest.raises(ModelError, match="extra and 0 more differ"):
        _ = load_bundle(write_bundle(tmp_path / "more", tensors=tensors)).network


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    (folder / "models" / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors cannot be read"):
        _ = load_bundle(folder).network


def test_weights_can_be_loaded_without_a_bundle(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    bundle = load_bundle(folder)
    network = load_network(bundle.weights_path, config=bundle.network_config, sha256=bundle.sha256)
    assert torch.equal(network.head.bias, bundle.network.head.bias)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("key", ["weights", "network", "preprocessing"])
def test_missing_section_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelError, match=f"lacks or misspells a key.*{key}"):
        load_bundle(write_bundle(tmp_path / "tiny", **{key: None}))


@pytest.mark.parametrize("path", [("version",), ("covidseg",), ("covidseg", "weights", "sha256")])
def test_missing_key_is_named(tmp_path: Path, path: tuple[str, ...]) -> None:
    folder = write_bundle(tmp_path / "tiny")
    metadata = metadata_of(folder)
    section = metadata
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    rewrite(folder, metadata)
    with pytest.raises(ModelError, match=f"lacks or misspells a key.*{path[-1]}"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"architecture": "swin"}}, "unet3d"),
        ({"network": {"classes": 3}}, "3 classes"),
        ({"network": {"width": "16"}}, r"metadata\.json: network .*: width must be a whole number, not '16'"),
        ({"network": {"width": True}}, "width must be a whole number, not True"),
        ({"network": [16]}, r"metadata\.json: network configuration: expected keys and values"),
        ({"preprocessing": {"spacing": 1}}, r"metadata\.json: preprocessing recipe: unknown key 'spacing'"),
        ({"preprocessing": {"window_hu": [-1250, "250"]}}, r"window_hu must be 2 numbers"),
        ({"preprocessing": {"window_hu": [-1250, 250, 500]}}, r"window_hu must be 2 numbers"),
        ({"postprocessing": {"min_infection_ml": True}}, "min_infection_ml must be a number, not True"),
        ({"postprocessing": {"smooth": 1}}, r"metadata\.json: postprocessing recipe: unknown key 'smooth'"),
        ({"postprocessing": {"min_infection_ml": "big"}}, "min_infection_ml must be a number, not 'big'"),
        ({"postprocessing": {"min_infection_ml": float("nan")}}, "min_infection_ml must be a number, not nan"),
        ({"postprocessing": {"min_infection_ml": 10**400}}, "min_infection_ml must be a number, not 10000"),
        ({"postprocessing": {"max_film_mm": -1}}, "must not be negative"),
        ({"postprocessing": {"infection_factor": 0}}, "nor the factor 0"),
        ({"weights": {"file": "weights.safetensors", "sha256": "abc"}}, "64 hexadecimal digits"),
    ],
)
def test_bundle_this_version_cannot_run_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_bundle(write_bundle(tmp_path / "tiny", **changes))


@pytest.mark.parametrize("text", ["{", "[]", '"bundle"', "\udcff"])
def test_damaged_metadata_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = write_bundle(tmp_path / "tiny")
    (folder / "configs" / "metadata.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"metadata\.json"):
        load_bundle(folder)


def test_folder_or_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(ModelError, match="is no model bundle"):
            load_bundle(path)


def test_path_may_be_text(tmp_path: Path) -> None:
    assert load_bundle(str(write_bundle(tmp_path / "tiny"))).name == "tiny"

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from CovidSegLib.bundle import load_bundle
from CovidSegLib.cli import main as covidseg
from CovidSegLib.errors import ModelError
from CovidSegLib.network import NetworkConfig, build_network
from safetensors.torch import load_file

from CovidSegTraining.export import export_weights, load_state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training run's folder with weights of a network of width 2."""
    torch.manual_seed(1)
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(build_network(NetworkConfig(width=2)).state_dict(), folder / "average.pt")
    settings = {
        "network": {"architecture": "unet3d", "width": 2, "classes": 4},
        "preprocessing": {"spacing_ijk_mm": [2.0, 2.0, 3.0], "window_hu": [-1000, 200], "outside_hu": 30.0},
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _change(run: Path) -> None:
    """Let the run have other weights."""
    state = load_state(run / "average.pt")
    torch.save({**state, "head.bias": state["head.bias"] + 1}, run / "average.pt")


def _metadata(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8")))


def _bundle_files(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_exported_bundle_loads_and_holds_the_weights_in_half_precision(tmp_path: Path, run: Path) -> None:
    sha256 = export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle", version="1.2.0")
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.sha256, bundle.version, bundle.network_config.width) == (sha256, "1.2.0", 2)
    assert bundle.preprocessing.spacing_ijk_mm == (2.0, 2.0, 3.0)
    for name, tensor in load_state(run / "average.pt").items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(bundle.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    stored = load_file(tmp_path / "bundle" / "models" / "model.safetensors")
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.float32 if "running_" in name else torch.float16)
    assert not any(name.endswith("num_batches_tracked") for name in stored)
    assert not list((tmp_path / "bundle").rglob("*.part"))


def test_weights_in_8_bits_are_half_the_size_and_nearly_the_same(tmp_path: Path, run: Path) -> None:
    for name, int8 in (("half", False), ("int8", True)):
        export_weights(run / "average.pt", bundle_dir=tmp_path / name, int8=int8)
    files = {name: tmp_path / name / "models" / "model.safetensors" for name in ("half", "int8")}
    tensors = load_file(files["int8"])
    convolutions = [name.removesuffix(".scale") for name in tensors if name.endswith(".scale")]
    assert len(convolutions) == 23  # 18 in pairs, 4 that expand, the head
    assert all(tensors[name].dtype == torch.int8 for name in convolutions)
    assert sum(tensors[name].nbytes for name in convolutions) > 0.5 * sum(t.nbytes for t in tensors.values())

    state = load_bundle(tmp_path / "int8").network.state_dict()
    for name, exact in load_bundle(tmp_path / "half").network.state_dict().items():
        if name in convolutions:
            # Half a step of the channel's own scale; the output channel of what expands is its second axis.
            step = (
                exact.abs().amax(dim=[n for n in range(5) if n != (1 if "expand" in name else 0)], keepdim=True) / 127
            )
            assert ((state[name] - exact).abs() <= 0.51 * step).all()
        elif not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], exact)
    # They may be trained further, too.
    assert torch.equal(load_state(files["int8"])["head.weight"], state["head.weight"])


def test_only_version_and_checksum_change_in_existing_metadata(tmp_path: Path, run: Path) -> None:
    bundle = tmp_path / "bundle"
    export_weights(run / "average.pt", bundle_dir=bundle)
    path = bundle / "configs" / "metadata.json"
    # Written by hand, in its own layout.
    text = json.dumps(_metadata(bundle) | {"authors": "somebody", "list": [1, 2]})
    path.write_text(text, encoding="utf-8")
    _change(run)
    sha256 = export_weights(run / "average.pt", bundle_dir=bundle, version="9.0.0")
    old = json.loads(text)
    assert path.read_text(encoding="utf-8") == text.replace(old["covidseg"]["weights"]["sha256"], sha256).replace(
        f'"version": "{old["version"]}"', '"version": "9.0.0"'
    )
    assert load_bundle(bundle).network.state_dict()["head.bias"].abs().max() > 0.9


def test_weights_keep_the_file_name_that_the_metadata_gives_them(tmp_path: Path, run: Path) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path)
    metadata = _metadata(tmp_path)
    metadata["covidseg"]["weights"]["file"] = "other.safetensors"
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (tmp_path / "models" / "model.safetensors").unlink()
    sha256 = export_weights(run / "average.pt", bundle_dir=tmp_path)
    assert _metadata(tmp_path) == metadata
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["other.safetensors"]
    assert load_bundle(tmp_path).sha256 == sha256


def test_metadata_written_before_any_weights_are_completed(tmp_path: Path, run: Path) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path / "other")
    metadata = {"authors": "Müller", **_metadata(tmp_path / "other")}
    sha256 = metadata["covidseg"].pop("weights")["sha256"]
    del metadata["version"]
    path = tmp_path / "bundle" / "configs" / "metadata.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(metadata), encoding="utf-8")
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    metadata["covidseg"]["weights"] = {"file": "model.safetensors", "sha256": sha256}
    assert path.read_text(encoding="utf-8") == (
        json.dumps({**metadata, "version": "0.0.1"}, indent=2, ensure_ascii=False) + "\n"
    )


def test_version_stays_with_the_same_weights_unless_given(tmp_path: Path, run: Path) -> None:
    for version in ("2.0.0", None):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle", version=version)
    assert _metadata(tmp_path / "bundle")["version"] == "2.0.0"


def test_version_of_other_weights_must_be_told(tmp_path: Path, run: Path) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle", version="2.0.0")
    before = _bundle_files(tmp_path / "bundle")
    _change(run)
    with pytest.raises(ModelError, match=r"version 2\.0\.0 is of other weights .* say with --version what these are"):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    assert _bundle_files(tmp_path / "bundle") == before
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle", version="2.1.0")
    assert load_bundle(tmp_path / "bundle").version == "2.1.0"


def test_same_weights_give_the_same_bytes(tmp_path: Path, run: Path) -> None:
    assert export_weights(run / "average.pt", bundle_dir=tmp_path / "a") == export_weights(
        run / "average.pt", bundle_dir=tmp_path / "b"
    )


def test_checkpoint_gives_its_average(tmp_path: Path, run: Path) -> None:
    state = load_state(run / "average.pt")
    torch.save({"average": state, "network": {k: v * 0 for k, v in state.items()}, "step": 3}, run / "checkpoint.pt")
    assert torch.equal(load_state(run / "checkpoint.pt")["head.weight"], state["head.weight"])


def test_weights_of_another_network_are_refused_and_nothing_changes(tmp_path: Path, run: Path) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    before = _bundle_files(tmp_path / "bundle")
    torch.save(build_network(NetworkConfig(width=3)).state_dict(), run / "average.pt")
    with pytest.raises(ModelError, match="not of the network the bundle names"):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    assert _bundle_files(tmp_path / "bundle") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("preprocessing"), r"metadata.json: lacks covidseg.preprocessing"),
        (lambda own: own.pop("network"), r"metadata.json: lacks covidseg.network"),
        (lambda own: own["weights"].update(file="../../else.safetensors"), r"must be the name of a file in 'models'"),
        (lambda own: own["weights"].update(file=7), r"metadata.json: .*the name of a file in 'models', not 7"),
        (lambda own: own["weights"].update(file="model.bin"), r"bundle.configs.metadata.json: .*be .safetensors files"),
        (
            lambda own: own.update(weights=["model.safetensors"]),
            r"metadata.json: covidseg.weights must hold keys",
        ),
        (
            lambda own: own.update(network="unet3d"),
            r"metadata.json: covidseg.network must hold keys",
        ),
        (lambda own: own["network"].update(width="2"), r"metadata.json: .*width must be a whole number"),
        (lambda own: own["preprocessing"].update(window_hu=5), r"metadata.json: .*window_hu must be 2 numbers"),
        (lambda own: own.update(postprocessing={"what": 1}), r"bundle.configs.metadata.json: .*unknown key 'what'"),
    ],
)
def test_metadata_that_a_bundle_cannot_have_is_refused_and_nothing_changes(
    tmp_path: Path, run: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    bundle = tmp_path / "bundle"
    export_weights(run / "average.pt", bundle_dir=bundle)
    metadata = _metadata(bundle)
    change(metadata["covidseg"])
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    before = _bundle_files(bundle)
    _change(run)
    with pytest.raises(ModelError, match=message):
        export_weights(run / "average.pt", bundle_dir=bundle, version="1.0.0")
    assert _bundle_files(bundle) == before
    assert not list(tmp_path.glob("else*"))


@pytest.mark.parametrize("values", [[], "text", {"version": "1.0.0", "covidseg": []}, {"version": "1.0.0"}])
def test_metadata_of_no_bundle_at_all_are_refused(tmp_path: Path, run: Path, values: object) -> None:
    path = tmp_path / "bundle" / "configs" / "metadata.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError, match=r"metadata.json(: covidseg must hold| is damaged: exp|: lacks covidseg.netw)"):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle", version="1.0.0")
    assert list(_bundle_files(tmp_path / "bundle")) == ["metadata.json"]


def test_checksum_of_another_kind_is_that_of_other_weights(tmp_path: Path, run: Path) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path)
    metadata = _metadata(tmp_path)
    metadata["covidseg"]["weights"]["sha256"] = 7
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ModelError, match=r"is of other weights \(7\.\.\.\); say with --version"):
        export_weights(run / "average.pt", bundle_dir=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "config.json is damaged"),
        ('{"preprocessing": {"x": 1}}', "config.json: preprocessing recipe: unknown"),
    ],
)
def test_settings_of_no_training_run_are_named(tmp_path: Path, run: Path, text: str, message: str) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    (run / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")


def test_weights_of_another_preprocessing_are_refused(tmp_path: Path, run: Path) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    settings = json.loads((run / "config.json").read_text())
    settings["preprocessing"]["outside_hu"] = 0.0
    (run / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match="another preprocessing"):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")


def test_variances_beyond_half_precision_survive(tmp_path: Path, run: Path) -> None:
    # Half precision ends at 65504: an infinite variance would silence its channel.
    state = load_state(run / "average.pt")
    torch.save({**state, "up.3.2.running_var": state["up.3.2.running_var"] * 5e5}, run / "average.pt")
    export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    assert (load_bundle(tmp_path / "bundle").network.state_dict()["up.3.2.running_var"] == 5e5).all()


def test_values_beyond_half_precision_are_refused(tmp_path: Path, run: Path) -> None:
    state = load_state(run / "average.pt")
    torch.save({**state, "head.bias": state["head.bias"] + 1e6}, run / "average.pt")
    with pytest.raises(ModelError, match=r"head.bias.*half precision"):
        export_weights(run / "average.pt", bundle_dir=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_damaged_weights_are_named(tmp_path: Path, content: bytes) -> None:
    for name in ("average.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            load_state(tmp_path / name)


def test_file_without_any_weight_is_named(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "average.pt")
    with pytest.raises(ModelError, match=r"average.pt: holds no weights"):
        load_state(tmp_path / "average.pt")


@pytest.mark.parametrize("indent", [None, 2])
def test_figures_do_not_outlive_the_weights_they_were_measured_of(
    tmp_path: Path, run: Path, indent: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    export_weights(run / "average.pt", bundle_dir=tmp_path)
    path, told = tmp_path / "configs" / "metadata.json", list[str]()
    plain = {**_metadata(tmp_path), "authors": "somebody", "list": [1, 2]}
    measured = {"version": plain["version"], "eval_metrics": {"dice": 0.985, "by": {"lung": [0.9]}}, **plain}
    measured["evaluation"] = {"poi": "1 %"}
    activations = {"file": "activations.safetensors", "sha256": "0" * 64}
    measured["covidseg"] = {"activations": activations, **plain["covidseg"], "calibration": {"temperature": 2.0}}
    (tmp_path / "models" / "activations.safetensors").write_bytes(b"of these weights")
    text = json.dumps(measured, indent=indent)
    path.write_text(text, encoding="utf-8")
    export_weights(run / "average.pt", bundle_dir=tmp_path, tell=told.append)
    assert path.read_text(encoding="utf-8") == text and told == []  # the same weights
    assert (tmp_path / "models" / "activations.safetensors").read_bytes() == b"of these weights"

    _change(run)
    sha256 = export_weights(run / "average.pt", bundle_dir=tmp_path, version="1.0.0", tell=told.append)
    plain["version"], plain["covidseg"]["weights"]["sha256"] = "1.0.0", sha256
    assert path.read_text(encoding="utf-8") == json.dumps(plain, indent=indent)
    assert len(told) == 1
    assert "eval_metrics, evaluation, calibration, activations went, as measured of other weights" in told[0]
    assert "measure these with 'covidseg-train benchmark', 'calibrate' and 'quantize'" in told[0]
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["model.safetensors"]
    assert covidseg(["info", "--bundle", str(tmp_path)]) == 0
    assert "measured" not in capsys.readouterr().out


def test_figures_of_the_bundle_shipped_go_and_all_else_stays_as_it_is_laid_out(tmp_path: Path) -> None:
    shipped = load_bundle(None)
    shutil.copytree(shipped.path, tmp_path / "bundle")
    torch.save(shipped.network.state_dict(), tmp_path / "average.pt")
    sha256 = export_weights(tmp_path / "average.pt", bundle_dir=tmp_path / "bundle", version="99.0.0")
    lines, before = (
        (folder / "configs" / "metadata.json").read_text(encoding="utf-8").splitlines()
        for folder in (tmp_path / "bundle", shipped.path)
    )
    kept = before
    for key, end in (("eval_metrics", "  },"), ("activations", "    }")):
        first = next(n for n, line in enumerate(kept) if f'"{key}"' in line)
        last = next(n for n, line in enumerate(kept) if n > first and line == end)
        kept = kept[:first] + kept[last + 1 :]
    differing = [new.strip() for old, new in zip(kept, lines, strict=True) if old != new]
    assert differing == ['"version": "99.0.0",', f'"sha256": "{sha256}"', "}"]  # no comma behind the last key
    assert load_bundle(tmp_path / "bundle").integers is None
    assert not (tmp_path / "bundle" / "models" / "activations.safetensors").exists()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing.pt: cannot be read"):
        load_state(tmp_path / "nothing.pt")

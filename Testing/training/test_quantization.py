"""Measuring a bundle's activations: the values themselves, the CTs they are measured on, and what the bundle gets."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from CovidSegLib import inference
from CovidSegLib.bundle import Bundle, load_bundle
from CovidSegLib.errors import InputError, ModelError
from CovidSegLib.int8.activations import ActivationRange, ActivationRanges, coded_layers
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.network import DEPTH, NetworkConfig, build_network
from CovidSegLib.preprocess import preprocess
from CovidSegLib.volume import read_ct
from torch.nn import functional

from CovidSegTraining import whole_files
from CovidSegTraining.cli import main
from CovidSegTraining.data import DataConfig, LabelledCases, WholeChest
from CovidSegTraining.product import quantization
from CovidSegTraining.product.quantization import ActivationRecord, quantize, store_activations, training_cts

CHEST = WholeChest("ct/chest_a.nii.gz", diseased=True)
ALL = DataConfig(labelled=LabelledCases(), whole_chests=(CHEST,))
ONLY_CHEST = DataConfig(labelled=None, whole_chests=(CHEST,))
#: What a data folder needs of `phantom_data`.
USED = ("muller20", "ct")


@pytest.fixture
def bundle(tmp_path: Path, threshold_bundle: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(threshold_bundle, tmp_path / "bundle"))


@pytest.fixture
def data(tmp_path: Path, phantom_data: Path) -> Path:
    """A data folder that may be changed."""
    for name in USED:
        shutil.copytree(phantom_data / name, tmp_path / "data" / name)
    return tmp_path / "data"


def network_of(width: int = 3) -> torch.nn.Module:
    """Return a network of random weights, biases and normalisations."""
    torch.manual_seed(3)
    network = build_network(NetworkConfig(width=width)).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith(("bias", "running_mean")) or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(-1.0, 1.0)
    return network


def outputs(network: torch.nn.Module, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what the coded layers give for an image, computed without the network's own layers."""
    state, skips = network.state_dict(), []

    def pair(x: torch.Tensor, blocks: str) -> Iterator[tuple[str, torch.Tensor]]:
        for first in (0, 3):
            weight, bias = (state[f"{blocks}.{first}.{key}"] for key in ("weight", "bias"))
            x = functional.conv3d(x, weight, bias, padding=1).clamp(min=0.0)
            yield f"{blocks}.{first + 1}", x
            mean, var, gain, shift = (
                state[f"{blocks}.{first + 2}.{key}"].view(1, -1, 1, 1, 1)
                for key in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / (var + 1e-3).sqrt() * gain + shift
        yield "", x

    for level in range(DEPTH + 1):
        if level:
            x = functional.max_pool3d(x, 2)
        *found, (_, x) = pair(x, f"down.{level}")
        yield from found
        skips.append(x)
    skips.pop()
    for level in reversed(range(DEPTH)):
        x = functional.conv_transpose3d(x, state[f"expand.{level}.weight"], state[f"expand.{level}.bias"], stride=2)
        yield f"expand.{level}", x
        *found, (_, x) = pair(torch.cat([x, skips.pop()], dim=1), f"up.{level}")
        yield from found


def images(*shapes_kji: tuple[int, int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.rand((1, 1, *shape), generator=generator) * 2.0 - 1.0 for shape in shapes_kji]


def assert_same(found: ActivationRanges, expected: ActivationRanges, *, within: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, activation in expected.items():
        for extreme in ("lowest", "highest"):
            torch.testing.assert_close(
                getattr(found[name], extreme), getattr(activation, extreme), rtol=within, atol=within
            )


def hooks_of(network: torch.nn.Module) -> list[object]:
    return [hook for module in network.modules() for hook in module._forward_hooks.values()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measure(bundle: Path, *, data_dir: Path, config: DataConfig = ALL, device: str = "cpu") -> list[str]:
    """Quantize a bundle; return the lines told."""
    lines: list[str] = []
    quantize(load_bundle(bundle), data_dir=data_dir, config=config, device=device, tell=lines.append)
    return lines


def test_record_has_the_extremes_of_every_channel_over_all_images() -> None:
    network, seen = network_of(), images((16, 32, 16), (32, 16, 16), (16, 16, 16))
    record = ActivationRecord(network)
    with torch.inference_mode():
        for image in seen:
            with record.recording():
                network(image)
        network(100.0 * seen[0])  # not while recording
    expected: dict[str, ActivationRange] = {}
    by_layer: dict[str, list[torch.Tensor]] = {}
    for image in seen:
        for name, values in outputs(network, image):
            by_layer.setdefault(name, []).append(values[0].flatten(start_dim=1))
    for name, parts in by_layer.items():
        values = torch.cat(parts, dim=1)
        expected[name] = ActivationRange(values.min(dim=1).values, values.max(dim=1).values)
    assert {name: len(a.lowest) for name, a in record.activations.items()} == coded_layers(network)
    assert_same(record.activations, expected, within=1e-4)
    assert hooks_of(network) == []


def test_record_lets_go_of_the_network_when_the_run_fails() -> None:
    network = network_of()
    record = ActivationRecord(network)
    with pytest.raises(RuntimeError), record.recording():
        assert len(hooks_of(network)) == len(coded_layers(network))
        network(torch.zeros((1, 1, 20, 16, 16)))  # no multiple of 16
    assert hooks_of(network) == []


def test_bundle_gets_the_values_of_all_the_trainings_cts(bundle: Path, data: Path) -> None:
    labelled, chest = data / "muller20" / "coronacases_001" / "imaging.nii.gz", data / CHEST.path
    # The first one has the darkest voxels, the last one the brightest.
    _clip(labelled, lowest_hu=-2000, highest_hu=150)
    _clip(chest, lowest_hu=-900, highest_hu=2000)
    loaded = load_bundle(bundle)
    seen = {"coronacases_001": _image(labelled, loaded), "chest_a": _image(chest, loaded)}
    assert measure(bundle, data_dir=data) == [
        f"{name}: {' x '.join(map(str, image.shape))} voxels" for name, image in seen.items()
    ]
    integers = load_bundle(bundle).integers
    assert integers is not None
    found = integers.activations
    assert {name: len(a.highest) for name, a in found.items()} == coded_layers(loaded.network)
    # The first layer gives 1 - x in its first channel, and nothing in the second.
    darkest, brightest = seen["coronacases_001"].min(), seen["chest_a"].max()
    assert darkest < seen["chest_a"].min() and brightest > seen["coronacases_001"].max()
    first = found["down.0.1"]
    torch.testing.assert_close(first.lowest, torch.tensor([1.0 - brightest, 0.0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(first.highest, torch.tensor([1.0 - darkest, 0.0]), rtol=0, atol=1e-6)


def _clip(path: Path, *, lowest_hu: int, highest_hu: int) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.Clamp(sitk.ReadImage(str(path)), lowerBound=lowest_hu, upperBound=highest_hu), str(path))


def _image(path: Path, bundle: Bundle) -> np.ndarray:
    ct = to_hounsfield(read_ct(path))
    return preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing).image_kji


@pytest.mark.parametrize("layout", ["as exported", "in one line", "other ends of lines"])
def test_metadata_name_the_file_and_stay_otherwise_byte_for_byte(bundle: Path, phantom_data: Path, layout: str) -> None:
    path = bundle / "configs" / "metadata.json"
    plain = {"authors": "Müller", "list": [1, 2], **json.loads(path.read_bytes()), "last": 'the "weights": {'}
    before = json.dumps(plain, indent=None if layout == "in one line" else 2, ensure_ascii=False) + "\n"
    if layout == "other ends of lines":
        before = before.replace("\n", "\r\n")
    path.write_bytes(before.encode())
    measure(bundle, data_dir=phantom_data, config=ONLY_CHEST)

    data = (bundle / "models" / "activations.safetensors").read_bytes()
    entry = {"file": "activations.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
    own = plain["covidseg"]
    assert json.loads(path.read_bytes()) == {**plain, "covidseg": {**own, "activations": entry}}
    after, sha256 = path.read_bytes().decode(), own["weights"]["sha256"]
    start = before.index(sha256)
    start = before.index("}", start) + 1
    assert after.startswith(before[:start] + ",") and after.endswith(before[start:])
    added = after[start : len(after) - len(before[start:])]
    assert (
        added.replace("\r\n", "\n")
        == {
            True: f', "activations": {json.dumps(entry)}',
            False: ',\n    "activations": {\n'
            f'      "file": "activations.safetensors",\n      "sha256": "{entry["sha256"]}"\n    }}',
        }[layout == "in one line"]
    )
    assert ("\r" in added) == (layout == "other ends of lines") and after.count("\r\n") == after.count("\r")

    # Measured again, nothing changes; nor does it matter what became of the file.
    files = files_of(bundle)
    (bundle / "models" / "activations.safetensors").write_bytes(b"damaged")
    measure(bundle, data_dir=phantom_data, config=ONLY_CHEST)
    assert files_of(bundle) == files
    assert load_bundle(bundle).integers is not None


def test_metadata_whose_layout_cannot_be_kept_are_written_anew(bundle: Path, phantom_data: Path) -> None:
    path = bundle / "configs" / "metadata.json"
    plain = {"weights": "of another kind", **json.loads(path.read_bytes())}
    path.write_text(json.dumps(plain, indent=4), encoding="utf-8")
    measure(bundle, data_dir=phantom_data, config=ONLY_CHEST)
    text = path.read_text(encoding="utf-8")
    entry = json.loads(text)["covidseg"].pop("activations")
    wanted = {**plain, "covidseg": {**plain["covidseg"], "activations": entry}}
    assert text == json.dumps(wanted, indent=2) + "\n"
    assert load_bundle(bundle).integers is not None


def test_held_out_cases_are_not_read(bundle: Path, data: Path) -> None:
    (data / "muller20" / "coronacases_003" / "imaging.nii.gz").write_bytes(b"damaged")
    assert [line.split(":")[0] for line in measure(bundle, data_dir=data)] == ["coronacases_001", "chest_a"]


@pytest.mark.parametrize("name", ["normal001", "tumour_5mm_soft"])
def test_measured_only_chest_is_refused_before_anything_is_read(
    bundle: Path, phantom_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "read_ct", lambda path: pytest.fail(f"{path} was read"))
    before = files_of(bundle)
    config = DataConfig(whole_chests=(CHEST, WholeChest(f"ct/{name}.nii.gz", diseased=False)))
    with pytest.raises(InputError, match=rf"ct.{name}\.nii\.gz: '{name}' is measured only"):
        measure(bundle, data_dir=phantom_data, config=config)
    assert files_of(bundle) == before


def test_labelled_case_that_is_measured_only_is_refused(data: Path) -> None:
    shutil.copytree(data / "muller20" / "coronacases_001", data / "muller20" / "imlab_001")
    with pytest.raises(InputError, match=r"muller20.imlab_001: 'imlab_001' is measured only"):
        training_cts(ALL, data_dir=data)


def test_only_names_in_the_settings_count_as_measured_only(tmp_path: Path, data: Path) -> None:
    moved = tmp_path / "normal001"
    data.rename(moved)
    assert training_cts(ONLY_CHEST, data_dir=moved) == [moved / CHEST.path]
    elsewhere = DataConfig(labelled=None, whole_chests=(WholeChest(str(moved / CHEST.path), diseased=True),))
    with pytest.raises(InputError, match="'normal001' is measured only"):
        training_cts(elsewhere, data_dir=moved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(labelled=None), r"data: no CT of the training is there\. Check --data and the lists"),
        (DataConfig(), r"muller20: no cases with segmentation\.nii\.gz\. Check --data and data\.labelled\.folder"),
        (ONLY_CHEST, r"chest_a\.nii\.gz: no such file or folder\. Check --data and the lists"),
    ],
)
def test_data_folder_without_the_cts_is_named(tmp_path: Path, bundle: Path, config: DataConfig, message: str) -> None:
    (tmp_path / "data").mkdir()
    before = files_of(bundle)
    with pytest.raises(InputError, match=message):
        measure(bundle, data_dir=tmp_path / "data", config=config)
    assert files_of(bundle) == before


def test_held_out_cases_alone_are_no_cts_of_the_training(data: Path) -> None:
    shutil.rmtree(data / "muller20" / "coronacases_001")
    with pytest.raises(InputError, match="no CT of the training is there"):
        training_cts(DataConfig(), data_dir=data)


def test_damaged_ct_leaves_bundle_and_network_as_they_were(bundle: Path, data: Path) -> None:
    (data / CHEST.path).write_bytes(b"damaged")
    before, loaded = files_of(bundle), load_bundle(bundle)
    with pytest.raises(InputError, match="chest_a"):
        quantize(loaded, data_dir=data, config=ALL, device="cpu", tell=lambda _: None)
    assert files_of(bundle) == before and hooks_of(loaded.network) == []


def test_noise_that_apples_gpu_is_checked_with_is_not_recorded(
    bundle: Path, phantom_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "check_results", lambda *_, **__: pytest.fail("the network saw noise"))
    measure(bundle, data_dir=phantom_data, config=ONLY_CHEST, device="mps")
    assert load_bundle(bundle).integers is not None


def test_activations_of_another_network_are_not_stored(bundle: Path) -> None:
    before = files_of(bundle)
    network = network_of(width=3)
    of_another = {name: ActivationRange(torch.zeros(n), torch.ones(n)) for name, n in coded_layers(network).items()}
    with pytest.raises(ModelError, match="does not fit the network"):
        store_activations(of_another, bundle_dir=bundle)
    assert files_of(bundle) == before


@pytest.mark.parametrize("name", ["metadata.json", "activations.safetensors"])
def test_bundle_runs_as_before_if_a_file_cannot_be_replaced(
    bundle: Path, phantom_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace: Callable[[Path, Path], None] = whole_files.replace_file
    before = files_of(bundle)

    def locked(aside: Path, path: Path) -> None:
        if path.name == name:
            raise PermissionError(13, "locked", str(path))
        replace(aside, path)

    monkeypatch.setattr(whole_files, "replace_file", locked)
    with pytest.raises(PermissionError):
        measure(bundle, data_dir=phantom_data, config=ONLY_CHEST)
    after = files_of(bundle)
    after.pop("models/activations.safetensors", None)
    assert after == before and load_bundle(bundle).integers is None


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of the small data folder."""
    path = tmp_path / "tiny.yaml"
    values = {"labelled": {"folder": "muller20"}, "whole_chests": [{"path": CHEST.path, "diseased": True}]}
    path.write_text(yaml.safe_dump({"data": values}), encoding="utf-8")
    return path


def test_command_measures_and_says_on_what(
    bundle: Path, phantom_data: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "--bundle", str(bundle), "--data", str(phantom_data), "--config", str(config)]
    assert main([*command, "--threads", "1"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["coronacases_001", "chest_a"]
    assert all(line.endswith(" voxels") for line in lines) and captured.err == ""
    assert load_bundle(bundle).is_quantized


def test_command_tells_what_is_wrong(
    tmp_path: Path, bundle: Path, phantom_data: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    command = ["quantize", "--config", str(config)]
    assert main([*command, "--bundle", str(bundle), "--data", str(empty)]) == 1
    assert "no cases with segmentation.nii.gz. Check --data" in capsys.readouterr().err
    config.write_text(config.read_text().replace("chest_a", "normal001"), encoding="utf-8")
    assert main([*command, "--bundle", str(bundle), "--data", str(phantom_data)]) == 1
    captured = capsys.readouterr()
    assert "'normal001' is measured only" in captured.err and captured.out == ""
    assert main([*command, "--bundle", str(empty), "--data", str(phantom_data)]) == 1
    assert "no model bundle" in capsys.readouterr().err
    assert main([*command, "--bundle", str(tmp_path / "nowhere"), "--data", str(phantom_data)]) == 2
    assert main([*command, "--data", str(phantom_data)]) == 2
    assert "--bundle" in capsys.readouterr().err

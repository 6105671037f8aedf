"""The shipped bundle in MONAI's layout: its metadata, and the same labelmap from MONAI's own bundle runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import ModelError
from CovidSegLib.geometry import Geometry
from CovidSegLib.inference import predict
from CovidSegLib.labels import SEGMENTS
from CovidSegLib.monai_bundle import SaveLabelmap, load_safetensors, tiling_for
from CovidSegLib.patch_predictor import precision_on
from CovidSegLib.phantom import make_phantom
from CovidSegLib.pipeline import segment
from CovidSegLib.progress import Reporter
from CovidSegLib.volume import CTVolume, read_ct
from helpers_bundle import SHIPPED, preprocess_image, write_tiny_bundle

from CovidSegTraining.product.quantization import ActivationRecord, store_activations

ENGINE = Path(__file__).resolve().parents[2] / "CovidSeg"
# What MONAI's schema of 2024-07-25 and its model zoo ask of metadata.json.
METADATA_KEYS = (
    *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "name", "task"),
    *("required_packages_version", "supported_apps", "description", "authors", "copyright", "network_data_format"),
    *("data_source", "data_type", "image_classes", "label_classes", "pred_classes", "eval_metrics", "intended_use"),
    "references",
)


@pytest.fixture(scope="module")
def metadata() -> dict:
    return json.loads((SHIPPED / "configs" / "metadata.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = make_phantom(seed=5, size_ijk=(96, 80, 48), spacing_ijk_mm=(3.8, 3.8, 6.4), infection_percent=20.0)
    path = tmp_path_factory.mktemp("case") / "ct.nii.gz"
    write_ct(path, phantom.ct)
    return path


def write_ct(path: Path, ct: CTVolume) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(ct.geometry.to_sitk(ct.hu_kji), str(path))


def run_with_monai(root: Path, *, image: Path, output: Path) -> subprocess.CompletedProcess[str]:
    options = {"config_file": root / "configs" / "inference.json", "bundle_root": root}
    options |= {"image": image, "output": output, "device": "cpu"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *arguments],
        env={**os.environ, "PYTHONPATH": str(ENGINE)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_metadata_has_what_monai_asks_for(metadata: dict) -> None:
    assert [key for key in METADATA_KEYS if key not in metadata] == []
    assert metadata["version"] in metadata["changelog"]


def test_metadata_names_input_and_channels(metadata: dict) -> None:
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert (image["modality"], image["num_channels"], image["value_range"]) == ("CT", 1, [-1, 1])
    assert image["spatial_shape"] == ["16*n"] * 3
    expected = {"0": "background"} | {str(int(s.label)): s.name.removeprefix("COVID-19 ") for s in SEGMENTS}
    assert pred["channel_def"] == expected
    assert pred["num_channels"] == metadata["covidseg"]["network"]["classes"] == 4


def test_metadata_is_what_the_engine_reads() -> None:
    bundle = load_bundle(SHIPPED)
    assert bundle.preprocessing.spacing_ijk_mm == (1.58, 1.58, 2.7)
    assert bundle.preprocessing.window_hu == (-1250.0, 250.0)
    assert bundle.weights_path.parent.name == "models"


def test_versions_are_those_tested(metadata: dict) -> None:
    constraints = (ENGINE.parent / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    pins = dict(line.split("==") for line in constraints if "==" in line and not line.startswith("#"))
    named = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"]}
    named |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    assert {name.lower(): version for name, version in named.items()} == {
        name.lower(): pins[name.lower()] for name in named
    }


def test_bundle_states_licence_and_purpose(metadata: dict) -> None:
    licence = (SHIPPED / "LICENSE").read_text(encoding="utf-8")
    card = (SHIPPED / "docs" / "README.md").read_text(encoding="utf-8")
    assert "CC BY-NC-SA 4.0" in licence and "Apache" in licence
    assert "not a medical device" in metadata["intended_use"].lower()
    assert "not a medical device" in card.lower()


def quantize(root: Path, *, ct: CTVolume) -> None:
    """Give a bundle the ranges of its activations in a CT."""
    bundle = load_bundle(root)
    seen, image_kji = ActivationRecord(bundle.network), preprocess_image(ct, recipe=bundle.preprocessing)
    with seen.recording():
        predict(image_kji, network=bundle.network, mode="fast", device="cpu", reporter=Reporter())
    store_activations(seen.activations, bundle_dir=root)


@pytest.mark.parametrize("quantized", [False, True])
def test_monai_bundle_run_gives_the_labelmap_of_segment(tmp_path: Path, ct_file: Path, quantized: bool) -> None:
    ct = read_ct(ct_file)
    # Several patches along two axes, one of them padded.
    root = write_tiny_bundle(tmp_path / "tiny", ct=ct, spacing_ijk_mm=(1.8, 3.0, 3.2))
    if quantized:
        quantize(root, ct=ct)
    expected = segment(ct, device="cpu", bundle=root)
    assert expected.runtime["precision"] == precision_on("cpu", quantized=quantized)
    output = tmp_path / "labelmap.nii.gz"

    done = run_with_monai(root, image=ct_file, output=output)

    assert done.returncode == 0, done.stderr[-2000:]
    import SimpleITK as sitk

    image = sitk.ReadImage(str(output))
    assert set(np.unique(expected.labelmap)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected.labelmap)
    np.testing.assert_allclose(image.GetOrigin(), ct.geometry.origin_lps_mm, atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), ct.geometry.spacing_ijk_mm, rtol=1e-6)


def test_labelmap_of_the_bundle_goes_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    ct = CTVolume(np.zeros((8, 9, 10), np.int16), Geometry((10, 9, 8), (1.0, 1.0, 2.0)), name="ct", fingerprint="")
    output = tmp_path / "a" / "b" / "labelmap.nii.gz"
    SaveLabelmap(str(output))({"ct": ct, "labelmap": np.zeros((8, 9, 10), np.uint8)})
    assert output.is_file()


def test_monai_bundle_run_refuses_exchanged_weights(tmp_path: Path, ct_file: Path) -> None:
    root = write_tiny_bundle(tmp_path / "tiny", ct=read_ct(ct_file), spacing_ijk_mm=(6.0, 6.0, 8.0))
    weights = root / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    done = run_with_monai(root, image=ct_file, output=tmp_path / "labelmap.nii.gz")

    assert done.returncode != 0
    assert "damaged or were exchanged" in done.stderr
    assert not (tmp_path / "labelmap.nii.gz").exists()


def test_safetensors_of_another_network_are_refused(tmp_path: Path, ct_file: Path) -> None:
    root = write_tiny_bundle(tmp_path / "tiny", ct=read_ct(ct_file), spacing_ijk_mm=(6.0, 6.0, 8.0))
    bundle = load_bundle(root)
    with pytest.raises(ModelError, match="do not fit"):
        load_safetensors(bundle.weights_path, network={"architecture": "unet3d", "width": 4}, sha256=bundle.sha256)


def test_tiling_is_that_of_the_engine() -> None:
    import torch

    tiling = tiling_for("accurate", image=torch.zeros(1, 1, 60, 300, 161))
    assert tiling.patch_kji == (64, 160, 160)
    assert tiling.overlap == 0.5

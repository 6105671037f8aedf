"""Write trained weights into a model bundle: safetensors with checksum, in half precision or 8 bits per weight."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from CovidSegLib.bundle import file_named_in_errors, load_bundle
from CovidSegLib.errors import ModelError
from CovidSegLib.int8.weights import SCALE, dequantized, quantized
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.preprocess import PreprocessingRecipe

from .product.metadata_text import without_key
from .product.quantization import ACTIVATIONS_FILE
from .whole_files import write_whole

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
FIRST_VERSION = "0.0.1"
#: Keys of the metadata under which figures measured with the weights may stand; `covidseg info` prints them.
FIGURES = ("eval_metrics", "evaluation")
#: Keys of the section `covidseg` that hold what was measured with the weights.
MEASURED = ("calibration", "activations")


def export_weights(
    weights: Path,
    *,
    bundle_dir: Path,
    version: str | None = None,
    int8: bool = False,
    tell: Callable[[str], object] = log.info,
) -> str:
    """Put weights into a bundle, and their checksum (and version) into its metadata.

    Everything else in `configs/metadata.json` stays, except figures that were measured with other weights. If there is
    no such file, the least that `load_bundle` needs is written, with the network and the preprocessing that
    `config.json` beside the weights names.

    Args:
        weights: State dict saved by `fit` (`average.pt`).
        bundle_dir: The bundle's folder; made if need be.
        version: Version of the weights; None keeps the bundle's, which must then be the version of these weights.
        int8: Store the convolutions with 8 bits per weight: half the size, at a loss that has to be measured.
        tell: Called with one line if figures were removed from the metadata.

    Returns:
        The SHA-256 of the weights written.

    Raises:
        ModelError: The weights cannot be read, are not finite in half precision, or belong to another network or
            preprocessing than the bundle names; or the metadata are malformed, or their version belongs to other
            weights. The bundle is then left as it was.
    """
    from safetensors.torch import save

    tensors = half_precision(load_state(weights))
    metadata_path = bundle_dir / "configs" / "metadata.json"
    trained = _read_json(weights.with_name("config.json"))
    before = _read_json(metadata_path)
    metadata = _least_metadata(trained) if before is None else copy.deepcopy(before)
    own = _own_section(metadata, path=metadata_path)
    with file_named_in_errors(metadata_path):
        config = NetworkConfig.from_dict(own["network"])
        preprocessing = PreprocessingRecipe.from_dict(own["preprocessing"])
    _check_network(tensors, config=config, weights=weights)
    _check_preprocessing(preprocessing, trained=trained, weights=weights)

    data = save(_in_8_bits(tensors, config=config) if int8 else tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    replaced = own["weights"].get("sha256")
    if replaced not in (None, sha256) and version is None:
        raise ModelError(
            f"{metadata_path}: version {metadata.get('version')} is of other weights ({str(replaced)[:12]}...); say "
            "with --version what these are, or export into another folder"
        )
    own["weights"]["sha256"] = sha256
    gone = _drop_figures(metadata) if replaced != sha256 else []
    metadata["version"] = version or metadata.get("version", FIRST_VERSION)
    text = _metadata_text(metadata, before=before, path=metadata_path)
    with TemporaryDirectory() as scratch:
        _write_bundle(Path(scratch), weights_file=own["weights"]["file"], data=data, metadata_text=text)
        _check_loads(Path(scratch), metadata_path=metadata_path)
    _write_bundle(bundle_dir, weights_file=own["weights"]["file"], data=data, metadata_text=text)
    if "activations" in gone:
        (bundle_dir / "models" / ACTIVATIONS_FILE).unlink(missing_ok=True)
    if gone:
        tell(
            f"{metadata_path}: {', '.join(gone)} went, as measured of other weights; measure these with "
            "'covidseg-train benchmark', 'calibrate' and 'quantize'"
        )
    return sha256


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a `.pt` or `.safetensors` file, on the CPU; a checkpoint gives its average.

    Raises:
        ModelError: The file is missing, damaged or holds something else.
    """
    import pickle
    import zipfile

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dequantized(load_file(path))
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                # torch would try its old format on it, and fail with an error of any type.
                raise pickle.UnpicklingError("no archive of torch")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror or error}). Give a file written by 'fit'."
        ) from error
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"{path}: damaged, or no weights. Give a file written by 'fit'.") from error
    if isinstance(state, dict) and "average" in state:
        state = state["average"]
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ModelError(f"{path}: holds no weights. Give 'average.pt' of a training run.")
    return state


def half_precision(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that a bundle stores: float16, without batch normalisation's batch counters.

    The running means and variances of batch normalisation stay float32. Deep in the network variances exceed 65504,
    the largest float16, and a variance that became infinite would silence its channel. They take a few kilobytes.

    Raises:
        ModelError: A value would not be finite as stored.
    """
    import torch

    tensors = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        is_statistic = name.endswith(("running_mean", "running_var"))
        tensors[name] = (tensor.float() if is_statistic else tensor.half()).contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise ModelError(f"weight '{name}' is not finite, or beyond half precision: the training went astray")
    return tensors


def _in_8_bits(tensors: dict[str, torch.Tensor], *, config: NetworkConfig) -> dict[str, torch.Tensor]:
    """Return the tensors with the weights of all convolutions as int8, and the scales of these added."""
    from torch import nn

    stored = dict(tensors)
    for module_name, module in build_network(config).named_modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            name = f"{module_name}.weight"
            axis = 1 if isinstance(module, nn.ConvTranspose3d) else 0
            stored[name], stored[name + SCALE] = quantized(tensors[name].float(), channel_axis=axis)
    return stored


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged: expected keys and values, not {values!r:.60}")
    return values


def _least_metadata(trained: dict[str, Any] | None) -> dict[str, Any]:
    """Return the metadata that a bundle cannot do without, for the network of a training run."""
    trained = trained or {}
    return {
        "version": FIRST_VERSION,
        "covidseg": {
            "network": trained.get("network", NetworkConfig().to_dict()),
            "preprocessing": trained.get("preprocessing", PreprocessingRecipe().to_dict()),
        },
    }


def _own_section(metadata: dict[str, Any], *, path: Path) -> dict[str, Any]:
    """Return the section `covidseg` of the metadata, its entry `weights` completed.

    Raises:
        ModelError: The section, its network or its preprocessing is missing, or something in it is malformed.
    """
    own = metadata.get("covidseg", {})
    if not isinstance(own, dict):
        raise ModelError(f"{path}: covidseg must hold keys and values, not {own!r:.60}; correct it")
    own.setdefault("weights", {})
    for key in ("network", "preprocessing", "weights"):
        if key not in own:
            raise ModelError(f"{path}: lacks covidseg.{key}; add it, or delete the file")
        if not isinstance(own[key], dict):
            raise ModelError(f"{path}: covidseg.{key} must hold keys and values, not {own[key]!r:.60}; correct it")
    file = own["weights"].setdefault("file", WEIGHTS_FILE)
    if not isinstance(file, str) or Path(file).name != file:
        raise ModelError(f"{path}: covidseg.weights.file must be the name of a file in 'models', not {file!r}")
    return own


def _write_bundle(folder: Path, *, weights_file: str, data: bytes, metadata_text: str) -> None:
    write_whole(folder / "models" / weights_file, data)
    write_whole(folder / "configs" / "metadata.json", metadata_text.encode("utf-8"))


def _check_loads(folder: Path, *, metadata_path: Path) -> None:
    """Load a bundle as the product does; an error names the metadata that the bundle is going to have.

    Raises:
        ModelError: The product would refuse the bundle.
    """
    try:
        _ = load_bundle(folder).network
    except ModelError as error:
        raise ModelError(str(error).replace(str(folder / "configs" / "metadata.json"), str(metadata_path))) from error


def _drop_figures(metadata: dict[str, Any]) -> list[str]:
    """Remove the figures that were measured with the weights; return their keys."""
    rooms = {**dict.fromkeys(FIGURES, metadata), **dict.fromkeys(MEASURED, metadata["covidseg"])}
    return [key for key, room in rooms.items() if room.pop(key, None) is not None]


def _metadata_text(metadata: dict[str, Any], *, before: dict[str, Any] | None, path: Path) -> str:
    """Return the metadata as text; of a file that exists, the layout and everything that is unchanged stay."""
    if before is not None:
        text = path.read_text(encoding="utf-8")
        for key, old, new in (
            ("sha256", before["covidseg"].get("weights", {}).get("sha256"), metadata["covidseg"]["weights"]["sha256"]),
            ("version", before.get("version"), metadata["version"]),
        ):
            text = text.replace(f'"{key}": {json.dumps(old)}', f'"{key}": {json.dumps(new)}', 1)
        for key in (*FIGURES, *MEASURED):
            if key not in metadata and key not in metadata["covidseg"]:
                text = without_key(text, key)
        if json.loads(text) == metadata:
            return text
    return json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"


def _check_preprocessing(named: PreprocessingRecipe, *, trained: dict[str, Any] | None, weights: Path) -> None:
    if trained is None or "preprocessing" not in trained:
        return
    with file_named_in_errors(weights.with_name("config.json")):
        used = PreprocessingRecipe.from_dict(trained["preprocessing"])
    if used != named:
        raise ModelError(
            f"{weights}: trained with another preprocessing ({used}) than the bundle names ({named}). "
            "Export into another folder, or correct covidseg.preprocessing."
        )


def _check_network(tensors: dict[str, torch.Tensor], *, config: NetworkConfig, weights: Path) -> None:
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in build_network(config).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if differing := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise ModelError(
            f"{weights}: not of the network the bundle names ({config}): {differing[0]} and "
            f"{len(differing) - 1} more differ. Export into another folder, or correct covidseg.network."
        )

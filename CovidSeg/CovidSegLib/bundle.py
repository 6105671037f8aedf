"""Model bundles: a folder in the MONAI bundle layout that names its network, preprocessing and weights.

Weights are safetensors files, so that loading them runs no code (no pickle), and are loaded only
if their SHA-256 is the one in `configs/metadata.json`. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .int8.activations import read_activations
from .int8.network import IntegerUNet
from .int8.weights import dequantized
from .labels import Label
from .network import NetworkConfig, build_network
from .postprocess import PostprocessingRecipe
from .preprocess import PreprocessingRecipe
from .resources import resource_path
from .texts import text as _

if TYPE_CHECKING:
    import torch

DEFAULT_BUNDLE = "covidseg_unet3d"


@dataclass(frozen=True)
class Bundle:
    """A model bundle on disk; its network is loaded on first use and kept.

    Attributes:
        path: The bundle's folder.
        metadata: Contents of `configs/metadata.json`.
        network_config: Which network.
        preprocessing: What its input must look like.
        postprocessing: How its output is corrected.
        temperature: Temperature that calibrates its probabilities, see `uncertainty.tempered`; labels do not
            depend on it.
    """

    path: Path
    metadata: dict[str, Any] = field(repr=False)
    network_config: NetworkConfig
    preprocessing: PreprocessingRecipe
    postprocessing: PostprocessingRecipe
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """Name of the bundle: its folder's."""
        return self.path.name

    @property
    def version(self) -> str:
        """Version of the weights."""
        return str(self.metadata["version"])

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights, in hexadecimal, as stated in the metadata."""
        return str(self.metadata["covidseg"]["weights"]["sha256"])

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:...` of all that its results depend on: network, recipes, and the SHA-256 of weights and activations.

        It is taken of the metadata's section `covidseg`, which names them.
        """
        text = json.dumps(self.metadata["covidseg"], sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def weights_path(self) -> Path:
        """The safetensors file."""
        return self.path / "models" / str(self.metadata["covidseg"]["weights"]["file"])

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network with its weights, on the CPU, in evaluation mode.

        Raises:
            ModelError: The weights are missing, damaged or of another network.
        """
        return load_network(self.weights_path, config=self.network_config, sha256=self.sha256)

    @property
    def is_quantized(self) -> bool:
        """Whether the bundle says what CPUs need to compute its network in 8-bit integers."""
        return "activations" in self.metadata["covidseg"]

    @cached_property
    def integers(self) -> IntegerUNet | None:
        """The network quantized to 8-bit integers; None if the bundle lacks the ranges of its activations.

        Raises:
            ModelError: Their file is missing, damaged or of another network.
        """
        if not self.is_quantized:
            return None
        entry = self.metadata["covidseg"]["activations"]
        path = self.path / "models" / str(entry["file"])
        activations = read_activations(path, sha256=str(entry["sha256"]), network=self.network)
        return IntegerUNet(self.network, activations)

    def to_dict(self) -> dict[str, str]:
        """Return what a report says of the model."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256, "fingerprint": self.fingerprint}


def load_bundle(path: Path | str | None = None) -> Bundle:
    """Return the bundle in a folder, or the one shipped with CovidSeg.

    Raises:
        ModelError: The folder is no bundle, or one that this version cannot run.
    """
    folder = resource_path("Models", DEFAULT_BUNDLE) if path is None else Path(path)
    metadata_path = folder / "configs" / "metadata.json"
    metadata = _read_metadata(metadata_path)
    try:
        if "version" not in metadata:
            raise KeyError("version")
        own = metadata["covidseg"]
        for entry in (own["weights"], *([own["activations"]] if "activations" in own else [])):
            _check_tensors_entry(entry, metadata_path=metadata_path)
        with file_named_in_errors(metadata_path):
            network_config = NetworkConfig.from_dict(own["network"])
            preprocessing = PreprocessingRecipe.from_dict(own["preprocessing"])
            postprocessing = PostprocessingRecipe.from_dict(own.get("postprocessing", {}))
        if network_config.classes != len(Label):
            raise ModelError(
                _("{file}: {found} classes; CovidSeg works with {expected}").format(
                    file=metadata_path, found=network_config.classes, expected=len(Label)
                )
            )
        return Bundle(
            path=folder.resolve(),
            metadata=metadata,
            network_config=network_config,
            preprocessing=preprocessing,
            postprocessing=postprocessing,
            temperature=_temperature(own.get("calibration", {}), metadata_path=metadata_path),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(
            _("{file} lacks or misspells a key that CovidSeg needs: {key}").format(file=metadata_path, key=str(error))
        ) from error


def _read_metadata(metadata_path: Path) -> dict[str, Any]:
    """Return the contents of a bundle's `metadata.json`.

    Raises:
        ModelError: The file is missing, unreadable or no JSON.
    """
    try:
        return json.loads(metadata_path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(
            _("{folder} is no model bundle: {file} is missing in its configs folder").format(
                folder=metadata_path.parents[1], file=metadata_path.name
            )
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            _("{file} is damaged: {reason}. Install the bundle again.").format(file=metadata_path, reason=str(error))
        ) from error
    except OSError as error:
        raise ModelError(
            _("{file} cannot be read: {reason}. Check its permissions.").format(
                file=metadata_path, reason=error.strerror
            )
        ) from error


@contextmanager
def file_named_in_errors(path: Path) -> Iterator[None]:
    """Prefix model errors with the file's name, which the code that raises them does not know."""
    try:
        yield
    except ModelError as error:
        raise ModelError(_("{file}: {problem}").format(file=path, problem=error.text)) from error


def _check_tensors_entry(entry: dict[str, Any], *, metadata_path: Path) -> None:
    """Check that the metadata's entry on weights or activations names a file in the models folder, and its SHA-256.

    Raises:
        ModelError: Name or SHA-256 are impossible.
        KeyError: One of them is missing.
    """
    file, sha256 = entry["file"], entry["sha256"]
    if not isinstance(file, str) or not file.endswith(".safetensors") or set("/\\:") & set(file):
        raise ModelError(
            _("{file}: weights and activations must be .safetensors files in the bundle's models folder").format(
                file=metadata_path
            )
        )
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise ModelError(
            _("{file}: the SHA-256 of weights and activations must be 64 hexadecimal digits, not {found!r}").format(
                file=metadata_path, found=sha256
            )
        )


def _temperature(calibration: dict[str, Any], *, metadata_path: Path) -> float:
    """Return the temperature in the metadata, 1 if they name none."""
    value = calibration.get("temperature", 1.0) if isinstance(calibration, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise ModelError(
            _("{file}: calibration must name a temperature above 0, not {found!r}").format(
                file=metadata_path, found=calibration
            )
        )
    return float(value)


def load_network(weights_path: Path, *, config: NetworkConfig, sha256: str) -> torch.nn.Module:
    """Return the network with the weights of a safetensors file, checked before they are read.

    Weights stored in half precision or in 8 bits (`int8.weights`) become float32.

    Raises:
        ModelError: The file is missing, its checksum differs, or it fits another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _verified_bytes(weights_path, sha256=sha256)
    network = build_network(config)
    # The counters of batches serve training only, and are not stored.
    expected = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    try:
        tensors = dequantized(load(data))
        if differing := expected.symmetric_difference(tensors):
            raise ModelError(
                _(
                    "the weights {file} do not fit the network the bundle names ({network}): "
                    "{tensor} and {others} more differ"
                ).format(file=weights_path, network=config, tensor=sorted(differing)[0], others=len(differing) - 1)
            )
        network.load_state_dict(tensors, strict=False)
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(
            _("the weights {file} do not fit the network the bundle names ({network}): {reason}").format(
                file=weights_path, network=config, reason=str(error)
            )
        ) from error
    return network.eval().requires_grad_(False)


def _verified_bytes(weights_path: Path, *, sha256: str) -> bytes:
    """Return the contents of a file whose SHA-256 is the one given.

    Raises:
        ModelError: The file cannot be read, or its SHA-256 differs.
    """
    try:
        data = weights_path.read_bytes()
    except OSError as error:
        raise ModelError(
            _("the weights {file} cannot be read: {reason}. Install the bundle again.").format(
                file=weights_path, reason=error.strerror
            )
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            _(
                "the weights {file} are damaged or were exchanged: SHA-256 {found}..., expected {expected}... "
                "Install the bundle again."
            ).format(file=weights_path, found=found[:12], expected=sha256[:12])
        )
    return data

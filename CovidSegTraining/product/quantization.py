"""Measure between which values a bundle's activations lie, so that CPUs can compute its network in 8-bit integers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from CovidSegLib.bundle import Bundle, load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.inference import predict
from CovidSegLib.int8.activations import ActivationRange, ActivationRanges, coded_layers, read_activations, to_bytes
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.preprocess import preprocess
from CovidSegLib.progress import Reporter
from CovidSegLib.volume import case_name, read_ct

from ..data import DataConfig, labelled_folders, refuse_measured_only
from ..whole_files import whole_file
from .metadata_text import with_key_behind, without_key

if TYPE_CHECKING:
    import torch

ACTIVATIONS_FILE = "activations.safetensors"


def quantize(bundle: Bundle, *, data_dir: Path, config: DataConfig, device: str, tell: Callable[[str], object]) -> None:
    """Measure a bundle's activations on the training's CTs, and store them in the bundle.

    Args:
        bundle: The bundle; its weights stay as they are.
        data_dir: Data folder.
        config: What the network learnt from; masks of single lungs and phantoms are not used.
        device: As for `resolve_device`; "mps" computes on the CPU.
        tell: Called with a line per CT.

    Raises:
        InputError: As for `training_cts`; or a CT cannot be read. The bundle is then left as it was.
    """
    paths = training_cts(config, data_dir=data_dir)
    # On mps, `predict` first compares devices on a patch of noise, and its activations would be recorded, too.
    device = "cpu" if device.startswith("mps") else device
    seen = ActivationRecord(bundle.network)
    for path in paths:
        ct = to_hounsfield(read_ct(path))
        network_input = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing)
        with seen.recording():
            predict(network_input.image_kji, network=bundle.network, mode="fast", device=device, reporter=Reporter())
        tell(f"{case_name(path)}: {' x '.join(map(str, network_input.image_kji.shape))} voxels")
    store_activations(seen.activations, bundle_dir=bundle.path)


def training_cts(config: DataConfig, *, data_dir: Path) -> list[Path]:
    """Return the labelled cases' CTs and the whole chests that the network may learn from.

    Raises:
        InputError: There are none, one of them is missing, or one is named as measured only.
    """
    paths = []
    if config.labelled is not None:
        paths += [folder / "imaging.nii.gz" for folder in labelled_folders(config.labelled, data_dir=data_dir)]
    for chest in config.whole_chests:
        refuse_measured_only(Path(chest.path))
        paths.append(data_dir / chest.path)
    if not paths:
        raise InputError(f"{data_dir}: no CT of the training is there. Check --data and the lists of the settings.")
    # Now, as measuring takes minutes.
    if missing := [path for path in paths if not path.exists()]:
        raise InputError(f"{missing[0]}: no such file or folder. Check --data and the lists of the settings.")
    return paths


class ActivationRecord:
    """The lowest and highest values that the coded layers gave, over everything the network computed."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self.activations: dict[str, ActivationRange] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the network computes meanwhile."""
        hooks = [
            self._network.get_submodule(name).register_forward_hook(self._recorder(name))
            for name in coded_layers(self._network)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _recorder(self, name: str) -> Callable[[torch.nn.Module, object, torch.Tensor], None]:
        import torch

        def record(_layer: torch.nn.Module, _taken: object, given: torch.Tensor) -> None:
            axes = (0, 2, 3, 4)
            lowest, highest = (extreme.float().cpu() for extreme in (given.amin(dim=axes), given.amax(dim=axes)))
            if known := self.activations.get(name):
                lowest, highest = torch.minimum(lowest, known.lowest), torch.maximum(highest, known.highest)
            self.activations[name] = ActivationRange(lowest, highest)

        return record


def store_activations(activations: ActivationRanges, *, bundle_dir: Path) -> None:
    """Write activations into a bundle, and name their file in its metadata.

    Raises:
        ModelError: The product would refuse them, or the bundle. The bundle is then left as it was.
    """
    data = to_bytes(activations)
    entry = {"file": ACTIVATIONS_FILE, "sha256": hashlib.sha256(data).hexdigest()}
    path = bundle_dir / "configs" / "metadata.json"
    network = load_bundle(bundle_dir).network
    # Both are renamed at the very end: first the activations, which nothing names yet. If others are replaced, and the
    # run is killed between the two, the bundle is refused as damaged until it is measured again.
    with whole_file(path) as metadata_aside, whole_file(bundle_dir / "models" / ACTIVATIONS_FILE) as aside:
        aside.write_bytes(data)
        read_activations(aside, sha256=entry["sha256"], network=network)
        # As bytes, because ends of lines stay as they are.
        metadata_aside.write_bytes(_with_activations(path.read_bytes().decode("utf-8"), entry=entry).encode("utf-8"))


def _with_activations(text: str, *, entry: dict[str, str]) -> str:
    """Return a bundle's metadata with the entry on its activations; the layout stays if that can be."""
    wanted = json.loads(text)
    wanted["covidseg"]["activations"] = entry
    text = with_key_behind(without_key(text, "activations"), "activations", entry, behind="weights")
    return text if json.loads(text) == wanted else json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"

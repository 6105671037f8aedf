"""`covidseg info`: versions, devices, and what the model's card says in short."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from .. import DISCLAIMER
from ..errors import CovidSegError
from ..runtime import versions
from .console import print_failure, print_line
from .exit_codes import FAILED, OK, USAGE

_UNTESTED = "never run by the developers"
_CARD_KEYS = ("description", "intended_use", "training_data", "data_source", "data_type", "copyright", "license")


def run_info(arguments: argparse.Namespace) -> int:
    """Run `covidseg info` and return its exit code."""
    print_line("versions")
    for package, version in versions().items():
        print_line(f"  {package:<12}{version or 'not installed'}")
    print_line(f"  {'system':<12}{platform.platform()}")
    try:
        print_line("devices")
        for line in _devices():
            print_line(f"  {line}")
        print_line("model")
        for line in _card(arguments):
            print_line(f"  {line}")
    except (CovidSegError, OSError, ImportError) as error:
        print_failure(error, details=arguments.verbose)
        return USAGE if arguments.bundle is not None else FAILED
    print_line(DISCLAIMER)
    return OK


def _devices() -> Iterator[str]:
    """Yield the devices that this machine has, and which one `auto` takes."""
    import torch

    from ..device import describe_device, resolve_device

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    for device in (*cuda, "cpu"):
        yield f"{device:<8}{describe_device(device)}"
    if torch.backends.mps.is_available():
        yield f"{'mps':<8}{describe_device('mps')} ({_UNTESTED})"
    yield f"{'auto':<8}takes {resolve_device('auto')}"


def _card(arguments: argparse.Namespace) -> Iterator[str]:
    from ..bundle import load_bundle
    from ..patch_predictor import precision_on

    bundle = load_bundle(arguments.bundle)
    yield f"{bundle.name} {bundle.version}"
    yield f"folder: {bundle.path}"
    yield f"sha256 of the weights: {bundle.sha256}"
    yield f"fingerprint: {bundle.fingerprint}"
    yield f"computed on this CPU in: {precision_on('cpu', quantized=bundle.is_quantized)}"
    metadata: Mapping[str, Any] = bundle.metadata
    for key in _CARD_KEYS:
        if isinstance(metadata.get(key), str):
            yield f"{key.replace('_', ' ')}: {metadata[key]}"
    measured = metadata.get("evaluation") or metadata.get("eval_metrics")
    if isinstance(measured, Mapping):
        for key, value in measured.items():
            if isinstance(value, (str, int, float)):
                yield f"measured {key}: {value}"

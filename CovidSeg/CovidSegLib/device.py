"""Choose and describe the device the network runs on."""

from __future__ import annotations

import platform

from .errors import DeviceError
from .texts import text as _

#: Devices that `covidseg` accepts by name; "cuda:N" picks one of several.
DEVICE_CHOICES = ("auto", "cpu", "cuda", "mps")


def is_device_name(device: str) -> bool:
    """Tell whether a text is auto, cpu, cuda, cuda:N or mps; whether that device is present is not checked."""
    kind, colon, index = device.partition(":")
    return device in DEVICE_CHOICES or (kind == "cuda" and bool(colon) and index.isascii() and index.isdigit())


def resolve_device(device: str = "auto") -> str:
    """Return the name of the torch device for a request; "auto" takes cuda, else mps, else cpu.

    Raises:
        DeviceError: A device was asked for by name and is not present, or the name is unknown.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if not is_device_name(device):
        raise DeviceError(_("unknown device {device!r}: use auto, cpu, cuda, cuda:N or mps").format(device=device))
    kind, _colon, index = device.partition(":")
    if kind == "mps" and not has_mps:
        raise DeviceError(_("device 'mps' was asked for, but torch finds no Apple GPU: choose auto or cpu"))
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= int(index or 0):
            raise DeviceError(
                _("device {device!r} was asked for, but torch finds {count} NVIDIA GPU(s): choose auto or cpu").format(
                    device=device, count=count
                )
            )
    return device


def describe_device(device: str) -> str:
    """Return a description of a device for people, e.g. "NVIDIA H200, 140 GB" or "CPU (x86_64), 8 threads"."""
    import torch

    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    if device.startswith("mps"):
        return _("Apple GPU (MPS, untested)")
    return _("CPU ({processor}), {threads} threads").format(
        processor=platform.processor() or platform.machine(), threads=torch.get_num_threads()
    )


def gains_from_bfloat16(device: str) -> bool:
    """Tell whether the hardware multiplies in bfloat16 faster than in float32."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return False  # torch for Apple processors comes without oneDNN, and without the function called below
    # oneDNN gains by bfloat16 only with AVX-512 BF16 or AMX; otherwise it emulates it, slowly.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_has_native_bfloat16()


def _cpu_has_native_bfloat16() -> bool:
    import torch

    has_avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(has_avx512_bf16() or has_amx())


def gains_from_int8(device: str) -> bool:
    """Tell whether the hardware multiplies 8-bit integers several times faster than float32."""
    import torch

    if device != "cpu":
        return False
    # Intel from Cascade Lake and Ice Lake on, AMD from Zen 4 on; processors without AVX-512 may have the shorter form.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni") or has_vnni())

"""Check that a CT fits into memory, estimated from its size and voxel type before anything large is read."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..texts import text as _

#: The most that a run takes beyond Python and its libraries: what has the network's grid, and per voxel of the CT its
#: values (twice if they must be mapped to HU), masks and the labelmap. Measured as the peak resident memory of fresh
#: processes that read a phantom from a file, segmented it (accurate, on the CPU) and wrote the case's files, above what
#: they held with all libraries and a network loaded. At 512 x 512 x 300 voxels: int16 0.76 GB, 0.97 at most if mapped;
#: float32 0.91, mapped 1.32; float64 in NRRD 1.03. At twice the slices: int16 1.14 GB; float32, mapped, 2.33.
NETWORK_BYTES = 1 << 29
INTEGER_VOXEL_BYTES = 7
OTHER_VOXEL_BYTES = 14
_GIB = float(1 << 30)


def require_memory(
    size_ijk: tuple[int, ...], *, dtype: np.dtype, label: str, available_bytes: int | None = None
) -> None:
    """Check that a volume of this size can be processed.

    Args:
        size_ijk: Voxels along each axis, from the header.
        dtype: Type of the voxels as stored, or a type of floats if their rescale makes fractions of them.
        label: The file or folder, for the message.
        available_bytes: Memory to compare with; None asks the system (and checks nothing where it will not tell).

    Raises:
        InputError: The whole pipeline would need more memory than there is.
    """
    needed = needed_bytes(size_ijk, dtype=dtype)
    available = available_memory_bytes() if available_bytes is None else available_bytes
    if available is None or needed <= available:
        return
    shape = " x ".join(str(size) for size in size_ijk)
    text = _(
        "{label}: the volume ({size} voxels) needs about {needed:.1f} GiB of memory, "
        "{free:.1f} GiB are free. Close other programs, or crop or resample the CT."
    )
    raise InputError(text.format(label=label, size=shape, needed=needed / _GIB, free=available / _GIB))


def needed_bytes(size_ijk: tuple[int, ...], *, dtype: np.dtype) -> int:
    """Return the memory that a run on a volume takes beyond Python and its libraries; see `require_memory`."""
    # All others may become float32; of float64, ITK's image of an NRRD file lies beside it while it is read.
    stays_int16 = dtype.kind in "iu" and dtype.itemsize <= 2
    voxel_bytes = INTEGER_VOXEL_BYTES if stays_int16 else OTHER_VOXEL_BYTES
    return NETWORK_BYTES + voxel_bytes * math.prod(int(size) for size in size_ijk)


def available_memory_bytes() -> int | None:
    """Return the memory that can still be used, in bytes (a container's limit counts), or None if unknown."""
    known = [value for value in (_system_available(), _container_available()) if value is not None]
    return min(known) if known else None


def _system_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "win32":
        return _windows_available()
    try:
        # macOS has no cheap figure for free memory; as it compresses and swaps, the whole memory is the bound.
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _container_available() -> int | None:
    """Return what a Linux control group (v2) still allows; file cache can be reclaimed, so it counts as free."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(limit - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)), 0)
    except (OSError, ValueError):
        return None


def _windows_available() -> int | None:
    import ctypes

    class MemoryStatus(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "available", "total_page", "page", "total_virtual", "virtual", "extended")
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    kernel = getattr(ctypes, "windll", None)
    if kernel is None or not kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.available)

"""Streaming voxels into a volume slice by slice, so that truncation and damage are noticed and memory stays small."""

from __future__ import annotations

import gzip
import io
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..texts import Text
from ..texts import text as _
from .checks import MAX_ABS_HU, NO_HU

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
_CHUNK = 1 << 18
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class VoxelFormat:
    """How voxels are stored: size, type with byte order, and value = stored * slope + intercept."""

    size_ijk: tuple[int, int, int]
    dtype: np.dtype
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def value_dtype(self) -> np.dtype:
        """The stored type, or float32 if slope or intercept make fractions."""
        is_whole = float(self.slope).is_integer() and float(self.intercept).is_integer()
        return self.dtype if is_whole else np.dtype(np.float32)


class HuBuilder:
    """Collects slices into one volume: int16 while all values are whole and fit, else float32; never float64.

    Slices may be set from several threads.
    """

    def __init__(self, shape_kji: tuple[int, int, int], *, label: str) -> None:
        self._values_kji: np.ndarray = np.zeros(shape_kji, dtype=np.int16)
        self._label = label
        self._lock = threading.Lock()

    def set_slice(self, k: int, values_ji: np.ndarray) -> None:
        """Put a (j, i) slice of any real type at index k.

        Raises:
            InputError: A value is NaN or infinite.
        """
        compact = self._compact(values_ji, k=k)
        with self._lock:
            if compact.dtype != np.int16 and self._values_kji.dtype == np.int16:
                self._values_kji = self._values_kji.astype(np.float32)
            self._values_kji[k] = compact

    def result(self) -> np.ndarray:
        """Return the (k, j, i) volume."""
        return self._values_kji

    def _compact(self, values_ji: np.ndarray, *, k: int) -> np.ndarray:
        if values_ji.dtype == np.int16:
            return values_ji
        low, high = values_ji.min(), values_ji.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            count = int(np.count_nonzero(~np.isfinite(values_ji)))
            text = _(
                "{label}: {count} voxel(s) of slice {number} are NaN or infinite. "
                "Replace them (air is -1000 HU), or export the CT again."
            )
            raise InputError(text.format(label=self._label, count=count, number=k + 1))
        if max(-float(low), float(high)) > MAX_ABS_HU:
            raise InputError(NO_HU.format(label=self._label, low=float(low), high=float(high)))
        if low >= _INT16.min and high <= _INT16.max:
            rounded = values_ji.astype(np.int16) if values_ji.dtype.kind in "iub" else np.rint(values_ji)
            if np.array_equal(rounded, values_ji):
                return rounded.astype(np.int16)
        return values_ji.astype(np.float32)


class InflatingStream(io.RawIOBase):
    """Reads zlib or gzip data that starts at the stream's position; its checksum is verified at its end."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj(wbits=47)  # 32 + 15: zlib or gzip, told from the data

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer as far as the next bytes go; 0 at the end.

        Raises:
            zlib.error: The data is damaged.
            EOFError: The data ends before its checksum.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(_CHUNK)
            data = self._inflater.decompress(packed, len(view))
            if data:
                view[: len(data)] = data
                return len(data)
            if not packed:
                raise EOFError(_("compressed data ends early"))
        return 0


def verify_packed(path: Path, *, start: int) -> None:
    """Make sure that the zlib or gzip data from byte `start` on is whole and fits its checksum.

    Raises:
        EOFError, zlib.error: It is not.
    """
    with path.open("rb") as stream:
        stream.seek(start)
        unpacked = InflatingStream(stream)
        while unpacked.read(_CHUNK):
            pass


def reason_of(error: Exception) -> str:
    """Return what an error says; in our own words, it can be translated."""
    given = error.args[0] if error.args else ""
    return given if isinstance(given, Text) else str(error)


def is_gzip(path: Path) -> bool:
    """Tell from its first bytes whether a file is gzip-compressed, whatever its name."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def open_maybe_gzip(path: Path) -> io.BufferedIOBase:
    """Open a file for reading, unpacking gzip; decided by content."""
    return gzip.open(path, "rb") if is_gzip(path) else path.open("rb")


def read_voxels(stream: io.BufferedIOBase | io.RawIOBase, voxels: VoxelFormat, *, label: str) -> np.ndarray:
    """Return (k, j, i) values, scaled, as int16 or float32; the stream stands at the first voxel.

    Raises:
        InputError: The stream ends early, or a value is not finite.
        EOFError, zlib.error, gzip.BadGzipFile: Compressed data is damaged.
    """
    i, j, k = voxels.size_ijk
    builder = HuBuilder((k, j, i), label=label)
    buffer = np.empty((j, i), dtype=voxels.dtype)
    view = memoryview(buffer.data).cast("B")
    native = voxels.dtype.newbyteorder("=")
    for index in range(k):
        if not _filled(stream, view):
            text = _("{label}: slice {number} of {count} is missing: the file is truncated. Copy or export it again.")
            raise InputError(text.format(label=label, number=index + 1, count=k))
        values_ji = buffer.astype(native, copy=False)
        if (voxels.slope, voxels.intercept) != (1.0, 0.0):
            values_ji = values_ji * voxels.slope + voxels.intercept
        builder.set_slice(index, values_ji)
    if not isinstance(stream, io.BufferedReader):
        stream.read(1 << 16)  # compressed: reaching the end verifies the checksum
    return builder.result()


def _filled(stream: io.BufferedIOBase | io.RawIOBase, view: memoryview) -> bool:
    """Fill the buffer from the stream; False if that ends before."""
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])
        if not count:
            return False
        done += count
    return True

"""The memory estimate before reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.readers.memory import (
    INTEGER_VOXEL_BYTES,
    NETWORK_BYTES,
    OTHER_VOXEL_BYTES,
    available_memory_bytes,
    needed_bytes,
    require_memory,
)
from CovidSegLib.volume import read_ct
from helpers_ct_files import tiny_hu, write_image, write_series

INT16 = np.dtype(np.int16)
SHAPE_KJI = (10, 12, 14)


@pytest.mark.parametrize(
    ("kind", "voxel_bytes"),
    [
        *((kind, INTEGER_VOXEL_BYTES) for kind in ("i1", "u1", "<i2", ">i2", "u2")),
        *((kind, OTHER_VOXEL_BYTES) for kind in ("i4", "u4", "i8", "u8", "<f4", ">f4", "f8")),
    ],
)
def test_memory_needed_depends_on_the_voxels_type(kind: str, voxel_bytes: int) -> None:
    assert needed_bytes((100, 100, 100), dtype=np.dtype(kind)) == NETWORK_BYTES + voxel_bytes * 10**6


def test_volume_that_fits_exactly_is_accepted() -> None:
    available = needed_bytes((100, 100, 100), dtype=INT16)
    require_memory((100, 100, 100), dtype=INT16, label="ct", available_bytes=available)


@pytest.mark.parametrize(("kind", "gib"), [("i2", r"1\.5"), ("f4", r"2\.6")])
def test_volume_one_byte_too_large_is_refused_with_need_and_remedy(kind: str, gib: str) -> None:
    size_ijk, dtype = (512, 512, 600), np.dtype(kind)
    with pytest.raises(InputError, match=rf"^big\.nii: .*512 x 512 x 600.*needs about {gib} GiB.*crop or resample"):
        require_memory(size_ijk, dtype=dtype, label="big.nii", available_bytes=needed_bytes(size_ijk, dtype=dtype) - 1)


def test_absurd_size_does_not_overflow() -> None:
    with pytest.raises(InputError):
        require_memory((2**31, 2**31, 2**31), dtype=INT16, label="ct", available_bytes=1 << 40)


def write_ct(folder: Path, *, name: str, dtype: type, slope: float = 1.0) -> Path:
    """Write a small CT whose stored voxels have this type."""
    if name == "series":
        write_series(folder / name, tiny_hu(shape_kji=SHAPE_KJI))
        return folder / name
    path = write_image(folder / name, tiny_hu(shape_kji=SHAPE_KJI).astype(dtype))
    if slope != 1.0:
        raw = bytearray(path.read_bytes())
        raw[112:116] = np.float32(slope).tobytes()
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "slope", "counted"),
    [
        *((f"ct.{end}", np.int16, 1.0, np.int16) for end in ("nii", "nrrd", "mha")),
        *((f"ct.{end}", np.int32, 1.0, np.int32) for end in ("nii", "nrrd", "mha")),
        *((f"ct.{end}", np.float64, 1.0, np.float64) for end in ("nii", "nrrd", "mha")),
        ("ct.nii", np.int16, 2.0, np.int16),
        ("ct.nii", np.int16, 0.5, np.float32),
        ("series", np.int16, 1.0, np.int16),
    ],
)
def test_readers_ask_for_what_the_voxels_they_meet_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: type, slope: float, counted: type
) -> None:
    path = write_ct(tmp_path, name=name, dtype=dtype, slope=slope)
    needed = needed_bytes(SHAPE_KJI, dtype=np.dtype(counted))
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: needed)
    assert read_ct(path).hu_kji.shape == SHAPE_KJI
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: needed - 1)
    with pytest.raises(InputError, match="GiB are free"):
        read_ct(path)


def test_nothing_is_refused_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.readers.memory.available_memory_bytes", lambda: None)
    require_memory((2**20, 2**20, 2**20), dtype=INT16, label="ct")


def test_this_computer_tells_a_plausible_amount() -> None:
    available = available_memory_bytes()
    assert available is None or 1 << 24 < available < 1 << 50

"""Random damage to small files gives a CT or an InputError, never another exception."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.volume import CTVolume, read_ct
from helpers_ct_files import tiny_hu, write_image, write_series, zip_series
from helpers_multi_frame import write_enhanced

KINDS = [
    *("ct.nii", "ct.nii.gz", "ct.nrrd", "packed.nrrd"),
    *("ct.mha", "packed.mha", "ct.nhdr", "ct.mhd"),
    *("dicom", "ct.zip", "frames.dcm"),
]
HEADER_BYTES = (352, 700)


def damaged(raw: bytes, *, seed: int) -> bytes:
    """Return bytes with some overwritten (mostly in the header), and sometimes cut off or cut out."""
    rng = random.Random(seed)
    data = bytearray(raw)
    reach = min(len(data), rng.choice([*HEADER_BYTES, len(data)]))
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        data[rng.randrange(reach)] = rng.choice([0, 255, rng.randrange(256), 48 + rng.randrange(10)])
    how = rng.random()
    if how < 0.25:
        data = data[: rng.randrange(len(data))]
    elif how < 0.35:
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 60)]
    return bytes(data)


def target_of(kind: str, folder: Path) -> tuple[Path, Callable[[int], None]]:
    """Write a good input; return it, and a function that replaces it by a damaged one."""
    if kind == "dicom":
        files = write_series(folder / "dicom", tiny_hu())
        good = [file.read_bytes() for file in files]

        def damage_slice(seed: int) -> None:
            hurt = seed % len(files)
            for n, file in enumerate(files):
                file.write_bytes(damaged(good[n], seed=seed) if n == hurt else good[n])

        return folder / "dicom", damage_slice
    if kind == "ct.zip":
        path = zip_series(folder / kind, write_series(folder / "series", tiny_hu()))
    elif kind == "frames.dcm":
        path = write_enhanced(folder / kind, write_series(folder / "series", tiny_hu()))
    else:
        path = write_image(folder / kind, tiny_hu(), compress="packed" in kind)
    raw = path.read_bytes()
    return path, lambda seed: _write(path, damaged(raw, seed=seed))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def read_damaged(kind: str, folder: Path, *, seeds: range) -> None:
    """Damage and read once per seed; every outcome must be a sound CT or an InputError naming the file."""
    path, damage = target_of(kind, folder)
    assert isinstance(read_ct(path), CTVolume)
    for seed in seeds:
        damage(seed)
        try:
            ct = read_ct(path)
        except InputError as error:
            assert path.name in str(error), f"seed {seed}: {error}"
            continue
        assert ct.hu_kji.shape == ct.geometry.shape_kji, f"seed {seed}"
        assert ct.hu_kji.dtype in (np.int16, np.float32), f"seed {seed}"
        assert np.isfinite(ct.hu_kji).all() and np.isfinite(ct.geometry.ijk_to_lps).all(), f"seed {seed}"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_gives_a_ct_or_an_input_error(tmp_path: Path, kind: str) -> None:
    read_damaged(kind, tmp_path, seeds=range(60))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_gives_a_ct_or_an_input_error_many_times(tmp_path: Path, kind: str) -> None:
    read_damaged(kind, tmp_path, seeds=range(1000, 4000))

"""The memory estimate before reading."""

from __future__ import annotations

import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.memory import BYTES_PER_VOXEL, available_memory_bytes, require_memory


def test_volume_that_fits_exactly_is_accepted() -> None:
    require_memory((100, 100, 100), label="ct", available_bytes=BYTES_PER_VOXEL * 10**6)


def test_volume_one_byte_too_large_is_refused_with_need_and_remedy() -> None:
    with pytest.raises(InputError, match=r"^big\.nii: .*512 x 512 x 600.*needs about 1\.5 GiB.*crop or resample"):
        require_memory((512, 512, 600), label="big.nii", available_bytes=BYTES_PER_VOXEL * 512 * 512 * 600 - 1)


def test_absurd_size_does_not_overflow() -> None:
    with pytest.raises(InputError):
        require_memory((2**31, 2**31, 2**31), label="ct", available_bytes=1 << 40)


def test_nothing_is_refused_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.memory.available_memory_bytes", lambda: None)
    require_memory((2**20, 2**20, 2**20), label="ct")


def test_this_computer_tells_a_plausible_amount() -> None:
    available = available_memory_bytes()
    assert available is None or 1 << 24 < available < 1 << 50

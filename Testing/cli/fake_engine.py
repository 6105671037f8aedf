"""A tiny engine for tests of the command line: thresholds instead of a network, no torch.

Its parts are functions of a module, so that worker processes can be given them. What a case
should do is told by its file name: `*bug*` raises, `*memory*`, `*dies*`, `*slow*`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from CovidSegLib.cases.one_case import Engine
from CovidSegLib.errors import DeviceError, InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.progress import Progress
from CovidSegLib.quantify import quantify_labelmap
from CovidSegLib.report import build_report
from CovidSegLib.volume import CTVolume, read_ct

GEOMETRY = Geometry(size_ijk=(24, 20, 12), spacing_ijk_mm=(2.0, 2.5, 4.0), origin_lps_mm=(-20.0, 11.0, 5.0))


@dataclass(frozen=True)
class FakeBundle:
    name: str = "fake"
    version: str = "0.0"
    sha256: str = "f" * 64

    @property
    def fingerprint(self) -> str:
        return f"sha256:{self.sha256}"

    def to_dict(self) -> dict[str, str]:
        return {"name": self.name, "version": self.version, "sha256": self.sha256, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class OtherBundle(FakeBundle):
    sha256: str = "e" * 64


@dataclass(frozen=True)
class FakeResult:
    ct: CTVolume
    labelmap: np.ndarray
    mode: str
    device: str
    bundle: FakeBundle
    uncertainty: np.ndarray | None = None

    @property
    def hu_kji(self) -> np.ndarray:
        return self.ct.hu_kji

    @property
    def geometry(self) -> Geometry:
        return self.ct.geometry

    def report(self) -> dict[str, Any]:
        return build_report(
            case=self.ct.name,
            quantities=quantify_labelmap(self.ct.hu_kji, geometry=self.geometry, labelmap_kji=self.labelmap),
            geometry=self.geometry,
            fingerprint=self.ct.fingerprint,
            model=self.bundle.to_dict(),
            runtime={
                "device": "cpu",
                "mode": self.mode,
                "seconds": time.perf_counter() % 1,
                "stages": {"network": time.perf_counter() % 1},
                "peak_memory_mb": 1.0,
                "versions": {},
            },
            warnings=self.ct.warnings,
            input_details={} if self.ct.series is None else {"series": self.ct.series},
        )


def fake_segment(
    ct: CTVolume,
    *,
    mode: str,
    device: str,
    bundle: FakeBundle,
    progress: Any,
    cancelled: Any,
    uncertainty: bool = False,
) -> FakeResult:
    """Return thresholds as labels: lungs below -500 HU, left from the middle on, infection from -500 to -200.

    The map of uncertainty, if asked for, holds every per cent from 0 to 100.
    """
    del cancelled
    if "bug" in ct.name:
        raise ValueError("index out\nof range")
    if "memory" in ct.name:
        raise MemoryError
    if "dies" in ct.name:
        os._exit(9)
    if "nolungs" in ct.name:
        raise InputError(f"{ct.name}: no lungs found: is this a chest CT in HU?")
    for step in range(3):
        if progress is not None:
            progress(Progress("network", step, 3))
        time.sleep(0.05 if "slow" in ct.name else 0.0)
    hu = ct.hu_kji
    labelmap = np.zeros(hu.shape, dtype=np.uint8)
    middle = hu.shape[2] // 2
    labelmap[:, :, :middle][hu[:, :, :middle] < -500] = 2
    labelmap[:, :, middle:][hu[:, :, middle:] < -500] = 1
    labelmap[(hu >= -500) & (hu < -200)] = 3
    percent = np.resize(np.arange(101, dtype=np.uint8), hu.shape) if uncertainty else None
    return FakeResult(ct=ct, labelmap=labelmap, mode=mode, device=device, bundle=bundle, uncertainty=percent)


def fake_load_bundle(path: Path | None) -> FakeBundle:
    return FakeBundle() if path is None else OtherBundle()


def fake_resolve_device(device: str) -> str:
    if device not in ("auto", "cpu"):
        raise DeviceError(f"device '{device}' was asked for, but is absent: choose auto or cpu")
    return "cpu"


FAKE_ENGINE = Engine(
    read=read_ct,
    segment=fake_segment,  # type: ignore[arg-type]
    load_bundle=fake_load_bundle,  # type: ignore[arg-type]
    resolve_device=fake_resolve_device,
)


def tiny_ct(*, infected_slices: int = 3, seed: int = 0) -> np.ndarray:
    """Return (k, j, i) int16 HU: soft tissue around two boxes of lung, infection in the lowest slices."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(20, 60, GEOMETRY.shape_kji).astype(np.int16)
    for columns in (slice(3, 10), slice(14, 21)):
        hu[1:11, 4:16, columns] = rng.integers(-900, -700, (10, 12, 7))
        hu[1 : 1 + infected_slices, 4:16, columns] = -400
    return hu


def write_ct(path: Path, *, infected_slices: int = 3, seed: int = 0) -> Path:
    """Write a tiny CT whose POI with the fake engine is 10 % per infected slice."""
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    image = GEOMETRY.to_sitk(tiny_ct(infected_slices=infected_slices, seed=seed))
    # SimpleITK cannot write some names (a colon, bytes that are no text) on every system.
    plain = path.parent / f"_writing{''.join(path.suffixes[-2:]) if path.name.endswith('.gz') else path.suffix}"
    SimpleITK.WriteImage(image, str(plain), useCompression=True)
    plain.replace(path)
    return path


def write_labels(path: Path) -> Path:
    """Write a labelmap on the tiny CT's grid."""
    import SimpleITK

    labels = np.zeros(GEOMETRY.shape_kji, dtype=np.int16)
    labels[1:11, 4:16, 3:10] = 2
    labels[1:11, 4:16, 14:21] = 1
    labels[1:4, 4:16, 14:21] = 3
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(GEOMETRY.to_sitk(labels), str(path), useCompression=True)
    return path

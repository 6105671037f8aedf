"""Estimate how long a run will take before it starts: without torch or weights, in about a tenth of a second.

The functions of the run itself, applied to voxels 10 mm apart, show where the chest lies, and so how many patches there
will be. Seconds per patch come from the last run like it, or from a first estimate for a CPU. For a GPU that was never
used there is no estimate.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .anatomy.chest import find_chest
from .geometry import Geometry
from .inference import TILINGS, patch_count
from .intensity import to_hounsfield
from .orient import Orientation
from .patch_predictor import precision_on
from .preprocess import PreprocessingRecipe, chest_axes
from .resample import image_axes
from .runtime import cores
from .volume import CTVolume

#: Distance between the voxels that are looked at. On seven CTs the patches planned from them hold at most 1.11 times
#: the voxels of the patches of the run.
GLANCE_STEP_MM = 10.0

#: Seconds that one core needs per million voxels in patches, for a network of `NETWORK_WIDTH` filters, by precision
#: (bfloat16 on an AMD EPYC, 0.63 to 0.81 on four CTs in both modes; int8 on an Intel Xeon, 0.50 to 0.68 on a whole
#: chest; float32 on both, 1.7 and 1.9). Two cores need half of it.
NETWORK_S = {"bfloat16": 0.70, "int8": 0.60, "float32": 1.8}
NETWORK_WIDTH = 16
#: Time grows with this power of the width: twice the filters take 4.3 times the seconds (16 and 32 filters measured).
WIDTH_POWER = 2.1
#: More cores than these are not counted. One and two were measured; that up to eight gain alike is an assumption.
MOST_CORES = 8
#: Seconds for everything but the network, per million voxels of the network's grid and per million of the CT (within
#: 10 % on four CTs).
GRID_S, CT_S = 0.39, 0.018
#: Seconds for copying the CT out of the scene and the result into it: once, and per million voxels of the CT (three
#: CTs, measured with Slicer's libraries outside the application).
SCENE_S, SCENE_CT_S = 1.0, 0.07
#: Seconds for importing torch and MONAI and reading the weights, once per process, from a disk that is in use.
LOAD_S = 3.3


@dataclass(frozen=True)
class Work:
    """What a run has to do, in millions of voxels.

    Attributes:
        patches: Number of patches (this one not in millions).
        in_patches: Voxels of all patches; where patches overlap, voxels count once for each.
        in_grid: Voxels of the network's grid.
        in_ct: Voxels of the CT.
    """

    patches: int
    in_patches: float
    in_grid: float
    in_ct: float

    @property
    def rest_s(self) -> float:
        """Seconds for everything in the engine but the network, on the machine of the first estimate."""
        return GRID_S * self.in_grid + CT_S * self.in_ct

    @property
    def scene_s(self) -> float:
        """Seconds for copying from and to Slicer's scene, on the same machine."""
        return SCENE_S + SCENE_CT_S * self.in_ct


@dataclass(frozen=True)
class Rates:
    """How fast a machine works.

    Attributes:
        network_s: Seconds per million voxels in patches.
        rest: Time for everything else, as a multiple of what the machine of the first estimate needs.
    """

    network_s: float
    rest: float = 1.0

    @classmethod
    def measured(cls, stages_s: Mapping[str, float], *, work: Work) -> Rates | None:
        """Return the rates of a finished run from the seconds of its stages; None if some are missing."""
        network_s = stages_s.get("network", 0.0)
        rest_s = sum(seconds for stage, seconds in stages_s.items() if stage not in ("network", "load"))
        return cls(network_s / work.in_patches, rest_s / work.rest_s) if network_s > 0.0 and rest_s > 0.0 else None

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Rates:
        """Return the rates written by `to_dict`.

        Raises:
            ValueError, TypeError, KeyError: The values are none that `to_dict` writes.
        """
        rates = cls(float(values["network_s"]), float(values["rest"]))
        if not (0.0 < rates.network_s < math.inf and 0.0 < rates.rest < math.inf):
            raise ValueError(f"rates must be above 0, not {values!r}")
        return rates

    def to_dict(self) -> dict[str, float]:
        """Return the rates as plain values."""
        return asdict(self)

    def seconds(self, work: Work, *, loaded: bool) -> float:
        """Return the seconds of a run in Slicer; `loaded` tells whether torch and MONAI are in memory."""
        rest_s = work.rest_s + work.scene_s + (0.0 if loaded else LOAD_S)
        return self.network_s * work.in_patches + self.rest * rest_s


@dataclass(frozen=True)
class Processor:
    """What decides how fast a network runs on a CPU.

    Attributes:
        cores: How many are used.
        precision: In which the network is computed, see `patch_predictor.precision_on`.
    """

    cores: int
    precision: str

    @classmethod
    def here(cls, *, quantized: bool) -> Processor:
        """Return this machine's processor: as torch sees it once it is loaded, else as the system describes it.

        Args:
            quantized: Whether the bundle has what 8-bit integers need, see `Bundle.is_quantized`.
        """
        if torch := sys.modules.get("torch"):
            return cls(torch.get_num_threads(), precision_on("cpu", quantized=quantized))
        flags = _flags()
        if "avx512_bf16" in flags:
            return cls(cores(), "bfloat16")
        return cls(cores(), "int8" if quantized and {"avx512_vnni", "avx_vnni"} & flags else "float32")


def first_rates(processor: Processor, *, width: int) -> Rates:
    """Return the rates of a CPU on which nothing was measured yet, for a network of `width` filters."""
    network_s = NETWORK_S[processor.precision] * (width / NETWORK_WIDTH) ** WIDTH_POWER
    return Rates(network_s / min(processor.cores, MOST_CORES))


def network_shape(values_kji: np.ndarray, *, geometry: Geometry, recipe: PreprocessingRecipe) -> tuple[int, int, int]:
    """Return the approximate shape (k, j, i) of the grid on which the network will see a CT.

    Args:
        values_kji: (k, j, i) the CT, in HU or what `to_hounsfield` maps; voxels `GLANCE_STEP_MM` apart are looked at.
        geometry: Its grid.
        recipe: The bundle's preprocessing.

    Raises:
        InputError: Those voxels show no air-filled lung inside a body.
    """
    orientation = Orientation.of(geometry)
    volume, spacing_mm = orientation.view(values_kji), orientation.spacing_mm(geometry)
    k, j, i = (max(1, round(GLANCE_STEP_MM / mm)) for mm in spacing_mm)
    thin = np.ascontiguousarray(volume[::k, ::j, ::i])
    thin_mm = (spacing_mm[0] * k, spacing_mm[1] * j, spacing_mm[2] * i)
    upright = Geometry(size_ijk=thin.shape[::-1], spacing_ijk_mm=thin_mm[::-1])
    ct = to_hounsfield(CTVolume(thin, upright, name="CT", fingerprint=""))
    chest = find_chest(ct.hu_kji, spacing_mm=thin_mm)
    axis_k, axis_j, axis_i = chest_axes(image_axes(volume.shape, spacing_kji_mm=spacing_mm), chest=chest, recipe=recipe)
    return (axis_k.count, axis_j.count, axis_i.count)


def planned_work(shape_kji: tuple[int, int, int], *, mode: str, ct_voxels: int) -> Work:
    """Return what a run in a mode has to do on the network's grid."""
    tiling = TILINGS[mode].fitted_to(shape_kji)
    patches = patch_count(shape_kji, tiling=tiling)
    return Work(
        patches=patches,
        in_patches=patches * math.prod(tiling.patch_kji) / 1e6,
        in_grid=math.prod(shape_kji) / 1e6,
        in_ct=ct_voxels / 1e6,
    )


def _flags() -> set[str]:
    """Return the names of the CPU's abilities, as far as the system tells them: without torch, only Linux does."""
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()

"""Run as a program: segment a phantom enlarged to a size, and print how much memory that took.

Usage: memory_of_segment.py BUNDLE SIZE_I SIZE_J SIZE_K; prints JSON with resident MB before and at the peak.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from CovidSegLib.geometry import Geometry
from CovidSegLib.phantom import make_phantom
from CovidSegLib.pipeline import segment
from CovidSegLib.runtime import peak_memory_mb
from CovidSegLib.volume import CTVolume

EXTENT_MM = (384.0, 312.0, 320.0)


def enlarged_phantom(size_ijk: tuple[int, int, int]) -> CTVolume:
    """Return a small phantom with its voxels repeated, cut to the size: a whole chest in int16."""
    small = make_phantom(seed=3, size_ijk=(96, 80, 64), spacing_ijk_mm=(4.0, 3.9, 5.0)).ct.hu_kji
    index = [np.arange(n) * len_small // n for n, len_small in zip(size_ijk[::-1], small.shape, strict=True)]
    spacing = tuple(extent / n for extent, n in zip(EXTENT_MM, size_ijk, strict=True))
    values = np.empty(size_ijk[::-1], np.int16)
    for k, source_k in enumerate(index[0]):
        values[k] = small[source_k][np.ix_(index[1], index[2])]
    return CTVolume(values, Geometry(size_ijk, spacing), "large", "sha256:0")  # type: ignore[arg-type]


def main(bundle: str, *size: str) -> None:
    """Segment, and print the memory in MB."""
    import monai.inferers  # noqa: F401
    import SimpleITK  # noqa: F401
    import torch

    torch.set_num_threads(1)
    ct = enlarged_phantom((int(size[0]), int(size[1]), int(size[2])))
    before_mb = peak_memory_mb()
    result = segment(ct, bundle=Path(bundle), device="cpu")
    print(
        json.dumps(
            {
                "input_mb": ct.hu_kji.nbytes / 1e6,
                "before_mb": before_mb,
                "peak_mb": peak_memory_mb(),
                "labelled": int(np.count_nonzero(result.labelmap)),
                "seconds": result.runtime["seconds"],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

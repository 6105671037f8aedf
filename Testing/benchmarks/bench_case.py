"""One configuration of the benchmark in a process of its own: seconds per stage, peak memory, labelmap.

`python bench_case.py JOB.json` measures the job and writes its record and labelmap where the job says.
"""

from __future__ import annotations

import atexit
import gc
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from CovidSegLib.anatomy.lung_border import trim_lung_border
from CovidSegLib.bundle import Bundle, load_bundle
from CovidSegLib.cases.files import write_case_files
from CovidSegLib.inference import TILINGS, load_libraries, patch_count, predict
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.pipeline import segment
from CovidSegLib.preprocess import preprocess
from CovidSegLib.progress import Reporter
from CovidSegLib.restore import restore_labels
from CovidSegLib.runtime import Clock, peak_memory_mb
from CovidSegLib.segmentation_file import write_labelmap_nifti, write_seg_nrrd
from CovidSegLib.volume import CTVolume, read_ct

#: (160, 160, 80) voxels along i, j, k.
REFERENCE_PATCH_KJI = (80, 160, 160)


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        method: "reference", "accurate" or "fast".
        ct: File of the CT.
        bundle: Folder of the bundle.
        untrained: Whether the weights are random; then only preprocessing and network are timed.
        device: "cpu" or "cuda".
        threads: Of torch on the CPU.
        repeats: Runs in this process; the last one is recorded, as the first on a GPU pays for the GPU's start.
        folder: Where record.json, labelmap.npy and the files of the case go.
    """

    method: str
    ct: str
    bundle: str
    untrained: bool
    device: str
    threads: int
    repeats: int
    folder: str


def measure(job: Job) -> dict[str, Any]:
    """Run the job; return its record and leave its files in the folder."""
    import torch

    torch.set_num_threads(job.threads)
    bundle = load_bundle(job.bundle)
    _ = bundle.network
    load_libraries()
    first_s: dict[str, float] | None = None
    for _ in range(job.repeats):
        clock = Clock()
        with clock.stage("read"):
            ct = read_ct(job.ct)
        method = _reference if job.method == "reference" else _product
        details = method(ct, bundle=bundle, job=job, clock=clock)
        first_s = first_s or dict(clock.stages_s)
    return {
        "job": asdict(job),
        "stages_s": clock.stages_s,
        "first_run_s": first_s,
        "peak_memory_mb": peak_memory_mb(),
        "shape_kji": list(ct.geometry.shape_kji),
        **details,
    }


def _product(ct: CTVolume, *, bundle: Bundle, job: Job, clock: Clock) -> dict[str, Any]:
    """Time `pipeline.segment`, called as users call it, and the writing of the case's files."""
    if job.untrained:
        with clock.stage("preprocess"):
            ct = to_hounsfield(ct)
            image_kji = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing).image_kji
        with clock.stage("network"):
            prediction = predict(
                image_kji,
                network=bundle.network,
                integers=bundle.integers,
                mode=job.method,
                device=job.device,
                reporter=Reporter(),
            )
        return {
            "patches": _patches(job.method, image_kji.shape),
            "image_kji": list(image_kji.shape),
            "precision": prediction.precision,
        }
    steps: list[Any] = []
    result = segment(ct, mode=job.method, device=job.device, bundle=bundle, progress=steps.append)
    clock.stages_s.update({name: s for name, s in result.runtime["stages"].items() if name != "load"})
    with clock.stage("write"):
        write_case_files(Path(job.folder), result=result, recorded_options={}, preview=True)
    np.save(Path(job.folder) / "labelmap.npy", result.labelmap)
    patches = [step.total for step in steps if step.stage == "network"]
    return {
        "patches": patches[-1] if patches else None,
        "poi_percent": result.quantities.poi_percent,
        "precision": result.runtime["precision"],
    }


def _patches(mode: str, shape_kji: tuple[int, ...]) -> int:
    return patch_count(shape_kji, tiling=TILINGS[mode].fitted_to(shape_kji))


def _reference(ct: CTVolume, *, bundle: Bundle, job: Job, clock: Clock) -> dict[str, Any]:
    """Time the plain way: the whole volume, MONAI's sliding window, float32, and only the lungs' border corrected."""
    with clock.stage("preprocess"):
        ct = to_hounsfield(ct)
        network_input = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing, crop_to_chest=False)
    with clock.stage("network"):
        labels, patches = _reference_network(network_input.image_kji, bundle=bundle, device=job.device)
    details = {"patches": patches, "image_kji": list(labels.shape), "precision": "float32"}
    if job.untrained:
        return details
    with clock.stage("back"):
        labelmap = restore_labels(labels, network_input=network_input, geometry=ct.geometry, reporter=Reporter())
        trim_lung_border(labelmap, hu_kji=ct.hu_kji, geometry=ct.geometry)
    with clock.stage("write"):
        write_labelmap_nifti(Path(job.folder) / "labelmap.nii.gz", labelmap_kji=labelmap, geometry=ct.geometry)
        write_seg_nrrd(Path(job.folder) / "segmentation.seg.nrrd", labelmap_kji=labelmap, geometry=ct.geometry)
    np.save(Path(job.folder) / "labelmap.npy", labelmap)
    return details


def _reference_network(image_kji: np.ndarray, *, bundle: Bundle, device: str) -> tuple[np.ndarray, int]:
    """Return the labels (k, j, i) uint8 of the whole image, and the number of patches."""
    import torch
    from monai.inferers import sliding_window_inference

    network, count = bundle.network.to(device).eval(), 0

    def probabilities(patch: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return torch.softmax(network(patch.contiguous()), dim=1)

    with torch.inference_mode():
        averaged = sliding_window_inference(
            torch.from_numpy(image_kji)[None, None].to(device),
            roi_size=REFERENCE_PATCH_KJI,
            sw_batch_size=1,
            predictor=probabilities,
            overlap=0.5,
            mode="constant",
        )
        return averaged[0].argmax(dim=0).to(torch.uint8).cpu().numpy(), count


def main(path: str) -> None:
    """Measure the job in a JSON file."""
    atexit.register(gc.freeze)  # as `covidseg` does: see `cli.main`
    job = Job(**json.loads(Path(path).read_text(encoding="utf-8")))
    record = measure(job)
    (Path(job.folder) / "record.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

"""Measure the product against plain sliding-window inference: `make bench`.

Same CT, same weights, same machine, all cores; every configuration in a process of its own, several times in turn, as
a machine's speed changes from minute to minute.
Without the real CT it runs on a phantom of its size, and says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "CovidSeg"), str(ROOT), str(HERE)]

from bench_case import Job  # noqa: E402
from bench_machine import BUSY_LOAD, give_report, load_average  # noqa: E402
from bench_table import tables  # noqa: E402
from CovidSegLib.bundle import Bundle, load_bundle  # noqa: E402
from CovidSegLib.commands.parser import count  # noqa: E402
from CovidSegLib.network import NetworkConfig, build_network  # noqa: E402
from CovidSegLib.runtime import cores, versions  # noqa: E402

from CovidSegTraining.product.quantization import ActivationRecord, store_activations  # noqa: E402

REAL_CT = Path("ct") / "covid_p001_dicom.zip"
METHODS = ("reference", "accurate", "fast")


def main() -> None:
    """Measure, print Markdown, and write it with the records into a folder."""
    options = _options()
    document = {
        "command": shlex.join(["python", str(Path(__file__).relative_to(ROOT)), *sys.argv[1:]]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": _machine(options.threads),
        "versions": versions(),
        "runs": options.runs,
        "warnings": _load_warnings(),
        "sections": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ct, document["ct"] = _choose_ct(options, scratch=scratch)
        document["sections"] += _measure(options.bundle, ct=ct, options=options, scratch=scratch)
        if not options.quick:
            document["sections"] += _measure(options.bundle32, width=32, ct=ct, options=options, scratch=scratch)
    give_report(document, text=tables(document), folder=options.output, name="bench")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of inference against plain sliding windows.")
    parser.add_argument("--data", type=Path, default=os.environ.get("COVIDSEG_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--ct", type=Path, help="another CT than covid_p001 of the data folder")
    parser.add_argument("--bundle", type=Path, help="bundle (default: the shipped one)")
    parser.add_argument("--bundle32", type=Path, help="bundle with 32 filters (default: untrained, times only)")
    parser.add_argument("--quick", action="store_true", help="the bundle only, not 32 filters")
    parser.add_argument("--runs", type=count, default=3, help="of everything, in turn; medians are shown (default: 3)")
    parser.add_argument("--threads", type=count, default=cores(), help="of torch (default: all cores)")
    parser.add_argument("-o", "--output", type=Path, help="folder for bench.md and bench.json")
    return parser.parse_args()


def _choose_ct(options: argparse.Namespace, *, scratch: Path) -> tuple[Path, str]:
    """Return the CT's file and what to say of it."""
    if options.ct is not None:
        if not options.ct.exists():
            sys.exit(f"{options.ct}: there is no such CT")
        return options.ct, options.ct.name
    if (options.data / REAL_CT).is_file():
        return options.data / REAL_CT, "covid_p001, 512 x 512 x 148"
    import SimpleITK as sitk
    from CovidSegLib.phantom import make_phantom

    _say(f"{options.data / REAL_CT} is not there: making a phantom of the same size")
    phantom = make_phantom(seed=0, size_ijk=(512, 512, 148), spacing_ijk_mm=(0.748, 0.748, 2.0))
    path = scratch / "phantom.nii.gz"
    sitk.WriteImage(phantom.ct.geometry.to_sitk(phantom.ct.hu_kji), str(path))
    return path, "**a phantom** of 512 x 512 x 148 (covid_p001 was not there)"


def _measure(
    path: Path | None, *, ct: Path, options: argparse.Namespace, scratch: Path, width: int | None = None
) -> list[dict[str, Any]]:
    """Return the sections of a bundle (None: the shipped one, or one of this width): on the CPU, and on a GPU."""
    import torch

    bundle, width, notes = _choose_weights(path, width=width)
    untrained = bundle is None
    folder = _untrained_bundle(width, scratch=scratch) if bundle is None else bundle.path
    sections = []
    for device, name in [("cpu", "CPU")] + ([("cuda", "GPU")] if torch.cuda.is_available() else []):
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
        for method, turn in ((method, turn) for turn in range(options.runs) for method in METHODS):
            _say(f"{width} filters, {name}: {method}, run {turn + 1} of {options.runs}")
            out = scratch / f"{width}-{device}-{method}-{turn}"
            job = Job(
                method=method,
                ct=str(ct),
                bundle=str(folder),
                untrained=untrained,
                device=device,
                threads=options.threads,
                repeats=1 if device == "cpu" else 2,
                folder=str(out),
            )
            runs[method].append(_run(job))
        records = {method: median_of_runs(records) for method, records in runs.items()}
        if not untrained:
            _add_dice(records)
        title = f"{width} filters, {name}" + (f" ({torch.cuda.get_device_name()})" if device == "cuda" else "")
        more = ["The second case of a process: the first pays for the GPU's start."] if device == "cuda" else []
        sections.append({"title": title, "notes": [*notes, *more], "records": records})
    return sections


def _choose_weights(path: Path | None, *, width: int | None) -> tuple[Bundle | None, int, list[str]]:
    """Return the bundle with weights, or None for random ones; its width; and what to say of it."""
    bundle = load_bundle(path)
    wanted = width or bundle.network_config.width
    if bundle.network_config.width == wanted and bundle.weights_path.is_file():
        return bundle, wanted, [f"Weights: {bundle.name} {bundle.version}, SHA-256 {bundle.sha256[:12]}."]
    if path is not None:
        sys.exit(f"{path}: expected a bundle with {wanted} filters, its weights in its models folder")
    note = "No trained weights of this width: random ones, so times and memory of the network only, no Dice."
    return None, wanted, [note]


def _untrained_bundle(width: int, *, scratch: Path) -> Path:
    """Write a bundle of random weights, and of what noise does to its activations; return its folder."""
    import hashlib

    import torch
    from safetensors.torch import save

    torch.manual_seed(0)
    network = build_network(NetworkConfig(width=width)).eval()
    seen = ActivationRecord(network)
    with seen.recording(), torch.inference_mode():
        network(torch.rand(1, 1, 32, 32, 32) * 2.0 - 1.0)
    weights = save({k: v.half() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")})
    folder = scratch / f"untrained{width}"
    shipped = load_bundle()
    shutil.copytree(shipped.path / "configs", folder / "configs")
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(weights)
    own: dict[str, Any] = {
        **shipped.metadata["covidseg"],
        "network": NetworkConfig(width=width).to_dict(),
        "weights": {"file": "model.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
    }
    own.pop("activations", None)  # of the shipped weights
    metadata = json.dumps({**shipped.metadata, "covidseg": own})
    (folder / "configs" / "metadata.json").write_text(metadata, encoding="utf-8")
    store_activations(seen.activations, bundle_dir=folder)
    return folder


def _run(job: Job) -> dict[str, Any]:
    """Run a job in a process of its own; return its record, with the seconds from the process's start to its end."""
    folder = Path(job.folder)
    folder.mkdir()
    job_file = folder / "job.json"
    job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "CovidSeg"), "OMP_NUM_THREADS": str(job.threads)}
    started = time.perf_counter()
    subprocess.run([sys.executable, str(HERE / "bench_case.py"), str(job_file)], env=environment, check=True)
    process_s = time.perf_counter() - started
    return {**json.loads((folder / "record.json").read_text(encoding="utf-8")), "process_s": process_s}


def median_of_runs(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a record with the medians of the times, the highest peak of memory, and each run's stages."""
    stages = [record["stages_s"] for record in records]
    return {
        **records[0],
        "stages_s": {name: statistics.median(seconds[name] for seconds in stages) for name in stages[0]},
        "process_s": statistics.median(record["process_s"] for record in records),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "stages_of_runs_s": stages,
    }


def _add_dice(records: dict[str, dict[str, Any]]) -> None:
    """Add to each record the Dice of its labelmap against the reference's; None where neither has the label."""
    reference = np.load(Path(records["reference"]["job"]["folder"]) / "labelmap.npy")
    for method, record in records.items():
        if method == "reference":
            continue
        found = np.load(Path(record["job"]["folder"]) / "labelmap.npy")
        record["dice"] = {"lungs": _dice(found > 0, reference > 0)}
        for name, label in (("left", 1), ("right", 2), ("infection", 3)):
            record["dice"][name] = _dice(found == label, reference == label)


def _dice(first: np.ndarray, second: np.ndarray) -> float | None:
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else None


def _machine(threads: int) -> str:
    """Return the processor, its cores and the memory, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    memory = ""
    if hasattr(os, "sysconf"):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    return f"{model}, {cores()} core(s) usable{memory}, {threads} torch thread(s), {platform.system()}"


def _load_warnings() -> list[str]:
    load = load_average()
    if load < BUSY_LOAD:
        return []
    return [f"The machine was busy when this started (load {load:.1f}): the times are too long, the ratios uncertain."]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

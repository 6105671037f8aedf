"""Measure how fast the experiment trains: `make bench-train`.

(a) the network alone on one fixed batch, (b) the whole pipeline, (c) the same recipe built plainly from MONAI's
dictionary transforms and a DataLoader; in one run, on the same cases, with the same network, loss and optimiser.
On a CPU patches are small by default, and phantoms as small in proportion.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import repeat
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "CovidSeg"), str(Path(__file__).resolve().parent)]

from bench_machine import BUSY_LOAD, give_report, load_average  # noqa: E402
from CovidSegLib.allocator import freed_memory_kept  # noqa: E402
from CovidSegLib.device import describe_device, resolve_device  # noqa: E402
from CovidSegLib.geometry import Geometry  # noqa: E402
from CovidSegLib.runtime import cores, versions  # noqa: E402

from CovidSegTraining.experiment.batches import CropStream, Volumes  # noqa: E402
from CovidSegTraining.experiment.cache import PreparedCase, load_prepared, prepare_cases  # noqa: E402
from CovidSegTraining.experiment.config import PAPER, Experiment, TwoSided, read_experiment  # noqa: E402
from CovidSegTraining.experiment.fit import ExperimentFit  # noqa: E402
from CovidSegTraining.experiment.world import World  # noqa: E402
from CovidSegTraining.splits import Fold  # noqa: E402

if TYPE_CHECKING:
    import torch

    Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]

NAMES = {
    "network": "(a) network alone, one fixed batch",
    "pipeline": "(b) whole pipeline",
    "monai": "(c) MONAI's transforms, DataLoader",
}
#: For each kind of device: patch (i, j, k), number of batches, and the share of (a)'s rate that (b) should reach.
DEFAULTS = {"cpu": ((48, 48, 32), 32, 0.8), "cuda": ((160, 160, 80), 200, 0.9)}
#: The paper: patch, median volume after resampling, batches per second, and batches of the whole experiment.
PAPER_PATCH, PAPER_VOLUME, PAPER_RATE, PAPER_BATCHES = (160, 160, 80), (267, 254, 104), 0.5, 5 * 47_000
#: How many times the paper's rate a data-centre GPU should reach.
PAPER_AIM = 20
PHANTOMS = 4
#: Batches before the clock starts, in which memory is allocated, cuDNN chooses its algorithms and workers start.
WARM_UP = 4
#: (a) and (b) take turns, so that neither has the quieter machine.
TURNS = 4
#: More crops than any measurement takes.
_ENDLESS = 10**9


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, and write it with the figures into a folder."""
    import torch

    options = _options(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    # Only CPU and CUDA have aims, so "auto" must not choose anything else.
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = resolve_device(automatic if options.device == "auto" else options.device)
    _, batches, aim = DEFAULTS[device]
    recipe, batches = _recipe(options, device=device), options.batches or batches
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        cases, source = _cases(options.data, recipe=recipe, scratch=Path(folder))
        fold = Fold(tuple(case.name for case in cases[1:]), (cases[0].name,))
        fit = ExperimentFit(Path(folder) / "run", cases=cases, fold=fold, fold_number=0, recipe=recipe, device=device)
        seconds = measure(fit, cases=cases[1:], batches=batches, workers=options.workers)
    threads = f"{cores()} core(s) usable, {torch.get_num_threads()} torch thread(s)"
    arguments = sys.argv[1:] if argv is None else argv
    document: dict[str, Any] = {
        "command": shlex.join(["python", "Testing/benchmarks/bench_training.py", *arguments]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "machine": f"{describe_device(device)}; {threads}, {options.workers} worker(s) in (c); load before {load:.1f}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "cases": source,
        "network": f"{recipe.network.name} {recipe.network.options}, {recipe.training.precision}",
        "patch_ijk": recipe.patches.size_ijk,
        "batch": recipe.patches.batch,
        "batches": batches,
        "aim": aim,
        "busy": load >= BUSY_LOAD,
        "seconds": seconds,
    }
    give_report(document, text=to_markdown(document), folder=options.output, name="bench-train")


def measure(fit: ExperimentFit, *, cases: Sequence[PreparedCase], batches: int, workers: int) -> dict[str, float]:
    """Return the seconds that so many batches take, by the keys of `NAMES`."""
    import torch

    recipe, device = fit.recipe, fit.device
    volumes = Volumes(cases, device=device)
    stream = CropStream(volumes, recipe.patches, recipe.augmentation, shuffled=True, seeds=(0,))
    fixed = next(stream.epoch(0, crops=recipe.patches.batch, world=World()))
    taking_turns: dict[str, Batches] = {
        "network": repeat(fixed),
        "pipeline": stream.epoch(1, crops=_ENDLESS, world=World()),
    }
    fit.network.train()
    torch.backends.cudnn.benchmark = True
    seconds = dict.fromkeys(NAMES, 0.0)
    # As in `ExperimentFit.run`.
    with freed_memory_kept() if device.type == "cpu" else nullcontext():
        for name, source in taking_turns.items():
            print(NAMES[name], file=sys.stderr, flush=True)
            _seconds(source, fit=fit, batches=WARM_UP)
        for turn in range(TURNS):
            share = batches * (turn + 1) // TURNS - batches * turn // TURNS
            for name, source in taking_turns.items():
                seconds[name] += _seconds(source, fit=fit, batches=share)
        # Last, because its workers keep running beside whatever is measured next.
        print(NAMES["monai"], file=sys.stderr, flush=True)
        plain = monai_batches(cases, recipe=recipe, device=device, workers=workers)
        _seconds(plain, fit=fit, batches=WARM_UP)
        seconds["monai"] = _seconds(plain, fit=fit, batches=batches)
    return seconds


def monai_batches(cases: Sequence[PreparedCase], *, recipe: Experiment, device: torch.device, workers: int) -> Batches:
    """Yield batches of the recipe as one would write it with MONAI: one transform after the other, on the CPU."""
    import torch
    from monai.data import DataLoader, Dataset
    from torch.utils.data import RandomSampler

    items = [{"image": case.image_kji[None], "label": case.labels_kji[None]} for case in cases]
    dataset = Dataset(items, transform=_monai_transforms(recipe))
    loader = DataLoader(
        dataset,
        batch_size=recipe.patches.batch,
        sampler=RandomSampler(dataset, replacement=True, num_samples=_ENDLESS),
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        image, label = (batch[key].as_tensor().to(device, non_blocking=True) for key in ("image", "label"))
        yield image.float(), label[:, 0].to(torch.uint8)


def _monai_transforms(recipe: Experiment) -> Any:
    from monai import transforms as t

    size, augmentation, keys = recipe.patches.size_kji, recipe.augmentation, ("image", "label")
    crop = [t.SpatialPadd(keys, size), t.RandSpatialCropd(keys, size, random_size=False)]
    if augmentation is None:
        return t.Compose([t.EnsureTyped(keys), *crop])
    a = augmentation
    # To MONAI, a number as mode means SciPy's splines of this order, and then padding modes have SciPy's names.
    modes: Any = (3, 0) if a.interpolation == "cubic" else ("bilinear", "nearest")
    padding = "constant" if a.interpolation == "cubic" else "zeros"

    def whole(factor: TwoSided) -> tuple[float, float]:
        return factor.below[0], factor.above[1]

    contrast = tuple(factor - 1.0 for factor in whole(a.contrast))
    brightness = tuple(factor - 1.0 for factor in a.brightness.factor)
    scale = [tuple(factor - 1.0 for factor in whole(a.scale))] * 3
    angles = np.deg2rad(a.rotation.degrees_ijk[::-1]).tolist()
    return t.Compose(
        [
            t.EnsureTyped(keys),
            *(t.RandFlipd(keys, prob=p, spatial_axis=n) for n, p in enumerate(a.mirror.probability_ijk[::-1])),
            t.RandScaleIntensityFixedMeand("image", prob=a.contrast.probability, factors=contrast, preserve_range=True),
            t.RandScaleIntensityd("image", prob=a.brightness.probability, factors=brightness),
            t.RandAdjustContrastd("image", prob=a.gamma.probability, gamma=whole(a.gamma), retain_stats=True),
            t.RandGaussianNoised("image", prob=a.noise.probability, std=a.noise.std[1]),
            t.Rand3DElasticd(
                keys,
                prob=a.elastic.probability,
                sigma_range=a.elastic.sigma,
                magnitude_range=a.elastic.alpha,
                mode=modes,
                padding_mode=padding,
            ),
            # RandRotated and RandZoomd know no cubic interpolation in 3D.
            t.RandAffined(keys, prob=a.rotation.probability, rotate_range=angles, mode=modes, padding_mode=padding),
            t.RandAffined(keys, prob=a.scale.probability, scale_range=scale, mode=modes, padding_mode=padding),
            *crop,
        ]
    )


def to_markdown(document: dict[str, Any]) -> str:
    """Return the measurement as Markdown; rates, ratios and hours all follow from the measured seconds."""
    rates = {name: document["batches"] / seconds for name, seconds in document["seconds"].items()}
    voxels = prod(document["patch_ijk"]) / prod(PAPER_PATCH)
    is_paper_size = voxels == 1 and document["batch"] == 2
    patch = " x ".join(map(str, document["patch_ijk"]))
    lines = ["# Speed of training", ""]
    lines += [f"- {key}: {document[key]}" for key in ("command", "date", "machine", "versions", "cases", "network")]
    lines += [f"- {document['batches']} batches of {document['batch']} patches of {patch} (i, j, k) each", ""]
    if document["busy"]:
        lines += ["**The machine was busy when this started: the rates are too low, the ratios uncertain.**", ""]
    hours = "hours, 5 folds" if is_paper_size else "hours, 5 folds, at 160 x 160 x 80"
    lines += [f"| | batches/s | ms per batch | of (a) | {hours} |", "|---|---|---|---|---|"]
    for name, rate in rates.items():
        whole = PAPER_BATCHES / rate / 3600 / voxels * 2 / document["batch"]
        share = rate / rates["network"]
        lines.append(f"| {NAMES[name]} | {rate:.3g} | {1000 / rate:.0f} | {share:.2f} | {whole:,.0f} |")
    pipeline = rates["pipeline"]
    lines += ["", f"- (b) / (a): {pipeline / rates['network']:.2f}, aim at least {document['aim']}"]
    lines.append(f"- (b) / (c): {pipeline / rates['monai']:.2f}")
    if is_paper_size:
        times = pipeline / PAPER_RATE
        lines.append(f"- (b) / the paper's {PAPER_RATE} batches per second: {times:.1f}, aim on a GPU {PAPER_AIM}")
    lines.append(f"- hours: extrapolated from the rate to {PAPER_BATCHES:,} batches (5 folds of about 47,000)")
    if not is_paper_size:
        lines[-1] += ", time taken as proportional to the voxels; validation and prediction not counted"
    else:
        lines[-1] += "; validation and prediction not counted"
    return "\n".join(lines) + "\n"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Batches per second of the experiment's training.")
    parser.add_argument("--config", type=Path, default=PAPER, help="recipe (default: the paper's)")
    parser.add_argument("--data", type=Path, help="folder that holds <case>/imaging.nii.gz (default: phantoms)")
    parser.add_argument("--patch", type=int, nargs=3, metavar=("I", "J", "K"), help="default: 160 160 80 on a GPU")
    parser.add_argument("--width", type=int, help="filters of the first level (default: the recipe's)")
    parser.add_argument("--batches", type=int, help="of each kind (default: 32; 200 on a GPU)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--workers", type=int, default=cores(), help="of the DataLoader in (c) (default: all cores)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU")
    parser.add_argument("-o", "--output", type=Path, help="folder for bench-train.md and bench-train.json")
    return parser.parse_args(argv)


def _recipe(options: argparse.Namespace, *, device: str) -> Experiment:
    recipe = read_experiment(options.config)
    if options.width is not None:
        network = {**recipe.network.options, "width": options.width}
        recipe = replace(recipe, network=replace(recipe.network, options=network))
    patch = tuple(options.patch or DEFAULTS[device][0])
    recipe = recipe.with_precision(options.precision or ("bfloat16" if device == "cuda" else "float32"))
    return replace(recipe, patches=replace(recipe.patches, size_ijk=patch))


def _cases(data: Path | None, *, recipe: Experiment, scratch: Path) -> tuple[list[PreparedCase], str]:
    """Return prepared cases, at least two, and a description of them."""
    settings, classes, source = recipe.preprocessing, recipe.network.classes, "real CTs"
    if data is None:
        sizes = zip(PAPER_VOLUME, recipe.patches.size_ijk, PAPER_PATCH, strict=True)
        size_ijk = tuple(round(volume * patch / whole) for volume, patch, whole in sizes)
        data = scratch / "data"
        source = f"{PHANTOMS} phantoms of {' x '.join(map(str, size_ijk))}, in the paper's proportion to the patch"
        _write_phantoms(data, size_ijk=size_ijk)
        settings = replace(settings, spacing_ijk_mm=None)  # they have the size of resampled CTs already
    cache_dir = scratch / "cache"
    names = prepare_cases(data, cache_dir=cache_dir, settings=settings, classes=classes, tell=lambda line: None)
    return load_prepared(cache_dir, names=names, settings=settings, classes=classes), source


def _write_phantoms(data: Path, *, size_ijk: tuple[int, ...]) -> None:
    """Write whole chests of so many voxels."""
    import SimpleITK as sitk
    from CovidSegLib.phantom import make_phantom

    spacing = tuple(300.0 / n for n in size_ijk)
    for seed in range(PHANTOMS):
        phantom = make_phantom(seed=seed, size_ijk=size_ijk, spacing_ijk_mm=spacing, infection_percent=15.0)  # type: ignore[arg-type]
        geometry: Geometry = phantom.ct.geometry
        folder = data / f"phantom_{seed}"
        folder.mkdir(parents=True)
        for name, array in (("imaging", phantom.ct.hu_kji), ("segmentation", phantom.labelmap_kji)):
            sitk.WriteImage(geometry.to_sitk(array), str(folder / f"{name}.nii.gz"))


def _seconds(source: Batches, *, fit: ExperimentFit, batches: int) -> float:
    """Train on so many batches of a source; return how long it took, the device's work included."""
    import torch

    def now() -> float:
        if fit.device.type == "cuda":
            torch.cuda.synchronize(fit.device)
        return time.perf_counter()

    started = now()
    for _ in range(batches):
        fit.train_batch(*next(source))
    return now() - started


if __name__ == "__main__":
    main()

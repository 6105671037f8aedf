"""Run the network over overlapping patches: tiling, device ladder, progress, cancel.

MONAI's `sliding_window_inference` cuts, pads and averages; it is imported late, and is the only
part of MONAI that inference needs in Slicer. This file chooses patches, precision and device,
and steps down a ladder of smaller ways to run when memory runs out.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .allocator import freed_memory_kept
from .errors import DeviceError
from .int8.network import IntegerUNet
from .network import SIZE_MULTIPLE
from .patch_predictor import PatchPredictor, WrongResultsError, check_results
from .progress import Reporter
from .texts import Text
from .texts import text as _

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tiling:
    """Size of the patches along k, j, i and the share by which neighbours overlap (METHOD section 4).

    Attributes:
        patch_kji: Size of the patches; if `even`, their largest size.
        overlap: Share of a patch that its neighbour covers as well.
        even: Whether patches shrink as far as the same number of them still covers the image. If not, the last patch
            is shifted back to end at the border, and may repeat most of its neighbour.
    """

    patch_kji: tuple[int, int, int]
    overlap: float
    even: bool = False

    def fitted_to(self, shape_kji: tuple[int, ...]) -> Tiling:
        """Return the tiling with patches no larger than the image, rounded up to what the network takes."""
        fitted = (self._fitted(patch, size) for patch, size in zip(self.patch_kji, shape_kji, strict=True))
        return Tiling(tuple(fitted), self.overlap)  # type: ignore[arg-type]

    def _fitted(self, patch: int, size: int) -> int:
        """Return the patch's size along an axis of the image."""
        if self.even:
            # n patches in a row are n - (n - 1) * overlap times as long as one.
            count = max(1, math.ceil((size / patch - self.overlap) / (1.0 - self.overlap)))
            size = math.ceil(size / (count - (count - 1) * self.overlap))
        return min(patch, math.ceil(size / SIZE_MULTIPLE) * SIZE_MULTIPLE)


#: The paper's patches, half overlapping.
ACCURATE = Tiling(patch_kji=(80, 160, 160), overlap=0.5)
#: Large enough that one to a few patches cover a chest: less repeated work, and more context around each voxel.
FAST = Tiling(patch_kji=(128, 192, 256), overlap=0.125, even=True)
TILINGS = {"accurate": ACCURATE, "fast": FAST}
MODES = tuple(TILINGS)
#: For computers without enough memory for the other patches.
SMALL_PATCH_KJI = (48, 112, 112)


@dataclass(frozen=True)
class Rung:
    """A step of the device ladder: where the network runs, where its patches are summed up, and which patches."""

    device: str
    sum_on: str
    tiling: Tiling

    @property
    def text(self) -> str:
        """The step as messages name it."""
        if self.device != self.sum_on:
            return _("{device}, summed up on the {sum_on}").format(device=self.device, sum_on=self.sum_on)
        if self.tiling.patch_kji == SMALL_PATCH_KJI:
            return _("{device}, in small patches").format(device=self.device)
        return self.device


@dataclass(frozen=True)
class Prediction:
    """Class probabilities on the network's grid, and how they were obtained.

    Attributes:
        probabilities: (4, k, j, i) float32, the mean of the softmax over all patches that cover a voxel.
        device: Device of the rung that succeeded.
        precision: "float32", "bfloat16" or "int8", in which the network was computed.
        messages: A sentence for each step down the ladder.
    """

    probabilities: np.ndarray
    device: str
    precision: str
    messages: tuple[str, ...]


def load_libraries() -> None:
    """Import what `predict` needs: MONAI takes seconds to import, which should not count as the network's time."""
    import monai.inferers  # noqa: F401


def predict(
    image_kji: np.ndarray,
    *,
    network: torch.nn.Module,
    mode: str,
    device: str,
    reporter: Reporter,
    integers: IntegerUNet | None = None,
) -> Prediction:
    """Return the class probabilities of an image.

    Args:
        image_kji: (k, j, i) float32, preprocessed.
        network: Maps (1, 1, k, j, i) to logits (1, 4, k, j, i); moved to the device meanwhile, left on the CPU.
        mode: "accurate" (the paper's patches) or "fast" (larger tiles, little overlap).
        device: A device from `resolve_device`.
        reporter: Told after every patch; stops the run at the next patch when cancelled.
        integers: The same network quantized to 8-bit integers; it is used instead on CPUs where it is faster.

    Raises:
        DeviceError: Memory runs out on the last rung, too.
        Cancelled: The user stopped the run.
    """
    rungs = ladder(device, tiling=TILINGS[mode])
    try:
        return _climb_down(rungs, image_kji, network=network, reporter=reporter, integers=integers)
    finally:
        # The network is kept for the next case; the GPU's memory is not.
        network.to("cpu")
        _give_memory_back(device)


def ladder(device: str, *, tiling: Tiling) -> list[Rung]:
    """Return the ways to run, best first: GPU, GPU summed up on the CPU, CPU, CPU with small patches.

    Once a GPU's memory has run out, the paper's patches are used on it in either mode: those of "fast" are larger.
    """
    small = Tiling(SMALL_PATCH_KJI, overlap=min(tiling.overlap, 0.25))
    cpu = [Rung("cpu", "cpu", tiling), Rung("cpu", "cpu", small)]
    return cpu if device == "cpu" else [Rung(device, device, tiling), Rung(device, "cpu", ACCURATE), *cpu]


def patch_count(shape_kji: tuple[int, ...], *, tiling: Tiling) -> int:
    """Return how many patches MONAI's `sliding_window_inference` cuts from an image of this shape."""
    return math.prod(
        math.ceil(max(0, size - patch) / max(1, int(patch * (1.0 - tiling.overlap)))) + 1
        for size, patch in zip(shape_kji, tiling.patch_kji, strict=True)
    )


def _climb_down(
    rungs: list[Rung],
    image_kji: np.ndarray,
    *,
    network: torch.nn.Module,
    reporter: Reporter,
    integers: IntegerUNet | None,
) -> Prediction:
    """Return the prediction of the first rung whose memory suffices."""
    messages: list[str] = []
    for rung, below in zip(rungs, [*rungs[1:], None], strict=True):
        try:
            probabilities, precision = _predict_on(
                rung, image_kji, network=network, reporter=reporter, integers=integers
            )
            return Prediction(probabilities, rung.device, precision, tuple(messages))
        except (MemoryError, RuntimeError) as error:  # torch's out of memory and "not implemented" are RuntimeErrors
            reason = _reason_to_step_down(error, rung)
            if reason is None:
                raise
            if below is None:
                raise DeviceError(
                    _("{reason}, and there is no smaller way to run: close other programs, or crop the CT.").format(
                        reason=reason
                    )
                ) from error
        # Outside the handler, so that the failed attempt's tensors are freed first.
        _give_memory_back(rung.device)
        messages.append(_("{reason}: continuing on {below}").format(reason=reason, below=below.text))
        reporter.tell("network", 0, 1, messages[-1])
    raise AssertionError("unreachable: the last rung returns or raises")


def _give_memory_back(device: str) -> None:
    """Return the GPU memory that torch keeps in reserve to the system; an Apple GPU shares the computer's."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps") and torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _predict_on(
    rung: Rung,
    image_kji: np.ndarray,
    *,
    network: torch.nn.Module,
    reporter: Reporter,
    integers: IntegerUNet | None,
) -> tuple[np.ndarray, str]:
    """Return the class probabilities (4, k, j, i) float32 of an image, computed as the rung says, and the precision."""
    import torch
    from monai.inferers import sliding_window_inference

    if rung.device.startswith("mps"):
        check_results(network, device=rung.device)
    tiling = rung.tiling.fitted_to(image_kji.shape)
    total, done = patch_count(image_kji.shape, tiling=tiling), 0
    device = torch.device(rung.device)
    predictor = PatchPredictor(network, device=rung.device, integers=integers)

    def patch_probabilities(patch: torch.Tensor) -> torch.Tensor:
        nonlocal done
        reporter.tell("network", done, total)
        done += 1
        return predictor(patch)

    with torch.inference_mode(), freed_memory_kept() if rung.device == "cpu" else nullcontext():
        summed = sliding_window_inference(
            torch.from_numpy(image_kji)[None, None].to(rung.sum_on),
            roi_size=tiling.patch_kji,
            sw_batch_size=1,
            predictor=patch_probabilities,
            overlap=tiling.overlap,
            mode="constant",
            padding_mode="replicate",
            sw_device=device,
            device=torch.device(rung.sum_on),
        )
        reporter.tell("network", total, total)
        return np.asarray(summed[0].cpu().numpy()), predictor.precision  # type: ignore[index, union-attr]


#: Parts of the messages by which torch, oneDNN, cuDNN (8, 9) and cuBLAS say that memory ran out, other than by an
#: OutOfMemoryError.
_OUT_OF_MEMORY_TEXTS = (
    *("DefaultCPUAllocator", "out of memory", "could not allocate", "could not create a primitive"),
    *("_STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED"),
)
#: Parts of the messages by which torch says that it was not built for so old a GPU, or that cuDNN has no convolution
#: for that GPU or for the memory left on it.
_NOT_ON_THIS_GPU_TEXTS = ("no kernel image", "unable to find an engine")


def _reason_to_step_down(error: Exception, rung: Rung) -> Text | None:
    """Return why the next rung may succeed where this one failed; None if the error is of another kind."""
    import torch

    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(part in text for part in _OUT_OF_MEMORY_TEXTS):
        return _("out of memory on {rung}").format(rung=rung.text)
    if isinstance(error, WrongResultsError):
        return _("{device} computes something else than the CPU").format(device=rung.device)
    # mps lacks some 3D operations: torch says so with these two kinds of error.
    lacking = rung.device.startswith("mps") and (isinstance(error, NotImplementedError) or "MPS" in text)
    if lacking or (rung.device.startswith("cuda") and any(part in text for part in _NOT_ON_THIS_GPU_TEXTS)):
        return _("{device} lacks an operation the network needs").format(device=rung.device)
    return None

"""The whole method in one place: a chest CT in; lungs, infection and percentage of infection out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .anatomy.field_of_view import field_of_view_warnings
from .anatomy.lung_border import trim_lung_border
from .bundle import Bundle, load_bundle
from .device import resolve_device
from .errors import InputError
from .geometry import Geometry
from .inference import MODES, load_libraries, predict
from .intensity import to_hounsfield
from .postprocess import consistent_labels
from .preprocess import preprocess
from .progress import CancelledCallback, ProgressCallback, Reporter
from .quantify import Quantities, quantify_labelmap
from .report import build_report
from .restore import restore_labels, restore_map
from .runtime import Clock, runtime_record
from .texts import text as _
from .uncertainty import entropy
from .volume import CTVolume


@dataclass(frozen=True)
class SegmentationResult:
    """What `segment` found.

    Attributes:
        labelmap: (k, j, i) uint8 of `labels.Label` on the CT's own grid.
        geometry: The CT's grid.
        hu_kji: (k, j, i) the CT in HU as it was segmented: unlike in the `CTVolume`, grey and offset values are mapped.
        quantities: Volumes, POI, severity.
        name: Name of the case.
        fingerprint: `sha256:...` of the input's bytes.
        warnings: What a reader of the numbers must know, a sentence each.
        model: The bundle's name, version and sha256.
        runtime: device, device_name, precision, mode, seconds, stages, peak_memory_mb, versions.
        input_details: Further facts about the input, e.g. the DICOM series.
        uncertainty: (k, j, i) uint8 in per cent, None unless it was asked for: the entropy of the averaged softmax,
            100 where all classes are equally likely; 0 outside the patient.
    """

    labelmap: np.ndarray
    geometry: Geometry
    hu_kji: np.ndarray
    quantities: Quantities
    name: str
    fingerprint: str
    warnings: tuple[str, ...]
    model: dict[str, Any]
    runtime: dict[str, Any]
    input_details: dict[str, Any] = field(default_factory=dict)
    uncertainty: np.ndarray | None = None

    def report(self) -> dict[str, Any]:
        """Return the contents of `report.json`."""
        return build_report(
            case=self.name,
            quantities=self.quantities,
            geometry=self.geometry,
            fingerprint=self.fingerprint,
            model=self.model,
            runtime=self.runtime,
            warnings=self.warnings,
            input_details=self.input_details,
        )


def segment(
    ct: CTVolume,
    *,
    mode: str = "accurate",
    device: str = "auto",
    bundle: Bundle | Path | str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    uncertainty: bool = False,
) -> SegmentationResult:
    """Return lungs and infection of a chest CT, on its own grid, with quantities.

    Args:
        ct: The CT; not modified.
        mode: "accurate" (the paper's half overlapping patches) or "fast" (larger tiles).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        bundle: A loaded bundle or a bundle's folder; None takes the shipped one. For many CTs call `load_bundle` once
            and pass its result: it keeps the network.
        progress: Called with a `Progress` at every step.
        cancelled: Asked at every step; True stops the run.
        uncertainty: Whether to map the network's uncertainty as well; the labels do not depend on it.

    Raises:
        ValueError: The mode is unknown.
        InputError: This is no chest CT that can be segmented.
        ModelError: The bundle is missing or damaged.
        DeviceError: The device is absent, or memory runs out on every device.
        Cancelled: The user stopped the run.

    Source: paper, figure 2, from left to right.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    reporter, clock = Reporter(progress, cancelled), Clock()
    bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    device = resolve_device(device)

    with clock.stage("preprocess"):
        reporter.tell("preprocess", 0, 1)
        ct = to_hounsfield(ct)
        with _case_named_in_errors(ct):
            network_input = preprocess(ct.hu_kji, geometry=ct.geometry, recipe=bundle.preprocessing)
    with clock.stage("load"):
        network, integers = bundle.network, bundle.integers
        load_libraries()
    with clock.stage("network"):
        prediction = predict(
            network_input.image_kji,
            network=network,
            integers=integers,
            mode=mode,
            device=device,
            reporter=reporter,
        )
    with clock.stage("back"):
        # Before the labels are made, which corrects the probabilities in place.
        doubt = entropy(prediction.probabilities, temperature=bundle.temperature) if uncertainty else None
        labels = consistent_labels(prediction.probabilities, network_input=network_input, recipe=bundle.postprocessing)
        if not labels.any():
            raise InputError(_("{case}: no lungs found: is this a chest CT in HU?").format(case=ct.name))
        labelmap = restore_labels(labels, network_input=network_input, geometry=ct.geometry, reporter=reporter)
        trim_lung_border(labelmap, hu_kji=ct.hu_kji, geometry=ct.geometry)
        if doubt is not None:
            doubt = restore_map(doubt, network_input=network_input, geometry=ct.geometry, reporter=reporter)
    with clock.stage("quantify"):
        reporter.tell("quantify", 0, 1)
        quantities = quantify_labelmap(ct.hu_kji, geometry=ct.geometry, labelmap_kji=labelmap)
        cut_off = field_of_view_warnings(labelmap, geometry=ct.geometry, chest=network_input.chest)
    return SegmentationResult(
        labelmap=labelmap,
        geometry=ct.geometry,
        hu_kji=ct.hu_kji,
        quantities=quantities,
        name=ct.name,
        fingerprint=ct.fingerprint,
        warnings=(*ct.warnings, *cut_off, *quantities.warnings(), *prediction.messages),
        model=bundle.to_dict(),
        runtime=runtime_record(device=prediction.device, precision=prediction.precision, mode=mode, clock=clock),
        input_details={} if ct.series is None else {"series": ct.series},
        uncertainty=doubt,
    )


@contextmanager
def _case_named_in_errors(ct: CTVolume) -> Iterator[None]:
    """Prefix input errors with the case's name, which the code that raises them does not know."""
    try:
        yield
    except InputError as error:
        raise InputError(_("{case}: {problem}").format(case=ct.name, problem=error.text)) from error

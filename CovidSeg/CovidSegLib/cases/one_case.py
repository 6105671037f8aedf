"""Take one case from its file to its folder: fingerprint, skip or read, segment, write, rename."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import resolve_device
from ..errors import Cancelled, InputError
from ..failures import explain, is_unexpected
from ..progress import Reporter
from ..readers.file_names import is_encodable
from ..readers.inputs import fingerprint_of
from ..texts import joined
from ..texts import text as _
from .discovery import Case
from .folder import new_case_folder
from .state import CaseKey, holds_result, read_report, refuse_foreign_files, why_incomplete

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..pipeline import SegmentationResult
    from ..progress import Progress
    from ..volume import CTVolume


class Status(StrEnum):
    """How a case ended, as in summary.csv."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Outcome:
    """How one case ended.

    Attributes:
        case: The case's name.
        status: How it ended.
        message: For people: the reason of a failure, or the warnings of a result.
        report: What report.json holds, for done and skipped cases.
        details: The traceback of a failure.
        unexpected: Whether the failure is a fault of the program, so that its traceback should be reported.
    """

    case: str
    status: Status
    message: str = ""
    report: dict[str, Any] | None = None
    details: str = ""
    unexpected: bool = False


@dataclass(frozen=True)
class RunOptions:
    """The options of `covidseg segment`, with its defaults."""

    out_dir: Path
    mode: str = "accurate"
    device: str = "auto"
    bundle: Path | None = None
    overwrite: bool = False
    workers: int = 1
    preview: bool = True
    series: str | None = None
    uncertainty: bool = False

    @property
    def recorded(self) -> dict[str, str]:
        """The options that a result depends on, as report.json records them."""
        chosen = {} if self.series is None else {"series": self.series}
        return {"mode": self.mode, "device": self.device, **chosen}


# Late imports: numpy and torch are not wanted before the arguments are understood.
def _read(path: Path, **options: Any) -> CTVolume:
    from ..volume import read_ct

    return read_ct(path, **options)


def _segment(ct: CTVolume, **options: Any) -> SegmentationResult:
    from ..pipeline import segment

    return segment(ct, **options)


def _load_bundle(path: Path | None) -> Bundle:
    from ..bundle import load_bundle

    return load_bundle(path)


@dataclass(frozen=True)
class Engine:
    """The parts of the engine that a run calls; tests put small ones in their place.

    Every part must be a function of a module, so that worker processes can be given it.
    """

    read: Callable[..., CTVolume] = _read
    segment: Callable[..., SegmentationResult] = _segment
    load_bundle: Callable[[Path | None], Bundle] = _load_bundle
    resolve_device: Callable[[str], str] = resolve_device


@dataclass(frozen=True)
class CaseRunner:
    """Runs single cases under the options of a run; travels to worker processes."""

    options: RunOptions
    engine: Engine

    def run(
        self,
        case: Case,
        *,
        bundle: Bundle,
        progress: Callable[[Progress], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Return how the case ended; only Ctrl-C and Cancelled get out, every other error is a failed case."""
        try:
            return self._run(case, bundle=bundle, progress=progress, note=note or _ignore)
        except Cancelled:
            raise
        except Exception as error:  # one bad case never stops the rest, whatever is wrong with it
            message = explain(error)
            if holds_result(self.options.out_dir / case.name):
                message = _("{problem} (the case's folder still holds an earlier result)").format(problem=message)
            return Outcome(
                case=case.name,
                status=Status.FAILED,
                message=message,
                details=traceback.format_exc(),
                unexpected=is_unexpected(error),
            )

    def _run(
        self,
        case: Case,
        *,
        bundle: Bundle,
        progress: Callable[[Progress], None] | None,
        note: Callable[[str], None],
    ) -> Outcome:
        options, folder = self.options, self.options.out_dir / case.name
        if not is_encodable(case.path):
            raise InputError(
                _("the path {path!a} has letters in no known encoding: rename it.").format(path=str(case.path))
            )
        key = CaseKey(
            fingerprint=fingerprint_of(case.path),
            bundle_fingerprint=bundle.fingerprint,
            options=options.recorded,
        )
        if folder.exists() and not options.overwrite:
            from .correction import figures_before_correction, refuse_to_replace_correction

            reason = why_incomplete(folder, key=key, preview=options.preview, uncertainty=options.uncertainty)
            if reason is None:
                old_figures = figures_before_correction(folder)
                return _outcome(case, status=Status.SKIPPED, report=read_report(folder) or {}, problem=old_figures)
            if folder.is_dir():
                refuse_to_replace_correction(folder, reason=reason)
            if holds_result(folder):
                note(_("computing again: {reason}").format(reason=reason))
        refuse_foreign_files(folder)
        reporter = Reporter(progress)
        reporter.tell("read", 0, 1)
        chosen = {} if options.series is None else {"series": options.series}
        ct = dataclasses.replace(self.engine.read(case.path, **chosen), name=case.name)
        result = self.engine.segment(
            ct,
            mode=options.mode,
            device=options.device,
            bundle=bundle,
            progress=progress,
            cancelled=None,
            uncertainty=options.uncertainty,
        )
        reporter.tell("write", 0, 1)
        with new_case_folder(folder) as partial:
            from .files import write_case_files

            report = write_case_files(
                partial,
                result=result,
                recorded_options=options.recorded,
                preview=options.preview,
            )
        return _outcome(case, status=Status.DONE, report=report)


def _outcome(case: Case, *, status: Status, report: dict[str, Any], problem: str | None = None) -> Outcome:
    warnings = [*([problem] if problem else []), *(report.get("warnings") or [])]
    return Outcome(case=case.name, status=status, message=joined("; ", warnings), report=report)


def _ignore(_note: str) -> None:
    """Take a note nobody asked for."""

"""`covidseg demo`: segment a synthetic CT, and compare the result with its known truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import DISCLAIMER
from ..cases.batch import make_out_dir, run_batch
from ..cases.discovery import Case
from ..cases.folder import new_file
from ..cases.names import RUN_FILE, SUMMARY_FILE
from ..cases.one_case import Engine, Outcome, RunOptions
from ..cases.state import files_of_case
from ..errors import CovidSegError
from ..failures import explain
from .console import ConsoleReporter, percent, print_error, print_failure, print_line
from .exit_codes import FAILED, OK, STOPPED, USAGE

if TYPE_CHECKING:
    from ..phantom import PhantomTruth

#: Seed of the demo's phantom, which training leaves out. On it, as on about half of the phantoms, the network comes
#: within 3 points of the true POI; the model card has the other half.
DEMO_SEED = 5

DEMO_INFECTION_PERCENT = 20.0

#: Percentage points by which the POI found may differ from the true one.
POI_TOLERANCE = 3.0

_CASE = "phantom"
_CT_FILE = "phantom-ct.nii.gz"


def run_demo(arguments: argparse.Namespace, *, engine: Engine | None = None) -> int:
    """Run `covidseg demo` and return its exit code: 0 if the POI found is within 3 points of the true one."""
    options = RunOptions(
        out_dir=arguments.output,
        mode=arguments.mode,
        device=arguments.device,
        bundle=arguments.bundle,
        overwrite=True,
    )
    reporter = ConsoleReporter(out_dir=options.out_dir, details=arguments.verbose)
    try:
        make_out_dir(options.out_dir)
        ct_path, truth = _write_phantom(options.out_dir)
        case = Case(name=_CASE, path=ct_path)
        result = run_batch([case], options=options, reporter=reporter, engine=engine)
    except (CovidSegError, OSError) as error:
        print_failure(error, details=arguments.verbose)
        return USAGE if isinstance(error, CovidSegError) else FAILED
    finally:
        reporter.close()
    if result.stopped:
        print_error(explain(KeyboardInterrupt()))
        return STOPPED
    return _compare(result.outcomes[0], truth=truth, ct_path=ct_path, out_dir=options.out_dir)


def _write_phantom(out_dir: Path) -> tuple[Path, PhantomTruth]:
    import SimpleITK as sitk

    from ..cases.files import check_written_whole, itk_errors_named
    from ..phantom import make_phantom

    print_line("making a synthetic chest CT")
    phantom = make_phantom(seed=DEMO_SEED, infection_percent=DEMO_INFECTION_PERCENT)
    path = out_dir / _CT_FILE
    with new_file(path) as partial:
        with itk_errors_named(partial):
            sitk.WriteImage(phantom.ct.geometry.to_sitk(phantom.ct.hu_kji), str(partial), useCompression=True)
        check_written_whole(partial, voxel_bytes=phantom.ct.hu_kji.nbytes)
    return path, phantom.truth


def _compare(outcome: Outcome, *, truth: PhantomTruth, ct_path: Path, out_dir: Path) -> int:
    if outcome.report is None:
        return FAILED
    found = outcome.report["poi_percent"]
    print_line(f"true POI {percent(truth.poi_percent)}, found POI {percent(found)}")
    print_line("written:")
    case_files = [out_dir / _CASE / name for name in files_of_case(preview=True)]
    for path in (ct_path, *case_files, out_dir / SUMMARY_FILE, out_dir / RUN_FILE):
        print_line(f"  {path}")
    print_line(DISCLAIMER)
    if found is None or truth.poi_percent is None or abs(found - truth.poi_percent) > POI_TOLERANCE:
        print_error(
            f"the POI found is more than {POI_TOLERANCE:g} points off: try --mode accurate, or install CovidSeg again"
        )
        return FAILED
    return OK

"""`covidseg segment` inside 3D Slicer, without windows:

    Slicer --no-splash --no-main-window --python-script CovidSeg/Scripts/covidseg_batch.py -- INPUT... -o OUT

Options, files and exit codes are those of `covidseg segment`. Slicer consumes the options that it knows, so CovidSeg's
follow `--`. On Linux without a display, put `xvfb-run -a` in front.
"""

from __future__ import annotations

import sys
from pathlib import Path


def arguments_after_dashes(arguments: list[str]) -> list[str]:
    """Return what follows the first `--`; everything, where Slicer has already taken it away."""
    return arguments[arguments.index("--") + 1 :] if "--" in arguments else arguments


def run(arguments: list[str]) -> int:
    """Run `covidseg segment` with the arguments and return its exit code."""
    module_dir = str(Path(__file__).resolve().parent.parent)
    if module_dir not in sys.path:
        sys.path.insert(0, module_dir)
    _use_python_slicer()
    from CovidSegLib.cli import main
    from CovidSegLib.commands.console import print_failure
    from CovidSegLib.commands.exit_codes import FAILED
    from CovidSegLib.dependencies import DependencyError, check_installed

    if not {"-h", "--help"} & set(arguments):  # help works without the packages
        try:
            check_installed()
        except DependencyError as error:  # else each case would fail with it
            print_failure(error, details="--verbose" in arguments)
            return FAILED
    return main(["segment", *arguments])


def _use_python_slicer() -> None:
    """Make `--workers` start Slicer's Python instead of the application."""
    import multiprocessing
    import shutil

    python_slicer = shutil.which("PythonSlicer")
    if python_slicer is not None:
        multiprocessing.set_executable(python_slicer)


def _leave(code: int) -> None:
    """End the process with the exit code; inside the application, Slicer has to do it."""
    try:
        import slicer
    except ImportError:
        sys.exit(code)
    if getattr(slicer, "app", None) is None:  # slicer-core has no application
        sys.exit(code)
    slicer.util.exit(code)


if __name__ == "__main__":
    _leave(run(arguments_after_dashes(sys.argv[1:])))

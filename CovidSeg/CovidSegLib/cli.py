"""The command `covidseg`: reads the arguments, calls the command, returns the exit code.

Exit codes: 0 all done; 1 some case failed; 2 usage error; 130 stopped with Ctrl-C or SIGTERM. Nothing heavy is imported
before the arguments are parsed, so that --help and usage errors are instant.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from . import DISCLAIMER, __version__
from .commands.console import print_error, with_hint
from .commands.exit_codes import FAILED, STOPPED, USAGE
from .commands.parser import Parser, UsageError, add_command, count
from .device import is_device_name
from .failures import explain, is_unexpected
from .readers.itk_paths import let_itk_open_any_path

_add_command = partial(add_command, note=DISCLAIMER)
_STAGES_TOO = "print stages, and a traceback after an error"
_RESERVED_COMMANDS = ("summary", "watch")
_RESERVED_OPTIONS = ("--dicom", "--cluster", "--with-identity")
_EXAMPLES = """examples:
  covidseg segment ct.nii.gz -o out
  covidseg segment dicom_folder study.zip folder_of_cases -o out --mode fast
  covidseg quantify ct.nii.gz corrected.seg.nrrd
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments without the program's name; those of the process if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    let_itk_open_any_path()
    # Else the interpreter looks for garbage in all of torch and MONAI before it ends, which takes most of a second.
    atexit.register(gc.freeze)
    try:
        _refuse_reserved(arguments)
        options = build_parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        with _stopped_by_sigterm():
            return command(options)
    except UsageError as error:
        print_error(str(error))
        return USAGE
    except SystemExit as stop:  # argparse after --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt as error:
        print_error(explain(error))
        return STOPPED
    except BrokenPipeError:  # the reader of our output is gone, as in `covidseg info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes stdout at exit
        return FAILED
    except Exception as error:  # a fault of CovidSeg outside the cases, each of which is guarded
        details = "--verbose" in arguments
        print_error(with_hint(explain(error), unexpected=is_unexpected(error), details=details))
        if details:
            traceback.print_exc()
        return FAILED


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Have SIGTERM stop what runs meanwhile as Ctrl-C does, so that it removes its temporary files.

    A handler of somebody else's stays: the program that CovidSeg runs in may have one.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other one may set handlers
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(_signal: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice, which must not cut the clean-up short
    raise KeyboardInterrupt


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="covidseg",
        description=f"Lungs, COVID-19 infection and its percentage (POI) from chest CT. {DISCLAIMER}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"covidseg {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_segment(commands)
    _add_quantify(commands)
    _add_demo(commands)
    _add_info(commands)
    return parser


def _add_segment(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add_command(
        commands,
        "segment",
        summary="segment CTs into lungs and infection, one folder per case",
        run=_segment,
        verbose=_STAGES_TOO,
    )
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=_path,
        help="NIfTI, NRRD or MHA file; DICOM folder or zip; folder with imaging.*; or a folder of cases "
        "(a name that begins with - goes after --)",
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=_path, required=True, help="folder for the results")
    _add_engine_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="compute complete cases again as well")
    parser.add_argument("--workers", metavar="N", type=count, default=1, help="cases in parallel (default 1)")
    parser.add_argument("--no-preview", dest="preview", action="store_false", help="write no preview.png")
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write uncertainty.nii.gz: per voxel 0 (sure) to 100 %%"
    )
    _add_series(parser)


def _add_quantify(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add_command(
        commands,
        "quantify",
        summary="compute the figures of a CT and its (corrected) segmentation",
        run=_quantify,
    )
    parser.add_argument("ct", metavar="CT", type=_path, help="the CT: file, DICOM folder or zip")
    parser.add_argument("segmentation", metavar="SEGMENTATION", type=_path, help=".seg.nrrd or labelmap .nii.gz")
    parser.add_argument("-o", "--output", metavar="OUT", type=_path, help="folder for report.json and report.csv")
    _add_series(parser)


def _add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add_command(
        commands,
        "demo",
        summary="segment a synthetic CT and compare with its known truth",
        run=_demo,
        verbose=_STAGES_TOO,
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=_path, default=Path("demo-out"), help="folder (default demo-out)"
    )
    _add_engine_options(parser)


def _add_info(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add_command(commands, "info", summary="print versions, devices and the model's card", run=_info)
    parser.add_argument("--bundle", metavar="DIR", type=_path, help="model bundle (default: the one shipped)")


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=("accurate", "fast"), default="accurate", help="default: accurate")
    parser.add_argument(
        "--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto: cuda, mps, cpu)"
    )
    parser.add_argument("--bundle", metavar="DIR", type=_path, help="model bundle (default: the one shipped)")


def _add_series(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--series",
        help="DICOM: the series to take, by number, UID or part of its description (default: the axial "
        "chest series with most slices)",
    )


def _path(text: str) -> Path:
    if not text:  # from an unset shell variable; Path("") would be the current folder
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text)


def _device(text: str) -> str:
    if is_device_name(text):
        return text
    raise argparse.ArgumentTypeError(f"'{text}' is not auto, cpu, cuda, cuda:N or mps")


def _refuse_reserved(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in _RESERVED_COMMANDS:
        raise UsageError(f"'covidseg {arguments[0]}' is reserved for a later version: see 'covidseg --help'")
    for argument in arguments:
        if argument == "--":
            return
        if argument.partition("=")[0] in _RESERVED_OPTIONS:
            raise UsageError(f"option {argument.partition('=')[0]} is reserved for a later version: leave it out")


def _segment(options: argparse.Namespace) -> int:
    from .commands.segment import run_segment

    return run_segment(options)


def _quantify(options: argparse.Namespace) -> int:
    from .commands.quantify import run_quantify

    return run_quantify(options)


def _demo(options: argparse.Namespace) -> int:
    from .commands.demo import run_demo

    return run_demo(options)


def _info(options: argparse.Namespace) -> int:
    from .commands.info import run_info

    return run_info(options)


if __name__ == "__main__":
    sys.exit(main())

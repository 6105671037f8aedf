"""The command `covidseg-train`: reads the arguments, calls the command, returns the exit code.

0 all done; 1 something failed; 2 usage error, among them a missing file or folder. Nothing heavy is imported before
the arguments are understood.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from CovidSegLib.commands.console import with_hint
from CovidSegLib.commands.exit_codes import FAILED, STOPPED, USAGE
from CovidSegLib.commands.parser import Parser, UsageError
from CovidSegLib.failures import explain, is_unexpected, one_line
from CovidSegLib.readers.itk_paths import let_itk_open_any_path

from .commands import calibration, cv, data, evaluate, experiment, product
from .commands.common import note


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments without the program's name; those of the process if None.
    """
    from CovidSegLib.errors import DeviceError

    from .settings import SettingsError

    arguments = list(sys.argv[1:] if argv is None else argv)
    let_itk_open_any_path()
    try:
        options = build_parser().parse_args(arguments)
        options.command_line = ["covidseg-train", *arguments]
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except (UsageError, SettingsError, DeviceError) as error:
        _print_error(str(error))
        return USAGE
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)
    except KeyboardInterrupt as error:
        _print_error(explain(error))
        return STOPPED
    except Exception as error:
        details = "--verbose" in arguments
        _print_error(with_hint(explain(error), unexpected=is_unexpected(error), details=details))
        if details:
            traceback.print_exc()
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="covidseg-train",
        description="Train, complete and measure the networks that CovidSeg runs.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for room in (data, product, experiment, cv, evaluate, calibration):
        room.add_commands(commands)
    return parser


def _print_error(text: str) -> None:
    note(f"covidseg-train: error: {one_line(text)}")


if __name__ == "__main__":
    sys.exit(main())

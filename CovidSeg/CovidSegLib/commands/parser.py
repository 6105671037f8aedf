"""What the parsers of `covidseg` and `covidseg-train` share: one-line errors, commands, types of values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn


class UsageError(Exception):
    """The arguments are wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which leaves it to `main` to end the process."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Refuse what a command does not know in its own name, so that the error points to the command's help."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: see '{self.prog} --help'")


def add_command(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    *,
    summary: str,
    run: Callable[[argparse.Namespace], int],
    note: str = "",
    verbose: str = "print a traceback after an error",
) -> argparse.ArgumentParser:
    """Return the parser of a new command.

    Args:
        commands: The subparsers to add it to.
        name: What the user types.
        summary: What the command does, for the help.
        run: Gets the parsed options and returns the exit code.
        note: Follows the summary in the command's own help.
        verbose: What its option --verbose does, for the help.
    """
    description = f"{summary}. {note}" if note else summary
    parser = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help=verbose)
    parser.set_defaults(command=run)
    return parser


def count(text: str) -> int:
    """Return an argument as a whole number of at least 1 (an argparse type)."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)

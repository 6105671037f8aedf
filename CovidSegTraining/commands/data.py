"""The commands about the paper's data: `download`, `explore`."""

from __future__ import annotations

import argparse

from CovidSegLib.commands.exit_codes import FAILED, OK
from CovidSegLib.commands.parser import Parser, add_command
from CovidSegLib.failures import one_line

from .common import folder, note, output_folder, say


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Register the commands."""
    _add_download(commands)
    _add_explore(commands)


def _add_download(commands: argparse._SubParsersAction[Parser]) -> None:
    from ..experiment.download import HOST, RECORD

    parser = add_command(
        commands,
        "download",
        summary="fetch the paper's 20 CTs and masks from Zenodo (about 1.1 GB) and lay them out as cases; run again "
        "to continue. Not run against the real host: tested against a local server",
        run=_download,
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=output_folder, required=True, help="folder for the cases")
    parser.add_argument("--record", metavar="N", default=RECORD, help=f"number of the record (default {RECORD})")
    parser.add_argument("--url", metavar="BASE", default=HOST, help=f"server with Zenodo's interface (default {HOST})")


def _download(options: argparse.Namespace) -> int:
    from ..experiment.download import download

    cases = download(options.output, record=options.record, host=options.url, tell=say, show_progress=True)
    say(f"{len(cases)} cases -> {options.output}")
    return OK


def _add_explore(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "explore", summary="list what the cases are: shape, spacing, values, class shares", run=_explore
    )
    parser.add_argument("--data", metavar="DIR", type=folder, required=True, help="folder with a folder per case")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=output_folder, help="folder for explore.csv and explore.png"
    )


def _explore(options: argparse.Namespace) -> int:
    from ..experiment.explore import explore, to_table, write_exploration

    found = explore(options.data, tell=lambda case: note(f"reading {case}"))
    say(to_table(found.cases))
    for error in found.errors:
        note(f"covidseg-train: error: {one_line(error)}")
    if options.output is not None and found.cases:
        write_exploration(found.cases, options.output)
    return FAILED if found.errors else OK

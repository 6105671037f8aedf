"""The command `calibrate`: how far a bundle's probabilities can be believed."""

from __future__ import annotations

import argparse

from CovidSegLib.commands.exit_codes import FAILED, OK
from CovidSegLib.commands.parser import Parser, add_command

from .common import add_compute, add_measured, make_output, note, output_folder, say, use_threads


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Register the command."""
    parser = add_command(
        commands, "calibrate", summary="fit a temperature, and measure a bundle's probabilities", run=_calibrate
    )
    add_measured(parser)
    parser.add_argument("--only", metavar="NAME", nargs="+", default=(), help="only these labelled cases")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=output_folder,
        help="folder for calibration.json, calibration.md, reliability.png",
    )
    add_compute(parser)


def _calibrate(options: argparse.Namespace) -> int:
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from ..calibration import calibrate
    from ..quality.calibration_report import calibration_markdown, complete_calibration, write_calibration

    use_threads(options.threads)
    bundle = load_bundle(options.bundle)
    make_output(options.output)
    figures = calibrate(
        options.data,
        bundle=bundle,
        mode=options.mode,
        device=resolve_device(options.device),
        only=tuple(options.only),
        tell=note,
    )
    report = complete_calibration(figures, bundle=bundle, command=options.command_line, mode=options.mode)
    say(calibration_markdown(report))
    if options.output is not None:
        write_calibration(report, options.output)
    return FAILED if any(row["error"] for row in report["cases"]) else OK

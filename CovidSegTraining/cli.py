"""The command `covidseg-train`: reads the arguments, calls the command, returns the exit code.

0 all done; 1 something failed; 2 usage error. Nothing heavy is imported before the arguments
are understood.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from CovidSegLib.exit_codes import FAILED, OK, STOPPED, USAGE
from CovidSegLib.failures import explain, one_line

#: Commands that are planned; refused by name until they exist.
NOT_YET = ("explore", "download", "split", "predict", "evaluate", "figures", "cv")


class _UsageError(Exception):
    """The arguments are wrong; the text says how."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which leaves ending the process to main."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}: see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments without the program's name; those of the process if None.
    """
    from CovidSegLib.errors import DeviceError

    from .settings import SettingsError

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in NOT_YET:
            raise _UsageError(f"'{arguments[0]}' is not in this version yet")
        options = build_parser().parse_args(arguments)
        options.command_line = ["covidseg-train", *arguments]
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except (_UsageError, SettingsError, DeviceError) as error:
        _print_error(str(error))
        return USAGE
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)
    except KeyboardInterrupt as error:
        _print_error(explain(error))
        return STOPPED
    except Exception as error:
        _print_error(explain(error))
        if "--verbose" in arguments:
            traceback.print_exc()
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="covidseg-train",
        description="Train, complete and measure the networks that CovidSeg runs.",
        epilog=f"Not in this version yet: {', '.join(NOT_YET)}.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_prepare(commands)
    _add_fit(commands)
    _add_pseudo(commands)
    _add_export(commands)
    _add_benchmark(commands)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    *,
    summary: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help="print a traceback after an error")
    parser.set_defaults(command=run)
    return parser


def _add_prepare(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = _add_command(commands, "prepare", summary="put the training material on the network's grid", run=_prepare)
    _add_data(parser)
    parser.add_argument("-o", "--output", metavar="CACHE", type=Path, required=True, help="folder for the cases")
    parser.add_argument("--phantoms", metavar="N", type=_count_from_zero, help="phantoms (default: the settings')")


def _prepare(options: argparse.Namespace) -> int:
    from .prepare import prepare
    from .settings import read_settings

    settings = read_settings(options.config)
    data = settings.data
    if options.phantoms is not None:
        data = replace(data, phantoms=replace(data.phantoms, count=options.phantoms))
    prepare(data, data_dir=options.data, cache_dir=options.output, preprocessing=settings.fit.preprocessing, tell=_say)
    return OK


def _add_fit(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = _add_command(commands, "fit", summary="train a network; run again to continue", run=_fit)
    parser.add_argument("--cache", metavar="CACHE", type=_folder, required=True, help="written by 'prepare'")
    parser.add_argument("-o", "--output", metavar="RUN", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--minutes", metavar="M", type=float, help="end the run after this time")
    parser.add_argument("--init", metavar="WEIGHTS", type=Path, help="begin with these weights (.pt or .safetensors)")
    _add_config(parser)
    _add_compute(parser)


def _fit(options: argparse.Namespace) -> int:
    import logging

    from CovidSegLib.device import resolve_device

    from .export import load_state
    from .fit import Fit, load_cases
    from .settings import read_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _use_threads(options.threads)
    config = replace(read_settings(options.config).fit, device=resolve_device(options.device))
    if options.minutes is not None:
        config = replace(config, minutes=options.minutes)
    run = Fit(options.output, cases=load_cases(options.cache), config=config)
    if options.init is not None:
        run.start_from(load_state(options.init))
    run.run()
    _say(f"{run.step} steps in {run.elapsed_s / 60:.1f} minutes -> {options.output / 'average.pt'}")
    return OK


def _add_export(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = _add_command(commands, "export", summary="write trained weights into a model bundle", run=_export)
    parser.add_argument("--weights", metavar="FILE", type=Path, required=True, help="average.pt of a training run")
    parser.add_argument("--bundle", metavar="DIR", type=Path, required=True, help="the bundle; made if need be")
    parser.add_argument("--version", metavar="V", help="version of the weights (default: what the bundle says)")


def _export(options: argparse.Namespace) -> int:
    from .export import export_weights

    sha256 = export_weights(options.weights, bundle_dir=options.bundle, version=options.version)
    _say(f"{options.bundle}: weights sha256 {sha256}")
    return OK


def _add_pseudo(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = _add_command(
        commands, "pseudo", summary="complete the labels of diseased whole chests by a bundle's prediction", run=_pseudo
    )
    parser.add_argument("--bundle", metavar="DIR", type=_folder, required=True, help="model bundle that answers")
    parser.add_argument("--cache", metavar="CACHE", type=_folder, required=True, help="written by 'prepare'")
    _add_data(parser)
    _add_compute(parser)


def _pseudo(options: argparse.Namespace) -> int:
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from .pseudo import self_label_chests
    from .settings import read_settings

    _use_threads(options.threads)
    self_label_chests(
        read_settings(options.config).data.whole_chests,
        data_dir=options.data,
        cache_dir=options.cache,
        bundle=load_bundle(options.bundle),
        device=resolve_device(options.device),
        tell=_say,
    )
    return OK


def _add_benchmark(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = _add_command(commands, "benchmark", summary="measure a bundle on the data folder", run=_benchmark)
    parser.add_argument("--bundle", metavar="DIR", type=_folder, help="model bundle (default: the one shipped)")
    parser.add_argument("--data", metavar="DIR", type=_folder, required=True, help="folder of the real CTs")
    parser.add_argument("--mode", choices=("accurate", "fast"), default="accurate", help="default: accurate")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=(), help="only these cases")
    parser.add_argument("--robustness", action="store_true", help="every whole chest resampled, noisy, rotated, ...")
    parser.add_argument("--all-flips", action="store_true", help="every case stored flipped and axis-swapped, not two")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="folder for benchmark.json and benchmark.md")
    _add_compute(parser)


def _benchmark(options: argparse.Namespace) -> int:
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from .benchmark import BenchmarkOptions, run_benchmark
    from .benchmark_report import complete_report, to_markdown, write_report

    _use_threads(options.threads)
    bundle = load_bundle(options.bundle)
    figures = run_benchmark(
        options.data,
        bundle=bundle,
        options=BenchmarkOptions(
            mode=options.mode,
            device=resolve_device(options.device),
            only=tuple(options.only),
            robustness=options.robustness,
            all_flips=options.all_flips,
        ),
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    report = complete_report(figures, bundle=bundle, command=options.command_line, mode=options.mode)
    _say(to_markdown(report))
    if options.output is not None:
        write_report(report, options.output)
    return FAILED if any(row["error"] for row in [*report["cases"], *report["variants"]]) else OK


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", type=_folder, required=True, help="folder of the real CTs")
    _add_config(parser)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="YAML", type=Path, help="settings (default: the product recipe)")


def _add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps (default cpu)")
    parser.add_argument("--threads", metavar="N", type=_count, help="CPU threads (default: torch's choice)")


def _use_threads(count: int | None) -> None:
    import torch

    if count is not None:
        torch.set_num_threads(count)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no folder '{text}'")
    return Path(text)


def _count_from_zero(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def _say(text: str) -> None:
    print(text, flush=True)


def _print_error(text: str) -> None:
    print(f"covidseg-train: error: {one_line(text)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

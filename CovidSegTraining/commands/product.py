"""The commands behind the bundled model: `prepare`, `pack`, `fit`, `pseudo`, `export`, `quantize`, `benchmark`."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from CovidSegLib.commands.exit_codes import FAILED, OK
from CovidSegLib.commands.parser import Parser, UsageError, add_command

from .common import (
    add_compute,
    add_config,
    add_data,
    add_measured,
    count_from_zero,
    file,
    folder,
    make_output,
    note,
    output_folder,
    positive,
    say,
    use_threads,
)
from .experiment import add_fit_options, fit_experiment, prepare_experiment, refuse_experiment_options


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Register the commands."""
    _add_prepare(commands)
    _add_pack(commands)
    _add_fit(commands)
    _add_pseudo(commands)
    _add_export(commands)
    _add_quantize(commands)
    _add_benchmark(commands)


def _add_prepare(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "prepare", summary="put the training material on the network's grid", run=_prepare)
    add_data(parser)
    parser.add_argument(
        "-o", "--output", metavar="CACHE", type=output_folder, required=True, help="folder for the cases"
    )
    parser.add_argument("--phantoms", metavar="N", type=count_from_zero, help="phantoms (default: the settings')")


def _prepare(options: argparse.Namespace) -> int:
    from ..experiment.config import is_experiment
    from ..prepare import prepare
    from ..product.recipe import read_settings

    if is_experiment(options.config):
        return prepare_experiment(options)
    settings = read_settings(options.config)
    data = settings.data
    if options.phantoms is not None:
        data = replace(data, phantoms=replace(data.phantoms, count=options.phantoms))
    prepare(data, data_dir=options.data, cache_dir=options.output, preprocessing=settings.fit.preprocessing, tell=say)
    return OK


def _add_pack(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "pack", summary="write prepared cases small, to carry to another machine", run=_pack)
    parser.add_argument("--cache", metavar="CACHE", type=folder, required=True, help="written by 'prepare'")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=output_folder, required=True, help="a cache for 'fit' elsewhere"
    )


def _pack(options: argparse.Namespace) -> int:
    from ..cache import pack_cases

    pack_cases(options.cache, options.output, tell=say)
    return OK


def _add_fit(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "fit", summary="train a network; run again to continue", run=_fit)
    parser.add_argument("--cache", metavar="CACHE", type=folder, required=True, help="written by 'prepare'")
    parser.add_argument(
        "-o", "--output", metavar="RUN", type=output_folder, required=True, help="folder of the training run"
    )
    parser.add_argument(
        "--minutes", metavar="M", type=positive, help="end the run with the step in which they are over"
    )
    parser.add_argument("--init", metavar="WEIGHTS", type=file, help="begin with these weights (.pt or .safetensors)")
    parser.add_argument("--teacher", metavar="BUNDLE", type=folder, help="learn a trained network's answers as well")
    add_config(parser)
    add_compute(parser)
    add_fit_options(parser)


def _fit(options: argparse.Namespace) -> int:
    import logging

    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from ..experiment.config import is_experiment
    from ..export import load_state
    from ..fit import Fit
    from ..product.fit_checks import refuse_teacher_of_other_input
    from ..product.patches import load_cases
    from ..product.recipe import read_settings

    if is_experiment(options.config):
        return fit_experiment(options)
    settings = read_settings(options.config).fit  # a wrong path or key is said first
    refuse_experiment_options(options)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("the product's recipe trains in one process: run it without torchrun")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    use_threads(options.threads)
    config = replace(settings, device=resolve_device(options.device))
    if options.minutes is not None:
        config = replace(config, minutes=options.minutes)
    teacher = None
    if options.teacher is not None:
        bundle = load_bundle(options.teacher)
        refuse_teacher_of_other_input(bundle, config=config)
        config, teacher = replace(config, teacher=bundle.sha256), bundle.network
    cases = load_cases(options.cache, preprocessing=config.preprocessing)
    run = Fit(options.output, cases=cases, config=config, teacher=teacher)
    if options.init is not None:
        run.start_from(load_state(options.init))
    run.run()
    say(f"{run.step} steps in {run.elapsed_s / 60:.1f} minutes -> {options.output / 'average.pt'}")
    return OK


def _add_export(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "export", summary="write trained weights into a model bundle", run=_export)
    parser.add_argument("--weights", metavar="FILE", type=file, required=True, help="average.pt of a training run")
    parser.add_argument(
        "--bundle", metavar="DIR", type=output_folder, required=True, help="the bundle; made if need be"
    )
    parser.add_argument("--version", metavar="V", help="version of the weights; needed if the bundle has others")
    parser.add_argument("--int8", action="store_true", help="8 bits per weight: half the size; measure what it costs")


def _export(options: argparse.Namespace) -> int:
    from ..export import export_weights

    sha256 = export_weights(
        options.weights, bundle_dir=options.bundle, version=options.version, int8=options.int8, tell=note
    )
    say(f"{options.bundle}: weights sha256 {sha256}")
    return OK


def _add_quantize(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "quantize", summary="measure a bundle's activations, for CPUs to compute in 8 bits", run=_quantize
    )
    parser.add_argument("--bundle", metavar="DIR", type=folder, required=True, help="model bundle; gets the file")
    add_data(parser)
    add_compute(parser)


def _quantize(options: argparse.Namespace) -> int:
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from ..product.quantization import quantize
    from ..product.recipe import read_settings

    use_threads(options.threads)
    quantize(
        load_bundle(options.bundle),
        data_dir=options.data,
        config=read_settings(options.config).data,
        device=resolve_device(options.device),
        tell=say,
    )
    return OK


def _add_pseudo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "pseudo", summary="complete the labels of diseased whole chests by a bundle's prediction", run=_pseudo
    )
    parser.add_argument("--bundle", metavar="DIR", type=folder, required=True, help="model bundle that answers")
    parser.add_argument("--cache", metavar="CACHE", type=folder, required=True, help="written by 'prepare'")
    add_data(parser)
    add_compute(parser)


def _pseudo(options: argparse.Namespace) -> int:
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from ..product.pseudo import self_label_chests
    from ..product.recipe import read_settings

    chests = read_settings(options.config).data.whole_chests
    if not any(chest.diseased for chest in chests):
        raise UsageError(
            "the settings list no diseased whole chests: check --config (without it, product.yaml is used)"
        )
    use_threads(options.threads)
    self_label_chests(
        chests,
        data_dir=options.data,
        cache_dir=options.cache,
        bundle=load_bundle(options.bundle),
        device=resolve_device(options.device),
        tell=say,
    )
    return OK


def _add_benchmark(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "benchmark", summary="measure a bundle on the data folder", run=_benchmark)
    add_measured(parser)
    parser.add_argument("--only", metavar="NAME", nargs="+", default=(), help="only these cases")
    parser.add_argument("--robustness", action="store_true", help="every whole chest resampled, noisy, rotated, ...")
    parser.add_argument("--all-flips", action="store_true", help="every case stored flipped and axis-swapped, not two")
    parser.add_argument(
        "--phantoms", metavar="N", type=count_from_zero, default=0, help="synthetic patients, too (default: none)"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=output_folder, help="folder for benchmark.json and benchmark.md"
    )
    add_compute(parser)


def _benchmark(options: argparse.Namespace) -> int:
    from CovidSegLib.bundle import load_bundle
    from CovidSegLib.device import resolve_device

    from ..benchmark import BenchmarkOptions, run_benchmark
    from ..quality.benchmark_report import complete_report, to_markdown, write_report

    use_threads(options.threads)
    bundle = load_bundle(options.bundle)
    make_output(options.output)
    figures = run_benchmark(
        options.data,
        bundle=bundle,
        options=BenchmarkOptions(
            mode=options.mode,
            device=resolve_device(options.device),
            only=tuple(options.only),
            robustness=options.robustness,
            all_flips=options.all_flips,
            phantoms=options.phantoms,
        ),
        tell=note,
    )
    report = complete_report(figures, bundle=bundle, command=options.command_line, mode=options.mode)
    say(to_markdown(report))
    if options.output is not None:
        write_report(report, options.output)
    return FAILED if any(row["error"] for row in [*report["cases"], *report["variants"]]) else OK

"""What the commands of `covidseg-train` share: options that several of them take, types of values, and printing."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from CovidSegLib.commands.console import print_line
from CovidSegLib.commands.parser import count


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the data folder and the settings file."""
    parser.add_argument("--data", metavar="DIR", type=folder, required=True, help="folder of the real CTs")
    add_config(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the settings file."""
    parser.add_argument("--config", metavar="YAML", type=Path, help="settings (default: the product recipe)")


def add_measured(parser: argparse.ArgumentParser) -> None:
    """Add what is measured: the bundle, on which data, in which mode."""
    parser.add_argument("--bundle", metavar="DIR", type=folder, help="model bundle (default: the one shipped)")
    parser.add_argument("--data", metavar="DIR", type=folder, required=True, help="folder of the real CTs")
    parser.add_argument("--mode", choices=("accurate", "fast"), default="accurate", help="default: accurate")


def add_compute(parser: argparse.ArgumentParser) -> None:
    """Add device and number of threads."""
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps (default cpu)")
    parser.add_argument("--threads", metavar="N", type=count, help="CPU threads (default: torch's choice)")


def add_patients(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, purpose: str) -> None:
    """Add the file that names the patient of each case; `purpose` ends its help."""
    parser.add_argument("--patients", metavar="JSON", type=file, help=f'{{"case": "patient", ...}}{purpose}')


def add_precision(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the precision that an experiment trains with."""
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="instead of the recipe's")


def add_labels_are(parser: argparse.ArgumentParser) -> None:
    """Add what predictions are scored against."""
    from ..evaluate import LABELS_ARE

    parser.add_argument(
        "--labels-are",
        choices=tuple(LABELS_ARE),
        default="reference",
        help="what is scored against (default reference)",
    )


def make_output(path: Path | None) -> None:
    """Make the folder of results, if one is asked for, so that a wrong path is said before the minutes of measuring."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)


def use_threads(threads: int | None) -> None:
    """Let torch use this many CPU threads; None leaves the choice to torch."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def folder(text: str) -> Path:
    """Return the path in an argument that must name a folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no folder '{text}'")
    return Path(text)


def output_folder(text: str) -> Path:
    """Return the path in an argument for a folder that may not exist yet: a file there is told before any work."""
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is a file, where a folder is needed")
    return Path(text)


def file(text: str) -> Path:
    """Return the path in an argument that must name a file, or a pipe."""
    if not Path(text).exists() or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no file '{text}'")
    return Path(text)


def count_from_zero(text: str) -> int:
    """Return the number in an argument that must be a whole number, 0 or more."""
    if text == "0":
        return 0
    try:
        return count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on") from error


def positive(text: str) -> float:
    """Return the number in an argument that must be above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def say(text: str) -> None:
    """Print a result at once; letters that the terminal cannot show do no harm."""
    print_line(text)


def note(text: str) -> None:
    """Print a remark on stderr."""
    print_line(text, stream=sys.stderr)


def patients_of(options: argparse.Namespace) -> dict[str, str] | None:
    """Return the patients that --patients names, None without this option."""
    from ..splits import read_patients

    return None if options.patients is None else read_patients(options.patients)


def warn_unknown_patients(patients: Mapping[str, str] | None, *, cases: Collection[str]) -> None:
    """Warn of names in --patients that are no case: misspelt ones let a patient stand on both sides of a fold."""
    if unknown := sorted(set(patients or ()) - set(cases)):
        warn(f"--patients: {len(unknown)} of its names are no case here, misspelt perhaps: {', '.join(unknown)}")


def warn(text: str) -> None:
    """Print a warning on stderr."""
    note(f"covidseg-train: warning: {text}")

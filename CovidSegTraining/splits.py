"""The folds of a cross-validation: the paper's own five, or new ones with no patient on both sides.

A file of folds is JSON: {"fold_0": {"training": [...], "validation": [...]}, ...}.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from CovidSegLib.errors import InputError
from CovidSegLib.readers.inputs import image_suffix

from .whole_files import write_whole

PAPER_FOLDS = Path(__file__).with_name("configs") / "folds_paper.json"

#: Radiopaedia names a file after its case, then the study: 29_86490_1 and 29_86491_1 are one patient.
_RADIOPAEDIA = re.compile(r"(radiopaedia_\d+)_")


@dataclass(frozen=True)
class Fold:
    """Names of the cases that are learnt from, and of those that are measured."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class SharedPatient:
    """A patient on both sides of a fold, with the cases there; as text, a sentence."""

    fold: int
    patient: str
    training: tuple[str, ...]
    validation: tuple[str, ...]

    def __str__(self) -> str:
        training, validation = (", ".join(side) for side in (self.training, self.validation))
        return f"fold_{self.fold}: patient {self.patient} is in training ({training}) and validation ({validation})"


def patient_of(case: str, *, patients: Mapping[str, str] | None = None) -> str:
    """Return the patient of a case: as `patients` says, else by its name; most cases are a patient of their own."""
    if patients is not None and case in patients:
        return patients[case]
    found = _RADIOPAEDIA.match(case)
    return found[1] if found else case


def original_folds() -> list[Fold]:
    """Return the five folds of the paper, over the 20 cases of Zenodo 3757476.

    Two patients stand on both sides: radiopaedia_29 in folds 0 and 3, radiopaedia_10 in folds 2 and 3 (see
    `shared_patients`). The folds are kept as they were, because the paper's figures rest on them.
    """
    return _parsed(json.loads(PAPER_FOLDS.read_text(encoding="utf-8")))


def restrict_folds(folds: Sequence[Fold], *, present: Collection[str]) -> tuple[list[Fold], list[str]]:
    """Return the folds with only the cases that are present, and the names of the missing ones.

    Raises:
        InputError: A fold would have nothing left to learn from, or to measure.
    """
    missing = sorted({case for fold in folds for case in fold.training + fold.validation} - set(present))
    kept = [
        Fold(*(tuple(case for case in side if case in present) for side in (fold.training, fold.validation)))
        for fold in folds
    ]
    _check_sides(kept)
    return kept, missing


def k_folds(cases: Collection[str], *, k: int, seed: int, patients: Mapping[str, str] | None = None) -> list[Fold]:
    """Return k folds; all cases of a patient are measured in the same fold.

    The same cases, k and seed give the same folds on any machine and with any version. Patients are dealt in order of
    their number of cases, the largest first, each to the fold with the fewest cases so far; the sizes of the folds
    therefore differ by no more than the largest patient's number of cases.

    Raises:
        InputError: A case is named twice, k is below 2, or there are fewer patients than folds.
    """
    if len(set(cases)) < len(cases):
        raise InputError(f"case '{_repeated(cases)}' is named twice; name each case once")
    groups = _by_patient(sorted(cases), patients=patients)
    if k < 2:
        raise InputError(f"{k} folds are no cross-validation; at least 2 are needed")
    if len(groups) < k:
        raise InputError(f"{len(groups)} patients cannot be dealt to {k} folds; give more cases, or a smaller k")
    validation: list[list[str]] = [[] for _ in range(k)]
    for patient in sorted(groups, key=lambda name: (-len(groups[name]), _shuffled(name, seed=seed))):
        min(validation, key=len).extend(groups[patient])
    return [Fold(tuple(sorted(set(cases) - set(held))), tuple(sorted(held))) for held in validation]


def shared_patients(folds: Sequence[Fold], *, patients: Mapping[str, str] | None = None) -> list[SharedPatient]:
    """Return each patient that stands on both sides of a fold, once per such fold; ideally there is none."""
    shared = []
    for number, fold in enumerate(folds):
        training, validation = (_by_patient(side, patients=patients) for side in (fold.training, fold.validation))
        for patient in sorted(training.keys() & validation.keys()):
            shared.append(SharedPatient(number, patient, tuple(training[patient]), tuple(validation[patient])))
    return shared


def are_original(folds: Sequence[Fold]) -> bool:
    """Tell whether these are the paper's folds, or what is left of them in a smaller dataset."""
    original = original_folds()
    return len(folds) == len(original) and all(
        set(fold.training) <= set(other.training) and set(fold.validation) <= set(other.validation)
        for fold, other in zip(folds, original, strict=True)
    )


def read_folds(path: Path, *, patients: Mapping[str, str] | None = None) -> list[Fold]:
    """Return the folds of a file.

    Raises:
        InputError: The file is missing or damaged; a case stands on both sides, twice, or is measured in two folds;
            or, unless these are the paper's folds, a patient stands on both sides.
    """
    from .settings import SettingsError

    values = _read_json(path)
    try:
        folds = _parsed(values)
        _check_cases(folds)
    except (SettingsError, InputError) as error:
        raise InputError(f"{path}: {error}") from error
    shared = shared_patients(folds, patients=patients)
    if shared and not are_original(folds):
        raise InputError(
            f"{path}: {shared[0]}. Move these cases to one side, or make folds with 'covidseg-train split'"
        )
    return folds


def write_folds(path: Path, folds: Sequence[Fold]) -> None:
    """Write folds in the paper's format."""
    values = {
        f"fold_{number}": {"training": list(fold.training), "validation": list(fold.validation)}
        for number, fold in enumerate(folds)
    }
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())


def read_patients(path: Path) -> dict[str, str]:
    """Return the patient of each case, from a JSON file {case: patient}.

    Raises:
        InputError: The file is missing, or holds anything else.
    """
    values = _read_json(path)
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise InputError(f'{path}: expected {{"case": "patient", ...}}, both as text')
    return values


def find_cases(data_dir: Path) -> list[str]:
    """Return the names of the case folders, those with `imaging.nii.gz`; hidden ones are none.

    A folder with only one of the two files, or with an image of another format, is meant to be a case: left out in
    silence, it would be missing from every fold and table.

    Raises:
        InputError: There is none, or one has no CT or no segmentation.
    """
    found = [path for pattern in ("imaging.*", "segmentation.nii*") for path in data_dir.glob(f"*/{pattern}")]
    cases = sorted({path.parent.name for path in found if image_suffix(path) and not path.parent.name.startswith(".")})
    if not cases:
        raise InputError(f"{data_dir}: no cases; give the folder that holds <case>/imaging.nii.gz")
    for case in cases:
        for name in ("imaging.nii.gz", "segmentation.nii.gz"):
            if not (data_dir / case / name).is_file():
                raise InputError(f"{data_dir / case}: no {name}; add it, or take the case out of the folder")
    return cases


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path}: no valid JSON ({error})") from error


def _parsed(values: Any) -> list[Fold]:
    from .settings import from_plain

    names = [f"fold_{number}" for number in range(len(values))] if isinstance(values, dict) else []
    if not names or set(values) != set(names):
        raise InputError('expected {"fold_0": {"training": [...], "validation": [...]}, "fold_1": ...}')
    return [from_plain(Fold, values[name], key=name) for name in names]


def _check_cases(folds: Sequence[Fold]) -> None:
    _check_sides(folds)
    for number, fold in enumerate(folds):
        for side in (fold.training, fold.validation):
            if (case := _repeated(side)) is not None:
                raise InputError(f"fold_{number} names case '{case}' twice on one side; name it once")
        if both := sorted(set(fold.training) & set(fold.validation)):
            raise InputError(f"fold_{number} has case '{both[0]}' in training and in validation; take it out of one")
    if (case := _repeated(case for fold in folds for case in fold.validation)) is not None:
        raise InputError(f"case '{case}' is in the validation of two folds; each case is measured once")


def _check_sides(folds: Sequence[Fold]) -> None:
    for number, fold in enumerate(folds):
        for side, cases in (("training", fold.training), ("validation", fold.validation)):
            if not cases:
                raise InputError(f"fold_{number} has no case for {side}; add cases, or make new folds with --k")


def _repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once; None if there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _by_patient(cases: Iterable[str], *, patients: Mapping[str, str] | None) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(patient_of(case, patients=patients), []).append(case)
    return groups


def _shuffled(name: str, *, seed: int) -> str:
    """Return a sort key that depends on name and seed alone; numpy's random streams change with its version."""
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()

"""What the network learns from: lists of cases with weights, and the cases it must never see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from CovidSegLib.errors import InputError

#: Folder of the labelled cases, relative to the data folder.
LABELLED_FOLDER = "muller20"

#: Labelled cases kept out of training, so that agreement can be reported on cases the network has not seen.
HELD_OUT = frozenset({"coronacases_003", "coronacases_008", "radiopaedia_40_86625_0"})

#: Cases that are only ever measured: never trained on, never pseudo-labelled, never used to choose a checkpoint. A
#: figure on a case that the network has learnt from would say nothing about a new patient.
MEASURED_ONLY = HELD_OUT | {
    "imlab_001",
    "imlab_002",
    "imlab_003",
    "imlab_004",
    "normal001",
    "tumour_5mm_soft",
    "tumour_5mm_sharp",
}


@dataclass(frozen=True)
class LabelledCases:
    """A folder of cases with `imaging`, `segmentation` and perhaps `valid` (all `.nii.gz`).

    Attributes:
        folder: Relative to the data folder.
        weight: How often a case is drawn, relative to the others.
        weak: Names of cases with poor labels; unlabelled air in these counts as unknown, not as background.
        weak_weight: Takes the place of `weight` for these.
    """

    folder: str = LABELLED_FOLDER
    weight: float = 1.0
    weak: tuple[str, ...] = ()
    weak_weight: float = 0.5


@dataclass(frozen=True)
class WholeChest:
    """A CT without masks, labelled as far as intensity and position allow (`partial_labels`)."""

    path: str
    diseased: bool
    weight: float = 1.0


@dataclass(frozen=True)
class LungMask:
    """A folder with `imaging.nii.gz` and a mask of one lung, `lungs.nii.gz`."""

    path: str
    side: Literal["left", "right"]
    weight: float = 1.0


@dataclass(frozen=True)
class Phantoms:
    """Synthetic patients with exact labels, of the seeds `first_seed`, `first_seed + 1`, ..."""

    count: int = 16
    first_seed: int = 5000
    weight: float = 0.2


@dataclass(frozen=True)
class DataConfig:
    """All training material."""

    labelled: LabelledCases | None = field(default_factory=LabelledCases)
    whole_chests: tuple[WholeChest, ...] = ()
    lungs: tuple[LungMask, ...] = ()
    phantoms: Phantoms = field(default_factory=Phantoms)


def labelled_folders(labelled: LabelledCases, *, data_dir: Path) -> list[Path]:
    """Return the folders of the labelled cases that are learnt from, sorted; those of `HELD_OUT` are left out.

    Raises:
        InputError: There is no labelled case, or one is named as measured only.
    """
    root = data_dir / labelled.folder
    found = sorted(path.parent for path in root.glob("*/segmentation.nii.gz"))
    if not found:
        raise InputError(f"{root}: no cases with segmentation.nii.gz. Check --data and data.labelled.folder.")
    folders = [folder for folder in found if folder.name not in HELD_OUT]
    for folder in folders:
        refuse_measured_only(Path(labelled.folder, folder.name))
    return folders


def refuse_measured_only(path: Path) -> None:
    """Make sure that a file may be learnt from.

    Raises:
        InputError: The file, or a folder it lies in, is named as measured only.
    """
    for part in path.parts:
        name = part.split(".")[0]
        if name in MEASURED_ONLY:
            raise InputError(
                f"{path}: '{name}' is measured only and must never be trained on: take it out of the data lists"
            )

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from CovidSegLib.commands.parser import UsageError
from CovidSegLib.errors import DeviceError, InputError, ModelError
from CovidSegLib.geometry import Geometry
from CovidSegLib.orient import Orientation
from helpers_experiment import GEOMETRY, ball_labels, tiny_recipe, tiny_values, write_case
from helpers_training import run_command

from CovidSegTraining.experiment import predict as experiment_predict
from CovidSegTraining.experiment.cache import PreparedVolume
from CovidSegTraining.experiment.config import read_experiment
from CovidSegTraining.experiment.predict import load_network, overlap_shares, predict_cases, predict_labels, restore
from CovidSegTraining.experiment.run_folder import progress_of
from CovidSegTraining.splits import Fold, write_folds

CPU = torch.device("cpu")


class _Thresholds(torch.nn.Module):
    """Labels each voxel by its value, 0 to 3, and counts the patches it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(patch.shape[2:]))
        return torch.cat([-((patch - n) ** 2) for n in range(4)], dim=1) * 50


@pytest.mark.parametrize("shape", [(24, 24, 24), (16, 40, 33), (9, 50, 20), (40, 17, 70)])
def test_patches_are_put_together_again(shape: tuple[int, int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    found = predict_labels(labels.astype(np.float32), network=_Thresholds(), recipe=tiny_recipe(), device=CPU)
    np.testing.assert_array_equal(found, labels)


def test_the_papers_median_volume_takes_eighteen_patches() -> None:
    network = _Thresholds()
    # 267 x 254 x 104 with patches of 160 x 160 x 80, on a tenth of the scale.
    recipe = tiny_recipe(patches__size_ijk=[32, 32, 16], prediction__overlap_ijk=[16, 16, 8])
    predict_labels(np.zeros((21, 51, 53), dtype=np.float32), network=network, recipe=recipe, device=CPU)
    assert network.shapes == [(16, 32, 32)] * 18
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    paper = read_experiment()
    interval = _get_scan_interval((104, 254, 267), paper.patches.size_kji, 3, overlap_shares(paper))
    assert tuple(interval) == (40, 80, 80)
    corners = dense_patch_slices((104, 254, 267), paper.patches.size_kji, interval)
    assert len(corners) == 18 and max(corner[2].start for corner in corners) == 107


def test_overlap_of_thirds_is_exact() -> None:
    from monai.inferers.utils import _get_scan_interval

    recipe = tiny_recipe(patches__size_ijk=[48, 48, 48], prediction__overlap_ijk=[16, 32, 0])
    interval = _get_scan_interval((96, 96, 96), (48, 48, 48), 3, overlap_shares(recipe))
    assert tuple(interval) == (48, 16, 32)


def test_labels_go_back_onto_the_cts_own_grid() -> None:
    recipe = tiny_recipe()
    turned = Geometry((20, 24, 28), (3.0, 3.0, 3.0), direction_lps=(0, -1.0, 0, 1.0, 0, 0, 0, 0, -1.0))
    native = np.random.default_rng(0).integers(0, 4, turned.shape_kji).astype(np.uint8)
    orientation = Orientation.of(turned)
    for labels, how in ((native, None), (orientation.view(native), orientation)):
        volume = PreparedVolume(labels.astype(np.float32), None, how, turned)
        np.testing.assert_array_equal(restore(np.ascontiguousarray(labels), volume=volume, recipe=recipe), native)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of three cases, and all that `prepare` and `fit` made of them."""
    root = tmp_path_factory.mktemp("experiment")
    flipped = Geometry(GEOMETRY.size_ijk, (2.5, 3.0, 3.0), (5.0, -7.0, 3.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    for seed in range(3):
        write_case(root / "data" / f"case_{seed}", seed=seed, geometry=flipped if seed == 2 else GEOMETRY)
    changes = {"preprocessing__orient": True, "training__epochs": 2, "patches__batch": 2}
    (root / "recipe.yaml").write_text(yaml.safe_dump(tiny_values(**changes)), encoding="utf-8")
    write_folds(
        root / "folds.json",
        [Fold(("case_0", "case_1"), ("case_2",)), Fold(("case_2",), ("case_0", "case_1"))],
    )
    config = ["--config", str(root / "recipe.yaml")]
    assert run_command("prepare", "--data", str(root / "data"), "-o", str(root / "cache"), *config) == 0
    fold = ["--folds", str(root / "folds.json"), "--fold", "0"]
    fit = ["fit", "--cache", str(root / "cache"), "-o", str(root / "run"), "--device", "cpu", *config, *fold]
    assert run_command(*fit, "--threads", "1") == 0
    return root


def test_from_cases_to_labels_by_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import SimpleITK as sitk

    predict = ["predict", "--run", str(trained / "run"), "--data", str(trained / "data"), "--device", "cpu"]
    assert run_command(*predict, "-o", str(tmp_path / "held_out")) == 0
    assert [path.name for path in (tmp_path / "held_out").iterdir()] == ["case_2.nii.gz"]
    found = sitk.ReadImage(str(tmp_path / "held_out" / "case_2.nii.gz"))
    truth = sitk.ReadImage(str(trained / "data" / "case_2" / "segmentation.nii.gz"))
    assert Geometry.from_sitk(found).is_close_to(Geometry.from_sitk(truth))
    assert found.GetPixelID() == sitk.sitkUInt8 and sitk.GetArrayFromImage(found).max() <= 3
    named = ["--cases", "case_0", "case_1", "--checkpoint", "last", "-o", str(tmp_path / "named")]
    assert run_command(*predict, *named) == 0
    assert sorted(path.name for path in (tmp_path / "named").iterdir()) == ["case_0.nii.gz", "case_1.nii.gz"]
    assert "case_1" in capsys.readouterr().out
    with (trained / "run" / "history.fold_0.tsv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream, delimiter="\t"))) == 2


def test_run_that_was_broken_off_predicts_with_a_warning(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = ["predict", "--data", str(trained / "data"), "-o", str(tmp_path / "out")]
    assert run_command(*predict, "--run", str(trained / "run")) == 0
    assert capsys.readouterr().err == ""
    shutil.copytree(trained / "run", tmp_path / "run")
    history = tmp_path / "run" / "history.fold_0.tsv"
    lines = history.read_text(encoding="utf-8").splitlines()
    history.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    assert run_command(*predict, "--run", str(tmp_path / "run")) == 0
    assert "run: stopped after epoch 1, before its end; run 'covidseg-train fit' again" in capsys.readouterr().err
    history.unlink()  # weights that were carried elsewhere, for instance: nothing is known
    assert run_command(*predict, "--run", str(tmp_path / "run")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("losses", "end"), [([3, 2], False), ([2, 2, 2], True), ([3, 2.5, 2, 1], True)])
def test_run_is_at_its_end_after_all_epochs_or_too_many_without_gain(
    trained: Path, tmp_path: Path, losses: list[float], end: bool
) -> None:
    recipe = tiny_recipe(training__epochs=4, training__early_stopping_patience=2)
    assert progress_of(tmp_path, recipe=recipe) is None
    shutil.copy(trained / "run" / "run.json", tmp_path)
    rows = [f"{epoch}\t{loss}" for epoch, loss in enumerate(losses, start=1)]
    history = tmp_path / "history.fold_0.tsv"
    history.write_text("\n".join(["epoch\tloss", *rows]) + "\n", encoding="utf-8")
    assert progress_of(tmp_path, recipe=recipe) == (len(losses), end)
    history.write_text("epoch\tloss\n1\tmuch\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"history\.fold_0\.tsv: damaged .*; delete it"):
        progress_of(tmp_path, recipe=recipe)


class _ByHu(torch.nn.Module):
    """Labels by HU; lung is the left one in the half of the patch with high i."""

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        side = torch.linspace(-0.1, 0.1, patch.shape[-1]).expand(patch.shape)
        lung, infection = (patch < -600).float(), ((patch >= -600) & (patch < -100)).float()
        return torch.cat([torch.full_like(patch, 0.5), lung + side, lung - side, infection], dim=1) * 20


def test_labels_lie_where_the_patient_has_them(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    recipe = tiny_recipe(preprocessing__orient=True, preprocessing__z_score=False, preprocessing__grey_levels=None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_plain()), encoding="utf-8")
    monkeypatch.setattr(experiment_predict, "load_network", lambda *_, **__: _ByHu())
    predict_cases(
        tmp_path, data_dir=trained / "data", names=["case_2"], output=tmp_path, device="cpu", tell=lambda _: None
    )
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case_2.nii.gz")))
    truth = ball_labels(seed=2)
    assert 2 * ((found > 0) & (truth > 0)).sum() / ((found > 0).sum() + (truth > 0).sum()) > 0.85
    # Its array runs to the patient's right: the ball at low i is on the left.
    low = found[truth == 2]
    assert (low == 1).sum() > 10 * (low == 2).sum()


def test_weights_are_those_of_the_checkpoint_rule(trained: Path, tmp_path: Path) -> None:
    names = {"best_loss": "best.pt", "last": "last.pt"}
    shutil.copytree(trained / "run", tmp_path / "run")
    for number, name in enumerate(names.values(), start=1):
        state = torch.load(tmp_path / "run" / name)
        state["network"]["head.bias"] = torch.full((4,), float(number))
        torch.save(state, tmp_path / "run" / name)
    found = {}
    for rule in names:
        recipe = tiny_recipe(training__checkpoint_rule=rule)
        for checkpoint in (None, *names):
            network = load_network(tmp_path / "run", recipe=recipe, device=torch.device("cpu"), checkpoint=checkpoint)
            found[rule, checkpoint] = float(network.state_dict()["head.bias"][0])
    assert [found[rule, None] for rule in names] == [1.0, 2.0]
    assert all(found[rule, name] == float(number) for rule in names for number, name in enumerate(names, start=1))


def test_usage_errors_say_what_is_missing(trained: Path, tmp_path: Path) -> None:
    cache = ["--cache", str(trained / "cache"), "-o", str(tmp_path / "run")]
    config = ["--config", str(trained / "recipe.yaml")]
    for arguments, message in (
        ([*cache, *config], "--fold K is needed"),
        ([*cache, *config, "--fold", "5"], "there are 5 folds, 0 to 4"),
        ([*cache, *config, "--fold", "0", "--minutes", "3"], "--minutes is for the product's recipe"),
        ([*cache, "--fold", "0"], "--fold is for an experiment's recipe"),
    ):
        with pytest.raises(UsageError, match=message):
            run_command("fit", *arguments)
    with pytest.raises(InputError, match=r"coronacases_007.npz: not prepared"):
        run_command("fit", *cache, *config, "--fold", "0")
    assert not (tmp_path / "run").exists()


def test_run_that_cannot_predict_is_named(trained: Path, tmp_path: Path) -> None:
    options = {"data_dir": trained / "data", "names": ["case_2"], "output": tmp_path / "out", "tell": print}
    with pytest.raises(DeviceError, match="cuda:99"):
        predict_cases(trained / "run", device="cuda:99", **options)
    other = tmp_path / "run"
    other.mkdir()
    for name in ("run.json", "recipe.yaml"):
        (other / name).write_bytes((trained / "run" / name).read_bytes())
    with pytest.raises(ModelError, match=r"best.pt: not there; run 'covidseg-train fit' first"):
        predict_cases(other, device="cpu", **options)
    (other / "best.pt").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"best.pt: damaged; delete the run's folder and train again"):
        predict_cases(other, device="cpu", **options)
    (other / "last.pt").write_bytes((trained / "run" / "last.pt").read_bytes())
    with pytest.raises(ModelError, match=r"best.pt: damaged; give 'predict' --checkpoint last, or delete the run's"):
        predict_cases(other, device="cpu", **options)
    (other / "best.pt").unlink()  # 'fit' would not make it again
    with pytest.raises(ModelError, match=r"best.pt: not there; give 'predict' --checkpoint last, or delete the run's"):
        predict_cases(other, device="cpu", **options)
    (other / "best.pt").write_bytes((trained / "run" / "best.pt").read_bytes())
    recipe = read_experiment(other / "recipe.yaml")
    wider = replace(recipe, network=replace(recipe.network, classes=6))
    (other / "recipe.yaml").write_text(yaml.safe_dump(wider.to_plain()), encoding="utf-8")
    with pytest.raises(ModelError, match=r"best.pt: its weights are not of the network in recipe.yaml \(unet3d, 6"):
        predict_cases(other, device="cpu", **options)
    for damaged in ("", "[]", "{}", '{"fold": 0, "origin": {"training": {}, "validation": []}}'):
        (other / "run.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=r"run.json: damaged \(.*\); choose another folder"):
            predict_cases(other, device="cpu", **options)
    (other / "run.json").unlink()
    with pytest.raises(InputError, match=r"no training run .*; give the folder of a 'fit'"):
        predict_cases(other, device="cpu", **options)
    assert not list(tmp_path.glob("out/*"))

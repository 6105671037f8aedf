"""Sample data: registered with what Slicer needs, made or downloaded only when the user clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib.geometry import Geometry  # noqa: E402
from CovidSegLib.phantom import make_phantom  # noqa: E402
from CovidSegLib.scenes import samples as scene_samples  # noqa: E402
from CovidSegLib.scenes.samples import add_ct_volume, register_samples  # noqa: E402
from CovidSegLib.scenes.volume import volume_from_node  # noqa: E402
from CovidSegLib.volume import CTVolume  # noqa: E402

pytestmark = pytest.mark.slicer

SHA256 = "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"


class RecordingLogic:
    """Takes what Slicer's SampleDataLogic takes, and refuses what it would stumble over."""

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self.texts: list[str] = []

    def registerCustomSampleDataSource(  # noqa: N802
        self,
        category: str = "Custom",
        sampleName: str | None = None,  # noqa: N803
        uris: Any = None,
        fileNames: Any = None,  # noqa: N803
        nodeNames: Any = None,  # noqa: N803
        customDownloader: Any = None,  # noqa: N803
        thumbnailFileName: str | None = None,  # noqa: N803
        checksums: Any = None,
    ) -> None:
        assert sampleName is not None
        if isinstance(uris, str):
            uris, fileNames, nodeNames, checksums = [uris], [fileNames], [nodeNames], [checksums]  # noqa: N806
        assert len(uris) == len(fileNames), "Slicer wants a file name for each address, and a list of both"
        source = {
            "category": category,
            "uris": uris,
            "fileNames": fileNames,
            "nodeNames": nodeNames,
            "checksums": checksums,
            "customDownloader": customDownloader,
            "thumbnailFileName": thumbnailFileName,
        }
        text = f"{sampleName} {source}"
        if text not in self.texts:  # as Slicer does, so that reloading a module registers nothing twice
            self.texts.append(text)
            assert sampleName not in self.sources
            self.sources[sampleName] = source


class RecordingModule:
    """Stands in for Slicer's module SampleData, which the library alone does not have."""

    def __init__(self) -> None:
        self.SampleDataLogic = RecordingLogic()


def small_ct() -> CTVolume:
    """Return a CT of 960 different values, neither centred nor isotropic."""
    values = np.arange(8 * 10 * 12, dtype=np.int16) - 900
    geometry = Geometry((12, 10, 8), (1.5, 2.0, 4.0), (5.0, -7.0, 30.0), (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0))
    return CTVolume(values.reshape(8, 10, 12), geometry, name="small", fingerprint="sha256:0")


@pytest.fixture
def module() -> RecordingModule:
    return RecordingModule()


def test_chest_ct_is_slicers_own_with_its_published_checksum(module: RecordingModule, tmp_path: Path) -> None:
    register_samples(module, icons=tmp_path)
    source = module.SampleDataLogic.sources["CTChest"]
    assert source["uris"] == [f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{SHA256}"]
    assert source["checksums"] == [f"SHA256:{SHA256}"]
    assert source["fileNames"] == ["CT-chest.nrrd"]
    assert source["nodeNames"] == ["CTChest"]
    assert source["customDownloader"] is None


def test_registering_makes_nothing_and_clicking_makes_the_phantom(
    module: RecordingModule, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_ct()
    monkeypatch.setattr(scene_samples, "phantom_ct", lambda: small)
    before = context.scene.GetNumberOfNodes()
    register_samples(module, icons=tmp_path, context=lambda: context)
    assert context.scene.GetNumberOfNodes() == before
    source = module.SampleDataLogic.sources["CovidSegPhantom"]
    assert source["uris"] == source["fileNames"] == []
    (node,) = source["customDownloader"](source)
    assert node.GetName() == "CovidSegPhantom"
    np.testing.assert_array_equal(volume_from_node(node).hu_kji, small.hu_kji)


def test_registering_again_adds_nothing(module: RecordingModule, tmp_path: Path) -> None:
    register_samples(module, icons=tmp_path)
    register_samples(module, icons=tmp_path)
    assert len(module.SampleDataLogic.texts) == 2


def test_picture_is_shown_where_there_is_one(module: RecordingModule, tmp_path: Path) -> None:
    (tmp_path / "CTChest.png").write_bytes(b"")
    register_samples(module, icons=tmp_path)
    sources = module.SampleDataLogic.sources
    assert sources["CTChest"]["thumbnailFileName"] == str(tmp_path / "CTChest.png")
    assert sources["CovidSegPhantom"]["thumbnailFileName"] is None


def test_volume_has_the_ct_s_voxels_and_grid_and_is_independent_of_it(context: Any) -> None:
    ct = small_ct()
    node = add_ct_volume(context, ct=ct, name="a CT")
    read = volume_from_node(node)
    assert read.geometry.is_close_to(ct.geometry)
    before_kji = ct.hu_kji.copy()
    ct.hu_kji[:] = 0
    np.testing.assert_array_equal(volume_from_node(node).hu_kji, before_kji)
    assert node.GetDisplayNode() is not None
    assert add_ct_volume(context, ct=ct, name="a CT").GetName() != "a CT"


@pytest.mark.slow
def test_phantom_offered_has_about_a_fifth_of_its_lungs_infected(context: Any) -> None:
    phantom = make_phantom(seed=scene_samples.PHANTOM_SEED, infection_percent=scene_samples.PHANTOM_INFECTION_PERCENT)
    assert phantom.truth.poi_percent == pytest.approx(20.0, abs=1.0)
    node = scene_samples.add_phantom(context)
    np.testing.assert_array_equal(volume_from_node(node).hu_kji, phantom.ct.hu_kji)

"""The stand-in's functions and objects of Slicer take what Slicer's take, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slicer


def test_packages_are_asked_for_with_slicers_options(host: Any) -> None:
    import slicer

    host.packages.missing = {"monai"}
    with pytest.raises(TypeError, match="constraint_file"):
        slicer.packaging.pip_ensure(["monai"], constraint_file="held.txt")
    with pytest.raises(TypeError, match="a text or a list"):
        slicer.packaging.pip_ensure(("monai",))
    host.dialogs.answer("Cancel")
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure(["monai"])
    host.app.testing = True
    slicer.packaging.pip_ensure(["monai"], prompt_install=False)
    assert host.packages.installed == [], "where Slicer tests itself, nothing is installed"


def test_sample_needs_a_file_name_for_its_address(host: Any) -> None:
    import SampleData

    register = SampleData.SampleDataLogic.registerCustomSampleDataSource
    with pytest.raises(TypeError, match="url"):
        register(category="CovidSeg", sampleName="CT", url="https://example.org/ct.nrrd")
    with pytest.raises(ValueError, match="a file name for each address"):
        register(category="CovidSeg", sampleName="CT", uris="https://example.org/ct.nrrd")


def test_module_card_takes_what_slicer_lists(host: Any) -> None:
    from application import ModuleCard
    from host_errors import HostError

    card = ModuleCard("CovidSeg.py")
    with pytest.raises(AttributeError, match="'category'"):
        card.category = "Segmentation"
    with pytest.raises(HostError, match="contributors"):
        card.contributors = "CovidSeg contributors"

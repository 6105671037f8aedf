"""Fixtures of the scene tests: real MRML from the slicer-core wheel, a fake engine, a CT of known content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, FakeEngine, add_volume, hu_of, labels_on


@pytest.fixture
def context() -> Iterator[Any]:
    """A scene of its own, as on slicer-core."""
    pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
    from CovidSegLib.scene import SceneContext

    scene_context = SceneContext.headless()
    yield scene_context
    scene_context.scene.Clear(1)


@dataclass(frozen=True)
class Case:
    """A CT in the scene with its truth."""

    volume: Any
    labels_kji: np.ndarray
    matrix: np.ndarray


@pytest.fixture(params=["oblique"])
def case(request: pytest.FixtureRequest, context: Any) -> Case:
    """The CT on an oblique anisotropic grid; parametrize indirectly with other names of GRIDS."""
    matrix = GRIDS[request.param]
    labels_kji = labels_on(matrix)
    return Case(add_volume(context, hu_kji=hu_of(labels_kji), matrix=matrix), labels_kji, matrix)


@pytest.fixture
def engine() -> FakeEngine:
    """Segments by threshold."""
    return FakeEngine()


@pytest.fixture
def logic(context: Any, engine: FakeEngine) -> Any:
    """The logic on that scene with that engine."""
    from CovidSegLib.logic import CovidSegLogic

    return CovidSegLogic(context=context, engine=engine)

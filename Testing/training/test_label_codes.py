from __future__ import annotations

import numpy as np
from CovidSegLib.labels import Label

from CovidSegTraining.product.label_codes import Code, mirrored_codes, possible_classes


def test_codes_below_four_are_the_classes_themselves() -> None:
    assert [Code(int(label)).name for label in Label] == [label.name for label in Label]
    np.testing.assert_array_equal(possible_classes()[: len(Label)], np.eye(len(Label), dtype=bool))


def test_open_codes_allow_their_classes_only() -> None:
    table = possible_classes()
    assert table[Code.LEFT_OR_INFECTION].tolist() == [False, True, False, True]
    assert table[Code.RIGHT_OR_INFECTION].tolist() == [False, False, True, True]
    assert table[Code.UNKNOWN].all()
    assert table[Code.NOT_INFECTION].tolist() == [True, True, True, False]


def test_mirrored_code_allows_the_classes_of_the_other_side() -> None:
    other_side = [Label.BACKGROUND, Label.RIGHT_LUNG, Label.LEFT_LUNG, Label.INFECTION]
    mirrored = mirrored_codes()
    np.testing.assert_array_equal(possible_classes()[mirrored], possible_classes()[:, other_side])
    np.testing.assert_array_equal(mirrored[mirrored], list(Code))

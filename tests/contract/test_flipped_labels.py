"""Formulas for labels of the teacher refuse flipped ones, and floors what they do not hold for."""

import re

import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z = sp.Symbol("z", real=True)
SQUARE = dmft.Committee(z**2, 1)
ERF = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
LINE = dmft.Committee(z, 1)
ON_SPHERE = dmft.SGD(0.05, constraint="sphere")
DESCENT = dmft.GradientDescent(0.3, 2.0)


def flipped(unit: dmft.Committee) -> dmft.Model:
    return dmft.Model(unit, unit, label_noise=1e-4, label_flip=0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dmft.escape_formula(flipped(SQUARE), ON_SPHERE),
        lambda: dmft.escape_rate(flipped(SQUARE)),
        lambda: dmft.weak_recovery(flipped(SQUARE), ON_SPHERE),
        lambda: dmft.maximal_learning_rate(flipped(SQUARE), ON_SPHERE),
        lambda: dmft.maximal_learning_rate(flipped(ERF), dmft.SGD(0.3)),
        lambda: dmft.noise_floor(flipped(LINE), dmft.SGD(0.3)),
        lambda: dmft.noise_floor(flipped(ERF), dmft.SGD(0.3)),
        lambda: dmft.learned_directions(flipped(ERF), DESCENT),
        lambda: dmft.derive(flipped(ERF), DESCENT),
        lambda: dmft.derive(flipped(ERF), DESCENT, scaling="gradient-flow"),
        lambda: dmft.simulate(flipped(ERF), DESCENT, 100, 2, 1, dmft.Overlaps([[1.0]], [[0.3]])),
    ],
)
def test_flipped_labels_are_refused(call) -> None:
    with pytest.raises(BadParameter, match=re.escape("label_flip = 0.2")):
        call()


@pytest.mark.parametrize(
    ("unit", "algorithm", "why"),
    [
        (LINE, dmft.Adam(0.3), "no closed form"),
        (LINE, dmft.SignSGD(0.1), "no closed form"),
        (LINE, dmft.SGD(0.3, clip=1.0), "no closed form"),
        (LINE, dmft.SGD(0.3, normalised=True), "no closed form"),
        (LINE, dmft.SGD(0.3, repeat=dmft.Lookahead(0.1)), "no closed form"),
        (LINE, dmft.SGD(0.3, constraint="sphere"), "no closed form"),
        (ERF, dmft.SGD(0.3, weight_decay=0.1), "weight_decay = 0.1"),
        (ERF, dmft.SGD(0.3, momentum=0.5), "momentum = 0.5"),
        (ERF, dmft.SGD(0.3, loss="correlation"), "under the squared loss"),
        (ERF, dmft.Adam(0.3), "use dmft.SGD"),
    ],
)
def test_floors_of_other_steps_are_refused(unit, algorithm, why: str) -> None:
    with pytest.raises(BadParameter, match=re.escape(why)):
        dmft.noise_floor(dmft.Model(unit, unit, label_noise=0.1), algorithm)


@pytest.mark.parametrize("constraint", [None, "sphere"])
def test_the_correlation_loss_has_no_perfect_solution(constraint) -> None:
    algorithm = dmft.SGD(0.3, loss="correlation", constraint=constraint)
    with pytest.raises(BadParameter, match="under the squared loss"):
        dmft.maximal_learning_rate(dmft.Model(ERF, ERF), algorithm)

"""Boundaries and regions of the two-token attention, against direct minimisation and counts."""

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq

from dmft.errors import BadParameter
from dmft.literature import (
    positional_semantic,
    positional_semantic_boundaries,
    positional_semantic_diagram,
    positional_semantic_points,
    positional_semantic_regions,
    positional_semantic_risk,
)
from dmft.literature.two_token_tables import tables


def on_circle(a, omega, angles):
    """Risk along the quarter circle, e = sin and m = cos."""
    return positional_semantic_risk(a, omega)(np.sin(angles), np.cos(angles))


def bend(a, omega, angle, step=2e-2):
    """Second derivative along the circle by central differences of order 6."""
    weights = np.array([2, -27, 270, -490, 270, -27, 2]) / 180
    return weights @ on_circle(a, omega, angle + step * np.arange(-3, 4)) / step**2


@pytest.mark.cases(2)
@pytest.mark.parametrize("a", [0.8, 0.9, 1.0, 1.3])
def test_boundaries_are_where_the_loss_says(a):
    curves = positional_semantic_boundaries(a)
    risk = positional_semantic_risk

    def equal(w):
        return risk(a, w)(0.0, 1.0) - risk(a, w)(1.0, 0.0)

    def start(w):
        return float(np.diff(np.diag(risk(a, w).hessian(0.0, 0.0)))[0])

    assert curves.equal == pytest.approx(brentq(equal, 0.3, 1.0, xtol=1e-13), abs=1e-11)
    assert curves.direction == pytest.approx(brentq(start, 0.3, 1.0, xtol=1e-13), abs=1e-11)
    for name, angle in (("semantic", 0.0), ("positional", np.pi / 2)):
        found = brentq(lambda w: bend(a, w, angle), 0.2, 1.0)  # noqa: B023
        assert getattr(curves, name) == pytest.approx(found, abs=1e-6)


def test_published_digits_of_the_curves():
    # theory/sequence D.6 and D.7, from sums over four fields.
    a = [0.75, 0.9, 1.0, 1.4]
    curves = positional_semantic_boundaries(a)
    for name, expected in (
        ("direction", [0.946142871, 0.726609835, 0.640962618, 0.510488299]),
        ("positional", [1.031064530, 0.623814640, 0.508214237, 0.362538989]),
        ("equal", [0.984754735, 0.812087572, 0.737606829, 0.615251926]),
        ("semantic", [0.981233481, 0.887770460, 0.841605404, 0.756325151]),
    ):
        np.testing.assert_allclose(getattr(curves, name), expected, atol=6e-10)
    lobe = positional_semantic_boundaries([0.745, 0.75, 0.755, 0.76, 0.765])
    fold = [0.984734173, 0.980229914, 0.974440891, 0.966887416, 0.956978153]
    np.testing.assert_allclose(lobe.fold, fold, atol=6e-10)
    first = [0.984760910, 0.980528494, 0.975579897, 0.969878019, 0.963431196]
    np.testing.assert_allclose(lobe.coexistence, first, atol=6e-10)
    middle = [0.986041466, 0.980350996, 0.974731311, 0.969182090, 0.963702995]
    np.testing.assert_allclose(lobe.middle, middle, atol=6e-10)


def test_fold_and_coexistence_are_degenerate_minima():
    a = 0.755
    curves = positional_semantic_boundaries(a)
    # Just above the fold there is one more minimum, just below there is none.
    assert positional_semantic_diagram(a, curves.fold + 1e-9).number[0, 0] == 2
    assert positional_semantic_diagram(a, curves.fold - 1e-9).number[0, 0] == 1
    there = positional_semantic_diagram(a, curves.coexistence)
    assert there.number[0, 0] == 2
    assert np.ptp(there.risk[0, 0]) < 1e-13
    assert np.isnan(positional_semantic_boundaries([0.7, 0.9]).fold).all()


def test_special_points():
    points = positional_semantic_points()
    assert points["tip"][0] == pytest.approx(0.724390881431452, abs=1e-11)
    assert points["positional_end"] == pytest.approx((0.756852962, 1.0), abs=1e-9)
    assert points["coexistence_end"] == pytest.approx((0.765760101, 0.962387448), abs=1e-9)
    assert points["equal_stability"] == pytest.approx((0.763499872, 0.971652550), abs=1e-9)
    assert points["quadruple"] == pytest.approx((0.790153105, 0.872982561), abs=1e-9)
    assert points["tricritical_positional"] == pytest.approx((0.773596701, 0.93163683), abs=1e-8)
    # The theory's seventh digit comes from a shorter series; ours from the derivatives that
    # test_two_token_loss.py checks by direct averages.
    assert points["tricritical_semantic"] == pytest.approx((0.742297920, 0.986797259), abs=2e-9)
    # A mixed minimum is born at the corner, continuously to one side and by a fold to the other.
    a, omega = points["tricritical_semantic"]
    beyond = positional_semantic_diagram([a - 1e-3, a + 1e-3], [omega])
    assert np.isnan(positional_semantic_boundaries(a - 1e-3).fold)
    assert np.isfinite(positional_semantic_boundaries(a + 1e-3).fold)
    assert beyond.number.tolist() == [[1, 1]]


def test_codes_on_the_published_grid():
    codes = positional_semantic_regions(np.linspace(0.7, 1.0, 40), np.linspace(0.4, 1.0, 40))
    assert codes.shape == (40, 40)
    assert np.issubdtype(codes.dtype, np.integer)
    found = dict(zip(*np.unique(codes, return_counts=True), strict=True))
    assert found == {0: 912, 2: 11, 3: 227, 4: 164, 6: 155, 7: 131}


def test_minima_are_those_of_a_fine_search():
    # Every local minimum of the risk on 1501 points of the quarter circle, at random places, where
    # both corners are stable, and inside the lobe of mixed minima.
    rng = np.random.default_rng(5)
    places = [*zip(rng.uniform(0, 1.2, 15), rng.uniform(0, 0.99, 15), strict=True)]
    places += [*zip(rng.uniform(0.8, 1.1, 15), rng.uniform(0.6, 0.9, 15), strict=True)]
    places += [*zip(rng.uniform(0.73, 0.775, 20), rng.uniform(0.93, 0.998, 20), strict=True)]
    angles = np.linspace(0.0, np.pi / 2, 1501)
    several = 0
    for a, omega in places:
        values = on_circle(a, omega, angles)
        padded = np.concatenate([[values[1]], values, [values[-2]]])  # even at both ends
        low = np.flatnonzero((padded[1:-1] < padded[:-2]) & (padded[1:-1] < padded[2:]))
        diagram = positional_semantic_diagram(a, omega)
        n = int(diagram.number[0, 0])
        np.testing.assert_allclose(diagram.e[0, 0, :n], np.sin(angles[low]), atol=1.1e-3)
        assert diagram.best[0, 0] == np.argmin(values[low])
        np.testing.assert_allclose(
            diagram.risk[0, 0, :n],
            positional_semantic_risk(a, omega)(diagram.e[0, 0, :n], diagram.m[0, 0, :n]),
            atol=1e-14,
        )
        several += n > 1
    assert several >= 10


@pytest.mark.parametrize(
    ("a", "omega", "e", "m", "risk"),
    [
        (0.755, 0.975, 0.678401, 0.734692, 0.0942958856),
        (0.75, 0.985, 0.723253, 0.690584, 0.0943150638),
        (0.74, 0.995, 0.594512, 0.804087, 0.0939806367),
    ],
)
def test_mixed_minima(a, omega, e, m, risk):
    diagram = positional_semantic_diagram(a, omega)
    inside = (diagram.e[0, 0] > 0) & (diagram.m[0, 0] > 0)
    assert inside.sum() == 1
    found = [x[0, 0][inside][0] for x in (diagram.e, diagram.m, diagram.risk)]
    assert found[0] == pytest.approx(e, abs=6e-7)
    assert found[1] == pytest.approx(m, abs=6e-7)
    assert found[2] == pytest.approx(risk, abs=6e-11)
    # The gradient is normal to the circle and points inward: a minimum over the whole disc.
    point = np.array(found[:2])
    gradient = positional_semantic_risk(a, omega).gradient(*point)
    assert abs(gradient @ [-point[1], point[0]]) < 1e-13
    assert gradient @ point < 0


def test_names_of_the_whole_square():
    axis = np.linspace(0.0, 1.0, 200)
    diagram = positional_semantic_diagram(axis, axis)
    assert set(diagram.names) == {
        "semantic",
        "semantic, positional start",
        "semantic over mixed, positional start",
        "semantic over positional",
        "semantic over positional, positional start",
        "mixed",
        "mixed over semantic",
        "positional",
        "positional over semantic",
    }
    assert sum(diagram.count().values()) == 40000
    assert set(np.unique(diagram.codes)) == {0, 2, 3, 4, 6, 7}
    # Below the tip the semantic minimum is alone.
    alone = axis < positional_semantic_points()["tip"][0]
    assert set(np.unique(diagram.codes[:, alone])) == {0}
    # The global minimum leaves the semantic one where the boundaries say.
    curve = np.interp(axis, diagram.boundaries.a, diagram.boundaries.transition)
    chosen = np.take_along_axis(diagram.e, diagram.best[..., None], axis=-1)[..., 0]
    far = np.abs(axis[:, None] - curve[None, :]) > 1e-4
    np.testing.assert_array_equal((chosen > 0)[far], (axis[:, None] > curve[None, :])[far])


def test_degenerate_edges():
    # At omega = 0 the target is the student itself; at omega = 1 the limit from below.
    assert positional_semantic_regions([0.0, 3.0], [0.0]).tolist() == [[0, 0]]
    last = positional_semantic_diagram([0.7, 0.75, 1.0], [1.0])
    assert [last.names[i] for i in last.labels[0]] == ["semantic", "mixed", "positional"]
    assert last.e[0, 1, 0] == pytest.approx(
        positional_semantic_diagram(0.75, 1 - 1e-12).e[0, 0, 0], abs=1e-9
    )


def test_no_minimum_lies_inside():
    # R_m / m = -4 (1 - omega) (C_m / m) < 0 for m > 0 if C_m > 0 on the whole disc, and R_mm < 0 on
    # m = 0 (theory/sequence D.5, by numbers there): in x = m^2, dC/dx >= C_2(1) = 0.00149.
    y, x = np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81))
    inside = x + y <= 1 + 1e-12
    slopes = tables().C(y[inside], x[inside], 0, 1)
    assert slopes.min() == pytest.approx(0.001489283824826583, abs=1e-12)
    # The smallest is at (e, m) = (1, 0), and it rises from there on all sides.
    assert (y[inside][slopes.argmin()], x[inside][slopes.argmin()]) == (1.0, 0.0)


def test_extreme_targets():
    diagram = positional_semantic_diagram([0.0, -1.0, 1.0, 1e200], [0.7])
    assert diagram.codes[0, 0] == 0
    assert diagram.codes[0, 1] == diagram.codes[0, 2]
    assert diagram.names[diagram.labels[0, 3]] == "positional over semantic"


def test_refusals():
    for omega in ([0.5, 1.2], [-1e-9], [np.nan]):
        with pytest.raises(BadParameter, match="omega"):
            positional_semantic_regions([1.0], omega)
    for a in ([np.nan], [np.inf], [], [[1.0]]):
        with pytest.raises(BadParameter, match=r"axis .a. must be"):
            positional_semantic_regions(a, [0.5])
    with pytest.raises(BadParameter, match="finite"):
        positional_semantic_boundaries([np.inf])
    with pytest.raises(BadParameter, match="loss"):
        positional_semantic_boundaries([1.0], loss="cubed")


def test_the_declared_model_is_the_one_of_the_diagram():
    # Student and target outputs at given fields, against softmax by hand.
    a, omega = 0.8, 0.3
    model = positional_semantic(a, omega)
    rng = np.random.default_rng(1)
    h, h_star = rng.standard_normal((2, 2))

    def softmax(scores):
        return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)

    student = np.array(model.student.outputs.subs(dict(zip(model.student.fields, h, strict=True))))
    np.testing.assert_allclose(student.astype(float), softmax(np.outer(h, h)), rtol=1e-13)
    target = np.array(
        model.teacher.outputs.subs(dict(zip(model.teacher.fields, h_star, strict=True)))
    )
    position = softmax(a**2 * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    expected = (1 - omega) * softmax(np.outer(h_star, h_star)) + omega * position
    np.testing.assert_allclose(target.astype(float), expected, rtol=1e-13)
    assert model.encoding.orthogonal
    assert model.encoding.radius == 1.0
    free = positional_semantic(*sp.symbols("a omega", positive=True))
    assert {str(p) for p in free.parameters} == {"a", "omega"}
    with pytest.raises(BadParameter, match="omega"):
        positional_semantic(1.0, 1.5)
    with pytest.raises(BadParameter, match="finite"):
        positional_semantic(np.inf, 0.5)

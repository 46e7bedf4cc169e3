"""Minima over the feasible alignments: functions whose minima are known, and the two tokens."""

import numpy as np
import pytest

from dmft.analysis.diagram import region_diagram
from dmft.analysis.landscape import landscape, landscape_boundary
from dmft.errors import BadParameter, InvalidCovariance
from dmft.literature import (
    positional_semantic_boundaries,
    positional_semantic_diagram,
    positional_semantic_risk,
)


def test_a_minimum_inside_with_its_curvature_and_the_gradient_at_the_start():
    found = landscape(lambda e, m: (e - 0.3) ** 2 + 2 * (m + 0.2) ** 2)
    (only,) = found.minima
    assert (only.e, only.m) == pytest.approx((0.3, -0.2), abs=1e-9)
    assert only.curvature == pytest.approx(2.0, abs=1e-8)
    assert (only.kind, only.border, found.even) == ("mixed", False, (False,) * 3)
    # Minus the gradient (-0.6, 0.8) is of unit length already.
    assert found.direction == pytest.approx((0.6, -0.8), abs=1e-9)


def test_a_linear_risk_on_a_tilted_ellipse():
    # The minimum of -c.s over s^T G^-1 s <= 1 is s = G c / sqrt(c^T G c), of value -sqrt(c^T G c).
    gram, c = np.array([[1.0, 0.3], [0.3, 2.25]]), np.array([0.4, -0.7])
    found = landscape(lambda e, m: -c[0] * m - c[1] * e, gram)
    (only,) = found.minima
    size = np.sqrt(c @ gram @ c)
    assert (only.m, only.e) == pytest.approx(tuple(gram @ c / size), abs=1e-9)
    assert only.risk == pytest.approx(-size, abs=1e-12)
    assert only.border
    # Radial slope and curvature along the unit circle of a linear function: both its size.
    assert (only.pressure, only.curvature) == pytest.approx((size, size), abs=1e-8)


def test_minima_along_the_circle_that_are_none_of_the_disc_are_left_out():
    # R = |s|^2 - e^2 m^2 / 4: on the circle minimal at the diagonals, but the centre is below.
    found = landscape(lambda e, m: e**2 + m**2 - e**2 * m**2 / 4)
    (only,) = found.minima
    assert (only.e, only.m, only.risk, only.kind) == (0.0, 0.0, 0.0, "uninformative")
    assert found.direction is None
    assert found.name.endswith("no start")


def test_every_well_is_found_once():
    # Four images of one well inside, and the corners (0, +-1) held against the border.
    def risk(e, m):
        return (e**2 - 0.25) ** 2 + (m**2 - 0.16) ** 2 - 0.9 * m**8

    found = landscape(risk)
    assert found.even == (True, True, True)
    assert [x.kind for x in found.minima] == ["semantic", "mixed"]
    well, corner = found.minima[1], found.minima[0]
    # d/d(m^2): 2 (x - 0.16) - 3.6 x^3 = 0.
    x = min(r.real for r in np.roots([-3.6, 0, 2, -0.32]) if abs(r.imag) < 1e-9 and r.real > 0)
    assert (well.e, well.m) == pytest.approx((0.5, np.sqrt(x)), abs=1e-8)
    assert (corner.e, corner.m) == (0.0, 1.0)
    assert corner.risk == pytest.approx(0.0625 + 0.84**2 - 0.9, abs=1e-14)
    # Rates at the origin: -R_ee = 1, -R_mm = 0.64.
    np.testing.assert_allclose(found.rates, [1.0, 0.64], atol=1e-8)
    assert found.direction == pytest.approx((1.0, 0.0), abs=1e-6)
    assert (found.name, found.code) == ("semantic over mixed, positional start", 6)
    assert len(landscape(lambda e, m: risk(e, m) + 1e-3 * e).minima) > 2


def test_functions_of_single_numbers_serve():
    import math

    def scalar(e, m):
        return math.exp(-m) * (1 + e) if isinstance(m, float) else 1 / 0

    def array(e, m):
        return np.exp(-m) * (1 + e)

    with pytest.raises(ZeroDivisionError):
        landscape(scalar)

    def refusing(e, m):
        return math.exp(-m) * (1 + e)  # TypeError for arrays

    one, other = landscape(refusing, points=64), landscape(array, points=64)
    assert (one.disc.vectorised, other.disc.vectorised) == (False, True)
    assert [x.risk for x in one.minima] == pytest.approx([x.risk for x in other.minima], abs=1e-12)


@pytest.mark.parametrize(
    ("a", "omega"),
    [(1.0, 0.4), (1.0, 0.6), (1.0, 0.7), (0.95, 0.8), (0.755, 0.975), (0.745, 0.995), (0.9, 0.95)],
)
def test_two_tokens_agree_with_their_exact_minima(a, omega):
    found, exact = (
        landscape(positional_semantic_risk(a, omega)),
        positional_semantic_diagram(a, omega),
    )
    assert found.code == exact.codes[0, 0]
    assert found.name == exact.names[0]
    order = np.argsort(exact.risk[0, 0])
    for e, m, risk in ((x.e, x.m, x.risk) for x in found.minima):
        assert np.abs(exact.e[0, 0] - e).min() < 1e-8
        assert np.abs(exact.m[0, 0] - m).min() < 1e-8
        assert np.abs(exact.risk[0, 0] - risk).min() < 1e-13
    assert len(found.minima) == order.size


def test_boundaries_by_root_finding():
    def family(omega):
        return positional_semantic_risk(1.0, omega)

    exact = positional_semantic_boundaries(1.0)
    for measure, expected in (
        (lambda found: found.bend(e=0, m=1), exact.semantic),
        (lambda found: found.bend(e=1, m=0), exact.positional),
        (lambda found: found.rates[0] - found.rates[1], exact.direction),
    ):
        assert landscape_boundary(family, measure, 0.45, 1.0) == pytest.approx(expected, abs=1e-9)
    changed = landscape_boundary(family, lambda found: found.best.kind, 0.7, 0.78, xtol=1e-4)
    assert changed == pytest.approx(exact.equal, abs=1e-4)
    with pytest.raises(BadParameter, match="the same"):
        landscape_boundary(family, lambda found: found.best.kind, 0.1, 0.2)
    with pytest.raises(BadParameter, match="no sign change"):
        landscape_boundary(family, lambda found: found.best.risk, 0.1, 0.2)


def test_points_without_a_minimum_are_a_region():
    # At omega = 1 the loss of the two tokens does not depend on m: a valley, for a < 0.757.
    def measure(a, omega):
        return landscape(positional_semantic_risk(a, omega))

    diagram = region_diagram(measure, {"a": [0.75, 1.0], "omega": [0.9, 1.0]})
    names = np.array(diagram.names)[diagram.labels].tolist()
    assert names == [
        ["semantic", "positional"],
        ["no strict minimum", "positional"],
    ]
    assert diagram.codes.tolist() == [[0, 3], [-1, 3]]
    assert diagram.number.tolist() == [[1, 1], [0, 1]]
    assert np.isnan(diagram.risk[1, 0])


def test_refusals():
    with pytest.raises(BadParameter, match="called as risk"):
        landscape(1.0)
    with pytest.raises(BadParameter, match="no strict minimum"):
        landscape(lambda e, m: 0.0 * e)
    with pytest.raises(BadParameter, match="risk is nan"):
        landscape(lambda e, m: np.where(e > 0.9, np.nan, m))
    with pytest.raises(BadParameter, match="overlaps"):
        landscape(lambda e, m: m, gram=np.eye(3))
    with pytest.raises(InvalidCovariance, match="positive definite"):
        landscape(lambda e, m: m, gram=[[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(BadParameter, match="at least 8"):
        landscape(lambda e, m: m, points=2)

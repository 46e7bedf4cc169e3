"""Landscapes from declarations: a polynomial model solved by hand, the two tokens, refusals."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.literature import (
    positional_semantic,
    positional_semantic_boundaries,
    positional_semantic_diagram,
)

x, y, w, c = sp.symbols("x y w c", real=True)


def squares(encoding=1):
    """Student h1^2 + h2^2 and target (1 - w) (h*1^2 + h*2^2) + w c: a model solved by hand.

    With e on an opposite pair of length r, E h^2 = 1 + e^2: up to a constant
    R = 8 e^2 + 2 e^4 - (1 - w) (4 m^2 + 4 e^2) - 2 w c e^2. On the circle of r = 1, in y = e^2,
    R = 8 y + 2 y^2 - 2 w c y + const: semantic for w c < 4, positional beyond 6, y = (w c - 4) / 2
    in between. At the origin -R_ee = 8 (1 - w) + 4 w c - 16 and -R_mm = 8 (1 - w).
    """
    target = dmft.SequenceTarget((1 - w) * (x**2 + y**2) + w * c, [x, y])
    return dmft.Model(dmft.SequenceTarget(x**2 + y**2, [x, y]), target, encoding=encoding)


@pytest.mark.parametrize(
    ("weight", "level", "kind", "e2"),
    [(0.5, 6.0, "semantic", 0.0), (0.5, 10.0, "mixed", 0.5), (0.7, 9.0, "positional", 1.0)],
)
def test_a_model_solved_by_hand(weight, level, kind, e2):
    found = dmft.landscape(squares(), w=weight, c=level)
    assert (len(found.minima), found.best.kind) == (1, kind)
    assert found.best.e**2 == pytest.approx(e2, abs=1e-9)
    # With its constant: E g^2 / 2 = 4 + ..., E y^2 / 2 and E g y = 4 (1 - w) + 2 w c + ...
    risk = 4.0 + (8 * (1 - weight) ** 2 + 4 * weight * (1 - weight) * level) / 2
    risk += weight**2 * level**2 / 2 - 4 * (1 - weight) - 2 * weight * level
    risk += 8 * e2 + 2 * e2**2 - (1 - weight) * 4 - 2 * weight * level * e2
    assert found.best.risk == pytest.approx(risk, abs=1e-10)
    rates = [8 * (1 - weight) + 4 * weight * level - 16, 8 * (1 - weight)]
    np.testing.assert_allclose(found.rates, rates, atol=1e-6)
    assert found.starts_positional == (weight * level > 4)


def test_boundaries_of_the_model_solved_by_hand():
    model = squares()
    for measure, level, expected in (
        (lambda found: found.bend(e=0, m=1), 8.0, 0.5),
        (lambda found: found.bend(e=1, m=0), 10.0, 0.6),
        (lambda found: found.rates[0] - found.rates[1], 8.0, 0.5),
        (lambda found: found.best.kind == "positional", 10.0, 0.6),
    ):
        place = dmft.landscape_boundary(model, "w", measure, 0.1, 0.95, c=level, xtol=1e-7)
        assert place == pytest.approx(expected, abs=2e-7)


def test_diagram_of_the_model_solved_by_hand(tmp_path):
    levels, weights = np.linspace(2.0, 12.0, 7), np.linspace(0.05, 0.95, 6)
    diagram = dmft.landscape_diagram(squares(), {"c": levels, "w": weights}, points=64)
    product = weights[:, None] * levels[None, :]
    kinds = np.where(product < 4, "semantic", np.where(product > 6, "positional", "mixed"))
    assert np.array(diagram.names)[diagram.labels].tolist() == kinds.tolist()
    e2 = np.clip((product - 4) / 2, 0.0, 1.0)
    np.testing.assert_allclose(diagram.e**2, e2, atol=1e-8)
    np.testing.assert_array_equal(diagram.codes, 2 * (product > 4) + (e2 > 0.25))
    axes = dmft.plot(diagram, path=tmp_path / "diagram.png")
    assert axes.get_xlabel() == "$c$"
    assert "RegionDiagram(c (7) x w (6)" in repr(diagram)


def test_diagrams_are_saved(tmp_path):
    diagram = dmft.landscape_diagram(squares(), {"c": [3.0, 9.0, 12.0], "w": [0.5, 0.9]}, points=64)
    again = dmft.load(diagram.save(tmp_path / "regions.nc"))
    assert again == diagram
    assert again.names == diagram.names
    table = diagram.to_xarray()
    assert table["region"].sel(c=3.0, w=0.5).item() == "semantic"
    assert table["e"].dims == ("w", "c")
    assert diagram != dmft.landscape_diagram(squares(), {"c": [3.0], "w": [0.5]}, points=64)


def test_longer_encodings_reach_further():
    # |p| = 2: e up to 2; on the ellipse m^2 = 1 - e^2/4, R = 2 y^2 + (8 - 3 (1-w) - 2 w c) y.
    found = dmft.landscape(squares(encoding=2), w=0.5, c=12.0)
    (best,) = found.minima
    assert best.e**2 == pytest.approx((2 * 0.5 * 12 + 3 * 0.5 - 8) / 4, abs=1e-9)
    assert best.e**2 / 4 + best.m**2 == pytest.approx(1.0, abs=1e-12)
    # The rate of e counts the length of p squared.
    assert found.rates[0] == pytest.approx(4 * (8 * 0.5 + 4 * 0.5 * 12 - 16), abs=1e-5)


def test_risks_with_special_functions():
    # E erf(u)^2 of a moved field is a bivariate normal probability, which NumPy does not have.
    z = sp.Symbol("z", real=True)
    target = dmft.SequenceTarget(x + y + 1, [x, y])
    model = dmft.Model(dmft.SequenceNetwork(sp.erf(z), 2), target, encoding=[1, 1])
    found, risk = dmft.landscape(model, points=32), dmft.population_risk(model)
    assert risk.expr.has(sp.erf)
    turns = np.arange(24) * np.pi / 12
    places = [(r * np.sin(t), r * np.cos(t)) for r in (0.5, 1.0) for t in turns]
    values = [risk(e, m) for e, m in places]
    np.testing.assert_allclose([found.risk(e, m) for e, m in places], values, atol=1e-12)
    assert found.best.kind == "mixed"
    assert risk(found.best.e, found.best.m) == pytest.approx(found.best.risk, abs=1e-12)
    # Half a step from the next place of the grid, at a curvature of 2, the risk rises by 0.017.
    assert min(values) - 0.02 < found.best.risk < min(values)


@pytest.mark.slow
def test_the_declared_two_tokens_have_their_diagram():
    omega = sp.Symbol("omega", positive=True)
    model = positional_semantic(1.0, omega)
    risk = dmft.population_risk(model)
    curves, exact = positional_semantic_boundaries(1.0), (0.4, 0.6, 0.7, 0.8, 0.9)
    for value in exact:
        found = dmft.landscape(risk, omega=value)
        diagram = positional_semantic_diagram(1.0, value)
        assert (found.code, found.name) == (diagram.codes[0, 0], diagram.names[0])
        assert found.best.risk == pytest.approx(np.nanmin(diagram.risk), abs=1e-11)
    for measure, expected in (
        (lambda found: found.bend(e=0, m=1), curves.semantic),
        (lambda found: found.bend(e=1, m=0), curves.positional),
        (lambda found: found.rates[0] - found.rates[1], curves.direction),
    ):
        place = dmft.landscape_boundary(risk, "omega", measure, 0.45, 0.99)
        assert place == pytest.approx(expected, abs=1e-7)


def test_refusals():
    with pytest.raises(BadParameter, match="one e and one m"):
        dmft.landscape(squares(encoding=None), w=0.5, c=1.0)
    with pytest.raises(BadParameter, match="leave it out"):
        dmft.landscape(squares(), gram=np.eye(2), w=0.5, c=1.0)
    with pytest.raises(BadParameter, match="no value for c"):
        dmft.landscape(squares(), w=0.5)
    with pytest.raises(BadParameter, match="unknown parameter"):
        dmft.landscape(squares(), w=0.5, c=1.0, b=2.0)
    with pytest.raises(BadParameter, match="no parameters"):
        dmft.landscape(lambda e, m: m, w=0.5)
    with pytest.raises(BadParameter, match=r"model = 1\.0 must be a dmft\.SequenceModel"):
        dmft.landscape_boundary(1.0, "w", lambda found: found.code, 0, 1)
    with pytest.raises(BadParameter, match="two axes"):
        dmft.landscape_diagram(squares(), {"w": [0.1]}, c=1.0)
    with pytest.raises(BadParameter, match="non-empty"):
        dmft.landscape_diagram(squares(), {"w": [], "c": [1.0]})


@pytest.mark.slow
def test_flows_end_in_the_minima_of_the_diagram():
    # Gradient flow of the derived equations, from both sides, at a point of each kind of region.
    a, omega = sp.symbols("a omega", positive=True)
    equations = dmft.derive(positional_semantic(a, omega), dmft.GradientFlow())
    ends = set()
    for place in ((1.0, 0.4), (1.0, 0.6), (1.0, 0.8), (0.95, 0.95), (0.745, 0.995)):
        exact = positional_semantic_diagram(*place)
        for start in (dmft.Alignment(e=0.05, m=0.9), dmft.Alignment(e=0.95, m=0.05)):
            run = dmft.solve(equations, start, t_max=1e5, a=place[0], omega=place[1])
            gaps = np.hypot(exact.e[0, 0] - run.e[-1], exact.m[0, 0] - run.m[-1])
            assert np.nanmin(gaps) < 1e-3
            ends.add((place, int(np.nanargmin(gaps))))
    # Where there are two minima, each is reached from its side.
    assert len(ends) == 7

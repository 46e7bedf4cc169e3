"""Names, shapes and conventions of scalings, regimes and wide students."""

import pytest
import sympy as sp

import dmft
from dmft.typeset.plain import in_letters

z = sp.Symbol("z", real=True)
MODEL = dmft.Model(dmft.Committee(z**2, 3), dmft.Committee(z**2, 2))


def test_a_wide_run_has_the_declared_blocks():
    start = dmft.random_overlaps(MODEL, dim=50, seed=0)
    equations = dmft.derive(MODEL, dmft.SGD(0.03), scaling="mean-field", dim=50)
    assert equations.kind == "ode"
    assert set(equations.terms) == set(equations.evaluate(start)) == {"M", "Q_perp"}
    run = dmft.solve(equations, start, t_max=0.1, save_at=3)
    assert run.M.shape == (3, 3, 2)
    assert run.Q_perp.shape == (3, 3)
    assert run.readout.shape == (3, 3)
    assert run.risk.shape == (3,)
    assert run.steps(50)[-1] == pytest.approx(500)  # t p d / gamma
    assert run.provenance["scaling"] == "mean-field"


def test_regimes_print_every_region():
    plane = dmft.regimes(MODEL)
    text, latex = str(plane), plane.latex()
    for region in plane:
        assert region.title in text
        assert region.title in latex
        assert in_letters(region.condition) in text
        assert (region.equations is None) == (region.name == "no ode")
    assert "\\begin{align*}\n\n" not in latex
    assert dmft.Scaling(learning_rate=-0.5).kappa == sp.Rational(1, 2)

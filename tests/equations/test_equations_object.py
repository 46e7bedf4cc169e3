"""What a user reads and manipulates: terms, explicit forms, text, LaTeX, parameters, refusals."""

import pickle
import re
import time

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.errors import BadParameter, InvalidCovariance, NotClosed, ShapeMismatch
from dmft.model import FIELD

Z = sp.Symbol("z", real=True)
ERF = sp.erf(Z / sp.sqrt(2))


def symbolic_erf(constraint=None):
    model = dmft.Model(
        dmft.Committee(ERF, sp.Symbol("p")), dmft.Committee(ERF, sp.Symbol("k")), sp.Symbol("D")
    )
    return dmft.derive(model, dmft.SGD(sp.Symbol("g"), constraint=constraint))


def test_phase_retrieval_equals_the_published_polynomials():
    """theory/one_pass E.2: F_m and F_q of phase retrieval p = k = 1."""
    square = dmft.Committee(Z**2, 1)
    g, D = sp.symbols("g D", positive=True)
    explicit = dmft.derive(dmft.Model(square, square, D), dmft.SGD(g)).explicit()
    q, m, rho = (explicit.symbols[name] for name in ("Q_11", "M_11", "P_11"))
    F_m = 6 * m * (rho - q)
    F_q = 4 * (rho * q + 2 * m**2 - 3 * q**2) + 4 * g * (
        D * q + 15 * q**3 - 6 * rho * q**2 + 3 * rho**2 * q - 24 * m**2 * q + 12 * rho * m**2
    )
    assert sp.expand(explicit.rhs[m] - F_m) == 0
    assert sp.expand(explicit.rhs[q] - F_q) == 0
    assert explicit.jacobian().shape == (2, 2)


def test_spherical_phase_retrieval_equals_the_escape_equation():
    """theory/one_pass F.1: dm/dt = m [A (1 - m^2) - B], A = 4 - 24 g, B = 2 g D."""
    square = dmft.Committee(Z**2, 1)
    g, D = sp.symbols("g D", positive=True)
    equations = dmft.derive(dmft.Model(square, square, D), dmft.SGD(g, constraint="sphere"))
    explicit = equations.explicit(P=[[1]])
    m, q = explicit.symbols["M_11"], explicit.symbols["Q_11"]
    rate = explicit.rhs[m].subs(q, 1)
    assert sp.expand(rate - m * ((4 - 24 * g) * (1 - m**2) - 2 * g * D)) == 0


def test_explicit_equations_take_values_by_name():
    square = dmft.Committee(Z**2, 1)
    equations = dmft.derive(dmft.Model(square, square, sp.Symbol("D")), dmft.SGD(0.1))
    explicit = equations.explicit(P=[[1]])
    m, q = explicit.symbols["M_11"], explicit.symbols["Q_11"]
    at = explicit.subs({"M_11": 0.5, sp.Symbol("Q_11"): 1, "D": 0.2})  # not our assumptions
    assert at.rhs[q] == explicit.subs({m: 0.5, q: 1, sp.Symbol("D"): 0.2}).rhs[q]
    there = equations.evaluate(dmft.Overlaps([[1.0]], [[0.5]]), D=0.2)
    assert float(at.rhs[q]) == pytest.approx(there["Q"][0, 0], rel=1e-14)
    with pytest.raises(
        dmft.errors.BadParameter, match="M_12 is not in these equations; their symbols are"
    ):
        explicit.subs({"M_12": 0.5})


def test_dropping_a_term_drops_it_everywhere():
    equations = symbolic_erf("sphere")
    silent = equations.without("label_noise")
    assert "label_noise" not in silent.terms["Q"]
    assert "label_noise" not in silent.parameters
    start = dmft.Overlaps(np.eye(2), 0.3 * np.eye(2))
    quiet = equations.evaluate(start, g=0.5, D=0.0)
    dropped = silent.evaluate(start, g=0.5)
    for name in ("Q", "M"):
        np.testing.assert_allclose(dropped[name], quiet[name], atol=1e-15)
    flow = equations.without("sgd_noise", "label_noise")
    model = equations.model
    expected = dmft.derive(model, dmft.GradientFlow(constraint="sphere")).evaluate(start)
    np.testing.assert_allclose(flow.evaluate(start)["Q"], expected["Q"], atol=1e-15)
    nothing = equations.without("learning", "interaction", "sgd_noise", "label_noise")
    assert np.abs(nothing.evaluate(start)["Q"]).max() == 0
    assert set(nothing.terms["M"]) <= {"sphere"}
    with pytest.raises(BadParameter, match="no term is called 'noise'"):
        equations.without("noise")


def test_scaling_decides_which_terms_survive():
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 2), 0.1)
    start = dmft.Overlaps(np.eye(2), 0.3 * np.eye(2))
    flow = dmft.derive(model, dmft.GradientFlow())
    slow = dmft.derive(model, dmft.SGD(0.5), scaling="gradient-flow")
    assert slow.terms == flow.terms
    np.testing.assert_array_equal(slow.evaluate(start)["Q"], flow.evaluate(start)["Q"])
    run = dmft.solve(slow, start, 1.0, save_at=2)
    assert run.steps(dim=100)[-1] == pytest.approx(100 * 2 / 0.5)
    assert dmft.derive(model, dmft.SGD(0.5), scaling="high-dimensional") == dmft.derive(
        model, dmft.SGD(0.5)
    )
    for algorithm, scaling in ((dmft.GradientFlow(), "high-dimensional"), (dmft.SGD(1), "ntk")):
        with pytest.raises(BadParameter, match="scaling"):
            dmft.derive(model, algorithm, scaling=scaling)


def test_learning_and_interaction_sum_to_the_gradient_flow():
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 2))
    equations = dmft.derive(model, dmft.GradientFlow())
    start = dmft.Overlaps(np.eye(2), 0.3 * np.eye(2))
    whole = equations.evaluate(start)["M"]
    learning = equations.without("interaction").evaluate(start)["M"]
    interaction = equations.without("learning").evaluate(start)["M"]
    np.testing.assert_allclose(learning + interaction, whole, atol=1e-15)
    assert np.abs(interaction).max() > 1e-2


def test_symbolic_equations_print_in_under_a_page():
    for constraint in (None, "sphere"):
        text = str(symbolic_erf(constraint))
        assert len(text.splitlines()) < 40
        assert max(map(len, text.splitlines())) < 160
        assert "steps * γ / (p d)" in text
        assert "I_4(j, l, r, s) = ⟨σ'(h[j]) σ'(h[l]) σ(h*[r]) σ(h*[s])⟩" in text


# Printing all kernels of a pair takes six seconds; those of erf are printed in one.
@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("teacher", "kernels"),
    [
        *((ERF, kernels) for kernels in ("auto", "all", "none")),
        *((Z**3 - 3 * Z, kernels) for kernels in ("auto", "none")),
        pytest.param(Z**3 - 3 * Z, "all", marks=pytest.mark.slow),
    ],
)
def test_latex_is_balanced_and_complete(kernels, teacher):
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(teacher, 2), 0.1)
    text = dmft.derive(model, dmft.SGD(0.5)).latex(kernels=kernels)
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}")
    assert text.count(r"\left") == text.count(r"\right")
    assert text.count("{") == text.count("}")
    assert r"\frac{d M_{j r}}{dt}" in text
    assert ("arcsin" in text) == (kernels != "none")
    assert not re.search(r"learning_rate|readout", text)


def test_notebook_representations():
    equations = symbolic_erf()
    shown = equations._repr_latex_()
    assert shown.startswith(r"\begin{align*}")
    assert equations.latex(width=560).endswith(shown)
    assert r"\arcsin" in dmft.population_risk(equations.model)._repr_latex_()


def test_records_are_data():
    equations = symbolic_erf()
    again = pickle.loads(pickle.dumps(equations))
    assert again == equations
    assert again.fingerprint == equations.fingerprint == symbolic_erf().fingerprint
    assert symbolic_erf("sphere").fingerprint != equations.fingerprint


def test_derivation_is_fast():
    start = time.thread_time()
    symbolic_erf()
    assert time.thread_time() - start < 2.0  # measured 10 ms; a guard against blow-up only


def test_parameters_are_resolved_by_name_and_by_symbol():
    equations = symbolic_erf()
    start = dmft.Overlaps(np.eye(2), 0.3 * np.eye(2))
    by_symbol = equations.evaluate(start, g=0.5, D=0.1)
    by_name = equations.evaluate(start, learning_rate=0.5, label_noise=0.1)
    np.testing.assert_array_equal(by_symbol["Q"], by_name["Q"])
    with pytest.raises(BadParameter, match="pass g="):
        equations.evaluate(start, D=0.1)
    with pytest.raises(BadParameter, match="unknown parameter 'eta'"):
        equations.evaluate(start, eta=0.1)
    with pytest.raises(BadParameter, match="finite"):
        equations.evaluate(start, g=float("nan"), D=0.0)


def test_activation_parameters_are_run_time_values():
    b = sp.Symbol("b", positive=True)
    steep = dmft.Committee(sp.erf(b * Z), 2)
    equations = dmft.derive(dmft.Model(steep, dmft.Committee(ERF, 2)), dmft.SGD(0.5))
    start = dmft.Overlaps(np.eye(2), 0.3 * np.eye(2))
    matched = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 2)), dmft.SGD(0.5))
    for name, rate in equations.evaluate(start, b=1 / np.sqrt(2)).items():
        np.testing.assert_allclose(rate, matched.evaluate(start)[name], atol=1e-14)


def test_refusals_of_declarations():
    erf = dmft.Committee(ERF, 2)
    model = dmft.Model(erf, erf)
    with pytest.raises(BadParameter, match="width must be at least 1"):
        dmft.Committee(ERF, 0)
    with pytest.raises(BadParameter, match="SymPy expression"):
        dmft.Committee("erf(z)", 2)
    with pytest.raises(ShapeMismatch, match="readout has 3 entries"):
        dmft.Committee(ERF, 2, readout=[1, 2, 3])
    with pytest.raises(BadParameter, match="label_noise must be non-negative"):
        dmft.Model(erf, erf, -0.1)
    with pytest.raises(BadParameter, match="learning_rate must be positive"):
        dmft.SGD(0.0)
    with pytest.raises(BadParameter, match="constraint"):
        dmft.SGD(0.1, constraint="ball")
    with pytest.raises(BadParameter, match="reserved"):
        dmft.derive(dmft.Model(dmft.Committee(sp.Symbol("p") * Z, 2, field=Z), erf), dmft.SGD(1.0))
    with pytest.raises(ShapeMismatch, match="student width 3"):
        dmft.derive(model, dmft.SGD(0.1)).evaluate(dmft.Overlaps(np.eye(3), np.zeros((3, 2))))
    with pytest.raises(BadParameter, match="Q_jj = 1"):
        dmft.derive(model, dmft.SGD(0.1, constraint="sphere")).evaluate(
            dmft.Overlaps(2 * np.eye(2), np.zeros((2, 2)))
        )
    with pytest.raises(BadParameter, match="at most p \\+ k"):
        dmft.derive(model, dmft.SGD(0.1)).explicit(4, 4)
    two = dmft.Model(dmft.Committee(Z**2, 1), dmft.Committee(Z**2, 2))
    square = dmft.derive(two, dmft.SGD(0.1))
    for wrong, error in (
        ({"P": [[1]]}, ShapeMismatch),
        ({"P": [[1, 2], [3, 4]]}, InvalidCovariance),
        ({"readout": [1, 2]}, ShapeMismatch),
        ({"width": 0}, BadParameter),
    ):
        with pytest.raises(error):
            square.explicit(**wrong)


def test_refusals_of_starts():
    with pytest.raises(InvalidCovariance, match=r"not symmetric.*Q\[0,1\]|not symmetric"):
        dmft.Overlaps([[1, 0.2], [0.1, 1]], [[0.0], [0.0]])
    with pytest.raises(InvalidCovariance, match="smallest eigenvalue"):
        dmft.Overlaps([[1.0]], [[1.2]], [[1.0]])
    with pytest.raises(ShapeMismatch, match="expected"):
        dmft.Overlaps([[1.0]], [[0.1], [0.2]], [[1.0]])


def test_open_expectations_are_listed_by_build():
    unit = dmft.Committee(sp.erf(Z), 2, field=Z)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SGD(0.1))
    kick = At(sp.DiracDelta(FIELD - 1), x.h[x.j]) * At(sp.tanh(FIELD), x.h[x.l])
    kick = sp.Sum(Expectation(kick * At(sp.tanh(FIELD), x.h[x.u])), (x.u, 1, x.p))
    equations = equations.with_term("Q", "kick", kick)
    assert equations.open_kernels
    with pytest.raises(NotClosed, match="tanh"):
        dmft.build(equations)

"""Infinitely wide students at finite gamma/p: vectors, theory's closed form, full equations."""

import numpy as np
import pytest
import sympy as sp
from scipy.stats import norm

import dmft
from dmft.errors import BadParameter, NotClosed
from dmft.literature import phase_retrieval

WIDE = "wide-high-dimensional"
z = sp.Symbol("z", real=True)


def sphere(rate):
    return dmft.SGD(rate, constraint="sphere")


def typical(p, dim):
    """All overlaps of the size that random ones have."""
    return dmft.Overlaps(np.eye(p), np.full((p, 1), dim**-0.5))


def normal(p, dim):
    """Overlaps at equal steps of probability of N(0, 1/d), residuals orthogonal."""
    quantiles = norm.ppf((np.arange(p) + 0.5) / p)
    M = quantiles[:, None] / np.sqrt(np.mean(quantiles**2) * dim)
    Q = M @ M.T
    np.fill_diagonal(Q, 1.0)
    return dmft.Overlaps(Q, M)


@pytest.mark.cases(1)
@pytest.mark.parametrize("number", range(3))
def test_exit_times_of_the_theory(dynamics_vectors, number):
    v = dynamics_vectors["exit"]["mean_field_p_inf"][number]
    p = 7  # only gamma/p counts
    model = phase_retrieval(p, label_noise=v["Delta"])
    equations = dmft.derive(model, sphere(p * v["gamma_over_p"]), scaling=WIDE)
    start = typical(p, v["d"])
    found = dmft.escape_time(equations, start, 5.0, fraction=v["T"])
    assert found.value == pytest.approx(v["t_exit"], rel=1e-10)
    run = dmft.solve(equations, start, found.value, rtol=1e-11, atol=1e-15)
    assert run.coupling[-1, 0] == pytest.approx(v["C_at_exit"], rel=1e-9)


def test_derived_rates_are_those_of_theory():
    """theory/one_pass F.4, typed."""
    g, Delta = 0.3, 0.7
    equations = dmft.derive(phase_retrieval(4, label_noise=Delta), sphere(4 * g), scaling=WIDE)
    u, C, X = 0.04, 1.0, 0.04
    alpha = 4 * (1 - C * u) - 2 * g * (2 + Delta - 4 * u + 2 * C**2 * u**2)
    beta = 4 * (1 - C**2 * u) + 16 * g * (1 - 2 * C * u + C**3 * u**2)
    rates = equations.evaluate(typical(4, 1 / u))
    assert rates["variance"][0] == pytest.approx(2 * alpha * X, rel=1e-13)
    assert rates["saturation"][0] == pytest.approx(2 * beta * X, rel=1e-13)
    coupling = 8 * (1 - C) + 4 * g * ((2 + Delta) * C + 8 - 20 * C * u + 10 * C**3 * u**2)
    assert rates["coupling"][0] == pytest.approx(coupling, rel=1e-13)
    # Away from C = 1, symbol by symbol.
    terms, at = equations.terms["coupling"], {"label_noise": Delta, "learning_rate": g, "p": 1}
    x, y = sp.symbols("x y")
    found = sum(terms.values())
    for entry in found.atoms(sp.Indexed):
        found = found.subs(entry, {"coupling": x, "mean_square": y}[str(entry.base)])
    found = found.subs({s: at[s.name] for s in found.free_symbols if s.name in at})
    expected = 8 * (1 - x) + 4 * g * ((2 + Delta) * x + 8 - 20 * x * y + 10 * x**3 * y**2)
    assert max(map(abs, sp.Poly(sp.expand(found - expected), x, y).coeffs())) < 1e-13


@pytest.mark.slow
def test_full_equations_of_two_hundred_students():
    p, dim = 200, 1e3
    model, sgd, start = phase_retrieval(p), sphere(0.2 * p), normal(p, dim)
    full = dmft.escape_time(
        dmft.derive(model, sgd), start, 3.0, fraction=0.1, rtol=1e-6, atol=1e-10
    )
    wide = dmft.escape_time(dmft.derive(model, sgd, scaling=WIDE), start, 3.0, fraction=0.1)
    assert round(wide.value, 5) == 0.71451
    assert round(full.value, 4) == 0.7145
    assert wide.steps(1000) == pytest.approx(full.steps(1000), rel=2e-4)


@pytest.mark.slow
def test_the_error_falls_as_one_over_the_width():
    gaps = []
    for p in (50, 100, 200):
        model, sgd, start = phase_retrieval(p), sphere(0.2 * p), normal(p, 1e5)
        full, wide = (
            dmft.escape_time(
                dmft.derive(model, sgd, **how), start, 3.0, fraction=0.1, rtol=1e-8, atol=1e-12
            )
            for how in ({}, {"scaling": WIDE})
        )
        gaps.append(full.value - wide.value)
    assert gaps[-1] < 1e-3
    ratios = np.divide(gaps[:-1], gaps[1:])
    assert np.all((ratios > 1.8) & (ratios < 2.8)), gaps


def test_learning_rate_zero_keeps_the_residuals_orthogonal():
    """C = 1 is the closure of the mean field."""
    equations = dmft.derive(phase_retrieval(3), sphere(1e-9), scaling=WIDE)
    run = dmft.solve(equations, typical(3, 1e3), 4.0)
    assert np.abs(run.coupling - 1).max() < 1e-7
    assert run.risk[-1] < 1e-2


def test_what_it_says_of_itself():
    equations = dmft.derive(phase_retrieval(3), sphere(0.3), scaling=WIDE)
    assert "p -> infinity" in equations.approximation
    assert "Q[j,l] = C M[j] M[l]" in str(equations)
    assert r"Q_{jl} = C M_{j} M_{l}" in equations.latex()
    quiet = equations.without("sgd_noise", "label_noise")
    assert quiet.evaluate(typical(3, 100))["coupling"][0] == 0.0


def cases():
    square, erf = dmft.Committee(z**2, 3), dmft.Committee(sp.erf(z), 3)
    quartic = dmft.Committee(dmft.hermite(4, z), 3)
    return (
        (dmft.Model(square, square), sphere(0.1), BadParameter, "one teacher unit"),
        (phase_retrieval(3), dmft.SGD(0.1), BadParameter, "on the sphere"),
        (
            dmft.Model(erf, dmft.Committee(sp.erf(z), 1)),
            sphere(0.1),
            NotClosed,
            "not a polynomial",
        ),
        (
            dmft.Model(quartic, dmft.Committee(dmft.hermite(4, z), 1)),
            sphere(0.1),
            NotClosed,
            "is not M_j|higher|moments|is not conserved",
        ),
        (
            dmft.Model(dmft.Committee(z**2, 2, (1, 2)), dmft.Committee(z**2, 1)),
            sphere(0.1),
            BadParameter,
            "equal readouts",
        ),
    )


@pytest.mark.parametrize("case", cases(), ids=lambda case: case[3][:12])
def test_refused_models(case):
    model, algorithm, error, reason = case
    with pytest.raises(error, match=reason):
        dmft.derive(model, algorithm, scaling=WIDE)


def test_refused_starts():
    equations = dmft.derive(phase_retrieval(2), sphere(0.1), scaling=WIDE)
    for start, reason in (
        (dmft.Overlaps([[1, 0.9], [0.9, 1]], [[0.1], [0.1]]), "aligned with each other"),
        (dmft.Overlaps(np.eye(2), [[0.0], [0.0]]), "zero at the start"),
        (dmft.Overlaps(np.eye(2), [[0.1], [0.1]], [[2.0]]), "unit length"),
        (dmft.Overlaps(np.eye(2), [[0.1], [0.1]], readout=[3.0, 3.0]), "declare them in the model"),
    ):
        with pytest.raises(BadParameter, match=reason):
            dmft.solve(equations, start, 1.0)
    with pytest.raises(BadParameter, match="scalar already"):
        equations.explicit()


def test_what_needs_overlaps_is_refused():
    equations = dmft.derive(phase_retrieval(2), sphere(0.1), scaling=WIDE)
    start = typical(2, 100)
    with pytest.raises(BadParameter, match="cosines are computed from Q and M"):
        dmft.escape_time(equations, start, 1.0, overlap=0.5)
    for verb in (dmft.fixed_points, dmft.stability):
        with pytest.raises(BadParameter, match="defined for Q and M"):
            verb(equations, start)


def test_indices_are_written_in_one_way():
    """Q_jl stood beside M[j]."""
    from dmft.typeset.plain import plain

    assert (
        plain(r"Q_{jl} = C M_{j} M_l, P_{r s} = \delta_{r s}")
        == "Q[j,l] = C M[j] M[l], P[r,s] = δ_rs"
    )
    assert plain(r"C_{12} + \gamma_{max} x_{i}") == "C_12 + γ_max x[i]"
    wide = dmft.regimes(dmft.literature.phase_retrieval(1))["mean-field"].equations
    assert "Q[j,j] = q[j]" in str(wide)
    assert "Q_j" not in str(wide)

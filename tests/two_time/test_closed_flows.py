"""Flows of affine students without samples: derived equations against hand, modes and samples."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

# tests/ is no package (importlib mode): the witness is loaded from its file.
_SPEC = importlib.util.spec_from_file_location(
    "ridge_by_hand", Path(__file__).with_name("ridge_by_hand.py")
)
_WITNESS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_WITNESS)

z, v, TIME, KAPPA = sp.symbols("z v t kappa", real=True)
LINE = dmft.Committee(z, 1)
DESCENT = dmft.GradientDescent(1, 1.5, ridge=0.1)
PAIR = dmft.Model(
    dmft.Committee(2 * z + sp.S.Half, 2, readout=(1, sp.Rational(-3, 5))),
    dmft.MultiIndex(z - v / 2 + sp.Rational(3, 10), [z, v]),
    label_noise=0.3,
)
PAIR_START = dmft.Overlaps(
    [[1.0, 0.2], [0.2, 0.8]], [[0.2, 0.1], [-0.1, 0.3]], [[1.2, 0.3], [0.3, 0.9]]
)


def flow_of(model, descent=DESCENT):
    return dmft.derive(model, descent, scaling="gradient-flow")


def test_derived_ridge_regression_is_that_by_hand():
    """Two forms of the same kernels: by N = E e h* or by the bare covariance of the residuals."""
    given = (0.6, 0.2, (1.0, 0.3, 1.2), 0.3)
    runs = [
        dmft.solve(problem(*given), None, 2.0, tol=1e-7, save_at=[0.5, 1.0, 2.0])
        for problem in (dmft.literature.ridge_flow, _WITNESS.ridge_by_hand)
    ]
    for name in "CRDK":
        np.testing.assert_allclose(runs[0].table(name), runs[1].table(name), atol=1e-6)
    np.testing.assert_allclose(
        [r.at("R", 2.0, 0.5) for r in runs], [runs[1].at("R", 2.0, 0.5)] * 2, atol=1e-6
    )
    assert abs(runs[0].M[-1] - runs[1].M[-1]) < 1e-7
    assert abs(runs[0].N[-1] - runs[1].N[-1]) < 1e-7


@pytest.mark.slow
def test_symbols_are_parameters():
    alpha, q = sp.symbols("alpha q")
    problem = dmft.literature.ridge_flow(alpha, 0.1, (q, 0.2, 1))
    assert [y.name for y in problem.parameters] == ["alpha", "q"]
    run, fixed = (
        dmft.solve(p, None, 0.5, tol=1e-6, measure_error=False, **given)
        for p, given in (
            (problem, {"alpha": 2.0, "q": 0.9}),
            (dmft.literature.ridge_flow(2, 0.1, (0.9, 0.2, 1)), {}),
        )
    )
    assert abs(run.M[-1] - fixed.M[-1]) < 1e-12
    free = flow_of(dmft.Model(LINE, LINE), dmft.GradientDescent(1, alpha))
    assert [y.name for y in free.closed(dmft.Overlaps([[1.0]], [[0.2]])).parameters] == ["alpha"]


def test_penalties_that_follow_the_time():
    """Modes fall like exp(-mu t - t^2 / 2) under the penalty t."""
    flow = flow_of(dmft.Model(LINE, LINE, label_noise=0.3), dmft.GradientDescent(1, 2, ridge=0.1))
    problem = flow.closed(dmft.Overlaps([[1.0]], [[0.2]]), ridge=TIME)
    run = dmft.solve(problem, None, 1.0, tol=1e-7, measure_error=False)
    low, high = (1 - np.sqrt(2)) ** 2, (1 + np.sqrt(2)) ** 2
    angle = (np.arange(4000) + 0.5) * np.pi / 4000
    mu = (high + low) / 2 - (high - low) / 2 * np.cos(angle)
    weight = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * mu) * np.pi / 4000
    x, w = np.polynomial.legendre.leggauss(40)
    s, w = (x + 1) / 2, w / 2
    learned = np.exp(-np.outer(1 - s, mu) - (1 - s[:, None] ** 2) / 2).T @ w
    assert abs(run.M[-1] - weight @ (np.exp(-mu - 0.5) * 0.2 + learned * mu)) < 1e-8


def compared(flow, start, **given):
    """Runs without and with samples: everything within what the second claims."""
    p, k = start.p, start.k
    run = dmft.solve(
        flow.closed(start, **given), None, 1.0, tol=1e-5, save_at=[0.5, 1.0], measure_error=False
    )
    other = dmft.solve(flow, start, 1.0, points=8, levels=4, **given)
    assert str(run.status) == str(other.status) == "ok"
    inverse = np.linalg.inv(start.P)
    C = other.Q2 - np.einsum("tjr,rq,slq->tsjl", other.M, inverse, other.M)
    alpha = other.parameters["samples_per_dim"]
    for j, r in np.ndindex(p, k):
        gap = abs(run[f"M_{j + 1}_{r + 1}"][-1] - other.M[-1, j, r])
        assert gap < other.error["M"][-1, j, r] + 2e-6
        assert gap < 1e-4
    for j, m in np.ndindex(p, p):
        for name, kernel, error in (
            ("C", C[-1, 4, j, m], "Q2"),
            ("D", other.corr[-1, 4, j, m] / alpha, "corr"),
            ("K", other.resp[-1, 4, j, m] / alpha, "resp"),
        ):
            gap = abs(run.table(f"{name}_{j + 1}_{m + 1}")[1, 0] - kernel)
            assert gap < 2 * other.error[error][-1, 4, j, m] + 1e-5, name


def test_one_unit_of_two_teachers_equals_its_descents():
    """Offsets, noise, a readout; and a term that was added to the descents is run by both."""
    one = dmft.Model(
        dmft.Committee(2 * z + sp.S.Half, 1, readout=(sp.Rational(4, 5),)), PAIR.teacher, 0.3
    )
    start = dmft.Overlaps([[1.0]], [[0.2, 0.1]], PAIR_START.P)
    equations = dmft.derive(one, DESCENT)
    t, j, r = (equations.indices[n] for n in "tjr")
    eta, M = (equations.symbols[n] for n in ("learning_rate", "M"))
    pulled = flow_of(one).with_term("M", "pull", eta * KAPPA * M[t, j, r])
    assert pulled.terms["M"]["pull"].has(KAPPA)
    compared(pulled, start, kappa=0.4)


@pytest.mark.slow
def test_two_units_of_two_teachers_equal_their_descents():
    compared(flow_of(PAIR), PAIR_START)


def test_refusals():
    erf = dmft.Model(dmft.Committee(sp.erf(z), 1), LINE)
    start = dmft.Overlaps([[1.0]], [[0.2]])
    with pytest.raises(BadParameter, match="not affine in its fields"):
        flow_of(erf).closed(start)
    mixture = dmft.MixtureModel(LINE, dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1]))
    with pytest.raises(BadParameter, match="a mixture are not Gaussian"):
        flow_of(mixture).closed(start)
    with pytest.raises(BadParameter, match="unknown parameter 'eta'"):
        flow_of(dmft.Model(LINE, LINE)).closed(start, eta=0.1)
    for name in ("momentum", "readout_rate", "label_noise"):  # derived without them
        with pytest.raises(BadParameter, match=f"{name} = 0.3.*these equations have"):
            flow_of(dmft.Model(LINE, LINE)).closed(start, **{name: 0.3})
    for value, words in (("0.1", "a number or an expression"), (-1.0, "at least 0")):
        with pytest.raises(BadParameter, match=words):
            flow_of(dmft.Model(LINE, LINE)).closed(start, ridge=value)
    with pytest.raises(BadParameter, match=r"must be a dmft\.Overlaps"):
        flow_of(dmft.Model(LINE, LINE)).closed(0.2)

"""SGD of sequence models in R^d and its exact chain: against closed equations and each other."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.stats import ks_2samp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.simulation.ensemble import FirstPassage

z = sp.Symbol("z", real=True)
z1, z2, z3 = sp.symbols("z1:4", real=True)
RELU, HE2 = sp.Max(0, z), (z**2 - 1) / sp.sqrt(2)
MEAN = dmft.SequenceTarget((z1 + z2 + z3) / sp.sqrt(3), [z1, z2, z3])
SQUARES = dmft.SequenceTarget((z1**2 + z2**2 + z3**2 - 3) / sp.sqrt(6), [z1, z2, z3])
# Means of the seeds may be off by this many standard errors, and by what finite d adds, 2/d.
SIGMAS = 4.5


def close(found, error, truth, dim):
    assert np.all(np.abs(found - truth) <= SIGMAS * error + 2.0 / dim)


@pytest.mark.cases(1)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("method", "dim", "seeds"), [("overlaps", 1500, 12), ("weights", 250, 12)])
def test_relu_learns_the_mean_field_as_in_the_closed_equation(tied, method, dim, seeds):
    """theory/sequence C.4: dm/dt = (1 - m)(1 + m - gamma m)/2, tied and untied alike."""
    gamma = 3.0
    model = dmft.Model(dmft.SequenceNetwork(RELU, 3, tied=tied), MEAN)
    start = dmft.Alignment(m=0.2 if tied else [0.2] * 3)
    runs = dmft.simulate(model, dmft.SGD(gamma), dim, 4.0, seeds, start, method, save_at=5)
    truth = solve_ivp(
        lambda t, m: (1 - m) * (1 + m - gamma * m) / 2, (0, 4), [0.2], t_eval=runs.t, rtol=1e-9
    ).y[0]
    found = runs.runs.m if tied else runs.runs.m.mean(axis=2)
    close(found.mean(0), found.std(0, ddof=1) / np.sqrt(seeds), truth, dim)
    # E[hbar^2] = 1, E[relu^2] = 1/2, E[relu(u) hbar] = m/2.
    close(runs.mean.risk, runs.stderr.risk + runs.provenance["risk_error"], 0.75 - truth / 2, dim)


@pytest.mark.parametrize("tied", [True, False])
def test_squares_follow_their_closed_equation(tied):
    """theory/sequence C.4, sigma = He_2 with q = |mu|^2."""
    gamma, L, dim = 0.2, 3, 4000
    model = dmft.Model(dmft.SequenceNetwork(HE2, L, tied=tied), SQUARES)
    runs = dmft.simulate(
        model, dmft.SGD(gamma), dim, 1.5, 12, dmft.Alignment(m=0.5 if tied else [0.5] * L),
        "overlaps", save_at=6,
    )  # fmt: skip

    def rate(t, q):
        N = 10 * (1 - q / np.sqrt(L)) ** 2 + (2 * (L - 2 * q + q**2) + 12 * q * (1 - q)) / L
        return 4 * q * (1 - q) / np.sqrt(L) - gamma * N * q

    truth = solve_ivp(rate, (0, 1.5), [0.25], t_eval=runs.t, rtol=1e-9).y[0]
    q = runs.runs.m**2 if tied else (runs.runs.m**2).mean(axis=2)
    # The mean of q has a bias of the order of the variance of q, which 1/d covers.
    close(q.mean(0), q.std(0, ddof=1) / np.sqrt(12), truth, dim / 5)


@pytest.mark.cases("two vectors that see the target-150")
@pytest.mark.parametrize("seeds", [150, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "encoding",
    [1.0, [[1, 0.3, -0.2], [0.3, 1.2, 0.1], [-0.2, 0.1, 0.9]]],
    ids=["opposite pair", "two vectors that see the target"],
)
def test_chain_has_the_law_of_the_weights(encoding, seeds):
    """Kolmogorov-Smirnov on (e, m) after 36 steps in a dimension as small as 12."""
    attention = dmft.Attention(2)
    teacher = attention.mixture(sp.Rational(2, 5), [[0.8, 0.2], [0.2, 0.8]])
    model = dmft.Model(attention, teacher, 0.05, encoding=encoding)
    e = 0.3 if np.ndim(encoding) == 0 else [0.3, 0.2]
    start, algorithm = dmft.Alignment(e=e, m=0.3), dmft.SGD(1.0, batch_size=2)
    runs = [
        dmft.simulate(model, algorithm, 12, 3.0, seeds, start, method, save_at=[3.0])
        for method in ("weights", "overlaps")
    ]
    for name in ("e", "m"):
        for one, two in zip(*(r.runs[name].reshape(seeds, -1).T for r in runs), strict=True):
            assert ks_2samp(one, two).pvalue > 1e-3


def test_passages_batches_and_symbols():
    gamma = sp.Symbol("g", positive=True)
    model = dmft.Model(dmft.SequenceNetwork(RELU, 3), MEAN)
    passage = FirstPassage("overlap", 0.5)
    runs = dmft.simulate(
        model, dmft.SGD(gamma, batch_size=4), 1000, 5.0, 8, dmft.Alignment(m=0.1), "overlaps",
        first_passage=passage, g=0.5,
    )  # fmt: skip
    assert runs.status == "event"
    assert np.all(np.isfinite(runs.first_passage.times))
    # dm/dt at gamma/n_b = 1/8: nearly the flow m' = (1 - m^2)/2.
    assert np.mean(runs.first_passage.times) == pytest.approx(2 * np.arctanh(0.5) - 0.2, abs=0.15)
    escape = dmft.escape_time(runs, overlap=0.5)
    np.testing.assert_array_equal(escape.times, runs.first_passage.times)
    # A step takes gamma/d = 0.5/1000.
    np.testing.assert_allclose(escape.steps(1000), escape.times * 2000)
    with pytest.raises(BadParameter, match="these runs recorded the escape for"):
        dmft.escape_time(runs)
    again = dmft.simulate(
        model, dmft.SGD(gamma, batch_size=4), 1000, 5.0, 8, dmft.Alignment(m=0.1), "overlaps",
        first_passage=passage, g=0.5, threads=1,
    )  # fmt: skip
    np.testing.assert_array_equal(again.first_passage.times, runs.first_passage.times)


@pytest.mark.slow
def test_no_name_of_a_parameter_is_taken_for_a_field():
    attention, ends = dmft.Attention(2), []
    for name in ("omega", "h1", "s1", "n1"):
        target = attention.mixture(sp.Symbol(name, real=True), [[0.9, 0.1], [0.1, 0.9]])
        runs = dmft.simulate(
            dmft.Model(attention, target, encoding=1), dmft.SGD(0.1), 50, 1.0, 2,
            dmft.Alignment(0.3, 0.4), "overlaps", save_at=2, **{name: 0.5},
        )  # fmt: skip
        ends.append(runs.runs.m[:, -1])
    np.testing.assert_allclose(ends[1:], [ends[0]] * 3, rtol=1e-12)


def test_random_starts_are_those_of_a_random_direction():
    model = dmft.Model(dmft.Attention(2), dmft.Attention(2), encoding=1.0)
    runs = dmft.simulate(model, dmft.SGD(0.1), 100, 0.01, 400, method="overlaps", save_at=[0.0])
    for name in ("e", "m"):
        assert np.mean(runs.runs[name] ** 2) == pytest.approx(0.01, rel=0.3)


def test_refusals():
    model = dmft.Model(dmft.Attention(2), dmft.Attention(2), encoding=1.0)
    with pytest.raises(InvalidCovariance, match="exceeds 1"):
        dmft.simulate(model, dmft.SGD(0.1), 100, 1.0, 1, dmft.Alignment(e=0.9, m=0.9))
    untied = dmft.Model(dmft.SequenceNetwork(RELU, 3, tied=False), MEAN)
    for start, error, words in (
        (dmft.Alignment(e=0.3, m=[0.1] * 3), BadParameter, "without an encoding"),
        (dmft.Alignment(m=[0.1] * 2), ShapeMismatch, r"expected \(3,\)"),
        (dmft.Alignment(m=0.1), ShapeMismatch, r"expected \(3,\)"),
    ):
        with pytest.raises(error, match=words):
            dmft.simulate(untied, dmft.SGD(0.1), 100, 1.0, 1, start)
    with pytest.raises(BadParameter, match="no repeat"):
        dmft.simulate(model, dmft.SGD(0.1, repeat=dmft.Lookahead(0.1)), 100, 1.0, 1)
    for loss in ("huber", "hinge", "correlation"):
        with pytest.raises(BadParameter, match="squared"):
            dmft.simulate(model, dmft.SGD(0.1, loss=loss), 100, 1.0, 1)
    with pytest.raises(BadParameter, match="is too small for the target"):
        dmft.simulate(model, dmft.SGD(0.1), 2, 1.0, 1)
    square = dmft.Committee(z**2, 1)
    plain = dmft.Model(square, square)
    with pytest.raises(BadParameter, match="committees start from"):
        dmft.simulate(plain, dmft.SGD(0.1), 100, 1.0, 1, dmft.Alignment(m=0.1))
    jump = dmft.Model(dmft.SequenceNetwork(sp.sign(z), 3), MEAN)
    with pytest.raises(BadParameter, match="jumps"):
        dmft.simulate(jump, dmft.SGD(0.1), 100, 1.0, 1)

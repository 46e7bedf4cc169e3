"""Signs of gradients that are sums over a batch: moments by samples of their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf, gammaln
from scipy.stats import binom

import dmft
from dmft.equations.parameter_values import with_nodes

z = sp.Symbol("z", real=True)
# An activation, its values and its slopes.
ERF = (
    sp.erf(z / sp.sqrt(2)),
    lambda h: erf(h / np.sqrt(2)),
    lambda h: np.sqrt(2 / np.pi) * np.exp(-h * h / 2),
)
RELU = (sp.Max(z, 0), lambda h: np.maximum(h, 0), lambda h: (h > 0) * 1.0)
SIGN = (sp.sign(z), np.sign, None)
FOURTH = (z**4 / 4, lambda h: h**4 / 4, lambda h: h**3)
PULLS = {
    "squared": lambda f, y: y - f,
    "logistic": lambda f, y: y / (1 + np.exp(f * y)),
    "huber": lambda f, y: np.clip(y - f, -1, 1),
}
GAMMA, CHUNK = 0.6, 5_000


def sampled(
    start: dmft.Overlaps, units: Any, readout: Any, loss: str, numbers: Any, samples: int, n: int
) -> tuple[Any, Any]:
    """Rates of M and Q, means and errors, from the sign of a coordinate and the fields beside it.

    At given fields a coordinate x_i is normal, of which the rows hold a share of order 1/sqrt(d):
    E[sign(g_i) x_i lambda] is the drift, E[sign(g_ji) sign(g_li)] the noise.
    """
    (_, value, slope), (_, teacher, _), p = *units, start.p
    noise, flip = numbers.get("label_noise", 0.0), numbers.get("label_flip", 0.0)
    rng, root, found = np.random.default_rng(0), np.linalg.cholesky(start.Omega), []
    for _ in range(n // CHUNK):
        lam = np.einsum("in,mnq->imq", root, rng.standard_normal((samples, len(root), CHUNK)))
        h, x = lam[:p], rng.standard_normal((samples, CHUNK))
        y = teacher(lam[p:]).mean(axis=0)
        y = y * np.where(rng.random(y.shape) < flip, -1.0, 1.0)
        y += np.sqrt(noise) * rng.standard_normal(y.shape)
        output = np.tensordot(readout, value(h), 1) / p
        psi = np.array(readout)[:, None, None] * slope(h) * PULLS[loss](output, y)
        sign = np.sign((psi * x).sum(axis=1))
        drift = np.einsum("jq,mq,imq->ji", sign, x, lam) / CHUNK
        square = sign @ sign.T / CHUNK
        Q = drift[:, :p] + drift[:, :p].T + GAMMA / p * square
        found.append(np.concatenate([drift[:, p:].ravel(), Q.ravel()]))
    parts = np.array(found)
    return parts.mean(axis=0), parts.std(axis=0, ddof=1) / len(parts) ** 0.5


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("units", "readout", "k", "loss", "numbers", "samples"),
    [
        ((ERF, ERF), [1.0, -0.7], 1, "squared", {}, 4),
        ((ERF, ERF), [1.3], 2, "squared", {"label_noise": 0.2}, 3),
        # Units that rest take no step.
        ((RELU, RELU), [1.0, -0.7], 1, "squared", {}, 2),
        ((RELU, RELU), [1.0], 1, "huber", {"label_noise": 0.2}, 2),
        ((ERF, SIGN), [1.0, -0.7], 1, "logistic", {"label_flip": 0.15}, 3),
        ((ERF, ERF), [1.3], 1, "squared", {"label_noise": 0.2}, 2),
        ((RELU, RELU), [1.0], 1, "squared", {}, 3),
        ((ERF, SIGN), [1.0], 1, "logistic", {"label_flip": 0.15}, 32),
        ((FOURTH, ERF), [1.0], 1, "squared", {"label_noise": 0.2}, 1),
    ],
)
def test_moments_of_a_batch(
    units: Any, readout: Any, k: int, loss: str, numbers: Any, samples: int
) -> None:
    p = len(readout)
    model = dmft.Model(
        dmft.Committee(units[0][0], p, readout), dmft.Committee(units[1][0], k), **numbers
    )
    A = np.random.default_rng(p + 3 * samples).standard_normal((p + k, p + k + 2)) / 2
    Omega = A @ A.T
    start = dmft.Overlaps(Omega[:p, :p], Omega[:p, p:], Omega[p:, p:])
    equations = dmft.derive(model, dmft.SignSGD(GAMMA, samples, loss=loss))
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    found, claim = (np.concatenate([y["M"].ravel(), y["Q"].ravel()]) for y in (rates, claims))
    assert claim.max() < 0.02
    wanted, error = sampled(start, units, readout, loss, numbers, samples, 100_000)
    # Claims are bounds of 99 %.
    assert (np.abs(found - wanted) / np.hypot(error, claim / 2.6)).max() < 4.0


def test_what_is_printed_and_what_is_refused() -> None:
    unit = dmft.Committee(ERF[0], 2)
    model = dmft.Model(unit, unit)
    equations = dmft.derive(model, dmft.SignSGD(0.5, 4))
    assert "Σ_μ=1..4 [h*[r] ψ[j]][μ]" in str(equations)
    assert r"\sum_{\mu=1}^{4} \left[" in equations.latex()
    assert "of all samples" in str(equations)
    assert "of all samples" in equations.latex()
    assert "e-121" not in str(equations)
    alone = dmft.derive(dmft.Model(dmft.Committee(ERF[0], 1), unit), dmft.SignSGD(0.5, 32))
    assert r"e^{- \frac{z_{\nu}^{2} \psi^{2} \varsigma^{2}}{32}}" in alone.latex()
    assert "⟨e^(- z[ν]² ψ² ς²/32)⟩³¹" in str(alone)
    with pytest.raises(ValueError, match="up to 16 samples"):
        dmft.derive(model, dmft.SignSGD(0.5, 32))
    own = dmft.GaussianMixture(
        [[1.0, 0.0], [0.0, 1.0]], scales=[[1.0, 0.5], [0.6, 1.4]], fractions=[0.4, 0.6]
    )
    with pytest.raises(ValueError, match="variances of clusters differ from block to block"):
        dmft.derive(dmft.Model(unit, unit, inputs=own), dmft.SignSGD(0.5, 2))


@pytest.mark.cases(1)
@pytest.mark.parametrize("samples", [2, 7])
def test_one_unit_is_the_average_over_all_samples(samples: int) -> None:
    """ReLU at h* = h on one axis: psi = (h* - h) 1(h > 0), E psi lambda/sqrt(A) by hand.

    With h* = c h psi = (c - 1) max(h, 0), so that b = E[sum h_+^2/sqrt(sum h_+^2)] = E sqrt(chi^2)
    over the number of positive fields, which is binomial.
    """
    unit, start = dmft.Committee(RELU[0], 1), dmft.Overlaps([[1.0]], [[2.0]], [[4.0]])
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SignSGD(GAMMA, samples))
    count = np.arange(1, samples + 1)
    root = np.sqrt(2) * np.exp(gammaln((count + 1) / 2) - gammaln(count / 2))
    drift = np.sqrt(2 / np.pi) * binom.pmf(count, samples, 0.5) @ root
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    assert abs(rates["M"][0, 0] - 2 * drift) < claims["M"][0, 0] < 5e-3
    wanted = 2 * drift + GAMMA * (1 - 0.5**samples)
    assert abs(rates["Q"][0, 0] - wanted) < claims["Q"][0, 0] < 5e-3


def test_units_that_rest_with_flipped_labels() -> None:
    """b = 2 n/pi int dz E[psi h*/(1 + z^2 psi^2)^2 r^2/2] E[1/(1 + z^2 psi^2)]^(n-1).

    Fields are r times a point of an ellipse, and the means over r are exact.
    """
    samples, flip, start = 5, 0.3, dmft.Overlaps([[0.8]], [[0.4]])
    angles = 2 * np.pi * (np.arange(20_000) + 0.5) / 20_000
    h, star = np.linalg.cholesky(start.Omega) @ np.array([np.cos(angles), np.sin(angles)])
    nodes, weights = np.polynomial.legendre.leggauss(160)
    total = 0.0
    for scale, weight in zip(np.exp(20 * nodes - 4), 20 * weights, strict=True):
        moved = alone = 0.0
        for share, sign in ((1 - flip, 1), (flip, -1)):
            psi = (h > 0) * (sign * np.maximum(star, 0) - h)
            spread = 1 + (min(scale, 3e3) * psi) ** 2
            moved += share * np.mean(2 * psi * star / spread**2)
            alone += share * np.mean(1 / spread)
        total += (scale < 3e3) * weight * scale * moved * alone ** (samples - 1)
    unit = dmft.Committee(RELU[0], 1)
    equations = dmft.derive(dmft.Model(unit, unit, label_flip=flip), dmft.SignSGD(GAMMA, samples))
    found, claim = (f(start)["M"][0, 0] for f in (equations.evaluate, equations.evaluate_error))
    assert abs(found - 2 / np.pi * samples * total) < claim < 3e-3


@pytest.mark.cases(1)
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_nodes_of_one_sample_agree_with_nodes_of_all(loss: str) -> None:
    """Averaged weights and blocks that are alike change no rate, but take all samples together."""
    teacher = dmft.Committee((ERF if loss == "squared" else SIGN)[0], 1)
    unit, start = dmft.Committee(ERF[0], 1), dmft.Overlaps([[0.8]], [[0.3]])
    halves = dmft.Spectrum([1.0, 1.0], [0.5, 0.5])
    own = dmft.derive(dmft.Model(unit, teacher), dmft.SignSGD(GAMMA, 3, loss=loss))
    rates, claims = own.evaluate(start), own.evaluate_error(start)
    averaged = dmft.SignSGD(GAMMA, 3, loss=loss, average=0.5)
    blocks = dmft.Overlaps(*([[[y / 2]]] * 2 for y in (0.8, 0.3, 1.0)))
    for model, algorithm, at in (
        (dmft.Model(unit, teacher), averaged, start),
        (dmft.Model(unit, teacher, inputs=halves), dmft.SignSGD(GAMMA, 3, loss=loss), blocks),
    ):
        other = dmft.derive(model, algorithm)
        found, errors = other.evaluate(at), other.evaluate_error(at)
        for name in ("M", "Q"):
            value, error = (np.sum(y[name], axis=0) for y in (found, errors))
            assert np.all(np.abs(value - rates[name].ravel()) < error + claims[name].max()), name


@pytest.mark.cases(1)
@pytest.mark.parametrize("samples", [2, 5])
def test_linear_networks_on_nodes_are_those_in_closed_form(samples: int) -> None:
    """E sqrt(chi^2) of a Gaussian error; clusters that are all alike are taken on nodes.

    Their scale multiplies inputs and errors, and no sign: rates are those of scale one.
    """
    line, start = dmft.Committee(z, 1), dmft.Overlaps([[0.8]], [[0.3]])
    alike = dmft.GaussianMixture([[0.0], [0.0]], scales=[2.5, 2.5])
    algorithm = dmft.SignSGD(0.5, samples)
    closed, nodes = (
        dmft.derive(dmft.Model(line, line, label_noise=noise, inputs=inputs), algorithm)
        for inputs, noise in ((None, 0.1), (alike, 0.25))
    )
    assert nodes.averages
    assert not closed.averages
    wanted, claims = closed.evaluate(start), nodes.evaluate_error(start)
    for name, value in nodes.evaluate(start).items():
        assert np.all(np.abs(value - wanted[name]) < 1.5 * claims[name] + 1e-12)
        assert claims[name].max() < 0.01


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("inputs", "teacher", "loss", "numbers", "readout"),
    [
        (None, ERF, "squared", {"label_noise": 0.2}, [1.3]),
        (None, ERF, "squared", {"label_noise": 0.2}, [1.0, -0.7]),
        (dmft.Spectrum([2.0, 0.5], [0.3, 0.7]), SIGN, "logistic", {"label_flip": 0.1}, [1.0, -0.7]),
    ],
)
def test_generated_code_is_the_reference(
    inputs: Any, teacher: Any, loss: str, numbers: Any, readout: Any
) -> None:
    unit = dmft.Committee(ERF[0], len(readout), readout)
    model = dmft.Model(unit, dmft.Committee(teacher[0], 1), inputs=inputs, **numbers)
    equations = dmft.derive(model, dmft.SignSGD(GAMMA, 3, loss=loss))
    start, nodes = dmft.random_overlaps(model, 200, 0), {"nodes": 16}
    problem = dmft.build(equations)
    values = with_nodes(equations.values(start, {}), equations.rule(start, nodes))
    y = problem.pack(equations.space.entries(start))
    par = problem.pack_parameters(
        {name: values.scalars[name] for name in problem.parameters}, values.arrays
    )
    out = np.empty_like(y)
    problem.rhs(0.0, y, np.array([values.widths[n] for n in problem.widths]), par, out)
    wanted = equations.evaluate(start, **nodes)
    for name, value in problem.unpack(out, values.widths).items():
        entry = wanted[name.removeprefix("block_")]
        assert np.allclose(value, entry, rtol=1e-10, atol=1e-12), name

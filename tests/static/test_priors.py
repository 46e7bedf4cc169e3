"""Scalar estimation under priors: shared vectors, Monte Carlo and identities."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.gaussian.channels.priors import GAUSSIAN, RADEMACHER, GaussBernoulli, Prior, as_prior

FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
VECTORS = [v for v in json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
           if v["kind"] == "prior"]  # fmt: skip
NAMED = {"rademacher": RADEMACHER, "sparse(0.2)": GaussBernoulli(0.2, 5.0)}
PRIORS = {
    "gaussian": GAUSSIAN,
    "rademacher": RADEMACHER,
    "sparse": GaussBernoulli(0.1, 2.0),
    "three values": Prior((0.25, 0.5, 0.25), (-2.0, 0.0, 2.0), (0.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["input"]))
def test_priors_agree_with_vectors(vector):
    found = NAMED[vector["input"]["prior"]].estimate(vector["input"]["qhat"])
    assert found.overlap == pytest.approx(vector["output"]["q"], rel=vector["rtol"])
    if "Psi_w" in vector["output"]:
        assert found.entropy == pytest.approx(vector["output"]["Psi_w"], rel=vector["rtol"])


@pytest.mark.parametrize("name", PRIORS)
def test_estimates_are_moments_of_the_posterior(name):
    prior, a = PRIORS[name], 1.7
    rng = np.random.default_rng(0)
    w = prior.sample(rng, 200_000)
    mean, spread = prior.denoise(a * w + np.sqrt(a) * rng.standard_normal(w.size), a)
    found = prior.estimate(a)
    assert np.mean(mean * w) == pytest.approx(found.overlap, abs=0.02)
    assert np.mean((w - mean) ** 2) == pytest.approx(found.variance, abs=0.02)
    assert np.mean(spread) == pytest.approx(found.variance, abs=0.01)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("a", [0.01, 1.0, 30.0, 1e4])
def test_slopes_of_estimates(name, a):
    prior, step = PRIORS[name], 1e-4 * a
    found, up, down = (prior.estimate(x) for x in (a, a + step, a - step))
    assert found.overlap + found.variance == pytest.approx(prior.second_moment, rel=1e-12)
    assert (up.entropy - down.entropy) / step == pytest.approx(found.overlap, rel=1e-6)
    if found.slope > 1e-10:
        assert (up.overlap - down.overlap) / (2 * step) == pytest.approx(found.slope, rel=1e-5)


def test_laws_are_priors():
    laws = dmft.laws
    assert as_prior(laws.Rademacher()) == as_prior("rademacher")
    assert as_prior(laws.Normal()) == as_prior("gaussian")
    three = as_prior(laws.Discrete({-2.0: 0.25, 0.0: 0.5, 2.0: 0.25}))
    assert three == PRIORS["three values"]
    for law, words in ((laws.Uniform(-1, 1), "prior must be"), (laws.Bernoulli(0.3), "mean zero"),
                       (laws.Normal(variance=0.0), "positive variance")):  # fmt: skip
        with pytest.raises(dmft.errors.BadParameter, match=words):
            as_prior(law)


def test_other_priors_are_refused():
    with pytest.raises(dmft.errors.BadParameter, match="prior must be"):
        as_prior("laplace")
    with pytest.raises(dmft.errors.BadParameter, match="mean zero"):
        Prior((0.5, 0.5), (0.0, 1.0), (0.0, 0.0))
    with pytest.raises(dmft.errors.BadParameter, match="density"):
        GaussBernoulli(0.0)


def test_nearly_exact_recovery_of_signs_from_noisy_labels():
    """Phi = alpha E log P(y | z) - log 2 where the remaining variance is below rounding."""
    z = sp.Symbol("z", real=True)
    for expr, noise in ((sp.Abs(z), 0.03), (z, 0.02)):
        model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(expr, [z]), label_noise=noise)
        found = dmft.bayes_optimal(model, 2.5, "rademacher")
        assert (found.q, found.risk) == (pytest.approx(1.0, abs=1e-14), 0.0)
        assert 0.0 < found.mmse < 2 * np.exp(-found.qhat / 2) < 1e-12
        wanted = -np.log(2) - 2.5 * (1 + np.log(2 * np.pi * noise)) / 2
        assert found.free_entropy == pytest.approx(wanted, abs=1e-9)

"""The conversions of Saad and Solla, by two routes and by their own equations of motion."""

import numpy as np
import pytest

import dmft
from dmft.errors import BadParameter
from dmft.literature import CONVENTIONS, convention

K, ETA, NOISE_STD = 2, 0.8, 0.3
START = {"Q": [[0.9, 0.2], [0.2, 0.7]], "M": [[0.3, -0.1], [0.05, 0.4]]}


def erf_model(activations, readout, noise):
    network = dmft.Committee(activations["erf"], K, readout)
    return dmft.Model(network, network, noise)


def test_two_routes_to_saad_and_solla_are_one_dynamics(activations):
    """a_j = p with gamma = eta, and unit readouts with gamma = K^2 eta, at equal alpha."""
    alpha = 20.0
    start = dmft.Overlaps(**START)
    by_readout = erf_model(activations, [K] * K, NOISE_STD**2)
    one = dmft.solve(
        dmft.derive(by_readout, dmft.SGD(ETA)), start, alpha * ETA / K, rtol=1e-10, save_at=5
    )
    unit = erf_model(activations, None, (NOISE_STD / K) ** 2)
    gamma = K**2 * ETA
    two = dmft.solve(
        dmft.derive(unit, dmft.SGD(gamma)), start, alpha * gamma / K, rtol=1e-10, save_at=5
    )
    np.testing.assert_allclose(one.Q, two.Q, atol=1e-8)
    np.testing.assert_allclose(one.M, two.M, atol=1e-8)
    np.testing.assert_allclose(one.risk, K**2 * two.risk, atol=1e-8)


def test_rates_are_those_of_the_paper(activations):
    """Saad and Solla (1995): dR_in/dalpha = eta E[delta_i y_n], by Monte Carlo of that average."""
    model = erf_model(activations, [K] * K, NOISE_STD**2)
    start = dmft.Overlaps(**START)
    rates = dmft.derive(model, dmft.SGD(ETA)).evaluate(start)
    per_alpha = {name: rate * ETA / K for name, rate in rates.items()}
    rng = np.random.default_rng(1)
    from scipy.special import erf

    fields = rng.multivariate_normal(np.zeros(2 * K), start.Omega, size=400_000)
    x, y = fields[:, :K], fields[:, K:]
    noise = NOISE_STD * rng.standard_normal(len(x))
    error = erf(y / np.sqrt(2)).sum(1) - erf(x / np.sqrt(2)).sum(1) + noise
    delta = np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2) * error[:, None]
    samples = ETA * delta[:, :, None] * y[:, None, :]
    standard_error = samples.std(0) / np.sqrt(len(x))
    assert np.all(np.abs(samples.mean(0) - per_alpha["M"]) < 5 * standard_error)
    both = ETA * (delta[:, :, None] * x[:, None, :] + x[:, :, None] * delta[:, None, :])
    both += ETA**2 * delta[:, :, None] * delta[:, None, :]
    standard_error = both.std(0) / np.sqrt(len(x))
    assert np.all(np.abs(both.mean(0) - per_alpha["Q"]) < 5 * standard_error)


def test_every_convention_prints_and_an_unknown_one_is_refused():
    for name in CONVENTIONS:
        assert name in str(convention(name))
    with pytest.raises(BadParameter, match="saad_solla_1995"):
        convention("hinton_2012")

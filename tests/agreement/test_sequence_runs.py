"""Equations of sequence models against SGD: means of chains, exact in law, at d = 500 and 2000.

Times are those of the equations. Gaps may be SIGMAS standard errors and what finite dimension adds,
of order 1/d (theory/sequence C.4 measures 7/d near its largest for attention).
"""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.model import token_fields

z = sp.Symbol("z", real=True)
RELU, HE2 = sp.Max(0, z), (z**2 - 1) / sp.sqrt(2)
DIMS, SEEDS, SIGMAS, PER_DIM = (500, 2000), 24, 4.5, 15.0
TWO = dmft.Attention(2)
ALPHA = float(1 / (1 + np.exp(-2.0)))  # a = 1
PAIR = dmft.Model(
    TWO,
    TWO.mixture(sp.Symbol("omega", positive=True), [[ALPHA, 1 - ALPHA], [1 - ALPHA, ALPHA]]),
    encoding=1,
)


def agree(model, algorithm, start, t_max, dim, method="overlaps", **parameters):
    equations = dmft.derive(model, algorithm)
    run = dmft.solve(equations, start, t_max, save_at=6, **parameters)
    chains = dmft.simulate(
        model, algorithm, dim, t_max, SEEDS, start, method, save_at=6, **parameters
    )
    np.testing.assert_allclose(chains.t, run.t, atol=1.0 / dim)
    for name in ("e", "m") if model.encoding.rank else ("m",):
        mean, error = getattr(chains.mean, name), getattr(chains.stderr, name)
        gap = np.abs(run[name] - mean)
        assert np.all(gap <= SIGMAS * error + PER_DIM / dim), (name, dim, gap, error)
    allowed = SIGMAS * chains.stderr.risk + chains.provenance["risk_error"] + PER_DIM / dim
    assert np.all(np.abs(run.risk - chains.mean.risk) <= allowed)
    return run


# Weight of the position at a = 1, start, and where the run is near its end: (e, m).
REGIONS = {
    "semantic": (0.4, (0.2, 0.3), lambda e, m: m > 0.9 and abs(e) < 0.3),
    "positional": (0.95, (0.3, 0.2), lambda e, m: e > 0.8 and abs(m) < 0.3),
    "both, from the side of the position": (0.7, (0.9, 0.1), lambda e, m: e > 0.8),
    "both, from the side of the meaning": (0.7, (0.1, 0.9), lambda e, m: m > 0.8),
}


@pytest.mark.slow  # the rates of the raw update and the law of the chain have fast tests
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("region", REGIONS)
def test_attention_in_every_region(region, dim):
    omega, (e, m), ended = REGIONS[region]
    run = agree(PAIR, dmft.SGD(0.5), dmft.Alignment(e, m), 40.0, dim, omega=omega)
    assert ended(run.e[-1], run.m[-1])


@pytest.mark.slow
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("length", [2, 4, 8])
@pytest.mark.parametrize("kind", ["linear", "square"])
def test_networks_tied_and_untied(kind, length, tied, dim):
    y = token_fields(length)
    activation, gamma, t_max, m = {
        "linear": (RELU, 0.5, 6.0, 0.2),
        "square": (HE2, 0.1, 4.0, 0.4),
    }[kind]
    each = [x if kind == "linear" else HE2.subs(z, x) for x in y]
    target = dmft.SequenceTarget(sum(each) / sp.sqrt(length), y)
    model = dmft.Model(dmft.SequenceNetwork(activation, length, tied), target)
    start = dmft.Alignment(m=m if tied else [m] * length)
    agree(model, dmft.SGD(gamma), start, t_max, dim)


@pytest.mark.slow
def test_attention_by_its_weights():
    start = dmft.Alignment(0.3, 0.3)
    agree(PAIR, dmft.SGD(0.5), start, 10.0, 500, "weights", omega=0.6)


@pytest.mark.slow
def test_attention_over_three_tokens_with_label_noise_and_batches():
    student = dmft.Attention(3, "trace")
    model = dmft.Model(student, student.mixture(0.2, 1.2), 0.05, encoding=[1, 0, -1])
    agree(model, dmft.SGD(0.8, batch_size=2), dmft.Alignment(0.3, 0.4), 15.0, 2000)

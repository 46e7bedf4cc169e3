"""Scalings: boundaries of the regions, limits of the rates, refusals, and the overlap chain."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
MODEL = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 2), label_noise=0.2)
START = dmft.Overlaps([[0.8, 0.1], [0.1, 0.6]], [[0.3, -0.1], [0.05, 0.4]])

# (power of gamma, of p, of n_b) -> region; powers of gamma are minus kappa.
REGIONS = {
    (-1, 0, 0): "gradient-flow",
    (-1e-6, 0, 0): "gradient-flow",
    (0, 0, 0): "high-dimensional",
    (1e-6, 0, 0): "noise-dominated",
    (0.499999, 0, 0): "noise-dominated",
    (0.2, 0.3, 0): "mean-field",
    (0.1 + 0.2, 0.3, 0): "noise-dominated",  # 0.30000000000000004, as it prints
    (0.3, 0.3, 0): "high-dimensional",
    (0.5, 0, 0.5): "high-dimensional",
    (0.7, 0, 0.5): "noise-dominated",
    (0.9, 0, 2): "gradient-flow",
}


@pytest.mark.cases(4)
@pytest.mark.parametrize("powers", REGIONS, ids=str)
def test_regions(powers):
    scaling = dmft.Scaling(*powers)
    assert scaling.region == REGIONS[powers]
    plane = dmft.regimes(MODEL, batch_size=powers[2])
    assert plane.at(scaling).name == REGIONS[powers]


@pytest.mark.parametrize(
    ("powers", "words"),
    [
        ((0.5, 0), "has no limiting ode: kappa \\+ delta = -1/2 <= -1/2"),
        ((2, 1), "no limiting ode"),
        ((1, 0, 1), "discrete map: derive\\(.*dim="),
        ((1.5, 0, 1), "no limit"),
    ],
)
def test_no_differential_equation_is_refused_with_the_way_out(powers, words):
    with pytest.raises(BadParameter, match=words):
        dmft.derive(MODEL, dmft.SGD(1.0), scaling=dmft.Scaling(*powers))


def test_bad_scalings_are_refused():
    for wrong in ({"width": -1}, {"batch_size": -0.5}, {"learning_rate": "fast"}):
        with pytest.raises(BadParameter, match=next(iter(wrong))):
            dmft.Scaling(**wrong)
    with pytest.raises(BadParameter, match="GradientFlow"):
        dmft.derive(MODEL, dmft.GradientFlow(), scaling="noise-dominated")
    with pytest.raises(BadParameter, match="unknown"):
        dmft.derive(MODEL, dmft.SGD(1.0), scaling="fast")
    with pytest.raises(BadParameter, match="batch_size=1/2"):
        dmft.regimes(MODEL).at(dmft.Scaling(batch_size=0.5))


def rates(gamma, scaling=None):
    return dmft.derive(MODEL, dmft.SGD(gamma), scaling=scaling).evaluate(START)


def test_rates_tend_to_their_limits():
    flow, noise = rates(1.0, "gradient-flow"), rates(1.0, "noise-dominated")
    slow, fast = rates(1e-9), rates(1e9)
    for name in ("Q", "M"):
        np.testing.assert_allclose(slow[name], flow[name], rtol=0, atol=1e-9)
        # t' = t gamma/p with p = 2.
        np.testing.assert_allclose(fast[name] * 2 / 1e9, noise[name], rtol=0, atol=1e-8)


def test_a_scaling_only_rescales_time_in_the_noise_dominated_limit():
    runs = [
        dmft.solve(dmft.derive(MODEL, dmft.SGD(g), scaling="noise-dominated"), START, t_max=1.0)
        for g in (10.0, 20.0)
    ]
    np.testing.assert_array_equal(runs[0].Q, runs[1].Q)
    # steps = t' d / (gamma/p)^2.
    np.testing.assert_allclose(runs[0].steps(10**9), runs[0].t * 1e9 / 25.0)
    np.testing.assert_allclose(runs[0].steps(10**9), 4 * runs[1].steps(10**9))


@pytest.mark.slow
def test_noise_alone_acts_on_the_chain_of_overlaps():
    # theory/one_pass B.3: erf, p = k = 1, d = 1e10, gamma = 1e3, steps of 1e-4 in t'.
    single = dmft.Committee(ERF, 1)
    model, start = dmft.Model(single, single), dmft.Overlaps([[0.5]], [[0.1]])
    algorithm, dim, seeds = dmft.SGD(1e3), 10**10, 16
    theory = dmft.solve(
        dmft.derive(model, algorithm, scaling="noise-dominated"), start, t_max=1.0, save_at=2
    )
    chain = dmft.simulate(
        model, algorithm, dim=dim, t_max=1e-3, seeds=seeds, start=start, method="overlaps",
        save_at=2,
    )  # fmt: skip
    assert theory.steps(dim)[-1] == pytest.approx(chain.steps(dim)[-1])
    assert theory.Q[-1, 0, 0] > 0.55
    assert abs(chain.mean.Q[-1, 0, 0] - theory.Q[-1, 0, 0]) < 4 * chain.stderr.Q[-1, 0, 0] + 1e-3
    assert abs(chain.mean.M[-1, 0, 0] - 0.1) < 5e-3
    assert theory.M[-1, 0, 0] == 0.1

"""Steps against the dimension, by iterating the compiled maps, for the exponents of every batch."""

import numpy as np
import pytest
import sympy as sp

import dmft

Z = sp.Symbol("z", real=True)
# E[sigma'^2 sigma^2] of the normalised Hermite polynomials: the network's own noise.
OWN = {1: 1, 2: 10, 3: 93, 4: 852}
# Information exponent, loss, mu = log_d n_b, the smaller of two dimensions a decade apart.
ROWS = (
    *((1, loss, mu, low) for loss in ("squared", "correlation")
      for mu, low in ((0.0, 1e4), (0.5, 1e7), (1.0, 1e10), (1.5, 1e8))),
    *((2, loss, mu, low) for loss in ("squared", "correlation")
      for mu, low in ((0.0, 1e3), (0.5, 1e6), (1.0, 1e10), (1.5, 1e12))),
    *((3, "squared", mu, low) for mu, low in ((0.5, 1e2), (1.0, 1e3), (2.0, 1e6), (2.5, 1e6))),
    *((3, "correlation", mu, low)
      for mu, low in ((0.5, 1e3), (1.0, 1e4), (1.5, 1e7), (2.0, 1e10), (2.5, 1e10))),
    *((4, "squared", mu, low) for mu, low in ((1.5, 1e2), (2.0, 1e3), (3.0, 1e4), (3.5, 1e4))),
    *((4, "correlation", mu, low)
      for mu, low in ((1.5, 1e3), (2.0, 1e5), (2.5, 1e7), (3.0, 1e10), (3.5, 1e10))),
)  # fmt: skip


@pytest.fixture(scope="module")
def maps():
    """Compiled maps on the sphere; rate, batch and dimension come at run time."""

    def make(order, loss):
        unit = dmft.Committee(dmft.hermite(order, Z) / sp.sqrt(sp.factorial(order)), 1)
        sgd = dmft.SGD(1.0, batch_size=2, loss=loss, constraint="sphere")
        return dmft.derive(dmft.Model(unit, unit), sgd, dim=100)

    return {key: make(*key) for key in {row[:2] for row in ROWS}}


def steps(equations, order, loss, mu, dim):
    """Steps from m = d^(-1/2) to 1/2 at a quarter of the rate where noise and signal balance."""
    noise = order + (OWN[order] if loss == "squared" else 0)
    eta = 0.25 * 2 * order / noise * dim ** (mu - max(order / 2, 1))
    if loss == "squared":
        eta = min(eta, 0.1)
    run = dmft.solve(
        equations, dmft.Overlaps([[1.0]], [[dim**-0.5]]), 1e7, save_at=2, max_steps=10**7,
        events=[dmft.Event("M[0, 0]", 0.5, 1)], learning_rate=eta * dim, dim=dim,
        batch_size=dim**mu,
    )  # fmt: skip
    assert run.status == "event", (order, loss, mu, dim, run.message)
    return run.t[-1]


@pytest.mark.slow
def test_slopes(maps):
    wrong = []
    for order, loss, mu, low in ROWS:
        taken = [steps(maps[order, loss], order, loss, mu, dim) for dim in (low, 10 * low)]
        counts = np.array(taken) / (np.log([low, 10 * low]) if order == 2 else 1.0)
        slope = np.log10(counts[1] / counts[0])
        predicted = float(dmft.batch_exponents(order, loss).at(mu)[0])
        print(
            f"l = {order} {loss:11s} mu = {mu}: {taken[0]:.0f} steps at d = {low:.0e}, "
            f"{taken[1]:.0f} at ten times that: slope {slope:.3f}, predicted {predicted:g}"
        )
        # A few steps are whole numbers: one more or less is a slope of log10(1 + 1/steps).
        if abs(slope - predicted) > 0.06 + np.log10(1 + 1 / taken[0]) * (predicted == 0):
            wrong.append((order, loss, mu, slope, predicted))
    assert not wrong, wrong

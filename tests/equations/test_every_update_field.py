"""Every algorithm with every kind, loss and feature: rates against Monte Carlo of one step.

The truth knows the update rule of a step (theory/one_pass 0) and nothing of the library: fields
are drawn from N(0, Omega), psi is written in NumPy, and the averages are means with error bars.
"""

import itertools
from functools import cache

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft

Z = sp.Symbol("z", real=True)
F, Y = sp.symbols("f y", real=True)
U, V = sp.symbols("u v", real=True)
SAMPLES = 100_000
START = dmft.Overlaps([[0.9, 0.2], [0.2, 0.7]], [[0.3, -0.1], [0.05, 0.4]])
A, GAMMA, NOISE = np.array([1.0, -0.7]), 0.4, 0.2
# Name: (SymPy, value, slope).
STUDENTS = {
    "erf": (sp.erf(Z / sp.sqrt(2)), lambda h: erf(h / np.sqrt(2)),
            lambda h: np.sqrt(2 / np.pi) * np.exp(-h * h / 2)),
    "square": (Z**2, lambda h: h**2, lambda h: 2 * h),
    "tanh": (sp.tanh(Z), np.tanh, lambda h: 1 - np.tanh(h) ** 2),
    "linear": (Z, lambda h: h, np.ones_like),
}  # fmt: skip
TARGETS = {
    "erf committee": (
        dmft.Committee(STUDENTS["erf"][0], 2),
        lambda s: STUDENTS["erf"][1](s).mean(0),
    ),
    "product": (dmft.MultiIndex(U * V + U, [U, V]), lambda s: s[0] * s[1] + s[0]),
}
# Name: (loss, -dl/df of output and label).
LOSSES = {
    "squared": ("squared", lambda f, y: y - f),
    "correlation": ("correlation", lambda f, y: y),
    "double": ((F - Y) ** 2 + F, lambda f, y: 2 * (y - f) - 1),
    "cubic": ((F - Y) ** 3 / 6 + (F - Y) ** 2 / 2, lambda f, y: -((f - y) ** 2) / 2 - (f - y)),
    "logistic": (sp.log(1 + sp.exp(-F * Y)), lambda f, y: y / (1 + np.exp(f * y))),
    "log cosh": (sp.log(sp.cosh(F - Y)), lambda f, y: -np.tanh(f - y)),
    "hinge": (sp.Max(0, 1 - F * Y), lambda f, y: y * (f * y < 1)),
    "Huber": (
        sp.Piecewise(((F - Y) ** 2 / 2, sp.Abs(F - Y) < 1), (sp.Abs(F - Y) - sp.S.Half, True)),
        lambda f, y: np.clip(y - f, -1, 1),
    ),
}
REPEATS = {
    "once": None,
    "twice": dmft.Repeat(2),
    "lookahead": dmft.Lookahead(0.3),
    "sharpness-aware": dmft.SharpnessAware(0.3, normalised=True),
}


@cache
def fields(width=1.0, samples=SAMPLES):
    """Student and teacher fields and the label's noise of many samples, and their weights.

    Polynomials of high degree live far out: samples drawn `width` times as far are weighted.
    """
    rng = np.random.default_rng(3)
    z = width * np.concatenate([rng.standard_normal((4, samples)), [rng.standard_normal(samples)]])
    weight = width**5 * np.exp(-0.5 * (1 - width**-2) * np.sum(z**2, axis=0))
    lam = np.linalg.cholesky(START.Omega) @ z[:4]
    return lam[:2], lam[2:], z[4] * np.sqrt(NOISE), weight


@cache
def truth(student, label, pull, repeat):
    """Means and errors of psi h*, psi h + h psi + gamma/p psi psi, and e sigma, by definition."""
    _, sigma, slope = STUDENTS[student]
    h, h_star, noise, weight = fields(1.7 if student == "square" and repeat != "once" else 1.0)
    y = label(h_star) + noise

    def gradient(at):
        error = pull((A[:, None] * sigma(at)).sum(0) / 2, y)
        return A[:, None] * slope(at) * error, error * sigma(at)

    psi, push = gradient(h)
    if repeat == "twice":
        again, more = gradient(h + GAMMA / 2 * psi)
        psi, push = psi + again, push + more
    elif repeat == "lookahead":
        psi, push = gradient(h + 0.3 * psi)
    elif repeat == "sharpness-aware":
        length = np.sqrt((psi**2).sum(0))
        psi, push = gradient(h - 0.3 * psi / np.where(length == 0, 1, length))
    moves = {
        "M": psi[:, None] * h_star[None],
        "Q": psi[:, None] * h + h[:, None] * psi + GAMMA / 2 * psi[:, None] * psi,
        "readout": push,
    }
    moves = {name: weight * move for name, move in moves.items()}
    return {n: (m.mean(-1), m.std(-1) / np.sqrt(m.shape[-1])) for n, m in moves.items()}


CELLS = [
    *itertools.product(("erf", "square", "tanh"), TARGETS, list(LOSSES)[:4], ("once",)),
    *itertools.product(("erf", "tanh"), TARGETS, ("logistic", "log cosh"), ("once",)),
    *itertools.product(("linear",), ("product",), ("hinge", "Huber"), ("once",)),
    *itertools.product(("erf", "square"), TARGETS, ("squared", "correlation"), list(REPEATS)[1:]),
    *itertools.product(("erf",), ("product",), ("cubic", "log cosh"), list(REPEATS)[1:]),
]  # fmt: skip


# Equations of trained readouts have the rates of fixed ones among theirs.
EVERY = [
    pytest.param(*cell, trained, id="-".join(["trained" if trained else "fixed", *cell]),
                 marks=() if trained or cell[2:] == ("squared", "once") else pytest.mark.slow)
    for trained in (False, True) for cell in CELLS
]  # fmt: skip


def closed(student, target, loss, repeat):
    """Whether all averages have closed forms, whose rounding errors no sample sees."""
    polynomial = loss in ("squared", "correlation", "double", "cubic")
    if repeat in ("twice", "lookahead"):
        return polynomial and student == "square" and target == "product"
    return polynomial and student in ("erf", "square") and repeat != "sharpness-aware"


@pytest.mark.cases(8)
@pytest.mark.parametrize(("student", "target", "loss", "repeat", "trained"), EVERY)
def test_rates_are_those_of_one_step(student, target, loss, repeat, trained):
    declared, label = TARGETS[target]
    expression, pull = LOSSES[loss]
    rate = sp.Rational(1, 2) if trained else 0
    model = dmft.Model(dmft.Committee(STUDENTS[student][0], 2, A), declared, NOISE)
    algorithm = dmft.SGD(GAMMA, loss=expression, repeat=REPEATS[repeat], readout_rate=rate)
    equations = dmft.derive(model, algorithm)
    rates, errors = equations.evaluate(START), {}
    if not closed(student, target, loss, repeat):
        errors = equations.evaluate_error(START)
    wanted = truth(student, label, pull, repeat)
    assert set(rates) == {"M", "Q", "readout"} if trained else {"M", "Q"}
    for name, found in rates.items():
        mean, spread = wanted[name]
        if name == "readout":
            mean, spread = mean / 2, spread / 2
        off = np.abs(found - mean) / np.hypot(spread, errors.get(name, 0) / 2.6)
        assert off.max() < 5, (name, off)


def test_a_kinked_unit_that_looks_ahead_on_a_cubic_label():
    """Rates of a ReLU by panels that end at its kinks, in both fields."""
    m, rho = -0.2, 0.1
    points, weights = np.polynomial.legendre.leggauss(24)

    def panels(ends):
        half = np.diff(ends)[:, None] / 2
        z = ends[:-1, None] + half * (1 + points)
        return z.ravel(), (half * weights * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)).ravel()

    wanted = np.zeros(3)
    roots = [-np.sqrt(3), 0, np.sqrt(3)]
    for h_star, share in zip(*panels(np.sort([*np.linspace(-12, 12, 60), *roots])), strict=True):
        y = h_star**3 - 3 * h_star
        # Moved by rho (y - h), the field is positive from here on.
        first = max(0.0, -rho * y / (1 - rho))
        z, weight = panels(np.linspace((first - m * h_star) / np.sqrt(1 - m**2), 14, 25))
        if z[0] > 13:
            continue
        h = m * h_star + np.sqrt(1 - m**2) * z
        psi = (1 - rho) * (y - h)
        wanted += share * np.array([weight @ (psi * v) for v in (h_star, h, psi)])
    cubic = dmft.MultiIndex(dmft.hermite(3, U), [U])
    model = dmft.Model(dmft.Committee(sp.Max(0, Z), 1), cubic)
    equations = dmft.derive(model, dmft.SGD(0.1, repeat=dmft.Lookahead(rho)))
    start = dmft.Overlaps([[1.0]], [[m]])
    rates, errors = equations.evaluate(start), equations.evaluate_error(start)
    assert abs(rates["M"].item() - wanted[0]) < errors["M"].item() < 5e-3
    assert abs(rates["Q"].item() - 2 * wanted[1] - 0.1 * wanted[2]) < errors["Q"].item() < 5e-3

"""What papers print, computed as they print it, against what is derived; the pages that say so."""

import contextlib
import io
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["explain"])
def test_pages_print_what_they_say(page):
    """Examples of a page run one after the other; what follows one is what it prints."""
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    names: dict = {}
    printed = None
    for kind, body in blocks:
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(body, page, "exec"), names)
            printed = out.getvalue()
        elif kind in ("text", "latex"):
            assert printed is not None
            assert [y.rstrip() for y in printed.strip().split("\n")] == [
                y.rstrip() for y in body.strip().split("\n")
            ]


# Saad and Solla, as in Phys. Rev. E 52, 4225.


def I3(C, i, j, k):
    one = 1 + C[i, i]
    root = math.sqrt(one * (1 + C[k, k]) - C[i, k] ** 2)
    return 2 / math.pi / root * (C[j, k] * one - C[i, j] * C[i, k]) / one


def I4(C, i, j, k, n):
    a, b = 1 + C[i, i], 1 + C[j, j]
    four = a * b - C[i, j] ** 2

    def diagonal(q):
        return (
            four * (1 + C[q, q]) - C[j, q] ** 2 * a - C[i, q] ** 2 * b
            + 2 * C[i, j] * C[i, q] * C[j, q]
        )  # fmt: skip

    zero = (
        four * C[k, n] - C[j, k] * C[j, n] * a - C[i, k] * C[i, n] * b
        + C[i, j] * (C[i, k] * C[j, n] + C[i, n] * C[j, k])
    )  # fmt: skip
    return 4 / math.pi**2 / math.sqrt(four) * math.asin(zero / math.sqrt(diagonal(k) * diagonal(n)))


def saad_solla(start, eta):
    """Rates of R and Q in alpha, sums as in the paper."""
    K, M = start.M.shape
    C = np.block([[start.Q, start.M], [start.M.T, start.P]])
    students, teachers = range(K), range(K, K + M)

    def drift(i, n):
        return sum(I3(C, i, n, m) for m in teachers) - sum(I3(C, i, n, j) for j in students)

    def noise(i, k):
        return (
            sum(I4(C, i, k, n, m) for n, m in product(teachers, teachers))
            - 2 * sum(I4(C, i, k, j, n) for j, n in product(students, teachers))
            + sum(I4(C, i, k, j, m) for j, m in product(students, students))
        )

    R = [[eta * drift(i, n) for n in teachers] for i in students]
    Q = [
        [eta * (drift(i, k) + drift(k, i)) + eta**2 * noise(i, k) for k in students]
        for i in students
    ]
    return np.array(R), np.array(Q)


def state(p, k):
    root = np.random.default_rng(5).normal(size=(p + k, p + k + 2))
    omega = root @ root.T / (p + k)
    return dmft.Overlaps(omega[:p, :p], omega[:p, p:], omega[p:, p:])


@pytest.mark.parametrize("summed", [True, False])
def test_rates_of_saad_and_solla(summed):
    """Sums of units by their readouts; means with eta = gamma/K^2 where the widths are equal."""
    erf, gamma = sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2)), 0.7
    p, k = (3, 2) if summed else (2, 2)
    start = state(p, k)
    if summed:
        model = dmft.Model(dmft.Committee(erf, p, (p,) * p), dmft.Committee(erf, k, (k,) * k))
    else:
        model = dmft.literature.saad_solla(p)
    found = dmft.derive(model, dmft.SGD(gamma)).evaluate(start)
    R, Q = saad_solla(start, gamma if summed else gamma / p**2)
    np.testing.assert_allclose(gamma / p * found["M"], R, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gamma / p * found["Q"], Q, rtol=1e-12, atol=1e-14)


def test_phase_retrieval_on_the_sphere():
    gamma, noise = 0.11, 0.3
    phase = dmft.literature.phase_retrieval(1, label_noise=noise)
    equations = dmft.derive(phase, dmft.SGD(gamma, constraint="sphere"))
    for m in (-0.6, 0.05, 0.4, 0.9):
        found = equations.evaluate(dmft.Overlaps([[1.0]], [[m]], [[1.0]]))
        paper = m * ((4 - 24 * gamma) * (1 - m**2) - 2 * gamma * noise)
        assert abs(found["M"][0, 0] - paper) < 1e-13
        assert abs(found["Q"][0, 0]) < 1e-13


@pytest.mark.parametrize(("e", "m", "omega"), [(0.3, 0.4, 0.5), (-0.6, 0.2, 0.8), (0.0, 0.7, 0.2)])
def test_loss_of_two_tokens(e, m, omega):
    """(D1) by the trapezoidal rule: pairs (h*_l, h_l) of different tokens are independent."""
    x = np.arange(-9.0, 9.01, 0.1)

    def s(shift):
        first, second = (x + shift)[:, None], (x - shift)[None, :]
        return 1 / (1 + np.exp(-first * (first - second)))

    normal = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * 0.1
    joint = np.exp(-(x[:, None] ** 2 - 2 * m * x[:, None] * x + x**2) / (2 * (1 - m**2)))
    joint *= 0.01 / (2 * math.pi * math.sqrt(1 - m**2))

    def mean(values):
        return float(normal @ values @ normal)

    cross = float(np.sum((joint.T @ s(0.0) @ joint) * s(e)))
    alpha = 1 / (1 + math.exp(-0.5))
    want = 2 * (
        mean(s(e) ** 2) + (1 - omega) ** 2 * mean(s(0.0) ** 2) + omega**2 * alpha**2
        - 2 * (1 - omega) * cross - 2 * omega * alpha * mean(s(e))
        + 2 * (1 - omega) * omega * alpha * mean(s(0.0))
    )  # fmt: skip
    symbol = sp.Symbol("omega", positive=True)
    risk = dmft.population_risk(dmft.literature.positional_semantic(sp.Rational(1, 2), symbol))
    assert abs(risk(e=e, m=m, omega=omega) - want) < 1e-10

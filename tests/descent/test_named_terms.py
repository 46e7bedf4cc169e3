"""Terms of descents that are dropped, replaced and added: runs against recursions of matrices.

The gradients of a linear unit are linear in what drives them, so that all averages are products
of matrices over times (theory/batch_reuse A.1).
"""

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
LINE = dmft.Committee(z, 1)
ETA, ALPHA, RIDGE, NOISE, M0, STEPS = 0.3, 2.0, 0.1, 0.3, 0.2, 6
EQS = dmft.derive(dmft.Model(LINE, LINE, NOISE), dmft.GradientDescent(ETA, 2, ridge=RIDGE))
FLOW = dmft.derive(
    dmft.Model(LINE, LINE, NOISE), dmft.GradientDescent(1, 2, ridge=RIDGE), scaling="gradient-flow"
)
START = dmft.Overlaps([[1.0]], [[M0]])
t, s, j, r = (EQS.indices[name] for name in "tsjr")
M, Q, C = (EQS.symbols[name] for name in ("M", "Q", "C_theta"))
kappa = sp.Symbol("kappa", positive=True)


def matrices(memory=1, heard=1, kick=1, pull=0, spring=0, steps=STEPS, eta=ETA):
    """M and Q of each time, and Q of the last time with each, with weights of terms.

    `memory` of the field, `heard` noise of the gradients in the covariance, `kick` of a gradient in
    the response, `pull` and `spring` towards zero of M and of C_theta, in each step.
    """
    n = steps + 1
    m, c, answer = np.zeros(n), np.zeros((n, n)), np.zeros((n, n))
    m[0], c[0, 0] = M0, 1 - M0**2
    for i in range(steps):
        size = i + 1
        to_field = memory * np.tril(answer[:size, :size], -1)
        back = np.linalg.inv(np.eye(size) - to_field)
        gap = m[:size] - 1
        drive = np.outer(gap, gap) + c[:size, :size] + NOISE
        felt = ALPHA * (back @ drive @ back.T)[i]
        pulls = ALPHA * back[i]
        m[i + 1] = (1 - eta * RIDGE) * m[i] - eta * ALPHA * (back @ gap)[i] - pull * m[i]
        past = eta * pulls @ answer[:size, :size]
        answer[i + 1, :size] = (1 - eta * RIDGE) * answer[i, :size] - past
        answer[i + 1, i] -= kick * eta
        for k in range(i + 2):  # the last is the diagonal, with the row just found
            other = c[:size, k] if k <= i else c[i + 1, :size]
            value = (1 - eta * RIDGE) * other[i] - eta * pulls @ other
            value -= eta * heard * felt @ answer[k, :size] + spring * other[i]
            c[i + 1, k] = c[k, i + 1] = value
    return m, np.diag(c) + m**2, c[-1] + m[-1] * m


CASES = {
    "as it is": (EQS, {}, {}),
    "dropped": (EQS.without("memory", block="h"), {}, {"memory": 0}),
    "replaced": (
        EQS.replace("C_theta", "noise", EQS.terms["C_theta"]["noise"] / 2), {}, {"heard": 0.5}
    ),
    "kicked": (EQS.replace("R_theta", "kick", EQS.terms["R_theta"]["kick"] / 2), {}, {"kick": 0.5}),
    "a wrong sign": (
        EQS.replace("h", "memory", -EQS.terms["h"]["memory"]), {}, {"memory": -1}
    ),
    "added": (EQS.with_term("M", "pull", -kappa * M[t, j, r]), {"kappa": 0.2}, {"pull": 0.2}),
    "added to a kernel": (
        EQS.with_term("C_theta", "spring", -kappa**2 * C[t, s, j, EQS.indices["l"]]),
        {"kappa": 0.3}, {"spring": 0.09},
    ),
}  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", list(CASES))
def test_changed_terms_run_as_matrices_say(name):
    equations, values, weights = CASES[name]
    run = dmft.solve(equations, START, STEPS, **values)
    assert run.status == "ok"
    found, plain = matrices(**weights), matrices()
    np.testing.assert_allclose(run.M[:, 0, 0], found[0], atol=1e-11)
    np.testing.assert_allclose(run.Q[:, 0, 0], found[1], atol=1e-11)
    np.testing.assert_allclose(run.Q2[-1, :, 0, 0], found[2], atol=1e-11)
    short = dmft.short_times(equations).evaluate(START, **values)
    np.testing.assert_allclose(short.M[:, 0, 0], found[0][:3], atol=1e-11)
    np.testing.assert_allclose(short.Q[:, 0, 0], found[1][:3], atol=1e-11)
    moved = max(np.abs(a - b).max() for a, b in zip(found, plain, strict=True))
    assert name == "as it is" or moved > 1e-2


@pytest.mark.slow
def test_changed_terms_of_a_flow_run():
    """The flow of changed descents, as equations in two times: matrices with small steps."""
    learning_rate = sp.Symbol("learning_rate")
    changed = FLOW.without("memory", block="h").with_term(
        "M", "pull", -learning_rate * kappa * M[t, j, r]
    )
    assert changed.terms["M"]["pull"] == -kappa * M[t, j, r]
    assert changed.changes.dropped.keys() == {"h"}
    assert changed.symbols.keys() == changed.equations.symbols.keys()
    assert changed.indices.of("M") == (t, j, r)
    runs = []
    for steps in (40, 80, 160):
        h = 1 / steps
        runs.append(matrices(memory=0, pull=0.4 * h, steps=steps, eta=h)[0][-1])
    first, second = 2 * runs[1] - runs[0], 2 * runs[2] - runs[1]
    wanted = second + (second - first) / 3
    run = dmft.solve(changed, START, 1.0, points=8, levels=5, kappa=0.4)
    assert run.status == "ok"
    assert run.M[-1, 0, 0] == pytest.approx(wanted, abs=1e-5)
    assert matrices(steps=80, eta=1 / 80)[0][-1] != pytest.approx(wanted, abs=5e-3)

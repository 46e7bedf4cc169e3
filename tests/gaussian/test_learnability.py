"""Tables of learnability: those of the theory, direction by direction, and what a user meets."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z1, z2, z3 = sp.symbols("z1 z2 z3", real=True)
PARITY3 = sp.sign(z1 * z2 * z3)
ONE_PASS, REUSE, GENERIC = "one-pass SGD", "data reuse", "generic"


def he(n, z):
    return dmft.hermite(n, z)


# theory/batch_reuse D.4 read per direction: subspace -> samples of (one pass, data reuse, generic).
# The costly targets (three fields with signs) run in derivations/exponents.py and when slow.
LOG, SQUARE, CUBE = "d log d", "d^2", "d^3"
TABLE = [
    (z1, {"z1": ("d", "d", "d")}),
    (sp.Max(0, z1), {"z1": ("d", "d", "d")}),
    (sp.tanh(he(3, z1)), {"z1": ("d", "d", "d")}),
    (he(2, z1), {"z1": (LOG, LOG, "d")}),
    (sp.Abs(z1), {"z1": (LOG, LOG, "d")}),
    (he(3, z1), {"z1": (SQUARE, "d", "d")}),
    (he(4, z1), {"z1": (CUBE, LOG, "d")}),
    (he(2, z1) + he(3, z1), {"z1": (LOG, "d", "d")}),
    (z1**2 * sp.exp(-(z1**2)), {"z1": (CUBE, CUBE, SQUARE)}),
    (z1 + z1 * z2, {"z1": ("d", "d", "d"), "z2": ("d", "d", "d")}),
    (z1 * z2, {"z1, z2": (LOG, LOG, "d")}),
    (sp.sign(z1 * z2), {"z1, z2": (LOG, LOG, "d")}),
    (z1 + he(3, z2), {"z1": ("d", "d", "d"), "z2": (SQUARE, "d", "d")}),
    (z1 + z1 * he(3, z2), {"z1": ("d", "d", "d"), "z2": (SQUARE, "d", "d")}),
    (
        # The first direction is E[y z], (0.767832, -0.640651).
        sp.tanh(z1 + he(3, z2)),
        {"z1 - 0.8344*z2": ("d", "d", "d"), "0.8344*z1 + z2": ("d", "d", "d")},
    ),
    (
        sp.tanh(z1) + sp.tanh(z2),
        {"z1 + z2": ("d", "d", "d"), "z1 - z2": (LOG, LOG, "d")},
    ),
    (
        he(3, z1) + he(3, z2),
        {"z1 + z2": (SQUARE, "d", "d"), "z1 - z2": (SQUARE, LOG, "d")},
    ),
    (z1 * z2 * z3, {"z1, z2, z3": (SQUARE, LOG, "d")}),
    (
        z1 + z1 * z2 + z1 * z2 * z3,
        {"z1": ("d", "d", "d"), "z2": ("d", "d", "d"), "z3": ("d", "d", "d")},
    ),
    (he(3, z1) + z1 * z2 * z3, {"z1": (SQUARE, "d", "d"), "z2, z3": (SQUARE, LOG, "d")}),
    (PARITY3, {"z1, z2, z3": (SQUARE, SQUARE, "d^(3/2)")}),
    (z1**2 + PARITY3, {"z1": (LOG, LOG, "d"), "z2, z3": (LOG, LOG, "d")}),
    (he(4, z1) + PARITY3, {"z1": (SQUARE, LOG, "d"), "z2, z3": (SQUARE, LOG, "d")}),
    (he(3, z1) + PARITY3, {"z1": (SQUARE, "d", "d"), "z2, z3": (SQUARE, LOG, "d")}),
]


def test_the_table_has_all_its_targets():
    assert len({row[0] for row in TABLE}) == 24


@pytest.mark.cases(10)
@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        pytest.param(*row, id=str(row[0]), marks=[pytest.mark.slow] if row[0].has(PARITY3) else [])
        for row in TABLE
    ],
)
def test_table_of_the_theory_by_direction(target, wanted):
    table = dmft.learnability(target, sorted(target.free_symbols, key=str)).table
    assert {row.name: tuple(v.samples for v in row.verdicts) for row in table} == wanted


def test_steps_orders_and_reasons():
    result = dmft.learnability(z1 + he(3, z2), [z1, z2, z3])
    row = {r.name: r for r in result.table}
    one_pass = row["z2"][ONE_PASS]
    assert (one_pass.step, one_pass.order, one_pass.exponent) == (2, 3, 2)
    assert not one_pass.logarithm
    assert "E[y He_3(z2)]" not in one_pass.reason  # z1 is known by then
    assert "phi(z1) He_3(z2)" in one_pass.reason
    assert "finitely many steps" in row["z2"][REUSE].reason
    assert row["z2"][REUSE].step == 1
    for algorithm in result.algorithms:
        nothing = row["z3"][algorithm]
        assert (nothing.step, nothing.samples, nothing.exponent) == (None, "never", sp.oo)
        assert "does not depend on z3" in nothing.reason
    assert result.table[-1].name == "z3"
    assert "leap exponent 3 (symbolic)" in result.explain()
    hard = dmft.learnability(sp.tanh(z1) * z2, [z1, z2])
    assert "generative leap exponent 2 (numerical, zero means below 1e-06)" in hard.explain()
    blind = dmft.learnability(z1 * z2, [z1, z2]).table[0][REUSE].reason
    assert "never in finitely many steps" in blind


def test_costs_add_up_along_the_staircase():
    # z2 shows at order one only when z1, of order 3, is known: the dear step counts for both.
    result = dmft.learnability(he(3, z1) + he(3, z1) * z2, [z1, z2], algorithms=[ONE_PASS])
    assert result.algorithms == (ONE_PASS,)
    verdicts = {row.name: row[ONE_PASS] for row in result.table}
    assert [verdicts[n].samples for n in ("z1", "z2")] == ["d^2", "d^2"]
    assert [verdicts[n].step for n in ("z1", "z2")] == [1, 2]
    assert [verdicts[n].order for n in ("z1", "z2")] == [3, 1]
    with pytest.raises(KeyError, match="one-pass SGD"):
        result.table[0][GENERIC]


def test_steps_of_two_algorithms_that_do_not_fit_are_listed_apart():
    # A direction halfway to another is no union of subspaces of both; axes are.
    from dmft.gaussian.exponents.learnability import _subspaces

    e1, slanted = np.array([[1.0, 0.0, 0.0]]), np.array([[0.6, 0.8, 0.0]])
    spaces = _subspaces([[e1], [slanted]], 3)
    assert [s.shape for s in spaces] == [(1, 3)] * 3
    np.testing.assert_allclose(np.abs(spaces[2]), [[0, 0, 1]], atol=1e-12)
    fitting = _subspaces([[np.eye(3)[:2]], [np.eye(3)[1:]]], 3)
    assert sorted(tuple(map(float, s[0])) for s in fitting) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]


def test_constants_teach_nothing_and_multi_index_targets_know_their_fields():
    assert dmft.learnability(sp.Integer(2), z1).table[0].verdicts[0].samples == "never"
    x, y = sp.symbols("x y", real=True)
    declared = dmft.learnability(dmft.MultiIndex(x * y**2, [x, y]))
    plain = dmft.learnability(z1 * z2**2, [z1, z2])
    assert str(declared) == str(plain)


def test_tables_display():
    result = dmft.learnability(z1 + he(3, z2), [z1, z2])
    lines = str(result).splitlines()
    assert lines[1].split() == ["direction", "one-pass", "SGD", "data", "reuse", "generic"]
    assert lines[3].split()[:2] == ["z_2", "d²"]
    assert r"$z_{2}$ & $d^{2}$ (step 2) & $d$ (step 1) & $d$ (step 1) \\" in result.latex()
    assert ">$z_{2}$</td>" in result._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((z1, z1, ["perceptron"]), "choose among 'one-pass SGD'"),
        ((z1, z1, []), "choose among"),
        ((z1,), "fields of the target"),
        ((z1 * z2, z1), "not among the fields"),
        ((dmft.MultiIndex(z1, [z1]), z2), "the fields of this MultiIndex"),
    ],
)
def test_refusals(arguments, match):
    with pytest.raises(BadParameter, match=match):
        dmft.learnability(*arguments)

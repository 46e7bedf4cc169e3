"""Named models against the papers' own formulas."""

import inspect
import math
import re

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft import literature
from dmft.display.bibliography import ENTRIES, bibtex
from dmft.errors import BadParameter


def test_saad_solla_risk_is_the_generalisation_error_of_the_paper():
    # Saad and Solla (1995), eq. (5): sums of arcsines over student and teacher units, without the
    # means over units; with p = k = K, eps_g = K^2 risk.
    K = 3
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2 * K, 2 * K + 3))
    C = A @ A.T / (2 * K)
    Q, R, T = C[:K, :K], C[:K, K:], C[K:, K:]

    def angles(X, left, right):
        return np.arcsin(X / np.sqrt(np.outer(1 + np.diag(left), 1 + np.diag(right)))).sum()

    error = (angles(Q, Q, Q) + angles(T, T, T) - 2 * angles(R, Q, T)) / math.pi
    risk = dmft.population_risk(literature.saad_solla(K))
    assert K**2 * risk(Q=Q, M=R, P=T) == pytest.approx(error, rel=1e-12)


def test_reusing_batches_is_the_target_of_the_paper():
    model = literature.reusing_batches(2, readout=[1, -1], label_noise=0.1)
    z1, z2 = model.teacher.fields
    assert model.teacher.expr == sp.tanh(z1 + z2**3 - 3 * z2)
    assert model.student.activation == sp.Max(0, sp.Symbol("z", real=True))
    other = dmft.MultiIndex(z1 * z2, [z1, z2])
    assert literature.reusing_batches(target=other).teacher == other


def test_phase_retrieval_risk_at_the_sphere():
    # theory/one_pass F.1: risk = 2 (1 - m^2) at p = 1.
    risk = dmft.population_risk(literature.phase_retrieval(1))
    assert risk(Q=[[1.0]], M=[[0.3]], P=[[1.0]]) == pytest.approx(2 * (1 - 0.09), rel=1e-13)
    assert literature.phase_retrieval(5).teacher.width == 1


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_hermite_committee_risk_is_a_power_of_the_overlap(order):
    # Mehler: E[He_n(u) He_n(v)] = n! rho^n, so the risk of one unit is n! (1 - m^n).
    risk = dmft.population_risk(literature.hermite_committee(order, 1))
    expected = math.factorial(order) * (1 - 0.4**order)
    assert risk(Q=[[1.0]], M=[[0.4]], P=[[1.0]]) == pytest.approx(expected, rel=1e-12)


def test_widths_may_be_symbols():
    p, k = sp.symbols("p k", integer=True, positive=True)
    model = literature.saad_solla(p, k, label_noise=sp.Symbol("Delta", positive=True))
    assert (model.student.width, model.teacher.width) == (p, k)
    assert literature.hermite_committee(2, p).teacher.width == p


@pytest.mark.parametrize("order", [0, -1, 1.5, True])
def test_hermite_order_is_checked(order):
    with pytest.raises(BadParameter, match="order"):
        literature.hermite_committee(order, 1)


def test_every_cited_key_has_an_entry_and_entries_are_well_formed():
    for name in ("hermite_committee", "phase_retrieval", "saad_solla"):
        cited = re.findall(r"\[([a-z0-9_]+)\]", inspect.getdoc(getattr(literature, name)))
        assert cited, f"{name} cites nothing"
        assert set(cited) <= set(ENTRIES)
    assert set(literature.CONVENTIONS) <= set(ENTRIES)
    for key, entry in ENTRIES.items():
        assert re.match(r"@\w+\{" + key + ",", entry)
        assert entry.count("{") == entry.count("}")
        assert all(field in entry for field in ("author", "title", "year"))
    with pytest.raises(BadParameter, match="no entry"):
        bibtex("nobody_1900")
    assert bibtex().count("@") == len(ENTRIES)

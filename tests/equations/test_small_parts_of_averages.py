"""Small functions of `dmft.equations.averages` at arguments whose value is known by hand."""

import math

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations import symbols as s
from dmft.equations.averages.closure import Collector, cosine_rule, moment
from dmft.equations.averages.conditioned import conditioned, sums_inside
from dmft.equations.averages.expectation import (
    At,
    Covariances,
    Expectation,
    OverSamples,
    free_indices,
    product_average,
    split_coefficient,
)
from dmft.equations.averages.passes import without_code
from dmft.equations.averages.tails import intervals, law_of, may_outgrow
from dmft.equations.escape.weak_recovery import H_STAR, H, one_update
from dmft.equations.sequence.alignments import Tokens, joint_rule, star_fields, value_at
from dmft.model import FIELD as z
from dmft.model import token_fields

h, j, l = s.h, s.j, s.l  # noqa: E741
SQUARE = At(z**2, h[j])


def test_averages_name_their_parts():
    square = Expectation(SQUARE, At(z, h[l]))
    assert (square.factors, square.fields, free_indices(square)) == (
        (z**2, z),
        (h[j], h[l]),
        (j, l),
    )
    assert not Expectation(SQUARE * sp.Sum(h[s.u], (s.u, 1, s.p))).is_product
    one, two = (product_average([z**2] * 2, [h[a], h[b]]) for a, b in ((j, l), (l, j)))
    assert one == two
    assert split_coefficient(-SQUARE * h[j] / s.p) == (-1 / s.p, [SQUARE, h[j]])
    assert str(OverSamples(s.psi[j] ** 2, 1, 4)) == "sum_1..4(psi[j]**2)"
    law = Covariances(sp.Tuple(h[j], h[j], s.Q_perp[j]))
    assert law.covariance(h[j], 2 * h[j]) == 2 * s.Q_perp[j]


def test_sums_go_into_averages_and_students_are_integrated_out():
    inside = sums_inside(sp.Sum(s.a[s.u] * Expectation(h[s.u]), (s.u, 1, s.p)))
    assert str(inside) == "E[Sum(h[u]*readout[u], (u, 1, p))]"
    parts = conditioned(Expectation(At(z, h[j]) * sp.tanh(s.h_star[1]))).parts
    assert parts == (sp.tanh(s.h_star[1]), s.mean_at[j, s.node])


def test_sums_over_neurons_are_collected():
    collector = Collector()
    found = collector.sum(s.a[l] * s.M[l, s.r] * s.parallel[j, l], l)
    assert str(found) == "Sum(along[j, s]*collected_1[r, s], (s, 1, k))"
    assert str(collector.definitions[0].expr) == "Sum(M[l, r]*M[l, s]*readout[l], (l, 1, p))"


def test_cosines_of_random_directions():
    assert (moment(1), moment(2)) == (0, 1 / (s.d - s.k))
    nodes, weights = cosine_rule(100)
    assert weights @ nodes**2 == pytest.approx(0.01, abs=1e-15)


def test_averages_over_tokens():
    e, m = sp.symbols("e m", real=True)
    average = Expectation(token_fields(1)[0] * star_fields(1)[0], Tokens(sp.Tuple(e), m))
    assert value_at(average, {e: 0.0, m: 0.5}, joint_rule(1).arrays) == pytest.approx(0.5, abs=5e-4)


def test_one_update_looks_ahead():
    linear = dmft.Committee(z, width=1)
    ahead = dmft.SGD(0.1, repeat=dmft.Lookahead(sp.Rational(1, 2)))
    update = one_update(dmft.Model(linear, linear), ahead)
    assert sp.expand(update - (H_STAR - H) / 2) == 0


def test_functions_without_code_are_named():
    C = sp.Indexed("Omega", 1, 1)
    assert without_code(sp.erfi(C) + sp.exp(C) * sp.cos(2)) == ["erfi"]
    assert without_code(sp.cbrt(C)) == ["Omega[1, 1]**(1/3)"]


def test_rare_events():
    fields = np.array([[1.0, 0.0], [0.6, 0.8]])
    law = law_of([(0, (3.0, math.inf)), (1, (3.0, math.inf))], fields)
    assert law.mean == pytest.approx([3.0, 1.5])
    assert intervals(sp.Heaviside(z - 1), True) == ((1.0, math.inf),)
    assert intervals(sp.Abs(z), False) == ((-math.inf, 0.0), (0.0, math.inf))
    assert intervals(1 - sp.tanh(z) ** 2, True) == ((-8.0, 8.0),)


def test_losses_that_outgrow_the_density():
    f, y = sp.symbols("f y", real=True)
    model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(z, 1))
    losses = sp.exp(-f * y), sp.log(1 + sp.exp(-f * y)), (f - y) ** 4
    found = [may_outgrow(dmft.derive(model, dmft.SGD(0.1, loss=x)).definitions) for x in losses]
    assert found == [True, False, False]

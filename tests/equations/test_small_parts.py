"""Small steps of the derivation, each at a case that is easily done by hand."""

from types import SimpleNamespace

import pytest
import sympy as sp

import dmft
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Together
from dmft.equations.escape.laws import largest_share, q_star
from dmft.equations.escape.passage import transient_noise
from dmft.equations.escape.uninformative import moment, mu, q
from dmft.equations.noise.derivatives import leaves
from dmft.equations.noise.increments import bilinear
from dmft.equations.noise.increments_at_nodes import orthonormal
from dmft.equations.noise.projection import projected
from dmft.equations.parameter_values import check_concentration, entry_named
from dmft.equations.restrict.unreachable import reach, symmetries
from dmft.equations.update.adaptive_factors import constants
from dmft.equations.update.adaptive_signs import sign_of
from dmft.equations.update.law import Cluster, _without_pieces, clusters_of, laws_of, number_of
from dmft.equations.update.linear_students import Line, is_sign, slope_of
from dmft.equations.update.moments import factored, normal_moment, together
from dmft.equations.update.outputs import targets
from dmft.equations.update.passes import moments_of_length
from dmft.equations.update.program import over_labels, over_noise
from dmft.equations.update.terms import in_products, parity, target_terms, terms_of
from dmft.equations.user_terms import symmetrised
from dmft.errors import BadParameter
from dmft.model import FIELD as Z
from dmft.model.loss import LABEL, PREDICTION
from dmft.workflow.diagrams.end_states import followed_point, kind_of

U, V, A, B, E = x.h_star[1], x.h_star[2], *sp.symbols("a b e")
LINE = dmft.Committee(Z, 1)


def test_clusters_and_flips():
    twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    found = [(c.weight, c.mean, c.label) for c in clusters_of(dmft.Model(LINE, twins))]
    assert found == [(sp.S.Half, (1,), 1), (sp.S.Half, (-1,), -1)]
    assert [c.number for c in clusters_of(dmft.Model(LINE, LINE))] == [0]
    flipped = dmft.Model(LINE, dmft.MultiIndex(sp.sign(Z), [Z]), label_flip=0.1)
    laws = [(c.number, c.weight, c.sign) for c in laws_of(flipped)]
    assert laws == [(1, 1 - x.flip, 1), (2, x.flip, -1)]
    mean = x.mean_in(1)[x.p + x.r]
    shifted = Cluster(1, mean=(sp.Integer(1),)).shifted(At(Z**2, x.h_star[x.r]))
    assert shifted == At(Z**2 + 2 * Z * mean + mean**2, x.h_star[x.r])
    own = Cluster(2, shape=2).own(x.h[x.j] * x.Omega[x.j, x.i])
    assert str(own) == "Omega_in_2[j, i]*h_in_2[j]"
    assert (number_of(0.25), number_of(1 / 3)) == (sp.Rational(1, 4), sp.Rational(1, 3))
    assert float(number_of(0.1234567)) == 0.1234567
    halves = [sp.S.Half, sp.S.Half]
    assert orthonormal(halves) == [halves, [sp.S.Half, -sp.S.Half]]


def test_labels_and_losses():
    pieces = sp.Piecewise((sp.exp(Z) - 1, Z < 0), (Z, True))
    assert _without_pieces(pieces) == sp.exp(sp.Min(0, Z)) + sp.Max(0, Z) - 1
    line = Line(x.output, At(sp.sign(Z), U), (x.a[x.u], sp.S.Zero))
    form = line.form(LABEL / (1 + sp.exp(LABEL * PREDICTION)))
    assert form == At(1 / (sp.exp(Z) + 1) - sp.S.Half, x.output) + At(sp.sign(Z), U) / 2
    assert (slope_of(3 * Z), slope_of(Z * sp.tanh(Z)), slope_of(Z + 1)) == (3, None, None)
    assert is_sign(-sp.sign(U) * sp.sign(V))
    assert not is_sign(sp.sign(U) + 1)
    mean = over_labels((PREDICTION - LABEL) ** 2, A).expand()
    assert mean == PREDICTION**2 - 2 * PREDICTION * A + 1
    rounded = over_noise(sp.sign(LABEL - PREDICTION))
    assert sp.simplify(rounded - sp.erf((LABEL - PREDICTION) / sp.sqrt(2 * x.Delta))) == 0
    assert together([(1 - E, A + B), (E, A - B)]) == A + B * (1 - 2 * E)
    classes = dmft.Committee(Z, 2, [[1, 0], [0, 1]])
    above = sp.Heaviside(U / 2 - V / 2), sp.Heaviside(V / 2 - U / 2)
    assert tuple(targets(dmft.Model(classes, classes), Cluster())) == above


def test_terms_and_moments():
    weights = factored(x.a[x.j] * At(Z**2, x.h[x.j]) * (1 + x.xi))
    assert weights == (x.a[x.j], ((Z**2, x.h[x.j]),), x.xi + 1)
    assert normal_moment(Z**4 + 2 * Z + 1) == 4
    assert [parity(f) for f in (Z**3 - Z, sp.exp(-(Z**2)), sp.Max(0, Z))] == [-1, 1, 0]
    error = U * V - sp.Sum(x.a[x.u] * At(Z**2, x.h[x.u]), (x.u, 1, x.p))
    found = [(t.coefficient, t.factors) for t in terms_of(error)]
    assert set(found) == {(1, ((U, Z), (V, Z))), (-x.a[x.u], ((x.h[x.u], Z**2),))}
    count = [len(t.factors) for t in target_terms(U**2 - 3 * U + sp.sign(U * V))]
    assert sorted(count) == [1, 2]
    h, y = sp.symbols("h y", real=True)
    product = in_products(y * sp.Abs(h) * (1 - y * sp.sign(h)), {h: x.h[x.j]}, {y: x.label})
    signed = At(sp.Abs(Z) * sp.sign(Z), x.h[x.j])
    assert product == x.label * At(sp.Abs(Z), x.h[x.j]) - x.label**2 * signed
    assert moment((Z, Z**3), 2, sp.S.One) == 12
    assert bilinear(E * A * B - A**2, [A, B], sp.Function("c")) == E * sp.Function("c")(
        A, B
    ) - sp.Function("c")(A, A)
    (leaf,) = leaves(3 * sp.Sum(x.Q[x.j, x.l] ** 2, (x.l, 1, x.p)), {"Q"})
    assert (leaf.entry, leaf.slope, leaf.sums) == (x.Q[x.j, x.l], 6 * x.Q[x.j, x.l], (x.l,))


def test_constants_of_scaled_and_shortened_steps():
    assert constants(0.9) == pytest.approx((0.866, 0.823), abs=5e-4)
    c = sp.Symbol("c", positive=True)
    assert moments_of_length(1, c, True)[0] == sp.erf(c / sp.sqrt(2))
    slopes = (3 * sp.exp(-(Z**2)), -2 * Z, 1 - sp.tanh(Z) ** 2, sp.Heaviside(Z))
    assert [sign_of(s) for s in slopes] == [1, -sp.sign(Z), 1, sp.Heaviside(Z)]
    assert float(largest_share()) == pytest.approx(0.715331863)


def test_tangential_drifts_leave_the_sphere_out():
    cubic = dmft.Committee(dmft.hermite(3, Z), width=1)
    flow = dmft.derive(dmft.Model(cubic, cubic), dmft.GradientFlow(constraint="sphere"))
    (M,) = (d for d in projected(flow.definitions) if d.name == "M")
    assert list(dict(M.terms)) == ["learning", "interaction"]


@pytest.mark.compiled
def test_fixed_points_are_named_and_followed_to_a_fold():
    equal = dmft.Overlaps([[1.0, 0.3], [0.3, 1.0]], [[0.5, 0.5], [0.5, 0.5]])
    assert kind_of(equal) == "unspecialised"
    square = dmft.Committee(Z**2, width=1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    given = equations, dmft.Overlaps([[0.3]], [[0.0]]), {"learning_rate": 0.0}
    point = followed_point(*given, {"learning_rate": 0.1})
    assert point.overlaps.Q.item() == pytest.approx(0.442812)
    lost = followed_point(*given, {"learning_rate": 0.3})
    assert lost.message.endswith("near learning_rate = 0.1802")  # theory/one_pass F.3


def test_names_and_terms():
    assert (x.cluster_of(x.base_in(x.h, 2)), x.cluster_of(x.Omega)) == ((x.h, 2), (x.Omega, 0))
    assert x.is_mean(x.mean_in(2))
    assert not x.is_mean(x.h)
    names = [entry_named(name) for name in ("M_12", "a_1", "Q_0")]
    assert names == ["M[1, 2]", "readout[1]", ""]
    whole = Together(A - B)
    assert (str(sp.expand(E * whole)), whole.doit()) == ("e*(a - b)", A - B)
    assert sp.diff(Together(A - B**2), B) == -2 * B
    one, two = x.M[x.j, 1], x.M[x.l, 1]
    assert symmetrised(x.Q[x.j, x.l], x.j, x.l) == x.Q[x.j, x.l]
    assert symmetrised(one, x.j, x.l) == (one + two) / 2


def test_a_product_is_closed_to_odd_students():
    found = symmetries(A * B, [A, B], sp.erf(Z), dmft.GradientDescent(0.1, 1))
    assert reach(found, 2).shape == (0, 2)


def test_terms_may_hold_what_an_optimiser_accumulates():
    equations = dmft.derive(dmft.Model(LINE, LINE), dmft.AdaGradNorm(0.5, initial=1.0))
    N, M, start = equations.symbols["accumulator"], equations.symbols["M"], ([[1.0]], [[0.25]])
    changed = equations.with_term("M", "pull", -N * M[equations.indices.of("M")])
    before, after = (e.evaluate(dmft.Overlaps(*start))["M"] for e in (equations, changed))
    assert (after - before).item() == pytest.approx(-0.25, rel=1e-12)


@pytest.mark.parametrize(("rate", "least"), [(0.5, 5), (3.0, 90)])
def test_least_batch_of_a_map(rate, least):
    """max(s, s^2) / n_b <= 0.1 at s = learning_rate / (p d)."""
    given = {"learning_rate": 2 * rate, "dim": 1}
    check_concentration({**given, "batch_size": least + 1}, 2)
    with pytest.raises(BadParameter, match=f"Use batch_size >= {least}"):
        check_concentration({**given, "batch_size": least - 1}, 2)


def test_noise_while_the_length_relaxes():
    """dq/dt = b (c - q), growth lambda, noise D q: kappa = D (c/(2 l) + (q_0 - c)/(2 l + b))."""
    b, c, growth, noise, start = 0.7, 2.0, 0.3, 1.1, 0.5
    facts = SimpleNamespace(
        noise=noise * q, sphere=False, drift=growth * mu, length_rate=b * (c - q)
    )
    law = SimpleNamespace(facts=facts, growth=sp.Float(growth), where=((q_star, sp.Float(c)),))
    found = transient_noise(law, {}, start)
    assert found == pytest.approx(
        noise * (c / (2 * growth) + (start - c) / (2 * growth + b)), rel=1e-7
    )

"""Equations as papers print them: closed forms against lines of papers, and against rates."""

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy
import sympy as sp
from sympy.parsing.sympy_parser import (
    implicit_multiplication,
    parse_expr,
    standard_transformations,
)

import dmft
from dmft.display.latex import document
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.symbols import ONLY
from dmft.equations.views.closed import closed_system
from dmft.equations.views.collected import collected
from dmft.equations.views.declared import declared_definitions
from dmft.equations.views.kernels import at_means, closed_average, in_factors, name_averages
from dmft.equations.views.latex import subject_of
from dmft.equations.views.networks import of_signs
from dmft.equations.views.paper_units import letters_of
from dmft.equations.views.printer import EquationPrinter, KernelPrinter
from dmft.equations.views.text import halved, model_names
from dmft.equations.views.token_outputs import token_outputs
from dmft.equations.views.unit_sums import in_all_clusters, over_clusters, with_scaled_fields
from dmft.errors import BadParameter
from dmft.explanation.print_forms import OneMore, named_parts

z = sp.Symbol("z", real=True)
gamma = sp.Symbol("gamma", positive=True)
Delta = sp.Symbol("Delta", nonnegative=True)
ERF, RELU, HE3 = sp.erf(z / sp.sqrt(2)), sp.Max(0, z), z**3 - 3 * z
SPHERE = dmft.SGD(gamma, constraint="sphere")
# What the equations call their symbols.
q, rho = sp.symbols("Q P", positive=True)
m = sp.Symbol("M", real=True)
g, noise = sp.Symbol("learning_rate", positive=True), sp.Symbol("label_noise", nonnegative=True)


def one(activation, teacher=None, **more):
    return dmft.Model(
        dmft.Committee(activation, 1), dmft.Committee(teacher or activation, 1), **more
    )


def is_zero(expr):
    """Of polynomials symbolically, of others at three points to 40 digits."""
    if expr.is_polynomial():
        return sp.expand(expr) == 0
    free = sorted(expr.free_symbols, key=str)
    for shift in range(3):
        at = {s: sp.Rational(2 * n + shift + 3, 3 * n + 11) for n, s in enumerate(free)}
        if abs(sp.N(expr.xreplace(at), 40, maxn=400)) > sp.Float(10) ** -35:
            return False
    return True


# Lines of papers ------------------------------------------------------------------------------


def test_phase_retrieval_on_the_sphere():
    """[arnaboldi_2023_mediocrity]: one line, no average, no multiplier."""
    equations = dmft.derive(dmft.literature.phase_retrieval(1, label_noise=Delta), SPHERE)
    closed = closed_system(subject_of(equations))
    assert is_zero(closed["M"] - m * ((4 - 24 * g) * (1 - m**2) - 2 * g * noise))
    assert is_zero(closed["risk"] - 2 * (1 - m**2))
    text = equations.latex()
    assert len(text) < 900
    assert r"\langle" not in text
    assert r"\Phi" not in text
    line = r"M \left[\left(4 - 24 \gamma\right) \left(1 - M^{2}\right) - 2 \gamma \Delta\right]"
    assert line in text
    assert r"\mathcal{R} &= 2 \left(1 - M^{2}\right)" in text
    assert "$Q = P = 1$" in text


def erf_rates():
    """One unit of Biehl and Schwarze, with any lengths (theory/one_pass A.2)."""
    wide, mixed = sp.sqrt(1 + 2 * q), sp.sqrt((1 + q) * (1 + rho) - m**2)
    dM = 2 / sp.pi * ((rho * (1 + q) - m**2) / mixed - m / wide) / (1 + q)
    dQ = 4 / sp.pi * (m / mixed - q / wide) / (1 + q)
    both = (1 + 2 * q) * (1 + rho) - 2 * m**2
    square = sp.asin(q / (1 + 3 * q)) + sp.asin((rho * (1 + 2 * q) - 2 * m**2) / both)
    square -= 2 * sp.asin(m / sp.sqrt((1 + 3 * q) * both))
    return dM, dQ, 4 * g / sp.pi**2 / wide * square


def test_one_erf_unit():
    dM, dQ, square = erf_rates()
    for algorithm, more in ((dmft.SGD(gamma), square), (dmft.GradientFlow(), 0)):
        equations = dmft.derive(one(ERF), algorithm)
        closed = closed_system(subject_of(equations))
        assert is_zero(closed["M"] - dM)
        assert is_zero(closed["Q"] - dQ - more)
        arcs = (sp.asin(y) for y in (q / (1 + q), rho / (1 + rho)))
        cross = sp.asin(m / sp.sqrt((1 + q) * (1 + rho)))
        assert is_zero(closed["risk"] - (sp.Add(*arcs) - 2 * cross) / sp.pi)
        text = equations.latex(width=455)
        assert r"\arcsin" in text
        assert not any(y in text for y in ("C_{", r"\Lambda", r"\langle", "S_{", "A_{"))


def test_one_relu_unit():
    """By the angle of student and teacher (theory/one_pass A.3)."""
    angle, root = sp.acos(m / sp.sqrt(q * rho)), sp.sqrt(q * rho - m**2)
    dM = (rho * (sp.pi - angle) + m * root / q) / (2 * sp.pi) - m / 2
    dQ = (m * (sp.pi - angle) + root) / sp.pi - q
    square = rho * (sp.pi - angle) + m * root / q + sp.pi * q
    square -= 2 * (m * (sp.pi - angle) + root)
    for algorithm, more in ((dmft.SGD(gamma), g * square / (2 * sp.pi)), (dmft.GradientFlow(), 0)):
        equations = dmft.derive(one(RELU), algorithm)
        closed = closed_system(subject_of(equations))
        assert is_zero(closed["M"] - dM)
        assert is_zero(closed["Q"] - dQ - more)
        text = equations.latex()
        assert r"\arccos" in text
        assert r"\sin \theta" in text
        assert not any(y in text for y in ("C_{", r"\Lambda", r"\langle", "S_{", "A_{"))


def test_third_hermite_on_the_sphere():
    equations = dmft.derive(
        dmft.literature.hermite_committee(3, 1),
        dmft.SGD(gamma, loss="correlation", constraint="sphere"),
    )
    closed = closed_system(subject_of(equations))
    want = 18 * m**2 * (1 - m**2) - 54 * g * m * (1 + 12 * m**2 + 18 * m**4)
    assert is_zero(closed["M"] - want)
    assert is_zero(closed["loss"] - (1 - 6 * m**3) + (1 - 6 * m**3).subs(m, 0) - 1)
    # dM/dt, the risk and the loss: a line each, in a column of two.
    assert sum("&" in line for line in equations.latex().split("\n")) == 3


# Rates ----------------------------------------------------------------------------------------

MODELS = {
    "square": (one(z**2, label_noise=0.3), dmft.SGD(0.2)),
    "square on the sphere": (one(z**2, label_noise=0.3), dmft.SGD(0.2, constraint="sphere")),
    "erf": (one(ERF, label_noise=0.1), dmft.SGD(0.4)),
    "relu": (one(RELU), dmft.SGD(0.4)),
    "erf of relu": (one(ERF, RELU), dmft.GradientFlow()),
    "relu of relu squared": (one(RELU, z**2), dmft.GradientFlow()),
    "decay": (one(ERF), dmft.SGD(0.4, weight_decay=0.2)),
    "readout": (one(ERF), dmft.SGD(0.4, readout_rate=1.5)),
    "momentum": (one(z**2), dmft.SGD(0.2, momentum=dmft.Momentum(0.7))),
    "correlation": (one(HE3), dmft.SGD(0.1, loss="correlation", constraint="sphere")),
    "langevin": (one(z**2), dmft.SGD(0.1, gradient_noise=0.5, constraint="sphere")),
    "clusters": (
        dmft.Model(dmft.Committee(ERF, 1), dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1])),
        dmft.SGD(0.3),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_closed_rates_are_those_of_the_equations(name):
    model, algorithm = MODELS[name]
    equations = dmft.derive(model, algorithm)
    closed = closed_system(subject_of(equations))
    length, P = (1.0, 1.0) if getattr(algorithm, "constraint", None) else (1.3, 0.9)
    start = dmft.Overlaps([[length]], [[0.4]], [[P]])
    if "readout" in name:
        start = dmft.Overlaps([[length]], [[0.4]], [[P]], readout=[0.8])
    found = equations.evaluate(start)
    numbers = {"Q": length, "M": 0.4, "P": P, "readout": 0.8, **equations.values(start, {}).scalars}
    for d in (d for d in closed.definitions if d.role == "rate"):
        expr = closed[d.name]
        at = {s: sp.Float(numbers.get(s.name, 0)) for s in expr.free_symbols}
        assert abs(float(sp.N(expr.xreplace(at))) - found[d.name].item()) < 1e-12, d.name


@pytest.mark.parametrize(("p", "k"), [(1, 1), (2, 1), (3, 2)])
def test_sums_over_units_are_those_of_the_equations(p, k):
    """Polynomials on the sphere for all widths: sums of products of overlaps."""
    model = dmft.literature.phase_retrieval(p)
    model = dmft.Model(model.student, dmft.Committee(z**2 + z, k), label_noise=0.2)
    equations = dmft.derive(model, dmft.SGD(0.3, constraint="sphere"))
    closed = closed_system(subject_of(equations))
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(p, p + k + 1))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    start = dmft.Overlaps(rows @ rows.T, rows[:, :k], np.eye(k))
    found = equations.evaluate(start)
    values = equations.values(start, {}).scalars
    units = {x.p: p, x.k: k}

    def number(expr, at):
        """Value of an expression with indices at numbers."""
        if isinstance(expr, sp.Sum):
            (index, _, high), *more = expr.limits
            body = sp.Sum(expr.function, *more) if more else expr.function
            last = int(high.xreplace(units))
            return sum(number(body, at | {index: n}) for n in range(1, last + 1))
        if isinstance(expr, sp.Indexed):
            place = tuple(int(i.xreplace(at)) - 1 if i in at else 0 for i in expr.indices)
            name = str(expr.base)
            if name == "Phi":
                indices = {i: n + 1 for i, n in zip(phi.target.indices, place, strict=True)}
                return number(phi.expr, indices)
            return {"Q": start.Q, "M": start.M, "P": start.P}[name][place]
        if isinstance(expr, sp.KroneckerDelta):
            return float(at[expr.args[0]] == at[expr.args[1]])
        if expr.is_Symbol:
            return float(values[expr.name] if expr.name in values else units[expr])
        if expr.is_number:
            return float(expr)
        parts = [number(a, at) for a in expr.args]
        return {sp.Add: sum, sp.Mul: np.prod, sp.Pow: lambda y: y[0] ** y[1]}[expr.func](parts)

    phi = next((d for d in closed.definitions if d.name == "Phi"), None)
    for d in (d for d in closed.definitions if d.role == "rate"):
        for place, want in np.ndenumerate(found[d.name]):
            at = {i: n + 1 for i, n in zip(d.target.indices, place, strict=True)}
            assert abs(number(d.expr, at) - want) < 1e-12


# Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MODELS, "opposite clusters"])
def test_named_parts_put_back_are_the_equations(name):
    """With at most four names, none of a letter of the equations, and shorter than without them."""
    model, algorithm = MODELS["clusters" if name == "opposite clusters" else name]
    if name == "opposite clusters":
        inputs = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
        model = dmft.Model(dmft.Committee(ERF, 1), inputs)
    system = closed_system(subject_of(dmft.derive(model, algorithm)))
    exprs = [expr for _, expr, _ in system.rows]
    named, parts = named_parts(exprs, "M P Q R a")
    assert len(parts) <= 4
    back = list(named)
    for _ in parts:
        back = [e.xreplace(parts) for e in back]
    plain = {s: s.plain for e in exprs for s in e.free_symbols if hasattr(s, "plain")}
    for before, after in zip(exprs, back, strict=True):
        assert is_zero((after - before).xreplace(plain))
    if parts:
        assert not {s.name.strip("'_{}123") for s in parts} & set("MPQRa")
        lengths = [sum(map(sp.count_ops, some)) for some in ([*named, *parts.values()], exprs)]
        assert lengths[0] < lengths[1]


def test_determinants_are_named_as_in_papers():
    """D = (1 + P)(1 + Q) - M^2 (Biehl and Schwarze), with numbers where there are two."""
    equations = dmft.derive(one(ERF), dmft.SGD(gamma))
    text = " ".join(equations.latex().split())
    for row in (
        r"D_{1} &= \left(1 + P\right) \left(1 + Q\right) - M^{2}",
        r"D_{2} &= \left(1 + P\right) \left(1 + 2 Q\right) - 2 M^{2}",
    ):
        assert text.partition(" where ")[2].count(row) == 1
    assert text.count(r"\sqrt{D_{1}}") == 2
    # A letter that the notation uses is not taken.
    other = equations.latex(notation={"M": "D"})
    assert r"G_{1} &= \left(1 + P\right) \left(1 + Q\right) - D^{2}" in other
    scalar = " ".join(equations.latex(notation="scalar").split())
    assert (
        r"\frac{\rho \left(1 + q\right) - m^{2}}{\sqrt{D_{1}}} - \frac{m}{\sqrt{1 + 2 q}}" in scalar
    )


NAMED_AVERAGE = re.compile(r"I_\{(\d)\}\s*\(([^()]*)\)")


@pytest.mark.parametrize("notation", [None, "saad-solla"])
def test_named_averages_put_back_are_the_equations(notation):
    """I_2, I_3 and I_4 of two-layer erf networks; what occurs once is in brackets."""
    equations = dmft.derive(dmft.literature.saad_solla(3, 2, 0.1), dmft.SGD(gamma))
    definitions, _ = declared_definitions(subject_of(equations, notation))
    names = model_names(equations.model)
    plain, named = (EquationPrinter(names, letters_of(notation)) for _ in range(2))
    sentence, rows = name_averages(definitions, named)
    told = "\n".join([*sentence, *rows])
    assert re.findall(r"(\S+) &=", "\n".join(rows)) == ["I_{2}", "I_{3}", "I_{4}"]
    j, r, s = ("x_{j}", "y_{r}", "y_{s}") if notation else ("h_{j}", "h_{r}^*", "h_{s}^*")
    sigma = "g" if notation else r"\sigma"
    use = rf"I_{{3}}(j, r, s) &= \langle {sigma}'({j})\,{r}\,{sigma}({s}) \rangle"
    assert use in told.replace(r"\left", "").replace(r"\right", "")
    kinds = dict(named.averages)
    seen = set()
    for d in (d for d in definitions if d.role in ("rate", "observable")):
        for average in (y for y in sp.preorder_traversal(d.expr) if isinstance(y, Expectation)):
            found = NAMED_AVERAGE.fullmatch(named.doprint(average))
            if found is None:  # the noise of the labels
                assert len(average.parts) == 2
                assert named.doprint(average) == plain.doprint(average)
                continue
            assert int(found[1]) == len(average.fields)
            assert f"I_{{{found[1]}}}" == kinds[average.factors]
            assert found[2] == ", ".join(str(y.indices[0]) for y in average.fields)
            seen.add(found[1])
    assert seen == {"2", "3", "4"}
    text = equations.latex(notation=notation)
    assert len(NAMED_AVERAGE.findall(text)) == 15
    assert text.count(r"\langle") - text.count(r"\langle \cdot") <= 10
    assert text.index(use) < text.index("In these order parameters")


def clusters_apart(expr, mixture):
    """Sums over clusters written out, by the numbers of the mixture."""
    total = expr
    for one in expr.atoms(sp.Sum):
        (index, first, last), *others = one.limits
        if index != x.cluster:
            continue
        assert (first, last, others) == (1, len(mixture.weights), [])
        parts = []
        for n, (weight, label) in enumerate(zip(mixture.weights, mixture.labels, strict=True), 1):
            put = {x.cluster_weight[index]: sp.nsimplify(weight), x.cluster_label[index]: label}
            put[x.cluster_variance[index]] = sp.nsimplify(mixture.scales[n - 1])
            put[x.cluster_mean[index]] = sp.nsimplify(mixture.means[n - 1, 0])
            means = (e for e in one.function.atoms(sp.Indexed) if e.base == x.mean_in(0))
            put |= {e: x.mean_in(n)[e.indices] for e in means}
            parts.append(one.function.xreplace(put))
        total = total.xreplace({one: sp.Add(*parts)})
    return total


def in_plain_sums(expr):
    """Terms of the sums over neurons, each with its factor inside."""
    found = sp.S.Zero
    for term in sp.Add.make_args(sp.expand_mul(expr)):
        sums = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.Sum)]
        if not sums:
            found += term
            continue
        (one,) = sums
        for part in sp.Add.make_args(sp.expand_mul(term / one * one.function)):
            found += sp.Function("S")(*(s for s, *_ in one.limits)) * part
    return sp.expand_mul(found)


@pytest.mark.parametrize(
    ("algorithm", "mixture"),
    [
        (dmft.GradientFlow(), dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1])),
        pytest.param(
            dmft.SGD(gamma),
            dmft.GaussianMixture([[1, 0], [0, 1], [1, 1]], [2, -1, 0], weights=[0.5, 0.3, 0.2]),
            marks=pytest.mark.slow,  # the same sums of more clusters, and those of the noise
        ),
    ],
)
def test_clusters_are_one_sum_in_print(algorithm, mixture):
    """Weights, labels and means by index; written out, the sum is the declared equations."""
    equations = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), mixture), algorithm)
    definitions, _ = declared_definitions(subject_of(equations))
    shown = {d.target: d for d in over_clusters(definitions, mixture)}
    for d in (d for d in definitions if d.role in ("rate", "intermediate", "observable")):
        assert not {x.mean_in(n) for n in (1, 2, 3)} & shown[d.target].expr.atoms(sp.IndexedBase)
        whole = clusters_apart(shown[d.target].expr, mixture)
        assert in_plain_sums(whole - d.expr) == 0
    text = equations.latex(kernels="none")
    assert len(text) < 4000
    assert "^{[1]}" not in text


def test_fields_of_samples_from_clusters_are_defined_once():
    """Logistic regression on two clusters: y_c, m^[c] and psi^[c], no number of a cluster."""
    mixture = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    model = dmft.Model(dmft.Committee(z, 1), mixture)
    equations = dmft.derive(model, dmft.SGD(gamma, loss="logistic"))
    definitions, _ = declared_definitions(subject_of(equations))
    shown = [d for d in over_clusters(definitions, mixture) if d.role == "sample"]
    assert len(shown) == 3
    for d in (d for d in definitions if d.role == "sample" and d.expr.has(sp.tanh)):
        number = int(d.target.name[-1])
        (one,) = (y.expr for y in shown if y.expr.has(sp.tanh))
        here = {
            s: x.symbol_in(sp.Symbol(s.name[:-5], real=True), number)
            for s in one.free_symbols
            if s.name.endswith("_in_0")
        }
        here[x.cluster_label[x.cluster]] = x.symbol_in(x.label, number)
        assert sp.simplify(one.xreplace(here) - d.expr) == 0
    text = equations.latex()
    assert not re.search(r"\[[012]\]", text)
    assert not re.search(r"\^\{[^{}]*\}\^", text)  # TeX refuses two superscripts
    assert "mean" not in text


def test_terms_that_vanish_are_not_printed():
    """S^Delta of Adam without label noise: the gain is that of the gradient alone."""
    text = dmft.derive(one(ERF), dmft.Adam(gamma)).latex(form="structured")
    assert r"S^{\Delta}" not in text.replace("_{j l}", "")
    assert "&= 0" not in text


def test_averages_are_printed_at_any_means():
    """sigma''(x_1 + m_1) sigma(x_2 + m_2), in factors, against Gauss-Hermite quadrature."""
    slope = sp.diff(ERF, z, 2)
    mean = x.mean_in(1)
    shifted = [f.xreplace({z: z + mean[i]}) for f, i in zip((slope, ERF), (x.j, x.u), strict=True)]
    average = at_means(Expectation(At(shifted[0], x.h[x.j]), At(shifted[1], x.h[x.u])))
    assert {e.indices[0] for e in average.atoms(sp.Indexed)} == {1, 2}
    closed = in_factors(closed_average(average))
    at = {"C_{11}": 0.8, "C_{12}": 0.3, "C_{22}": 1.1, "m_{1}": 0.4, "m_{2}": -0.6}
    value = float(closed.subs({s: at[s.name] for s in closed.free_symbols}))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    one, two = np.linalg.cholesky([[0.8, 0.3], [0.3, 1.1]]) @ np.array(
        [np.repeat(nodes, 80), np.tile(nodes, 80)]
    )
    functions = [sp.lambdify(z, f, "scipy") for f in (slope, ERF)]
    want = np.outer(weights, weights).ravel() @ (functions[0](one + 0.4) * functions[1](two - 0.6))
    assert value == pytest.approx(want / (2 * np.pi), rel=1e-10)


def test_explicit_equations_of_one_unit_are_the_closed_ones():
    """Scalar equations of single units are printed as the closed system is, by D_1 and D_2."""
    text = dmft.derive(one(ERF), dmft.SGD(gamma)).explicit().latex(width=455)
    assert r"\tau" not in text
    assert text.count(r"\sqrt{D_{1}}") == 2
    assert len(text) < 1100


def test_simplified_equations_are_in_their_own_symbols():
    """Rates held symbols named 1+P_11, which no value of P_11 reached."""
    equations = dmft.derive(one(ERF), dmft.SGD(0.4))
    rates = equations.evaluate(dmft.Overlaps([[1.3]], [[0.4]], [[0.9]]))
    simple = equations.explicit().simplify().subs({"Q_11": 1.3, "M_11": 0.4, "P_11": 0.9})
    for symbol, rate in simple.rhs.items():
        assert float(rate) == pytest.approx(rates[symbol.name[0]].item(), rel=1e-12)


def test_no_sum_runs_over_an_index_that_is_taken():
    """<f^2> of linear units was printed as sum_u a_u/p sum_u Q_uu a_u/p, large batches alike."""
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1))
    large = dmft.derive(model, dmft.SGD(0.5, batch_size=2 * sp.Symbol("d")), dim=1000)
    line = dmft.Committee(z, 2, readout=[1, -0.7])
    hinge = dmft.SGD(0.6, loss="hinge")
    linear = dmft.derive(dmft.Model(line, dmft.Committee(sp.sign(z), 1)), hinge)

    def check(expr, taken):
        own = {limit[0] for limit in expr.limits} if isinstance(expr, sp.Sum) else set()
        assert not own & taken
        for part in [expr.function] if own else expr.args:
            check(part, taken | own)

    for equations in (large, linear):
        for d in declared_definitions(subject_of(equations))[0]:
            check(d.expr, {*d.indices})
    square = next(
        d for d in declared_definitions(subject_of(linear))[0] if d.name.endswith("variance")
    )
    values = {x.a[1]: 1, x.a[2]: -0.7, x.Q[1, 1]: 0.9, x.Q[1, 2]: 0.2, x.Q[2, 2]: 0.7}
    entries = {x.Q[2, 1]: 0.2} | values
    whole = square.expr.xreplace({x.p: sp.Integer(2)}).doit().xreplace(entries)
    assert float(whole) == pytest.approx((0.9 - 2 * 0.7 * 0.2 + 0.49 * 0.7) / 4)


def test_rates_of_multi_index_targets():
    """The line that is printed, with P = I, against the rates."""
    a, b = sp.symbols("a b", real=True)
    model = dmft.Model(dmft.Committee(z**2, 2), dmft.MultiIndex(a * b + a, [a, b]))
    equations = dmft.derive(model, dmft.SGD(gamma))
    text = re.sub(r"[\s&]", "", equations.latex(width=520))
    assert "b_{" not in text
    line = r"2 M_{j 2} \delta_{1 r} + 2 M_{j 1} \delta_{2 r} - \frac{2}{p} \sum_{u=1}^{p}"
    line += r"\left[M_{j r} Q_{u u} + 2 M_{u r} Q_{j u}\right]"
    assert line.replace(" ", "") in text
    root = np.random.default_rng(2).normal(size=(2, 6)) / 2
    Q, M = root @ root.T, root[:, :2]
    rate = 2 * M[:, ::-1] - (M * np.trace(Q) + 2 * Q @ M)
    found = equations.evaluate(dmft.Overlaps(Q, M, np.eye(2)), learning_rate=0.0)
    np.testing.assert_allclose(found["M"], rate, rtol=1e-12)


def test_averages_of_clusters_are_equal_under_exchanged_fields():
    unit, mixture = dmft.Committee(ERF, 2), dmft.GaussianMixture([[1.0, 0.0], [-1.0, 0.5]])
    model = dmft.Model(unit, unit, inputs=mixture)
    definitions, _ = declared_definitions(subject_of(dmft.derive(model, dmft.SGD(gamma))))
    risk = next(d.expr for d in definitions if d.name == "risk")
    found = risk.atoms(Expectation)
    assert len({(a.integrand, a.law) for a in found}) == len(found) == 6


@pytest.mark.parametrize("constraint", [None, "sphere"])
def test_rates_of_one_unit_and_a_target_of_two_fields(constraint):
    """Two directions of the teacher, of which each has its overlap; on the sphere Q = 1."""
    a, b = sp.symbols("a b", real=True)
    model = dmft.Model(dmft.Committee(z**2, 1), dmft.MultiIndex(a * b + a**2, [a, b]))
    equations = dmft.derive(model, dmft.SGD(gamma, constraint=constraint))
    start = dmft.Overlaps([[1.0]], [[0.3, 0.5]], np.eye(2))
    wanted = equations.evaluate(start, learning_rate=0.2)
    rows = {target: expr for target, expr, _ in closed_system(subject_of(equations)).rows}
    entries = {x.M[ONLY[0], 1]: 0.3, x.M[ONLY[0], 2]: 0.5, x.Q[ONLY[0], ONLY[0]]: 1, x.gamma: 0.2}
    for target in rows:  # the growth of the length, which the sphere takes back
        if target not in entries and not target.has(x.r):
            entries[target] = rows[target].xreplace(entries)
    for r in (1, 2):
        rate = rows[x.M[ONLY[0], x.r]].subs(x.r, r).xreplace(entries)
        assert float(rate) == pytest.approx(wanted["M"][0, r - 1], rel=1e-12)


@pytest.mark.slow
def test_no_position_among_all_fields_is_printed_for_one_unit():
    a, b = sp.symbols("a b", real=True)
    for activation in (sp.Max(0, z), ERF):
        model = dmft.Model(dmft.Committee(activation, 1), dmft.MultiIndex(a * b, [a, b]))
        text = dmft.derive(model, dmft.SGD(gamma)).latex()
        assert r"\Omega_{" not in text
        assert "0 -" not in text


def test_averages_that_occur_once_are_in_brackets():
    text = dmft.derive(one(ERF), dmft.SGD(gamma)).latex(form="structured")
    assert "I_{" not in text


# Saad and Solla ------------------------------------------------------------------------------


def paper_lines():
    """I_3 and I_4 and the sums of Phys. Rev. E 52, 4225, from the test of their page."""
    path = Path(__file__).with_name("test_papers_lines.py")
    spec = importlib.util.spec_from_file_location("papers_lines", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("K", "M"), [(1, 1), (2, 2), (3, 3)])
def test_saad_solla_term_by_term(K, M):
    """Each printed average is an I_3 or I_4 of the paper, each printed sum one of its sums."""
    paper = paper_lines()
    eta, start = 0.3, paper.state(K, M)
    start = dmft.Overlaps(start.Q, start.M, np.eye(M))
    model = dmft.literature.saad_solla(sp.Symbol("K"), sp.Symbol("K"))
    equations = dmft.derive(model, dmft.SGD(gamma))
    C = np.block([[start.Q, start.M], [start.M.T, start.P]])
    definitions, _ = declared_definitions(subject_of(equations, "saad-solla"))
    sizes = {x.p: K, x.k: M, x.gamma: eta, x.Delta: 0}
    R, Q = paper.saad_solla(start, eta)

    def number(expr, at):
        if isinstance(expr, sp.Sum):
            (index, _, high), *more = expr.limits
            body = sp.Sum(expr.function, *more) if more else expr.function
            return sum(number(body, at | {index: n}) for n in range(1, sizes[high] + 1))
        if isinstance(expr, Expectation):
            shift = [0 if f.base == x.h else K for f in expr.fields]
            place = [at[f.indices[0]] - 1 + k for f, k in zip(expr.fields, shift, strict=True)]
            return {3: paper.I3, 4: paper.I4}[len(place)](C, *place)
        if not expr.args:
            return float(expr.xreplace(sizes))
        parts = [number(a, at) for a in expr.args]
        return {sp.Add: sum, sp.Mul: np.prod, sp.Pow: lambda y: y[0] ** y[1]}[expr.func](parts)

    for d, want in ((d, {"M": R, "Q": Q}[d.name]) for d in definitions if d.role == "rate"):
        plain = {name: e.xreplace({x.Delta: 0}) for name, e in d.terms if name != "label_noise"}
        for place in np.ndindex(want.shape):
            at = {i: n + 1 for i, n in zip(d.target.indices, place, strict=True)}
            assert abs(number(sp.Add(*plain.values()), at) - want[place]) < 1e-12
    text = equations.latex(notation="saad-solla")
    assert [text.count(y) for y in (r"b_{", r"\Omega_{", r"\tilde", r"\frac{\eta")] == [0] * 4


# Forms ----------------------------------------------------------------------------------------


def test_forms_by_name():
    unit = dmft.derive(one(ERF), dmft.SGD(0.1))
    pair = dmft.derive(dmft.literature.saad_solla(2), dmft.SGD(0.1))
    open_ = dmft.derive(one(sp.tanh(z)), dmft.SGD(0.1))
    assert r"\langle" not in unit.latex()
    assert unit.latex() == unit.latex(form="closed")
    assert r"\langle" in unit.latex(form="structured")
    for equations in (pair, open_):
        assert equations.latex() == equations.latex(form="structured")
        assert r"\langle" in equations.latex()
    with pytest.raises(BadParameter, match="form='structured' prints them"):
        open_.latex(form="closed")
    with pytest.raises(BadParameter, match="must be"):
        unit.latex(form="short")


def test_what_is_collected_is_the_same():
    a, b = sp.symbols("a b", positive=True)
    for expr in (
        (a + b) ** 2 * gamma - b / (1 + a),
        sp.sqrt(a * b - b**2) / b + sp.asin(b / sp.sqrt(a)) * gamma / sp.pi,
        sp.exp(-a) * sp.exp(a * b) / sp.sqrt(2 * a) - 3,
        gamma * (4 * sp.asin(a) - 8 * sp.asin(b)) / sp.sqrt(1 + a) + Delta,
    ):
        at = {a: sp.Rational(1, 2), b: sp.Rational(1, 3), gamma: 2, Delta: 5}
        pi = {s: sp.pi for s in collected(expr).free_symbols if s.name == r"\pi"}
        gap = (collected(expr).xreplace(pi) - expr).xreplace(at)
        assert abs(sp.N(gap, 40)) < sp.Float(10) ** -35


# Sequences ------------------------------------------------------------------------------------


def test_attention_of_two_tokens_is_one_page():
    """One average for the loss, one for the noise; entries of the softmax are named once."""
    a, omega = sp.symbols("a omega", positive=True)
    model = dmft.literature.positional_semantic(a, omega)
    text = dmft.derive(model, dmft.SGD(0.5)).latex()
    assert text.count(r"\mathbb{E} \sum_{l=1}^{2}") == text.count(r"\mathbb{E}\left[") == 1
    assert len(text.split("\n")) < 32
    assert not re.search(r"\d\.\d|F_\{|\\mathcal\{E\}_", text)
    assert r"A_{i j}(h) &= \frac{\exp\left(h_i h_j\right)}{\sum_{k=1}^{2} \exp" in text
    assert text.index(r"\epsilon_i &= A_{ii}(h) - y_{ii}(h^*)") > text.index("epsilon_{1}^{2}")
    assert "A_{12}" not in text
    assert "A_{21}" not in text
    assert (
        r"\frac{\omega}{1 + \exp\left(- 2 a^{2}\right)} + \left(1 - \omega\right) A_{ii}(h^*)"
        in text
    )
    assert "overlap" not in text


@pytest.mark.slow
def test_printed_averages_over_tokens_are_those_of_the_equations():
    """The loss and the noise by the trapezoidal rule against the risk and the rates."""
    model = dmft.literature.positional_semantic(sp.Rational(1, 2), sp.Rational(2, 5))
    equations = dmft.derive(model, dmft.SGD(0.8))
    flow = dmft.derive(model, dmft.GradientFlow())
    outputs = token_outputs(model, equations.definitions, True)
    assert [(one.index, one.weight) for one in outputs.outputs] == [("11", 2), ("22", 2)]
    e, m = 0.3, 0.4
    start = dmft.Alignment(e=e, m=m)
    axis = np.arange(-6.0, 6.01, 0.4)
    grid = np.meshgrid(*[axis] * 4, indexing="ij")
    weight = np.exp(-sum(y**2 for y in grid) / 2)
    weight /= weight.sum()
    star = grid[:2]
    root = math.sqrt(1 - m**2)
    field = [m * s + root * y + c * e for s, y, c in zip(star, grid[2:], (1, -1), strict=True)]
    z1, z2 = model.student.fields
    errors, slopes = [], []
    for one in outputs.outputs:
        f, y = (sp.lambdify((z1, z2), g, "numpy") for g in (one.student, one.target))
        errors.append(one.weight * (f(*field) - y(*star)))
        slopes.append([sp.lambdify((z1, z2), sp.diff(one.student, z), "numpy") for z in (z1, z2)])
    loss = sum((weight * err**2).sum() / 4 for err in errors)
    assert abs(loss - dmft.population_risk(model)(e=e, m=m)) < 1e-6
    noise = 0.0
    for n in (0, 1):
        pull = sum(err * slope[n](*field) for err, slope in zip(errors, slopes, strict=True))
        noise += (weight * pull**2).sum()
    gap = equations.evaluate(start)["m"] - flow.evaluate(start)["m"]
    assert abs(float(gap) + 0.8 / 2 * m * noise) < 1e-6


SIGNS = {"[": "(", "]": ")", "²": "**2", "³": "**3", "π": "pi", "γ": "gamma", "Δ": "Delta"}


def from_text(text, letters):
    """What print shows, read back."""
    plain = text.translate(str.maketrans(SIGNS))
    return parse_expr(plain, letters, (*standard_transformations, implicit_multiplication))


@pytest.mark.parametrize("name", ["erf", "square", "linear"])
def test_print_shows_the_closed_form_where_it_is_one_line(name):
    """Read back, the line is the risk at any overlaps."""
    z = sp.Symbol("z", real=True)
    unit = {"erf": sp.erf(z / sp.sqrt(2)), "square": z**2, "linear": z}[name]
    risk = dmft.population_risk(dmft.Model(dmft.Committee(unit, 1), dmft.Committee(unit, 1)))
    line, *here = str(risk).strip().split("\n")
    assert line.startswith("R = ")
    assert [y.startswith("Here σ(z) = ") for y in here] == [True] * (name != "linear")
    at = {"Q": 0.7, "M": 0.4, "P": 1.3}
    letters = {name: sp.Symbol(name) for name in "QMP"} | {"arcsin": sp.asin}
    value = from_text(line.removeprefix("R = "), letters).subs(at)
    assert float(value) == pytest.approx(float(risk(**{n: [[y]] for n, y in at.items()})), rel=1e-9)


def test_print_keeps_averages_without_a_closed_form():
    tanh = dmft.Committee(sp.tanh(sp.Symbol("z", real=True)), 1)
    assert "1/2 ⟨σ(h)²⟩ - ⟨σ(h) σ(h*)⟩" in str(dmft.population_risk(dmft.Model(tanh, tanh)))


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_single_teachers_of_losses_have_no_delta(loss):
    """The index of the only teacher is not printed."""
    model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1), label_flip=0.1)
    text = dmft.derive(model, dmft.SGD(0.5, loss=loss)).latex()
    assert "only" not in text
    assert r"\delta_" not in text


@pytest.mark.slow
def test_flipped_labels_of_clusters_are_printed():
    """Flipped samples are clusters of their own, each with its mean."""
    unit, clusters = dmft.Committee(sp.erf(z), 1), dmft.GaussianMixture([[1.0], [-1.0]])
    model = dmft.Model(unit, unit, inputs=clusters, label_flip=0.1)
    text = dmft.derive(model, dmft.SGD(0.5)).latex()
    assert all(f"m_{{i}}^{{[{n}]}} =" in text for n in range(1, 5))
    assert dmft.population_risk(model).latex()


# Averages as papers write them, by quadrature ---------------------------------------------------

Q_HERE, M_HERE, P_HERE = 1.3, 0.4, 0.9


def by_quadrature(expr, scales=(1.0,)):
    """A rate of one student and one teacher; fields of cluster c have s_c times the covariance."""
    ends, weights = np.polynomial.legendre.leggauss(60)
    nodes, inner = np.polynomial.hermite_e.hermegauss(60)
    half = 4.5 * (1 + ends)
    star, density = np.r_[half, -half], np.exp(-(half**2) / 2) * 4.5 * weights
    density = np.outer(np.r_[density, density], inner) / (2 * np.pi)
    student = M_HERE / np.sqrt(P_HERE) * star[:, None]
    student = student + np.sqrt(Q_HERE - M_HERE**2 / P_HERE) * nodes
    star = np.sqrt(P_HERE) * star[:, None] + 0 * nodes
    entries = {"Q": Q_HERE, "M": M_HERE, "P": P_HERE}

    def mean(entry):
        number = int(entry.base.name.rpartition("_")[2])
        mu = (1.0, -0.7)[number - 1]
        return mu * (M_HERE if entry.indices[0] in (1, ONLY[0]) else P_HERE)

    def plain(e):
        table = {y: mean(y) for y in e.atoms(sp.Indexed) if x.is_mean(y.base)}
        table |= {y: entries[y.base.name] for y in e.atoms(sp.Indexed) if y.base.name in entries}
        return e.xreplace(table)

    values = {}
    for average in expr.atoms(Expectation):
        integrand = average.integrand.replace(lambda e: isinstance(e, At), lambda e: e.expr)
        numbers = {int(y.base.name[-1]) for y in integrand.atoms(sp.Indexed) if x.is_mean(y.base)}
        root = np.sqrt(dict(enumerate(scales, 1)).get(max(numbers, default=1), 1.0))
        h, h_star = sp.symbols("h h_star", real=True)
        fields = {y: h if y.base == x.h else h_star for y in integrand.atoms(sp.Indexed)}
        fields = {y: s for y, s in fields.items() if x.is_field(y.base)}
        plainly = plain(integrand).xreplace(fields | {x.output: h, x.label: sp.sign(h_star)})
        function = sp.lambdify([h, h_star], plainly, ["scipy", "numpy"])
        values[average] = sp.Float((density * function(root * student, root * star)).sum())
    return float(plain(expr.xreplace(values)).subs({gamma: 0.3, g: 0.3}))


@pytest.mark.slow
def test_fields_of_clusters_have_their_variance_in_print():
    """sigma(sqrt(s) h + m) of h ~ N(0, Omega) is sigma(h + m) of h ~ N(0, s Omega)."""
    scales = (0.6, 2.0)
    clusters = dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1], scales=scales)
    model = dmft.Model(dmft.Committee(ERF, 1), clusters)
    definitions, _ = declared_definitions(subject_of(dmft.derive(model, dmft.SGD(gamma))))
    scaled = with_scaled_fields(definitions, model)
    pairs = [
        (one.expr, two.expr)
        for one, two in zip(definitions, scaled, strict=True)
        if one.role in ("rate", "observable")
    ]
    assert len(pairs) == 3
    for one, two in pairs:
        assert one != two
        assert abs(by_quadrature(one) - by_quadrature(two, scales)) < 1e-9
    printed = {d.target: d for d in in_all_clusters(scaled, clusters)}
    for d in (d for d in scaled if d.role == "rate"):
        shown = printed[d.target].expr
        assert shown.has(x.cluster_variance)
        gap = by_quadrature(clusters_apart(shown, clusters), scales)
        assert abs(gap - by_quadrature(d.expr, scales)) < 1e-9


@pytest.mark.parametrize("loss", ["logistic", "hinge", "huber"])
def test_averages_of_labels_of_one_and_minus_one(loss):
    """<E(f)> + <O(f) y> is <F(y f)>, which is printed; letters are those of one unit."""
    model = one(z, sp.sign(z))
    equations = dmft.derive(model, dmft.SGD(gamma, loss=loss))
    definitions, _ = declared_definitions(subject_of(equations))
    shown = {d.target: d for d in of_signs(definitions, model)}
    text = equations.latex()
    assert not re.search(r"M_\{1\}|h_\{1\}|\\omega|Piecewise|- f y|\\frac\{\\Theta", text)
    if loss == "huber":
        return
    assert shown[x.label].expr == At(sp.sign(z), x.h_star[ONLY[1]])
    assert r"\langle F(h)\, y" in equations.latex(form="structured")
    one_line = {
        "hinge": r"\mathcal{E} &= \frac{\theta}{\pi}",
        "logistic": r"\frac{1}{\left(1 + e^{y h}",
    }
    assert one_line[loss] in text
    assert "tanh" not in text
    if loss == "hinge":  # <|h*| Theta(1 - y h)> by quadrature, with h = M h* + ... at P = 1
        closed = closed_system(subject_of(equations))["M"].subs({m: 0.4, q: 0.9, rho: 1})
        normal, spread = scipy.stats.norm, math.sqrt(0.9 - 0.4**2)

        def pushed(s):
            return 2 * s * normal.pdf(s) * normal.cdf((1 - 0.4 * s) / spread)

        assert abs(float(closed) - scipy.integrate.quad(pushed, 0, np.inf)[0]) < 1e-9
    changed = 0
    for d in (d for d in definitions if d.role in ("rate", "observable")):
        new = shown[d.target].expr
        changed += new != d.expr
        if not any(y.factor.has(sp.DiracDelta) for y in d.expr.atoms(At) if isinstance(y, At)):
            tolerance = 1e-9 if loss == "logistic" else 2e-3  # kinks between the nodes
            assert abs(by_quadrature(new) - by_quadrature(d.expr)) < tolerance
    assert changed >= 2


def test_labels_of_several_directions_are_one_letter():
    """A parity of three signs: Stein's identity is undone, the label is y in all averages."""
    signs = sp.symbols("u v w", real=True)
    parity = dmft.MultiIndex(sp.sign(sp.Mul(*signs)), signs)
    equations = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), parity), dmft.SGD(gamma))
    text = equations.latex(width=470)
    assert r"&= \langle \sigma'(h_{j})\,h_{r}^*\,y \rangle" in text.replace("^{*}", "^*")
    assert (
        r"\frac{2}{p} \sum_{u=1}^{p} \langle \sigma'(h_{j})\,\sigma'(h_{l})\,\sigma(h_{u})\,y"
        in text
    )
    assert len(text) < 4000
    assert not any(y in text for y in (r"\delta\left", "S_{"))


def test_half_sums_are_one_term_in_print():
    """<(A(f) + A(-f))/2> is <A(f)>, <(A(f) - A(-f))/2 sign(h*)> is <A(f) sign(h*)>."""
    A = sp.log(1 + sp.exp(-z))
    even, odd = (sp.expand((A + sign * A.xreplace({z: -z})) / 2) for sign in (1, -1))
    field, star = x.h[ONLY[0]], x.h_star[ONLY[1]]
    factor = dmft.model.FIELD
    for functions in ((even,), (odd, sp.sign(z)), (even, z**2)):
        functions = tuple(f.xreplace({z: factor}) for f in functions)
        new = halved(functions)
        assert new[0] == A.xreplace({z: factor})
        before, after = (
            Expectation(*(At(f, y) for f, y in zip(some, (field, star), strict=False)))
            for some in (functions, new)
        )
        assert abs(by_quadrature(before) - by_quadrature(after)) < 1e-9
    assert halved((A.xreplace({z: factor}),)) == (A.xreplace({z: factor}),)  # neither even nor odd
    clip = sp.Heaviside(1 - sp.Max(-1, factor)) * sp.Heaviside(factor + 1)
    assert halved((clip,)) == (sp.Heaviside(1 - sp.Abs(factor)),)


def test_steps_along_adam_are_reduced():
    """No pi above and below, no fraction in a fraction; the rates of the reference."""
    equations = dmft.derive(one(ERF), dmft.Adam(gamma))
    text = equations.latex()
    assert not re.search(r"\\frac\{[^{}]*\\pi[^{}]*\}\{\\pi", text)
    assert "A_{2}" not in text
    assert r"\sqrt{S^{\psi}}" in text
    assert "/4}" not in text  # roots of roots
    found = equations.evaluate(dmft.Overlaps([[1.3]], [[0.4]], [[0.9]]), gamma=0.3)
    system = closed_system(subject_of(equations))
    for name in ("M", "Q"):
        line = system[name].subs({m: 0.4, q: 1.3, rho: 0.9, g: 0.3})
        assert abs(float(line) - found[name][0, 0]) < 1e-10


def test_classes_of_clusters_are_told_by_a_delta():
    """Errors of a softmax once for all clusters: 1(o = y_c) less the softmax."""
    mixture = dmft.GaussianMixture(np.eye(2), weights=[0.3, 0.7], scales=[0.6, 1.5])
    model = dmft.Model(dmft.Committee(z, 2, readout=[[2, 0], [0, 2]]), mixture)
    equations = dmft.derive(model, dmft.SGD(gamma, loss="cross-entropy"))
    text = equations.latex()
    for o in (1, 2):
        assert (
            rf"e_{{{o}}}^{{[c]}} &= \delta_{{{o - 1} y_{{c}}}} - \frac{{e^{{f_{{{o}}}^{{[c]}}}}}}"
            in text
        )
    assert r"\sum_{c=1}^{2} \rho_{c} s_{c} \langle \psi_{j}^{[c]}" in text
    assert r"\langle 1" not in text
    # The risk of each cluster stays an average: its terms in number.
    definitions, _ = declared_definitions(subject_of(equations))
    scaled = with_scaled_fields(definitions, model)
    for one, two in zip(definitions, scaled, strict=True):
        if one.role == "observable":
            assert one.expr == two.expr


# LaTeX read back ---------------------------------------------------------------------------------

LATEX = re.compile(r"\\[A-Za-z]+|[A-Z]_\{\d+\}|\d+|\S")
SIZES = re.compile(r"\\(left|right|Bigg?[lr]|bigg?[lr])(?![a-z])|\\q?quad|\\times|&|\\\\")


def read_back(text, names):
    """Number of a formula as TeX shows it: fractions, roots, powers, products without a sign."""
    tokens = LATEX.findall(SIZES.sub(" ", text))

    def total(end):
        sign, value = 1.0, 0.0
        while tokens and tokens[0] not in end:
            if tokens[0] in "+-":
                sign = -1.0 if tokens.pop(0) == "-" else 1.0
            value, sign = value + sign * product(end), 1.0
        return value

    def product(end):
        value = 1.0
        while tokens and tokens[0] not in (*end, "+", "-"):
            value *= power()
        return value

    def group():
        token = tokens.pop(0)
        if token not in "{([":
            return float(token) if token.isdigit() else names[token]
        value = total(("})]"["{([".index(token)],))
        tokens.pop(0)
        return value

    def power():
        token = tokens[0]
        if token == r"\frac":
            tokens.pop(0)
            value = group()
            value /= group()
        elif token == r"\sqrt":
            tokens.pop(0)
            value = math.sqrt(group())
        elif token == r"\arcsin":
            tokens.pop(0)
            value = math.asin(group())
        else:
            value = group()
        if tokens and tokens[0] == "^":
            tokens.pop(0)
            value **= exponent()
        return value

    def exponent():
        if tokens[0] != "{" or "/" not in tokens[: tokens.index("}")]:
            return group()
        one, _, two = tokens[1:4]
        del tokens[:5]
        return float(one) / float(two)

    return total(())


def test_products_of_shifted_variances_are_subtracted_in_brackets():
    """(1 + C_11) (1 + C_33) - (1 + C_11) - C_13^2 lost the brackets of its second term."""
    names = {"C_{11}": 0.7, "C_{33}": 1.3, "C_{13}": 0.4}
    one, two = (OneMore(sp.Symbol(name, positive=True)) for name in ("C_{11}", "C_{33}"))
    cross = sp.Symbol("C_{13}", real=True)
    text = KernelPrinter({}).doprint(one * two - one - cross**2)
    assert read_back(text, names) == pytest.approx(1.7 * 2.3 - 1.7 - 0.16)


@pytest.mark.parametrize(
    "activation", [pytest.param(z * (1 + ERF) / 2, marks=pytest.mark.slow), z * ERF], ids=str
)
def test_printed_kernels_are_averages(activation):
    """The closed forms below the equations, read from LaTeX with their parts, by quadrature."""
    equations = dmft.derive(one(activation), dmft.SGD(gamma))
    text = equations.latex(form="structured")
    C = np.array([[0.8, 0.3, -0.2], [0.3, 1.1, 0.4], [-0.2, 0.4, 0.9]])
    names = {f"C_{{{i + 1}{n + 1}}}": C[i, n] for i in range(3) for n in range(3)}
    names |= {r"\pi": math.pi}
    body = text.partition("For centred Gaussian")[2].partition("The closed forms of these")[0]
    rows = [
        re.sub(r"\s*&\s*", " ", row)
        for block in re.findall(r"begin\{align\*\}(.*?)\\end", body, re.DOTALL)
        for row in re.split(r"\\\\\n(?!& \\q?quad)", block)
    ]
    pairs = [row.split("=", 1) for row in rows]
    parts = {head.strip(): value for head, value in pairs if r"\langle" not in head}
    while parts:
        for head in list(parts):
            if set(re.findall(r"[A-Z]_\{\d+\}", parts[head])) <= set(names):
                names[head] = read_back(parts.pop(head), names)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.array(np.meshgrid(*[nodes] * 3)).reshape(3, -1)
    weight = np.prod(np.array(np.meshgrid(*[weights] * 3)).reshape(3, -1), axis=0)
    fields = np.linalg.cholesky(C) @ grid
    functions = [sp.lambdify(z, activation.diff(z, n), "scipy") for n in range(3)]
    count = 0
    for head, value in pairs:
        found = re.findall(r"\\sigma('*)\(z_\{(\d)\}\)|z_\{(\d)\}", head)
        if not found or any(int(a or b) > 3 for _, a, b in found):
            continue
        factors = [functions[len(y)](fields[int(a) - 1]) if a else fields[int(b) - 1]
                   for y, a, b in found]  # fmt: skip
        truth = weight @ np.prod(factors, axis=0) / weight.sum()
        assert read_back(value, names) == pytest.approx(truth, rel=1e-8)
        count += 1
    assert count >= 2


@pytest.mark.slow
def test_clusters_along_two_directions_have_numbers_in_print():
    """P_{r1} was printed as M_{1 + r}, and M_1 as M; the sentence began with a line break."""
    means = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    inputs = dmft.GaussianMixture(means, labels=[1, 1, -1, -1], scales=[0.6] * 4)
    equations = dmft.derive(dmft.Model(dmft.Committee(z**2, 1), inputs), dmft.SGD(0.5))
    start = dmft.Overlaps([[0.9]], [[0.3, -0.2]], [[1.0, 0.1], [0.1, 0.8]])
    system = closed_system(subject_of(equations))
    rates = dict(equations.evaluate(start))
    rates["risk"] = dmft.population_risk(equations.model)(start.Q, start.M, start.P)
    for target, expr, _ in system.rows:
        name = str(target.base.label) if isinstance(target, sp.Indexed) else "risk"
        for r in (1, 2):
            table = {x.gamma: 0.5}
            for e in expr.xreplace({x.r: r}).atoms(sp.Indexed):
                one, *two = (1 if i in ONLY else int(i) for i in e.indices)
                block = getattr(start, str(e.base.label))
                table[e] = block[one - 1, (two or [1])[0] - 1]
            value = float(expr.xreplace({x.r: r}).xreplace(table))
            wanted = rates["M"][0, r - 1] if name == "M" else rates[name]
            assert value == pytest.approx(float(np.squeeze(wanted)), rel=1e-12)
    text = equations.latex()
    assert "1 + r" not in text
    assert r"$\\" not in text
    assert "$$" not in text


@pytest.mark.parametrize("scales", [[1, 1], [1, 2]])
def test_fields_of_a_cluster_have_a_name(scales):
    """h^[c] = h + m^[c] is defined once; no argument is a sum of a field and its mean."""
    inputs = dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1], scales=scales)
    found = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), inputs), dmft.SGD(gamma))
    text = found.latex(kernels="none", width=2000, form="structured")
    text = " ".join(text.split())
    row = r"h_{j}^{[c]} = h_{j} + m_{j}^{[c]}"
    assert text.count(row) == 1
    assert len(re.findall(r"h_\{(\w)\} \+ m_\{\1\}", text)) == 1
    assert text.count(r"\sigma'(h_{j}^{[c]})") > 5
    names = set(re.findall(r"h_\{(\w)\}\^\{\[c\]\}", text))
    assert set("jlu") <= names
    assert r"\text{ in cluster } c" in text or scales == [1, 1]


def test_printed_rates_are_those_that_are_evaluated():
    model = dmft.literature.phase_retrieval(1, label_noise=0.2)
    equations = dmft.derive(model, dmft.SGD(0.3))
    start = dmft.Overlaps([[0.9]], [[0.4]], [[1.2]])
    at = {"Q": 0.9, "M": 0.4, "P": 1.2, "gamma": 0.3, "Delta": 0.2}
    letters = {name: sp.Symbol(name) for name in at}
    lines = re.sub(r"\n {6,}", " ", str(equations)).split("\n")
    rows = dict(line.strip().split(" = ", 1) for line in lines if "/dt" in line)
    rates = equations.evaluate(start)
    for block in "MQ":
        value = from_text(rows[f"d{block}/dt"], letters).subs(at)
        assert float(value) == pytest.approx(float(rates[block].item()), rel=1e-12)


def over_a_mixture(mixture, overlaps, update, nodes):
    """dM and dQ as averages <psi h*>, <psi h> + <h psi> + <s_c psi psi>/p, by quadrature."""
    Q, M, P = overlaps
    p = len(Q)
    x1, w1 = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.array(np.meshgrid(*[x1] * (p + len(P)))).reshape(p + len(P), -1)
    weights = np.array(np.meshgrid(*[w1 / w1.sum()] * len(grid))).reshape(len(grid), -1).prod(0)
    root = np.linalg.cholesky(np.block([[Q, M], [M.T, P]]))
    labels = map(float, mixture.labels or [0] * len(mixture.weights))
    dM, dQ, noise = np.zeros_like(M), np.zeros_like(Q), np.zeros_like(Q)
    for share, mu, s, y in zip(mixture.weights, mixture.means, mixture.scales, labels, strict=True):
        fields = np.sqrt(s) * root @ grid + (np.vstack([M, P]) @ mu)[:, None]
        h, star = fields[:p], fields[p:]
        psi = share * weights * update(h, star, y)
        dM += psi @ star.T
        dQ += psi @ h.T + h @ psi.T
        noise += s * psi @ update(h, star, y).T / p
    return dM, dQ, noise


def test_averages_over_clusters_of_unequal_variances_are_printed_in_their_own_fields():
    """What print shows, by quadrature with h ~ N(mu_c M, s_c Omega)."""
    mixture = dmft.GaussianMixture([[1.0], [-1.0]], weights=[0.3, 0.7], scales=[1.0, 2.0])
    model = dmft.Model(*[dmft.Committee(sp.tanh(z), 1)] * 2, inputs=mixture)
    equations = dmft.derive(model, dmft.GradientFlow())
    text = " ".join(str(equations).split())
    assert "dM/dt = ⟨h* ψ⟩ dQ/dt = 2 ⟨h ψ⟩ where f = σ(h) y = σ(h*) ψ = (y - f) σ'(h)" in text
    assert "(h, h*) ~ N(μ[c] (M, P), s[c] Ω), Ω = [[Q, M], [M, P]]" in text
    structured = equations.latex(form="structured")
    assert r"\langle \sigma'(h^{[c]})\,\sigma(h^{*[c]}) \rangle" in structured
    at = [np.array([[value]]) for value in (0.4, 0.1, 0.3)]
    tanh = np.tanh
    wanted = over_a_mixture(
        mixture, at, lambda h, star, _: (1 - tanh(h) ** 2) * (tanh(star) - tanh(h)), 60
    )
    found = equations.evaluate(dmft.Overlaps(*at))
    assert found["M"].item() == pytest.approx(wanted[0].item(), rel=1e-5)
    assert found["Q"].item() == pytest.approx(wanted[1].item(), rel=1e-5)


def test_a_mixture_is_printed_as_averages_of_the_update():
    """One line for each rate, which the rates of two units and four clusters are equal to."""
    means = [[1, 0], [-1, 0], [0, 1], [0, -1]]
    mixture = dmft.GaussianMixture(means, labels=[1, 1, -1, -1], scales=[0.3, 0.6, 1.0, 0.8])
    equations = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), mixture), dmft.SGD(gamma))
    lines = [" ".join(line.split()) for line in equations.latex(width=520).split("\n")]
    assert lines[2:10] == [
        r"\frac{d M_{j r}}{dt} &= \langle h_{r}^*\,\psi_{j} \rangle \\",
        r"\frac{d Q_{j l}}{dt} &= \langle h_{l}\,\psi_{j} \rangle "
        r"+ \langle h_{j}\,\psi_{l} \rangle "
        r"+ \frac{\gamma}{p} \langle s_{c}\,\psi_{j}\,\psi_{l} \rangle",
        r"\end{align*}",
        "where",
        r"\begin{align*}",
        r"f &= \frac{1}{p} \sum_{j=1}^{p} \sigma(h_{j}) \\",
        r"\psi_{j} &= \left(y - f\right) \sigma'(h_{j})",
        r"\end{align*}",
    ]
    text = " ".join(lines)
    assert r"(h, h^*) \sim \mathcal{N}" in text
    assert r"s_c \Omega" in text
    assert r"\mathcal{R} &= \frac{1}{2} \sum_c \rho_c \langle (f - y_c)^{2} \rangle_c" in text
    assert "z_{1}" not in text
    at = np.array([[0.9, 0.2], [0.2, 0.7]]), np.array([[0.3, -0.2], [0.1, 0.4]]), np.eye(2)

    def update(h, _, y):
        slope = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
        return (y - scipy.special.erf(h / np.sqrt(2)).mean(0)) * slope

    dM, dQ, noise = over_a_mixture(mixture, at, update, 20)
    found = equations.evaluate(dmft.Overlaps(*at), learning_rate=0.3)
    np.testing.assert_allclose(found["M"], dM, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["Q"], dQ + 0.3 * noise, rtol=0, atol=1e-6)
    pair = dmft.Committee(ERF, 2, readout=[1, -1])
    assert "a[j] σ(h[j])" in str(dmft.derive(dmft.Model(pair, mixture), dmft.SGD(gamma)))
    changed = equations.without("interaction").latex(width=520)
    assert r"\psi" not in changed


@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_one_teacher_of_clusters_has_no_position(width):
    mixture = dmft.GaussianMixture([[1.0], [-1.0]], scales=[1.0, 2.0])
    model = dmft.Model(dmft.Committee(ERF, width), dmft.Committee(ERF, 1), inputs=mixture)
    for shown in (dmft.derive(model, dmft.GradientFlow()), dmft.population_risk(model)):
        assert not re.search(r"only|m\[p|\^\[[12]\]|sqrt\(2\) h", str(shown))


def test_averages_that_vanish_for_orthonormal_directions_are_not_printed():
    """Of a parity of three, ReLU has no odd part of third order; samples of the definition."""
    fields = sp.symbols("z1:4", real=True)
    parity = dmft.MultiIndex(sp.sign(sp.prod(fields)), fields)
    model = dmft.Model(dmft.Committee(RELU, 2), parity)
    equations = dmft.derive(model, dmft.GradientFlow())
    shown, symbolic = (equations.latex(symbolic=symbolic) for symbolic in (False, True))
    assert r"\operatorname{sign}\left(h_{2}" not in shown
    assert r"\sum_{u=1}^{p} 0" not in shown
    assert r"\operatorname{sign}\left(z_{2}" in symbolic
    drawn = np.random.default_rng(0).standard_normal((4, 400_000))
    h = np.array([0.3, -0.5, 0.4, 0.6]) @ drawn
    average = np.maximum(h, 0) * np.sign(drawn[:3]).prod(axis=0)
    assert abs(average.mean()) < 4 * average.std() / np.sqrt(400_000)
    product = dmft.MultiIndex(fields[0] * fields[1], fields[:2])
    text = dmft.derive(dmft.Model(dmft.Committee(RELU, 2), product), dmft.GradientFlow()).latex()
    assert "h_{2}^*" in text


def test_noise_of_labels_is_printed_in_the_update_field():
    """The mean of a clipped error over the noise has ten terms; runs take it, papers do not."""
    unit = dmft.Committee(ERF, 1)
    equations = dmft.derive(dmft.Model(unit, unit, Delta), dmft.SGD(gamma, loss="huber"))
    for shown, noisy in ((equations, True), (equations.without("sgd_noise"), False)):
        text = shown.latex()
        assert r"e &= \min\left(1, \max\left(-1, y - f\right)\right)" in text
        assert (r"\gamma \langle {\psi}^{2} \rangle" in text) == noisy
        assert r"and the noise $\xi \sim \mathcal{N}(0, 1)$" in text
        assert len(text) < 1600


def test_closed_forms_of_averages_are_one_block():
    """Of a parity in one column: the named average, and one alignment of all others."""
    fields = sp.symbols("z1:4", real=True)
    parity = dmft.MultiIndex(sp.sign(sp.prod(fields)), fields)
    equations = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), parity), dmft.SGD(gamma))
    block = equations.latex(width=246).split("For centred Gaussian")[1]
    assert block.count(r"\begin{align*}") == 2
    assert r"& \Lambda_{4} = " in block
    assert "\n& = " not in block
    text = document(equations, width=246, cited={"Rates": ["saad_solla_1995"]}, bibliography="a")
    assert text.startswith(r"\documentclass[10pt,twocolumn,a4paper]")
    assert text.index(r"\small") < text.index(r"\bibliography{a}")


def test_clusters_on_the_sphere_are_printed_as_averages_of_the_update():
    """With the rate Phi of free rows; rates of two units by quadrature of these lines."""
    mixture = dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1])
    model = dmft.Model(dmft.Committee(ERF, 2), mixture)
    equations = dmft.derive(model, dmft.SGD(gamma, constraint="sphere"))
    text = " ".join(equations.latex(width=520).split())
    assert r"M_{j}}{dt} &= \langle h^*\,\psi_{j} \rangle - \frac{M_{j} \Phi_{j j}}{2}" in text
    assert r"\Phi_{j l} &= \langle h_{l}\,\psi_{j} \rangle + \langle h_{j}\,\psi_{l}" in text
    assert 'closed forms, which form="structured" prints' in text
    at = np.array([[1.0, 0.2], [0.2, 1.0]]), np.array([[0.3], [0.1]]), np.eye(1)

    def update(h, _, y):
        slope = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
        return (y - scipy.special.erf(h / np.sqrt(2)).mean(0)) * slope

    dM, dQ, noise = over_a_mixture(mixture, at, update, 30)
    Phi = dQ + 0.3 * noise
    length = np.diag(Phi)
    found = equations.evaluate(dmft.Overlaps(*at), learning_rate=0.3)
    np.testing.assert_allclose(found["M"], dM - at[1] * length[:, None] / 2, rtol=0, atol=1e-7)
    kept = Phi - at[0] * np.add.outer(length, length) / 2
    np.testing.assert_allclose(found["Q"], kept, rtol=0, atol=1e-7)


def test_exponents_are_squares():
    """Of a hinge loss on two opposite clusters, whose printed rate is that of quadrature."""
    mixture = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    line = dmft.Committee(z, 1)
    equations = dmft.derive(dmft.Model(line, mixture), dmft.SGD(gamma, loss="hinge"))
    text = equations.latex(width=520)
    assert r"e^{- \left(1 - M\right)^{2}/(2 Q)}" in text
    assert "M^{2}}{2 Q}" not in text
    Q, M = 0.8, 0.4
    s = (1 - M) / np.sqrt(Q)
    printed = (1 + scipy.special.erf(s / np.sqrt(2))) / 2
    printed -= M * np.exp(-((1 - M) ** 2) / (2 * Q)) / np.sqrt(2 * np.pi * Q)
    h = np.linspace(M - 8 * np.sqrt(Q), 1.0, 20_001)  # y h, where the loss has a slope
    density = np.exp(-((h - M) ** 2) / (2 * Q)) / np.sqrt(2 * np.pi * Q)
    defined = scipy.integrate.simpson(density * (1 + M * (h - M) / Q), x=h)
    at = dmft.Overlaps([[Q]], [[M]], [[1.0]])
    assert printed == pytest.approx(defined, abs=1e-9)
    assert equations.evaluate(at, learning_rate=0.3)["M"].item() == pytest.approx(printed, abs=1e-9)


def test_risks_of_losses_without_noise_are_one_average():
    """Where output and label are printed, the risk is half their squared distance."""
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1))
    equations = dmft.derive(model, dmft.SGD(gamma, loss="logistic"))
    text = equations.latex()
    assert r"\mathcal{R} &= \frac{1}{2} \langle (f - y)^{2} \rangle" in text
    assert "arcsin" not in text
    assert "arcsin" in equations.latex(form="structured")


def test_a_printed_risk_has_its_closed_form():
    """In a terminal as well; equations name their averages once."""
    model = dmft.Model(dmft.Committee(ERF, 4), dmft.Committee(ERF, 2))
    risk = str(dmft.population_risk(model))
    assert "I_2 = ⟨σ(z_1) σ(z_2)⟩ = 2/π arcsin(C_12/sqrt((1 + C_11) (1 + C_22)))" in risk
    text = str(dmft.derive(model, dmft.SGD(gamma)))
    assert text.count("I_3(j, r, s) = ") == 1
    assert "I_3 = " not in text

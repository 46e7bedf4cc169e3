"""Rates of algorithms that use a sample more than once: against definitions and simulation."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample
from dmft.equations.definitions import define
from dmft.equations.update.overlaps import Moments
from dmft.errors import BadParameter
from dmft.model import FIELD as z

ERF = sp.erf(z / sp.sqrt(2))
RELU = sp.Max(0, z)
TARGET = sp.symbols("z1 z2", real=True)
REPETITIONS = [
    dmft.Lookahead(0.3),
    dmft.SharpnessAware(0.2),
    dmft.SharpnessAware(0.3, normalised=True),
    dmft.Repeat(3),
]


def model_of(activation, target, p=2, noise=0.2):
    fields = TARGET if target.has(TARGET[1]) else TARGET[:1]
    readout = [1.0, -0.7, 0.4][:p]
    return dmft.Model(
        dmft.Committee(activation, p, readout), dmft.MultiIndex(target, fields), noise
    )


def start_of(model, seed=1):
    return dmft.random_overlaps(model, dim=9, seed=seed, normalised=True)


def update(model, algorithm, h, h_star, xi):
    """The update psi of theory/batch_reuse D.1 for samples in columns, written from there."""
    sigma = sp.lambdify(z, model.student.activation, "scipy")
    derivative = sp.diff(model.student.activation, z)
    slope = sp.lambdify(z, derivative, ["scipy", {"Heaviside": np.heaviside}])
    a = np.array([float(v) for v in model.student.readout])[:, None]
    y = sp.lambdify(model.teacher.fields, model.teacher.expr, "numpy")(*h_star)
    y = y + np.sqrt(float(model.label_noise)) * xi
    p, gamma = len(h), float(algorithm.learning_rate)

    def psi0(field):
        own = (a * sigma(field)).sum(0) / p if algorithm.loss == "squared" else 0.0
        return a * slope(field) * (y - own)

    repeat = algorithm.repeat
    first = psi0(h)
    if isinstance(repeat, dmft.Repeat):
        total, field = np.zeros_like(h), h
        for _ in range(repeat.times):
            total, field = (
                total + psi0(field),
                field + gamma / (p * algorithm.batch_size) * psi0(field),
            )
        return total
    if isinstance(repeat, dmft.Lookahead):
        return psi0(h + float(repeat.rho) * first)
    scale = float(repeat.rho)
    if repeat.normalised:
        size = np.sqrt((first**2).sum(0))
        scale = scale * np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    return psi0(h - scale * first)


def monte_carlo(model, algorithm, start, samples=100_000):
    """Means of the rates of free rows and their standard errors."""
    rng = np.random.default_rng(11)
    fields = np.linalg.cholesky(start.Omega) @ rng.standard_normal((start.p + start.k, samples))
    h, h_star = fields[: start.p], fields[start.p :]
    psi = update(model, algorithm, h, h_star, rng.standard_normal(samples))
    weight = float(algorithm.learning_rate) / (start.p * algorithm.batch_size)
    q = psi[:, None] * h[None] + h[:, None] * psi[None] + weight * psi[:, None] * psi[None]
    m = psi[:, None] * h_star[None]
    return {name: (v.mean(-1), v.std(-1) / samples**0.5) for name, v in (("Q", q), ("M", m))}


@pytest.mark.cases(4)
@pytest.mark.parametrize("repeat", REPETITIONS, ids=str)
@pytest.mark.parametrize(
    ("activation", "target", "p", "noise", "batch", "loss"),
    [
        (ERF, sp.tanh(TARGET[0] + TARGET[1] ** 2), 2, 0.2, 1, "squared"),
        (RELU, TARGET[0] ** 2 - 1, 1, 0.0, 1, "squared"),
        (z**2 - 1, TARGET[0] * TARGET[1], 1, 0.3, 2, "squared"),
        (ERF, TARGET[0] + TARGET[0] * TARGET[1], 3, 0.0, 1, "correlation"),
    ],
    ids=["erf-joint", "relu", "square", "correlation"],
)
def test_rates_against_monte_carlo(repeat, activation, target, p, noise, batch, loss):
    model = model_of(activation, target, p, noise)
    algorithm = dmft.SGD(0.4, batch, loss=loss, repeat=repeat)
    equations = dmft.derive(model, algorithm)
    start = start_of(model)
    rates, error = equations.evaluate(start), equations.evaluate_error(start)
    for name, (mean, deviation) in monte_carlo(model, algorithm, start).items():
        score = (rates[name] - mean) / np.hypot(deviation, error[name] / 2.6)
        assert np.max(np.abs(score)) < 4.2, (name, score)


@pytest.mark.cases(2)
@pytest.mark.parametrize("loss", ["squared", "correlation"])
@pytest.mark.parametrize("p", [1, 2])
def test_one_pass_over_polynomials_is_sgd_exactly(loss, p):
    model = model_of(z**2 - 1, TARGET[0] ** 3 - 3 * TARGET[0] + TARGET[0] * TARGET[1], p, 0.2)
    start = start_of(model)
    for constraint in (None, "sphere"):
        plain = dmft.SGD(0.7, 2, loss=loss, constraint=constraint)
        once = dmft.SGD(0.7, 2, loss=loss, constraint=constraint, repeat=dmft.Repeat(1))
        rates = dmft.derive(model, plain).evaluate(start)
        equations = dmft.derive(model, once)
        for name, value in equations.evaluate(start).items():
            np.testing.assert_allclose(value, rates[name], rtol=0, atol=2e-13)
        # Rounding of terms of size 1e3 and no spread of nodes.
        assert max(np.max(e) for e in equations.evaluate_error(start).values()) < 1e-11


def on_nodes(model, algorithm):
    """The equations of SGD with every average of the update over the fields of a sample."""
    sample = Moments(model, algorithm).program
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741

    def average(integrand):
        return Expectation(integrand, OneSample(sample.degree(integrand), sp.Integer(sample.noisy)))

    quadratic = x.gamma / p * average(x.psi[j] * x.psi[l])
    changed = (
        define(x.b[j, x.i], {"update": average(x.psi[j] * x.lam[x.i])}, "intermediate"),
        define(x.M[j, r], {"update": x.b[j, p + r]}, "rate"),
        define(x.Q[j, l], {"update": x.b[j, l] + x.b[l, j], "sgd_noise": quadratic}, "rate"),
    )
    equations = dmft.derive(model, algorithm)
    kept = [d for d in equations.definitions if d.role in ("block", "observable")]
    return replace(equations, definitions=(*kept, *sample.definitions, *changed))


@pytest.mark.parametrize("activation", [ERF, RELU], ids=["erf", "relu"])
def test_one_pass_on_nodes_meets_closed_forms_within_the_claim(activation):
    model = model_of(activation, TARGET[0] ** 2 - 1, 2, 0.0)
    start = start_of(model)
    rates = dmft.derive(model, dmft.SGD(0.7)).evaluate(start)
    equations = on_nodes(model, dmft.SGD(0.7))
    value, error = equations.evaluate(start), equations.evaluate_error(start)
    for name, rate in rates.items():
        assert np.all(np.abs(value[name] - rate) <= error[name] + 1e-12)
        assert np.max(error[name]) < 0.1


def compiled_rates(equations, start, **options):
    """Rates by the generated code."""
    problem = dmft.build(equations)
    values = equations.values(start, options)
    y = problem.pack({"Q": start.Q, "M": start.M})
    scalars = {name: values.scalars[name] for name in problem.parameters}
    par = problem.pack_parameters(scalars, values.arrays)
    out = np.empty_like(y)
    widths = np.array([values.widths[name] for name in problem.widths])
    problem.rhs(0.0, y, widths, par, out)
    return problem.unpack(out, values.widths)


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    ("repeat", "activation", "target", "noise", "constraint"),
    [
        (REPETITIONS[0], ERF, sp.tanh(TARGET[0] + TARGET[1] ** 2), 0.2, "sphere"),
        (REPETITIONS[2], RELU, TARGET[0] ** 3, 0.1, None),
        (REPETITIONS[3], z**2, TARGET[0] * TARGET[1], 0.0, "sphere-gradient"),
    ],
    ids=["lookahead", "normalised", "repeat"],
)
def test_compiled_rates_are_those_of_the_reference(repeat, activation, target, noise, constraint):
    model = model_of(activation, target, 2, noise)
    equations = dmft.derive(model, dmft.SGD(0.4, constraint=constraint, repeat=repeat))
    start = start_of(model)
    options = {} if activation.is_polynomial(z) else {"nodes": 64}
    rates = equations.evaluate(start, **options)
    compiled = compiled_rates(equations, start, **options)
    for name, rate in rates.items():
        atol = 1e-12 * max(1.0, np.max(np.abs(rate)))
        np.testing.assert_allclose(compiled[name], rate, rtol=0, atol=atol)


def test_polynomial_rates_are_written_out():
    """explicit() closes them; its formulas at numbers are the rates of exact nodes."""
    rho = sp.Symbol("rho_0", positive=True)
    target = dmft.MultiIndex(TARGET[0] ** 3 - 3 * TARGET[0], TARGET[:1])
    model = dmft.Model(dmft.Committee(z**2, 1), target, sp.Rational(1, 5))
    equations = dmft.derive(model, dmft.SGD(0.05, repeat=dmft.Lookahead(rho)))
    written = equations.explicit(1, 1)
    assert set(written.symbols) == {"Q_11", "M_11", "P_11"}
    start = dmft.Overlaps([[0.9]], [[0.3]], [[1.2]])
    rates = equations.evaluate(start, rho_0=0.05)
    numbers = dict(zip(written.symbols.values(), (0.9, 0.3, 1.2), strict=True))
    assert list(written.symbols) == ["Q_11", "M_11", "P_11"]
    for name in ("Q", "M"):
        value = written.rhs[written.symbols[f"{name}_11"]].subs(numbers)
        free = dict.fromkeys(value.free_symbols, 0.05)
        assert {s.name for s in free} == {"rho_0"}
        assert float(value.subs(free)) == pytest.approx(rates[name][0, 0], rel=1e-12)
    assert "exact" in equations.approximation
    tall = dmft.derive(model, dmft.SGD(0.05, repeat=dmft.Repeat(3)))
    with pytest.raises(BadParameter, match="average"):
        tall.explicit(1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "p", "noise", "sgd"),
    [
        (
            TARGET[0] ** 3 - 3 * TARGET[0], 1, 0.0,
            dmft.SGD(0.3, constraint="sphere", repeat=dmft.Lookahead(0.1)),
        ),
        (
            sp.tanh(TARGET[0] + TARGET[0] * TARGET[1]), 2, 0.1,
            dmft.SGD(0.6, repeat=dmft.SharpnessAware(0.3)),
        ),
        (
            sp.tanh(TARGET[0] + TARGET[0] * TARGET[1]), 2, 0.0,
            dmft.SGD(0.6, constraint="sphere", repeat=dmft.Repeat(2)),
        ),
    ],
    ids=["lookahead", "aware", "repeat"],
)  # fmt: skip
def test_solutions_against_chains(target, p, noise, sgd):
    """Two samples per dimension from overlaps of order one; the distance falls like 1/d."""
    model = model_of(ERF, target, p, noise)
    Q, M = [[1.0, 0.2], [0.2, 1.0]], [[0.3, 0.1], [-0.1, 0.3]]
    k = model.teacher.width
    start = dmft.Overlaps(np.array(Q)[:p, :p], np.array(M)[:p, :k])
    t_max = 2.0 * float(sgd.learning_rate) / p
    run = dmft.solve(dmft.derive(model, sgd), start, t_max, save_at=4, quadrature_tol=2e-4)
    for dim in (1000, 4000):
        chain = dmft.simulate(model, sgd, dim, t_max, 64, start, "overlaps", save_at=4)
        for found, error, exact in (
            (chain.mean.M, chain.stderr.M, run.M),
            (chain.mean.Q, chain.stderr.Q, run.Q),
        ):
            assert np.all(np.abs(found - exact) < 4 * error + 5 / dim + 2e-4)


@pytest.mark.slow
def test_directions_come_in_the_order_of_learnability():
    """He_3(z1) + 3 z1 z2 z3: z1 first, then z2 and z3, by looking ahead; plain SGD none."""
    z1, z2, z3 = fields = sp.symbols("z1 z2 z3", real=True)
    target = z1**3 - 3 * z1 + 3 * z1 * z2 * z3
    table = dmft.learnability(target, fields, ["one-pass SGD", "data reuse"]).table
    steps = {str(name): row["data reuse"].step for row in table for name in row.names}
    assert steps == {"z1": 1, "z2": 2, "z3": 2}
    assert {row["one-pass SGD"].samples for row in table} == {"d^2"}
    model = dmft.Model(dmft.Committee(ERF, 1), dmft.MultiIndex(target, fields))
    ahead = dmft.SGD(0.05, constraint="sphere", repeat=dmft.Lookahead(0.15))
    plain = dmft.SGD(0.05, constraint="sphere")
    how = {"start": None, "method": "overlaps", "save_at": 81}
    runs = dmft.simulate(model, ahead, 1000, 800 * 0.05, 6, **how)
    above = np.abs(runs.runs.M[:, :, 0]) > 0.25
    first = np.where(above.any(1), above.argmax(1), 1000)
    assert np.all(first[:, 0] < 20)
    assert np.median(first[:, 1:]) < 81
    assert np.all(first[:, 0] < first[:, 1:].min(1))
    stuck = dmft.simulate(model, plain, 1000, 200 * 0.05, 6, **how)
    assert np.abs(stuck.runs.M[:, -1]).max() < 0.25
    solved = dmft.solve(
        dmft.derive(model, ahead), dmft.Overlaps([[1.0]], [[0.0, 0.03, 0.03]]), 40.0,
        save_at=81, quadrature_tol=0.05,
    )  # fmt: skip
    when = (np.abs(solved.M[:, 0]) > 0.25).argmax(0)
    assert 0 < when[0] < when[1] == when[2]


def test_committee_teachers_and_flow():
    """Students equal to their teacher stay, without noise; gradient flow drops the noise term."""
    committee = dmft.Committee(ERF, 2)
    algorithm = dmft.SGD(0.5, repeat=dmft.Lookahead(0.2))
    model = dmft.Model(committee, committee)
    equations = dmft.derive(model, algorithm)
    same = dmft.Overlaps(np.eye(2), np.eye(2))
    for rate in equations.evaluate(same, nodes=64).values():
        assert np.max(np.abs(rate)) < 1e-12
    flow = dmft.derive(model, algorithm, scaling="gradient-flow")
    start = start_of(dmft.Model(dmft.Committee(ERF, 2, [1, 1]), committee))
    less = equations.without("sgd_noise")
    for name, rate in flow.evaluate(start, nodes=64).items():
        np.testing.assert_allclose(rate, less.evaluate(start, nodes=64)[name], atol=1e-14)
    assert "sgd_noise" in equations.terms["Q"]
    assert "sgd_noise" not in flow.terms["Q"]


def test_displacement_is_a_run_time_value():
    model = model_of(z**2 - 1, TARGET[0] ** 2, 1, 0.0)
    rho = sp.Symbol("rho_0", positive=True)
    free = dmft.derive(model, dmft.SGD(0.01, constraint="sphere", repeat=dmft.Lookahead(rho)))
    fixed = dmft.derive(model, dmft.SGD(0.01, constraint="sphere", repeat=dmft.Lookahead(0.3)))
    start = start_of(model)
    wanted = fixed.evaluate(start)["M"]
    np.testing.assert_array_equal(free.evaluate(start, rho_0=0.3)["M"], wanted)
    np.testing.assert_array_equal(free.evaluate(start, rho=0.3)["M"], wanted)
    other = free.evaluate(start, rho=0.1)["M"]
    np.testing.assert_array_equal(fixed.evaluate(start, rho=0.1)["M"], other)
    assert np.abs(other - wanted).max() > 1e-3
    run = dmft.solve(fixed, start, 0.02, rho=0.1, save_at=2)
    assert run.status == "ok"
    assert run.steps(dim=1000)[-1] == pytest.approx(0.02 * 1000 / 0.01)


def test_equations_print_their_sample():
    model = model_of(ERF, TARGET[0] ** 2, 1, 0.1)
    equations = dmft.derive(model, dmft.SGD(0.4, repeat=dmft.Repeat(2)))
    text = equations.latex(symbolic=True)
    for line in (
        r"y &= \sqrt{\Delta} \xi + {h_{1}^*}^{2}",
        r"h_{j}^{(1)} &= \frac{\gamma \psi_{j}^{(0)}}{p} + h_{j}",
        r"\psi_{j} &= \psi_{j}^{(0)} + \psi_{j}^{(1)}",
        r"b_{j i} &= \langle \lambda_{i}\,\psi_{j} \rangle",
    ):
        assert line in text
    assert "ψ^(1) = e^(1) a σ'(h^(1))" in str(equations)
    aware = dmft.SGD(0.4, repeat=dmft.SharpnessAware(0.1, normalised=True))
    text = dmft.derive(model, aware).latex(symbolic=True)
    assert r"h_{j}^{(1)} &= h_{j} - \frac{\rho \psi_{j}^{(0)}}{\ell}" in text


def test_refusals():
    model = model_of(ERF, TARGET[0] ** 2, 1, 0.0)
    look = dmft.SGD(0.4, repeat=dmft.Lookahead(0.1))
    for options, match in (
        ({"dim": 100}, "batch_size = 1 is not"),
        ({"dim": 100, "fluctuations": True, "scaling": "gradient-flow"}, "high-dimensional"),
        ({"scaling": "mean-field"}, "scaling"),
        ({"scaling": "noise-dominated"}, "scaling"),
    ):
        with pytest.raises(BadParameter, match=match):
            dmft.derive(model, look, **options)
    with pytest.raises(BadParameter, match="same fields"):
        dmft.derive(model, dmft.SGD(0.4, repeat=dmft.Repeat(2)), scaling="gradient-flow")
    with pytest.raises(BadParameter, match="weights"):
        dmft.derive(model, dmft.SGD(40, 100, repeat=dmft.Repeat(2)), dim=100)
    with pytest.raises(BadParameter, match="16 passes"):
        dmft.derive(model, dmft.SGD(0.4, repeat=dmft.Repeat(17)))
    equations = dmft.derive(model, look)
    with pytest.raises(BadParameter, match="label_noise"):
        equations.evaluate(start_of(model), label_noise=0.1)
    with pytest.raises(BadParameter, match="rho"):
        equations.evaluate(start_of(model), rho=-0.1)
    xi = sp.Symbol("xi", positive=True)
    named = dmft.Model(dmft.Committee(sp.erf(xi * z), 1, field=z), model.teacher)
    with pytest.raises(BadParameter, match="xi"):
        dmft.derive(named, look)
    sign = dmft.Model(dmft.Committee(sp.sign(z), 1), model.teacher)
    with pytest.raises(BadParameter, match="jumps"):
        dmft.derive(sign, look)
    for call in (dmft.escape_formula, dmft.maximal_learning_rate):
        with pytest.raises(BadParameter, match="repeat"):
            call(dmft.literature.phase_retrieval(1), look)


@pytest.mark.slow
def test_modes_are_those_of_differences_of_the_reference():
    """Of a step that looks at its sample twice: dQ/dt and dM/dt around a fixed point."""
    model = model_of(ERF, TARGET[0] ** 2, 1, 0.0)
    equations = dmft.derive(model, dmft.SGD(0.4, repeat=dmft.Lookahead(0.1)))
    start, h = dmft.fixed_points(equations)[0].overlaps, 1e-4
    columns = []
    for q, m in ((h, 0.0), (0.0, h)):
        ends = [
            equations.evaluate(dmft.Overlaps(start.Q + sign * q, start.M + sign * m, start.P))
            for sign in (1, -1)
        ]
        columns.append([(ends[0][n] - ends[1][n])[0, 0] / (2 * h) for n in ("Q", "M")])
    modes = np.linalg.eigvals(np.transpose(columns))
    found = dmft.stability(equations, start).eigenvalues
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(modes), atol=1e-5)

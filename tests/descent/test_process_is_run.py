"""What is printed is what runs: compiled recursions against those by hand, and signs that count."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.codegen.two_time import process as generator
from dmft.emit import load_module
from dmft.equations.averages.expectation import Expectation
from dmft.equations.two_time import descent_process as eq
from dmft.errors import BadParameter
from dmft.solvers.descent.response import measured
from dmft.solvers.descent.sweep import begin, march, result_of
from dmft.solvers.descent.task import Nodes
from dmft.workflow.solving.descent import descent_task
from dmft.workflow.solving.descent_nodes import DescentOptions, Layout

# tests/ is no package (importlib mode): the witness is loaded from its file.
_SPEC = importlib.util.spec_from_file_location(
    "plain_process", Path(__file__).with_name("plain_process.py")
)
_WITNESS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_WITNESS)
plain_process = _WITNESS.plain_process

z, u, v = sp.symbols("z u v", real=True)
RELU, ERF, LINE = sp.Max(z, 0), sp.erf(z / sp.sqrt(2)), dmft.Committee(z, 1)
PAIR = dmft.Model(
    dmft.Committee(ERF, 2, readout=(2, sp.Rational(-6, 5))), dmft.Committee(ERF, 1), label_noise=0.1
)
PAIR_START = dmft.Overlaps([[1.0, 0.2], [0.2, 0.9]], [[0.3], [-0.1]], [[1.4]])
JOINT = dmft.MultiIndex(sp.tanh(u + v**3 - 3 * v), [u, v])
RELUS = dmft.Model(dmft.Committee(RELU, 2, readout=(sp.sqrt(2), -sp.sqrt(2))), JOINT)
MIXTURE = dmft.MixtureModel(
    dmft.Committee(ERF, 2), dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
)
OPTIONS = {
    "full": {},
    "bernoulli": {"batch": "bernoulli", "batch_fraction": 0.5},
    "reshuffle": {"batch": "reshuffle", "batch_fraction": 0.5},
    "fresh": {"batch": "fresh"},
    "momentum": {"momentum": 0.4},
    "readout": {"readout_rate": 0.3},
}
CASES = {
    name: (PAIR, dmft.GradientDescent(0.4, 2, ridge=0.05, **given), PAIR_START, 5, None)
    for name, given in OPTIONS.items()
}
CASES |= {
    "pathwise": (PAIR, dmft.GradientDescent(0.4, 2), PAIR_START, 4, "pathwise"),
    "ReLU": (
        RELUS, dmft.GradientDescent(0.2, 3), dmft.Overlaps(np.eye(2), np.zeros((2, 2))), 7, None
    ),
    "line": (
        dmft.Model(LINE, LINE, label_noise=0.3),
        dmft.GradientDescent(0.2, 2, ridge=0.1, momentum=0.3),
        dmft.Overlaps([[1.0]], [[0.2]]), 12, None,
    ),
    "mixture": (
        MIXTURE, dmft.GradientDescent(0.3, 2), dmft.Overlaps(np.eye(2), [[0.1], [0.2]]), 4, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_compiled_steps_equal_the_recursions_by_hand(name):
    """The same samples, to rounding: kernels, overlaps, and the response measured afterwards."""
    model, descent, start, steps, method = CASES[name]
    equations = dmft.derive(model, descent)
    options = DescentOptions(samples=2**11, method=method)
    task, values = descent_task(equations, start, steps, {}, method)
    layout = Layout.of(equations, task, options)
    nodes = layout.nodes(0, 0)
    found = []
    for process in (task.process, plain_process(values, fresh=task.fresh)):
        here = replace(task, process=process)
        past = np.empty((task.kept, nodes.normal.shape[1]))
        sweep = march(begin(here), nodes, past)
        assert sweep.status == "ok"
        arrays = dict(result_of(sweep))
        response = measured(sweep, nodes, past)
        found.append(arrays if response is None else {**arrays, "measured": response})
    assert found[0].keys() == found[1].keys()
    assert ("measured" in found[0]) == (method is None)
    for key, mine in found[0].items():
        # Stein's response divides by what is new in the driving process: rounding with it.
        allowed = (1e-11 if key == "resp" else 1e-13) * (1.0 + np.abs(mine).max())
        assert np.abs(mine - found[1][key]).max() < allowed, key


@pytest.fixture
def interpreted(monkeypatch):
    """Generated steps as Python runs them: a sign that is changed need not wait for a compiler."""

    def steps(source, name):
        # A copy: other models share the module.
        found = vars(load_module(source, name))
        return SimpleNamespace(
            **{n: getattr(value, "py_func", value) for n, value in found.items()}
        )

    monkeypatch.setattr(generator, "load_module", steps)


EVERYTHING = dmft.GradientDescent(0.4, 2, ridge=0.05, momentum=0.3, readout_rate=0.3)
TERMS = [
    (d.name, term)
    for d in dmft.derive(PAIR, EVERYTHING).process
    for term, _ in d.terms
]  # fmt: skip


def with_terms(equations, name, change):
    """The equations with the terms of one definition changed: name and expression to expression."""
    process = [
        replace(d, terms=tuple((n, change(n, e)) for n, e in d.terms)) if d.name == name else d
        for d in equations.process
    ]
    return replace(equations, process=tuple(process))


def run_of(equations, **options):
    rate = {"learning_rate": 0.15, "samples": 2**9, "scrambles": 1}
    return dmft.solve(equations, PAIR_START, 4, **rate, **options)


def distance(first, second):
    """Largest change of the arrays that both runs have."""
    n = min(first.t.size, second.t.size)
    if n < first.t.size:
        return np.inf
    return max(np.abs(first[key] - second[key]).max() for key in first.arrays)


@pytest.fixture(scope="module")
def right():
    """The run of the equations as they are."""
    return run_of(dmft.derive(PAIR, EVERYTHING))


@pytest.mark.parametrize(("name", "term"), TERMS, ids=[f"{a}-{b}" for a, b in TERMS])
def test_a_wrong_sign_in_the_symbols_changes_the_run(name, term, right, interpreted):
    equations = dmft.derive(PAIR, EVERYTHING)
    wrong = with_terms(equations, name, lambda n, e: -e if n == term else e)
    assert distance(right, run_of(wrong)) > 1e-3


def test_a_wrong_sign_changes_the_compiled_run(right):
    equations = dmft.derive(PAIR, EVERYTHING)
    wrong = with_terms(equations, "C_theta", lambda n, e: -e if n == "noise" else e)
    assert distance(right, run_of(wrong)) > 1e-3


def test_a_term_dropped_is_a_parameter_of_zero(right, interpreted):
    """Runs without a term equal those in which its parameter vanishes."""
    equations = dmft.derive(PAIR, EVERYTHING)
    without = equations
    for name in ("M_at", "R_theta", "C_theta"):
        process = [d.without("momentum") if d.name == name else d for d in without.process]
        without = replace(without, process=tuple(process))
    assert distance(run_of(without), run_of(equations, momentum=0.0)) < 1e-13
    memoryless = with_terms(equations, "h_at", lambda n, e: sp.S.Zero if n == "memory" else e)
    assert distance(run_of(memoryless), right) > 1e-3


EXACT = {name: CASES[name] for name in ("full", "fresh", "momentum", "readout", "line", "mixture")}


@pytest.mark.parametrize("name", list(EXACT))
def test_runs_equal_the_numpy_reference(name):
    """`evaluate` interprets the symbols on the same points, without code generation."""
    model, descent, start, _, _ = EXACT[name]
    equations = dmft.derive(model, descent)
    reference_equals_run(equations, start)


@pytest.mark.parametrize("term", ["M_at-learning", "h_at-memory", "Q_at-teacher", "h_at-weights"])
def test_a_wrong_sign_is_run_as_it_stands(term, interpreted):
    name, wrong = term.split("-")
    equations = dmft.derive(PAIR, EVERYTHING)
    changed = with_terms(equations, name, lambda n, e: -e if n == wrong else e)
    reference_equals_run(changed, PAIR_START, learning_rate=0.15)


def reference_equals_run(equations, start, steps=3, **given):
    task, _ = descent_task(equations, start, steps, given, "stein")
    size = 256
    points = np.random.default_rng(5).standard_normal((task.k + task.p * steps + 1, size))
    cluster = np.arange(2 * size) // size
    number = cluster[::2] if isinstance(equations.model, dmft.MixtureModel) else cluster[:0]
    nodes = Nodes(points, np.empty((0, 0)), number, scrambled=False)
    run = result_of(march(begin(task), nodes, np.empty((task.kept, size))))
    found = equations.evaluate(start, steps, points=points, **given)
    assert found.keys() == run.keys()
    for key, mine in run.items():
        assert np.abs(mine - found[key]).max() < 1e-9 * (1.0 + np.abs(mine).max()), key


def test_terms_of_ones_own_are_run():
    """A term with a symbol of its own, a part of Q that no other time shares: run-time values."""
    equations = dmft.derive(PAIR, dmft.GradientDescent(0.15, 2))
    heat = sp.Symbol("heat", nonnegative=True)
    kick = heat * sp.KroneckerDelta(eq.t, eq.s) * sp.KroneckerDelta(eq.x.j, eq.x.l)
    warm = replace(
        equations,
        process=tuple(
            replace(d, terms=(*d.terms, ("heat", kick))) if d.name == "Q_at" else d
            for d in equations.process
        ),
    )
    assert "heat" in warm.parameters
    with pytest.raises(BadParameter, match="heat"):
        run_of(warm)
    plain, same = run_of(equations), run_of(warm, heat=0.0)
    assert distance(plain, same) < 1e-13
    assert distance(plain, run_of(warm, heat=0.05)) > 1e-3
    assert "heat" in dmft.build(warm).process.parameters


REFUSED = {
    "not causal": ("M_at", eq.M[eq.t + 1, eq.x.j, eq.x.r]),
    "is not causal": ("M_at", sp.Sum(eq.M[eq.u, eq.x.j, eq.x.r], (eq.u, 0, eq.t + 1))),
    "linear": ("h_at", eq.driving[eq.t, eq.x.j] ** 2),
    "known are those before t": (
        "h_at", sp.Sum(eq.g_at[eq.s, eq.x.j], (eq.s, 0, eq.t))
    ),
    "asked": ("g_star", Expectation(eq.g_at[eq.t, eq.x.j] ** 3)),
    "no array": ("M_at", sp.IndexedBase("A")[eq.x.j]),
}  # fmt: skip


@pytest.mark.parametrize("words", list(REFUSED))
def test_terms_that_no_run_can_take_are_refused(words):
    name, term = REFUSED[words]
    equations = dmft.derive(PAIR, dmft.GradientDescent(0.15, 2))
    process = [
        replace(d, terms=(*d.terms, ("own", term))) if d.name == name else d
        for d in equations.process
    ]
    message = "not known when it is needed" if words == "not causal" else words
    with pytest.raises(BadParameter, match=message):
        dmft.build(replace(equations, process=tuple(process)))


def test_what_is_built_is_solved():
    equations = dmft.derive(PAIR, dmft.GradientDescent(0.15, 2))
    problem = dmft.build(equations)
    assert problem.kind == "two-time"
    assert "def advance(" in problem.source
    assert "def sample(" in problem.source
    assert distance(run_of(equations), run_of(problem)) == 0.0
    flow = dmft.derive(PAIR, dmft.GradientDescent(1, 2), scaling="gradient-flow")
    assert dmft.build(flow).parameters == problem.parameters
    glass = dmft.literature.spherical_p_spin(2)
    run = dmft.solve(dmft.build(glass), None, 0.5, tol=1e-4, measure_error=False)
    assert run.status == "ok"


def test_a_flow_prints_what_its_descents_run():
    flow = dmft.derive(PAIR, dmft.GradientDescent(1, 2, ridge=0.1), scaling="gradient-flow")
    wrong = replace(
        flow,
        equations=with_terms(flow.equations, "M_at", lambda n, e: -e if n == "learning" else e),
    )
    assert wrong.terms["M"]["learning"] == -flow.terms["M"]["learning"]
    steps = (f.evaluate(PAIR_START, 2, step=0.1)["M"][1] for f in (flow, wrong))
    right, left = (m - PAIR_START.M + 0.1 * 0.1 * PAIR_START.M for m in steps)
    np.testing.assert_allclose(left, -right, atol=1e-14)

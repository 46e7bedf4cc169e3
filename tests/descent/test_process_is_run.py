"""What is printed is what runs: compiled recursions against those by hand, and signs that count."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import sympy as sp

import dmft
from dmft.codegen import two_time_process as generator
from dmft.display.latex import document
from dmft.emit import load_module
from dmft.equations.averages.expectation import Expectation
from dmft.equations.two_time import descent_process as eq
from dmft.errors import BadParameter
from dmft.solvers.two_time.descent_process import Nodes
from dmft.solvers.two_time.descent_response import measured
from dmft.solvers.two_time.descent_sweep import begin, march_on, result_of
from dmft.workflow.solving.descent_nodes import DescentOptions, Layout
from dmft.workflow.solving.descent_runs import descent_task

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
    "replacement": {"batch": "replacement", "batch_fraction": 0.5, "readout_rate": 0.3},
    "heat": {"temperature": 0.2, "momentum": 0.4},
}
CASES = {
    name: (PAIR, dmft.GradientDescent(0.4, 2, ridge=0.05, **given), PAIR_START, 5, None)
    for name, given in OPTIONS.items()
}
ON_SPHERE = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.1]], [[1.4]])
CASES |= {
    f"sphere, {name}": (
        PAIR, dmft.GradientDescent(0.6, 2, ridge=0.05, constraint="sphere", **OPTIONS[name]),
        ON_SPHERE, 5, None,
    )
    for name in ("bernoulli", "fresh", "heat")
}  # fmt: skip
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


# Those of the NumPy reference below share their code.
@pytest.mark.cases("replacement", "sphere, heat", "ReLU", "pathwise", "mixture")
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
    by_hand = plain_process(values, descent.batch == "fresh", descent.on_sphere)
    for process in (task.process, by_hand):
        here = replace(task, process=process)
        past = np.empty((task.kept, nodes.normal.shape[1]))
        sweep = march_on(begin(here), nodes, past)
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


EVERYTHING = dmft.GradientDescent(
    0.4, 2, ridge=0.05, momentum=0.3, readout_rate=0.3, temperature=0.3, batch="bernoulli",
    batch_fraction=0.5,
)  # fmt: skip
PRINTED = dmft.derive(PAIR, EVERYTHING)
BOUND = dmft.derive(PAIR, replace(EVERYTHING, constraint="sphere"))
PUT_BACK = [
    (d.name, term) for d in BOUND.process if d not in PRINTED.process for term, _ in d.terms
]
TERMS = [(d.name, term) for d in PRINTED.process for term, _ in d.terms]
OF_SAMPLES = [(d.name, term) for d in PRINTED.sample for term, _ in d.terms]


def with_terms(equations, name, change):
    """The equations with the terms of one definition changed: name and expression to expression."""
    sample, process = (
        tuple(
            replace(d, terms=tuple((n, change(n, e)) for n, e in d.terms)) if d.name == name else d
            for d in group
        )
        for group in (equations.sample, equations.process)
    )
    return replace(equations, sample=sample, process=process)


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


@pytest.mark.cases(2)
@pytest.mark.parametrize(("name", "term"), TERMS, ids=[f"{a}-{b}" for a, b in TERMS])
def test_a_wrong_sign_in_the_symbols_changes_the_run(name, term, right, interpreted):
    wrong = with_terms(PRINTED, name, lambda n, e: -e if n == term else e)
    assert distance(right, run_of(wrong)) > 1e-3


@pytest.mark.cases(2)
@pytest.mark.parametrize(("name", "term"), PUT_BACK, ids=[f"{a}-{b}" for a, b in PUT_BACK])
def test_a_wrong_sign_on_the_sphere_changes_the_run(name, term, interpreted):
    right, wrong = (
        with_terms(BOUND, name, lambda n, e, sign=sign: sign * e if n == term else e)
        for sign in (1, -1)
    )
    options = {"learning_rate": 0.15, "samples": 2**9, "scrambles": 1}
    first = dmft.solve(right, ON_SPHERE, 3, **options)
    try:
        assert distance(first, dmft.solve(wrong, ON_SPHERE, 3, **options)) > 1e-3
    except ValueError as error:  # a negative square: Python's root of it is no number
        assert "math domain" in str(error)  # noqa: PT017


def evaluated(equations):
    points = np.random.default_rng(3).standard_normal((1 + 2 * 3 + 1, 64))
    try:
        return equations.evaluate(PAIR_START, 3, points=points, learning_rate=0.15)
    except BadParameter:  # no covariance any more
        return {}


@pytest.mark.cases(5)
@pytest.mark.parametrize("place", TERMS + OF_SAMPLES, ids="-".join)
def test_a_wrong_sign_in_the_symbols_changes_what_evaluate_gives(place):
    name, term = place
    right = evaluated(PRINTED)
    wrong = with_terms(PRINTED, name, lambda n, e: -e if n == term else e)
    found = evaluated(wrong)
    assert not found or max(np.abs(right[key] - found[key]).max() for key in right) > 1e-3


def test_what_samples_compute_is_run():
    """Signs and terms of a sample: gradients, their slopes along the paths, labels, the loss."""
    kappa = sp.Symbol("kappa")
    h, (j,) = PRINTED.symbols["h"], PRINTED.indices.of("g")
    changed = dmft.derive(PAIR, dmft.GradientDescent(0.15, 2, readout_rate=0.1))
    for name, term in [("label", "target"), ("g", "gradient"), ("readout_pull", "pull")]:
        changed = with_terms(changed, name, lambda n, e, term=term: -e if n == term else e)
    changed = changed.with_term("g", "quartic", kappa * h[j] ** 3)
    reference_equals_run(changed, PAIR_START, kappa=0.1)
    # <dg_j/dh_l> at t = 0 by Gauss and Hermite: output and label by the declared functions.
    run = run_of(changed, kappa=0.1, method="pathwise")
    Q, M, P, a = PAIR_START.Q, PAIR_START.M, PAIR_START.P, np.array([2.0, -1.2])
    x, w = np.polynomial.hermite_e.hermegauss(24)
    root = np.linalg.cholesky(np.block([[Q, M], [M.T, P]]))
    grid = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    weight = np.prod(np.stack(np.meshgrid(w, w, w, indexing="ij")), axis=0).ravel()
    weight /= weight.sum()
    h, star = (root @ grid)[:2], (root @ grid)[2]
    erf = scipy.special.erf
    slope = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
    residual = a @ erf(h / np.sqrt(2)) / 2 + erf(star / np.sqrt(2))
    H = -np.einsum("jn,ln->jln", a[:, None] * slope, a[:, None] * slope) / 4
    for one in range(2):
        H[one, one] -= residual * a[one] * -h[one] * slope[one] / 2 - 0.3 * h[one] ** 2
    assert np.abs(run.resp[0, 0] - 2 * H @ weight).max() < 0.05
    assert np.abs(run.resp[0, 0]).max() > 0.3


def test_a_law_that_is_printed_is_that_of_the_samples():
    """Fresh samples: what drives one step is independent of what drives another."""
    fresh = dmft.derive(PAIR, dmft.GradientDescent(0.4, 2.0, batch="fresh"))
    page = document(fresh)
    assert page.count(r"\alpha = 2") == 1
    assert not any(y in page for y in ("2.0", "learning rate,", r"\zeta"))
    assert all(r"\xi" in y for y in page.split("\n") if y.startswith("y &="))
    assert r"C^{r}_{j l}(t, s) &= \delta_{s t} C^{\theta}_{j l}(t, s)" in fresh.latex()
    whole = with_terms(
        fresh, "C_r", lambda _, e: e.xreplace({sp.KroneckerDelta(eq.s, eq.t): sp.S.One})
    )
    points = np.random.default_rng(3).standard_normal((7, 64))
    first, second = (e.evaluate(PAIR_START, 2, points=points)["M"][2] for e in (fresh, whole))
    assert np.abs(first - second).max() > 1e-3


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


EXACT = {name: case for name, case in CASES.items() if name not in ("ReLU", "pathwise")}


@pytest.mark.cases("replacement", "sphere, heat", "reshuffle", "fresh", "mixture")
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
    size = 128
    points = np.random.default_rng(5).standard_normal((task.k + task.p * steps + 1, size))
    cluster = np.arange(2 * size) // size
    number = cluster[::2] if isinstance(equations.model, dmft.MixtureModel) else cluster[:0]
    times = np.empty((0, 0))
    if "batch_fraction" in equations.parameters:
        times = np.random.default_rng(6).integers(3, size=(steps, size)).astype(float)
    nodes = Nodes(points, times, number, scrambled=False)
    run = result_of(march_on(begin(task), nodes, np.empty((task.kept, size))))
    found = equations.evaluate(start, steps, points=points, times=times, **given)
    assert found.keys() == run.keys()
    for key, mine in run.items():
        assert np.abs(mine - found[key]).max() < 1e-9 * (1.0 + np.abs(mine).max()), key


def test_schedules_are_interpreted_as_they_run(interpreted):
    """Each step of the symbols takes the values of its time."""
    time = sp.Symbol("t")
    given = {"learning_rate": 0.3 / (1 + time), "momentum": time / 5, "temperature": 0.1 * time}
    for equations, start in ((PRINTED, PAIR_START), (BOUND, ON_SPHERE)):
        reference_equals_run(equations, start, **given)


def test_terms_of_ones_own_are_put_on_the_sphere_with_the_step(interpreted):
    """A force that pulls one row along the other, before lengths are taken."""
    t, r, l = (BOUND.indices[n] for n in "trl")  # noqa: E741
    M, p = (BOUND.symbols[n] for n in "Mp")
    pull = sp.Symbol("kappa") * sp.Sum(M[t, l, r], (l, 1, p))
    pulled = BOUND.with_term("M_free", "pull", pull)
    reference_equals_run(pulled, ON_SPHERE, kappa=0.1, learning_rate=0.15)
    found = pulled.evaluate(ON_SPHERE, 2, kappa=0.1, learning_rate=0.15)
    np.testing.assert_allclose(np.einsum("tjj->tj", found["Q"]), 1.0, atol=1e-12)


def test_terms_of_ones_own_are_run():
    """A term with a symbol of its own, a part of Q that no other time shares: run-time values."""
    equations = dmft.derive(PAIR, dmft.GradientDescent(0.15, 2))
    t, s, j, l = (equations.indices[n] for n in "tsjl")  # noqa: E741
    kick = sp.Symbol("heat") * sp.KroneckerDelta(t, s) * sp.KroneckerDelta(j, l)
    warm = equations.with_term("Q", "heat", kick)
    assert list(equations.diff(warm).added["Q"]) == ["heat"]
    assert warm.without("heat").process == equations.process
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
    "only those before t are known": (
        "h_at", sp.Sum(eq.g_at[eq.s, eq.x.j], (eq.s, 0, eq.t))
    ),
    "not an average over samples": ("g_star", Expectation(eq.g_at[eq.t, eq.x.j] ** 3)),
    "not an array": ("M_at", sp.IndexedBase("A")[eq.x.j]),
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
    wrong = with_terms(flow, "M_at", lambda n, e: -e if n == "learning" else e)
    assert wrong.terms["M"]["learning"] == -flow.terms["M"]["learning"]
    steps = (f.evaluate(PAIR_START, 2, step=0.1)["M"][1] for f in (flow, wrong))
    right, left = (m - PAIR_START.M + 0.1 * 0.1 * PAIR_START.M for m in steps)
    np.testing.assert_allclose(left, -right, atol=1e-14)

"""Claims of rounding of closed forms: they cover the truth in 60 digits, and stay small else."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
from scipy import special
from scipy.integrate import quad, solve_ivp

import dmft
from dmft.equations.rounding.bounds import rounding
from dmft.equations.rounding.conditioning import ordinary_rounding
from dmft.equations.rounding.rules import PASSED_ON, Bounded, raised
from dmft.special.signs import moment_of_signs_on_arrays

z = sp.Symbol("z", real=True)
HE3 = z**3 - 3 * z
# Half the square of z for ordinary fields, as a difference of numbers 10^6 times larger.
CANCELS = 10**6 * (1 - sp.cos(z / 1000))
SMALL = mp.mpf(10) ** -6


@dataclass(frozen=True)
class Pair:
    """E[f(u) f(v)] as a function of (q, m, p), its slopes along q and m, and that of E[f(u)^2]."""

    activation: sp.Expr
    average: Callable
    along_q: Callable
    along_m: Callable
    own: Callable

    def truth(self, q, m, p):
        """Risk, dM/dt and dQ/dt of one unit in gradient flow, by Stein's and Price's identities."""
        q, m, p = map(mp.mpf, (q, m, p))
        risk = (self.average(q, q, q) - 2 * self.average(q, m, p) + self.average(p, p, p)) / 2
        dM = 2 * m * self.along_q(q, m, p) + p * self.along_m(q, m, p) - m * self.own(q)
        dQ = 2 * q * self.along_q(q, m, p) + m * self.along_m(q, m, p) - q * self.own(q)
        return {"risk": risk, "M": dM, "Q": 2 * dQ}


def _gap(q, m, p):
    return mp.sqrt(max(q * p - m * m, mp.mpf(0)))


def _far(q, p):
    return SMALL**-2 * mp.exp(-SMALL * (q + p) / 2)


PAIRS = {
    "erf": Pair(
        sp.erf(z / sp.sqrt(2)),
        lambda q, m, p: 2 / mp.pi * mp.asin(m / mp.sqrt((1 + q) * (1 + p))),
        lambda q, m, p: -m / mp.pi / (1 + q) / mp.sqrt((1 + q) * (1 + p) - m * m),
        lambda q, m, p: 2 / mp.pi / mp.sqrt((1 + q) * (1 + p) - m * m),
        lambda q: 2 / mp.pi / (1 + q) / mp.sqrt(1 + 2 * q),
    ),
    "relu": Pair(
        sp.Max(0, z),
        lambda q, m, p: (_gap(q, m, p) + m * (mp.pi - mp.atan2(_gap(q, m, p), m))) / (2 * mp.pi),
        lambda q, m, p: _gap(q, m, p) / (4 * mp.pi * q),
        lambda q, m, p: (mp.pi - mp.atan2(_gap(q, m, p), m)) / (2 * mp.pi),
        lambda q: mp.mpf(1) / 2,
    ),
    "He2": Pair(
        z**2 - 1,
        lambda q, m, p: 2 * m * m + (q - 1) * (p - 1),
        lambda q, m, p: p - 1,
        lambda q, m, p: 4 * m,
        lambda q: 6 * q - 2,
    ),
    "He3": Pair(
        HE3,
        lambda q, m, p: 6 * m**3 + 9 * m * (q - 1) * (p - 1),
        lambda q, m, p: 9 * m * (p - 1),
        lambda q, m, p: 18 * m * m + 9 * (q - 1) * (p - 1),
        lambda q: 45 * q * q - 36 * q + 9,
    ),
    "cancels": Pair(
        CANCELS,
        lambda q, m, p: (
            SMALL**-2 * (1 - mp.exp(-SMALL * q / 2) - mp.exp(-SMALL * p / 2))
            + _far(q, p) * mp.cosh(SMALL * m)
        ),
        lambda q, m, p: (
            (SMALL**-1 * mp.exp(-SMALL * q / 2) - SMALL * _far(q, p) * mp.cosh(SMALL * m)) / 2
        ),
        lambda q, m, p: SMALL * _far(q, p) * mp.sinh(SMALL * m),
        lambda q: SMALL**-1 * (mp.exp(-SMALL * q / 2) - mp.exp(-2 * SMALL * q)),
    ),
}


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(60):
        yield


def equations_of(activation, p=1, k=1, algorithm=None):
    model = dmft.Model(dmft.Committee(activation, p), dmft.Committee(activation, k), 0.1)
    return dmft.derive(model, algorithm or dmft.GradientFlow())


def random_pairs(count, reach, seed):
    """Covariances (q, m, p): generic, nearly parallel, nearly independent, equal lengths."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        q, p = 10 ** rng.uniform(-reach, reach, 2)
        near = 1 - 10 ** rng.uniform(-15, -1)
        rho = (rng.uniform(-1, 1), near, -near, 10 ** rng.uniform(-8, -1), near)[number % 5]
        p = q if number % 5 == 4 else p
        yield q, rho * np.sqrt(q * p), p


def compiled(problem, start):
    """Rates by the generated code."""
    one, out = np.ones(1), np.empty(2)
    constants = {"P": start.P, "readout": one, "teacher_readout": one}
    par = problem.pack_parameters(dict.fromkeys(problem.parameters, 0.0), constants)
    state = np.array([start.Q[0, 0], start.M[0, 0]])
    problem.rhs(0.0, state, np.array([1, 1]), par, out)
    return {"Q": out[0], "M": out[1]}


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize("count", [5, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(PAIRS))
def test_claims_cover_the_truth(name, count):
    """Reference and compiled code, at variances from 1e-6 to 1e6."""
    pair = PAIRS[name]
    equations = equations_of(pair.activation)
    risk, problem = dmft.population_risk(equations.model), dmft.build(equations)
    for q, m, p in random_pairs(count, 6, seed=5):
        start = dmft.Overlaps([[q]], [[m]], [[p]])
        claims = {n: e.item() for n, e in equations.evaluate_error(start).items()}
        claims["risk"] = risk.error(start.Q, start.M, start.P)
        found = {n: rate.item() for n, rate in equations.evaluate(start).items()}
        found["risk"] = risk(start.Q, start.M, start.P)
        truth = pair.truth(q, m, p)
        for values in (found, compiled(problem, start)):
            for quantity, value in values.items():
                assert abs(value - truth[quantity]) <= claims[quantity], (q, m, p, quantity)


@pytest.mark.parametrize("exponent", [2, 3, -1, -3, 0.5, -0.5, 2.5])
def test_the_rule_of_powers_covers_both_ends_of_an_interval(exponent):
    """In 60 digits, and at most a few units wider; whole powers multiply sizes out."""
    values = np.array([[0.3, 0.7, 2.0, 31.0, 1e6]])  # rows are moved pairs
    for relative_error in (0.0, 1e-12, 1e-3):
        part = Bounded(values, values * relative_error, 4 * values)
        found = raised(part, exponent)
        for n, value in enumerate(values[0]):
            x, e = (mp.mpf(float(y)) for y in (value, part.error[0, n]))
            result, claim = (float(y[0, n]) for y in (found.value, found.error))
            far = max(abs((x + s * e) ** exponent - result) for s in (-1, 1))
            assert far <= claim <= 1.001 * far + 2.0**-51 * result
        whole = exponent in (2, 3)
        wanted = part.size**exponent if whole else values**exponent
        np.testing.assert_allclose(found.size, wanted, rtol=1e-14)


def relative(equations, start):
    """Largest claim relative to the size of the terms, of all blocks and of the risk."""
    values = equations.values(start, {})
    states = {name: block[None] for name, block in equations.state(start).items()}
    parts = [
        part
        for wanted in ("rate", "observable")
        for part in rounding(equations.on_nodes, states, values, wanted).values()
    ]
    return max(part.error.max() / part.size.max() for part in parts)


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_functions_pass_on_covers_both_ends_of_an_interval(name):
    """Errors as large as the argument: the largest change of the function within them."""
    function = getattr(special, name, None) or getattr(np, {"asin": "arcsin"}.get(name, name))
    for x, error in ((0.9, 0.05), (0.7, 0.3), (-0.6, 0.4), (0.2, 0.6), (1.0, 0.8), (-1.5, 2.0)):
        if name == "asin" and abs(x) > 1.0 - 1e-9:
            continue
        inside = np.linspace(x - error, x + error, 2001)
        inside = np.clip(inside, -1.0, 1.0) if name == "asin" else inside
        change = np.abs(function(inside) - function(x)).max()
        assert PASSED_ON[name](x, error, function(x)) >= change * (1.0 - 1e-12)


@pytest.mark.parametrize("name", ["erf", "relu", "He2", "He3"])
def test_ordinary_units_claim_next_to_nothing(name):
    """Variances 1e-3 to 1e3, correlations up to 1 - 1e-15: below 1e-11 of the terms."""
    equations = equations_of(PAIRS[name].activation)
    assert equations.approximation == "exact"
    for q, m, p in random_pairs(10, 3, seed=8):
        assert relative(equations, dmft.Overlaps([[q]], [[m]], [[p]])) < 1e-11


@pytest.mark.cases(8)
@pytest.mark.parametrize("name", ["erf", "relu", "He2", "He3"])
@pytest.mark.parametrize("near", [None, 1e-3, 1e-7, 0.0])
def test_ordinary_committees_claim_next_to_nothing(name, near):
    """Random students, and students next to their teachers: two of which are nearly parallel."""
    p, k = (8, 4) if near is None and name != "relu" else (3, 3)
    equations = equations_of(PAIRS[name].activation, p, k, dmft.SGD(0.5))
    rng = np.random.default_rng(2)
    teachers = rng.standard_normal((k, 40)) / np.sqrt(40)
    teachers[1] = 1.1 * teachers[0] + 1e-5 * teachers[1]
    students = rng.standard_normal((p, 40)) / np.sqrt(40)
    if near is not None:
        students = teachers + near * students
    start = dmft.Overlaps(students @ students.T, students @ teachers.T, teachers @ teachers.T)
    assert relative(equations, start) < 1e-10


def test_a_closed_form_that_cancels_says_so():
    equations = equations_of(CANCELS)
    assert "cancel" in equations.approximation
    assert ordinary_rounding(equations) > 1e-6
    start = dmft.Overlaps([[1.0]], [[0.3]])
    run = dmft.solve(equations, start, 0.5, save_at=5)
    assert "rounding" in run.message
    assert "rounding" in run.provenance["approximation"]
    assert run.provenance["rounding"] > 1e-6
    assert run.error["Q"].shape == run.Q.shape
    assert run.error["risk"].shape == run.t.shape

    def rates(t, y):
        truth = PAIRS["cancels"].truth(y[0], y[1], 1.0)
        return [float(truth["Q"]), float(truth["M"])]

    exact = solve_ivp(rates, (0, 0.5), [1.0, 0.3], "RK45", run.t, rtol=1e-8, atol=1e-10).y
    for name, row in (("Q", 0), ("M", 1)):
        gap = np.abs(run[name].ravel() - exact[row])
        assert np.all(gap <= run.error[name].ravel() + 1e-7)
        assert np.all(run.error[name] < 1.0)  # a claim as wide as the value would excuse anything


def test_the_error_of_a_run_is_saved_and_comes_back(tmp_path):
    run = dmft.solve(equations_of(CANCELS), dmft.Overlaps([[1.0]], [[0.3]]), 0.2, save_at=3)
    back = dmft.load(run.save(tmp_path / "run.nc"))
    assert back == run
    np.testing.assert_array_equal(back.error["M"], run.error["M"])


def test_rounding_is_looked_at_once_when_it_is_asked_for(monkeypatch):
    """By whoever asks: threads that ask at once, a pickle, and never by a run that nobody asks."""
    module = importlib.import_module("dmft.workflow.solving.rounding")
    looked = []
    plain = module.with_rounding
    monkeypatch.setattr(module, "with_rounding", lambda *a: looked.append(a) or plain(*a))

    def solved():
        return dmft.solve(equations_of(CANCELS), dmft.Overlaps([[1.0]], [[0.3]]), 0.2, save_at=3)

    run, other = solved(), solved()
    assert run.risk[-1] < run.risk[0]
    assert not looked
    asked = ["error", "message", "provenance"] * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: getattr(run, name), asked))
    assert "rounding" in found[2]
    assert len(set(found[1::3])) == 1
    for error in found[0::3]:
        np.testing.assert_array_equal(error["M"], run.error["M"])
    count = len(looked)
    assert run.message == found[1]
    assert len(looked) == count
    back = pickle.loads(pickle.dumps(other))
    assert back == other
    np.testing.assert_array_equal(back.error["M"], run.error["M"])


def test_ordinary_runs_are_exact_and_say_how_exact():
    equations = equations_of(PAIRS["erf"].activation, 2, 2, dmft.SGD(0.5))
    run = dmft.solve(equations, dmft.random_overlaps(equations.model, dim=50, seed=1), 20.0)
    assert run.error is None
    assert run.provenance["approximation"] == "exact"
    assert 0 < run.provenance["rounding"] < 1e-13


@pytest.mark.usefixtures("generated_code")
def test_tables_are_part_of_a_claim():
    """Of sqrt(E F^2 E G^2): about 1e-11 for tanh, and not zero."""
    equations = equations_of(sp.tanh(z))
    start = dmft.Overlaps([[0.8]], [[0.3]])
    claims = equations.evaluate_error(start)
    rates = compiled(dmft.build(equations), start)
    for name, rate in equations.evaluate(start).items():
        assert abs(rate.item() - rates[name]) <= claims[name].item() < 1e-10
    assert 0 < dmft.population_risk(equations.model).error([[0.8]], [[0.3]]) < 1e-10


def test_the_fall_of_a_hermite_student_is_claimed():
    """He5 next to m = 0, whose exact flow is dm/dt = 600 m^4 (1 - m^2)."""
    he5 = sp.expand(sp.hermite(5, z / sp.sqrt(2)) / 2 ** sp.Rational(5, 2))
    equations = equations_of(he5, algorithm=dmft.GradientFlow(constraint="sphere"))
    start, end = 3e-3, 0.9 / (3 * 600 * 3e-3**3)
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[start]]), end, save_at=3, rtol=1e-12)
    time = mp.quad(lambda m: 1 / (600 * m**4 * (1 - m * m)), [start, run.M[-1].item()])
    slope = 600 * run.M[-1].item() ** 4
    gap = abs(float(time) - run.t[-1]) * slope
    claim = 0.0 if run.error is None else run.error["M"][-1].item()
    assert gap <= claim + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("activation", [sp.Max(0, z), sp.Abs(z), sp.Max(0, z - sp.Rational(1, 2))])
@pytest.mark.parametrize("gap", [1.0, 1e-4, 1e-8, 0.0])
def test_claims_cover_the_two_orders_of_committees(activation, gap):
    """Compiled code adds in another order: students and teachers in nearly one direction."""
    algorithm = dmft.SGD(0.5) if activation.subs(z, sp.Rational(1, 4)) != 0 else None
    equations = equations_of(activation, 2, 2, algorithm)
    rng = np.random.default_rng(4)
    teachers = rng.standard_normal((2, 6))
    teachers[1] = 1.3 * teachers[0] + gap * teachers[1]
    students = teachers * np.array([[0.7], [1.9]]) + gap * rng.standard_normal((2, 6))
    start = dmft.Overlaps(students @ students.T, students @ teachers.T, teachers @ teachers.T)
    problem, values = dmft.build(equations), equations.values(start, {})
    constants = {"P": start.P, "readout": np.ones(2), "teacher_readout": np.ones(2)}
    scalars = {name: values.scalars[name] for name in problem.parameters}
    par = problem.pack_parameters(scalars, constants)
    state = problem.pack({"Q": start.Q, "M": start.M})
    out = np.empty(state.size)
    problem.rhs(0.0, state, np.array([2, 2]), par, out)
    rates, claims = (
        problem.pack(found)
        for found in (equations.evaluate(start), equations.evaluate_error(start))
    )
    assert np.all(np.abs(rates - out) <= claims)
    assert np.max(claims) < 1e-9 * np.max(np.abs(rates))


def test_sequence_models_bound_their_rounding():
    a, b = sp.symbols("a b", real=True)
    network, target = (
        dmft.SequenceNetwork(a**3 - a / 7, 2),
        dmft.SequenceTarget((a + b) ** 3, [a, b]),
    )
    model = dmft.Model(network, target)
    equations, risk = dmft.derive(model, dmft.SGD(0.5)), dmft.population_risk(model)
    m = 0.3
    exact = {s: sp.Rational(m) for s in risk.alignments}
    assert 0 < abs(risk(m=m) - risk.expr.xreplace(exact)) <= risk.error(m=m) < 1e-12
    numbers = {"learning_rate": sp.Rational(1, 2), "label_noise": sp.S.Zero}
    for d in equations.definitions:
        value = d.expr.xreplace(exact)
        value = value.xreplace({x: numbers[x.name] for x in value.free_symbols})
        if d.role == "rate":
            truth = value
        else:
            exact[d.target] = value
    start = dmft.Alignment(m=m)
    gap = abs(equations.evaluate(start)["m"].item() - truth)
    assert gap <= equations.evaluate_error(start)["m"].item() < 1e-10


def test_claims_at_learned_states_of_exponential_branches_are_numbers():
    """Given h, erf(h*) is a number there, and its mean square -3e-49 by rounding."""
    selu = sp.Piecewise((5 * (sp.exp(z) - 1) / 3, z < 0), (z, True))
    model = dmft.Model(dmft.Committee(selu, 1), dmft.Committee(sp.erf(z / sp.sqrt(2)), 1))
    equations = dmft.derive(model, dmft.GradientFlow())
    for q in (1.5078125,):
        claim = equations.evaluate_error(dmft.Overlaps([[q]], [[q]], [[q]]))
        assert all(np.all(part < 1e-12) for part in claim.values())


def test_signs_of_a_plane_and_noise_are_numbers_however_they_round():
    """Given two of the fields, two others are parallel up to 2e-9 of their variances: nan."""
    rows = np.array([[-112.0, -192.0], [19 / 2048, -1 / 2048], [-1.25, 1.3125], [-544.0, -768.0]])
    order = [0, 1, 2, 3, 2, 3]
    covariance = rows[order] @ rows[order].T
    covariance[3, 3] += 1.0

    # In polar coordinates; over the radius, of r^3 exp(-r^2 / 2) erf(r y / sqrt 2).
    def along(angle):
        f = rows @ [np.cos(angle), np.sin(angle)]
        s = abs(f[3]) / np.hypot(1.0, f[3])
        return np.sign(f[0] * f[1]) * abs(f[2] * f[3]) * (3.0 * s - s**3) / np.pi

    zeros = np.sort(np.arctan2(-rows[:, 0], rows[:, 1]) % np.pi)
    pieces = pairwise([*zeros, zeros[0] + np.pi])
    truth = sum(quad(along, *piece, epsabs=1e-10, limit=400)[0] for piece in pieces)
    rng = np.random.default_rng(0)
    for _ in range(40):
        moved = covariance * (1.0 + 2.0**-52 * rng.integers(-1, 2, (6, 6)))
        got = moment_of_signs_on_arrays(4, 2, 1, 1, *moved[np.triu_indices(6)])
        assert abs(got - truth) < 1e-8


def test_a_teacher_of_length_zero_has_no_infinite_rounding():
    """Two erf units that unlearn: E f^2/2 = (2/pi) asin(1/2)/4 at first."""
    erf = sp.erf(z / sp.sqrt(2))
    eqs = dmft.derive(dmft.Model(dmft.Committee(erf, 2), dmft.Committee(erf, 1)), dmft.SGD(0.5))
    run = dmft.solve(eqs, dmft.Overlaps(np.eye(2), [[0.0], [0.0]], [[0.0]]), 2.0)
    assert run.risk[0] == pytest.approx(np.arcsin(0.5) / (2 * np.pi), rel=1e-12)
    assert "inf" not in run.message


def test_points_of_a_diagram_skip_rounding(monkeypatch):
    model = dmft.Model(dmft.Committee(HE3, 1), dmft.Committee(HE3, 1))
    equations = dmft.derive(model, dmft.SGD(1.0))
    start = dmft.Overlaps([[1.0]], [[0.1]])
    run = dmft.solve(equations, start, 10.0)
    assert run.status == "diverged"
    rounding_module = importlib.import_module("dmft.workflow.solving.rounding")
    looked = []
    ordinary = rounding_module.with_rounding

    def counted(run, equations, rtol):
        looked.append(run.status)
        return ordinary(run, equations, rtol)

    monkeypatch.setattr(rounding_module, "with_rounding", counted)
    axes = ("learning_rate", [1.0, 2.0]), ("label_noise", [0.0, 0.1])
    diagram = dmft.phase_diagram(
        "final_risk", *axes, equations=equations, start=start, t_max=10.0, progress=False
    )
    assert diagram.messages[0, 0] == run.ending
    assert not looked
    assert run.message.startswith(run.ending[: run.ending.index(";")])
    assert looked == ["diverged"]

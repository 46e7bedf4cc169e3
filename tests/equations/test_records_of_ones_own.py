"""An algorithm, an input law and a loss that are declared here, and nowhere in the library."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft
from dmft.equations import symbols as x
from dmft.errors import BadParameter
from dmft.model import FIELD as z
from dmft.model.algorithm import as_parameter
from dmft.simulation.steps.weights import gradient_at

ERF = sp.erf(z / sp.sqrt(2))
f, y = sp.symbols("f y", real=True)
# The loss: an expression is all that there is to it.
LOG_COSH = sp.log(sp.cosh(f - y))


# The algorithm: gradients of samples longer than `bound` are cut to this length.
def clipped(writer):
    """psi = psi0 min(1, bound/|psi0|), psi0 the gradient of the sample for all neurons."""
    bound, square = writer.scalar("bound"), x.psi_square
    error = writer.gradient(x.h, 0, x.psi_pass[0])
    writer.add(square, square=sp.Sum(x.psi_pass[0][x.u] ** 2, (x.u, 1, x.p)))
    cut = sp.Piecewise((1, square <= bound**2), (bound / sp.sqrt(square), True))
    writer.add(x.psi[x.j], clipped=cut * x.psi_pass[0][x.j])
    return writer.program(readout=writer.along(error, x.h))


def cut_short(h, h_star, stretch, numbers, a, sigma, slope, pull, par, label, psi, push):
    """The same in plain loops."""
    gradient_at(h, a, sigma, slope, pull, par, label, psi, push)
    length = math.sqrt((psi**2).sum())
    if length > numbers[0]:
        psi *= numbers[0] / length


@dataclass(frozen=True)
class Clipped(dmft.SGD):
    """SGD with gradients of bounded length."""

    written_by = clipped
    simulated_by = cut_short

    bound: sp.Expr = field(default=sp.S.One, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "bound", as_parameter(self.bound, "bound", positive=True))

    @property
    def scalars(self):
        return {"bound": self.bound}


@dataclass(frozen=True)
class ClippedSamples(dmft.UpdateRule):
    """The same as a value of `repeat`."""

    written_by = clipped
    simulated_by = cut_short

    bound: sp.Expr

    @property
    def scalars(self):
        return {"bound": sp.sympify(self.bound)}


# The input law: a part of the inputs is longer than the others.
class Shells(dmft.GaussianMixture):
    """Inputs of variance `long` with probability `share`, else of variance one, around zero."""

    def __init__(self, width, long, share):
        super().__init__(np.zeros((2, width)), weights=[1 - share, share], scales=[1.0, long])


MODEL = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.1)
IN_SHELLS = dmft.Model(MODEL.student, MODEL.teacher, 0.1, Shells(1, 2.5, 0.3))
START = dmft.Overlaps([[0.8, 0.1], [0.1, 1.1]], [[0.3], [-0.2]])
ALGORITHMS = {
    "clipped": (MODEL, Clipped(2.0, bound=0.3, loss=LOG_COSH)),
    "a value of repeat": (MODEL, dmft.SGD(2.0, repeat=ClippedSamples(0.3), loss=LOG_COSH)),
    "in shells, with readouts": (IN_SHELLS, Clipped(2.0, bound=0.3, readout_rate=0.5)),
    "on the sphere": (MODEL, Clipped(2.0, bound=0.4, constraint="sphere")),
}
ON_SPHERE = dmft.Overlaps([[1.0, 0.1], [0.1, 1.0]], [[0.3], [-0.2]])


def start_of(algorithm):
    return ON_SPHERE if algorithm.on_sphere else START


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_rates_are_those_of_steps_on_vectors(name):
    """E[psi h], E[psi h*] and E[psi psi] of samples drawn and cut in NumPy."""
    model, algorithm = ALGORITHMS[name]
    start = start_of(algorithm)
    rng, many = np.random.default_rng(3), 100_000
    fields = rng.standard_normal((many, 3)) @ np.linalg.cholesky(start.Omega).T
    length = np.ones(many)
    if model.inputs is not None:
        length = np.where(rng.random(many) < 0.3, 2.5, 1.0)
        fields *= np.sqrt(length)[:, None]
    h, h_star = fields[:, :2], fields[:, 2:]
    erf = sp.lambdify(z, ERF, "scipy")
    label = erf(h_star[:, 0]) + np.sqrt(0.1) * rng.standard_normal(many)
    gap = label - erf(h).mean(1)
    error = gap if algorithm.loss == "squared" else np.tanh(gap)
    psi = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2) * error[:, None]
    size = np.linalg.norm(psi, axis=1)
    bound = float(algorithm.rule.bound)
    assert 0.1 < np.mean(size > bound) < 0.9
    psi *= np.minimum(1, bound / size)[:, None]
    v = psi[:, :, None] * h_star[:, None]
    u = psi[:, :, None] * h[:, None]
    u = u + u.transpose(0, 2, 1) + length[:, None, None] * psi[:, :, None] * psi[:, None]
    if algorithm.on_sphere:
        own = np.einsum("njj->nj", u)
        v = v - start.M * own[:, :, None] / 2
        u = u - start.Q * (own[:, :, None] + own[:, None]) / 2
    wanted = {"M": v, "Q": u}
    if algorithm.trains_readout:
        wanted["readout"] = 0.5 * error[:, None] * erf(h)
    equations = dmft.derive(model, algorithm)
    rates = equations.evaluate(start)
    claimed = equations.evaluate_error(start)
    for block, samples in wanted.items():
        spread = samples.std(0) / np.sqrt(many)
        gap = np.abs(rates[block] - samples.mean(0))
        assert np.all(gap < 4.5 * spread + claimed[block]), (block, gap / spread)


def followed(equations, start, t_max):
    """Q and M at the end by the plain reference: what is compiled runs once, below."""
    shapes = {name: getattr(start, name).shape for name in ("Q", "M")}
    trained = equations.algorithm.trains_readout

    def parts(state):
        Q, M, rest = np.split(state, [4, 6])
        return dmft.Overlaps(Q.reshape(2, 2), M.reshape(2, 1), readout=rest if trained else None)

    def rates(t, state):
        found = equations.evaluate(parts(state), nodes=1024)
        return np.concatenate([np.ravel(found[n]) for n in ("Q", "M", "readout") if n in found])

    first = [start.Q.ravel(), start.M.ravel(), *([np.ones(2)] if trained else [])]
    end = solve_ivp(rates, (0.0, t_max), np.concatenate(first), rtol=1e-3, atol=1e-4).y[:, -1]
    return {"Q": end[:4].reshape(shapes["Q"]), "M": end[4:6].reshape(shapes["M"])}


@pytest.mark.cases("on the sphere")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_runs_agree_with_simulation(name):
    model, algorithm = ALGORITHMS[name]
    start, t_max = start_of(algorithm), 1.5
    wanted = followed(dmft.derive(model, algorithm), start, t_max)
    for method, dim in (("weights", 150), ("overlaps", 1500)):
        runs = dmft.simulate(model, algorithm, dim, t_max, 60, start, method, save_at=[t_max])
        for block, value in wanted.items():
            gap = np.abs(getattr(runs.mean, block)[-1] - value)
            spread = getattr(runs.stderr, block)[-1] + 1e-12
            # What is of order 1/d, and averages on nodes.
            assert np.all(gap < 4.2 * spread + 2.0 / dim + 1e-3), (method, block, gap / spread)
    assert np.abs(wanted["M"] - start.M).max() > 0.03


@pytest.mark.slow
def test_compiled_runs_are_those_of_the_reference():
    model, algorithm = ALGORITHMS["clipped"]
    equations = dmft.derive(model, algorithm)
    run = dmft.solve(equations, START, 0.5, save_at=[0.5], rtol=1e-5)
    wanted = followed(equations, START, 0.5)
    assert run.status == "ok"
    np.testing.assert_allclose(run.M[-1], wanted["M"], rtol=0, atol=2e-4)


def test_what_a_record_declares_is_a_parameter_and_is_printed():
    symbol = sp.Symbol("c", positive=True)
    free = dmft.derive(MODEL, Clipped(2.0, bound=symbol))
    fixed = dmft.derive(MODEL, Clipped(2.0, bound=0.3))
    wanted = fixed.evaluate(START)["M"]
    for values in ({"c": 0.3}, {"bound": 0.3}):
        np.testing.assert_array_equal(free.evaluate(START, **values)["M"], wanted)
    assert "bound" in free.parameters
    assert "bound" in free.latex()
    with pytest.raises(BadParameter, match=r"c=\.\.\."):
        free.evaluate(START)
    # A bound that is never met is none.
    plain = dmft.derive(MODEL, dmft.SGD(2.0)).evaluate(START)["M"]
    np.testing.assert_allclose(fixed.evaluate(START, bound=1e3, nodes=2**14)["M"], plain, rtol=1e-3)
    runs = [
        dmft.simulate(MODEL, algorithm, 50, 0.2, 2, START, save_at=2).mean.M
        for algorithm in (Clipped(2.0, bound=1e6), dmft.SGD(2.0))
    ]
    np.testing.assert_allclose(*runs, rtol=0, atol=1e-13)


def test_maps_fluctuations_and_flows():
    batches = Clipped(60, 200, bound=0.3)
    assert dmft.derive(MODEL, batches, dim=100).evaluate(START)["M"].shape == (2, 1)
    noise = dmft.derive(MODEL, Clipped(2.0, bound=0.3), dim=400, fluctuations=True)
    assert noise.evaluate(START)["Sigma"].shape == (6, 6)
    flow = dmft.derive(MODEL, Clipped(2.0, bound=0.3), scaling="gradient-flow")
    assert "sgd_noise" not in flow.terms["Q"]


def test_names_are_looked_up_at_their_use():
    @dataclass(frozen=True)
    class Named(dmft.SGD):
        written_by = "dmft.equations.update.program:plain"
        simulated_by = "dmft.simulation.steps.weights:gradient"

    wanted = dmft.derive(MODEL, dmft.SGD(0.5)).evaluate(START)["M"]
    np.testing.assert_array_equal(dmft.derive(MODEL, Named(0.5)).evaluate(START)["M"], wanted)

    @dataclass(frozen=True)
    class Nowhere(dmft.SGD):
        written_by = "dmft.nowhere:psi"

    with pytest.raises(BadParameter, match=r"dmft\.nowhere"):
        dmft.derive(MODEL, Nowhere(0.5))
    with pytest.raises(BadParameter, match="simulated_by"):
        dmft.simulate(MODEL, Nowhere(0.5), 50, 0.2, 2, START)


def test_what_is_not_derived_for_another_psi_is_refused():
    own = Clipped(0.5, bound=0.3, constraint="sphere")
    with pytest.raises(BadParameter, match="Clipped"):
        dmft.escape_formula(dmft.literature.phase_retrieval(1), own)
    with pytest.raises(BadParameter, match="wide limits"):
        dmft.derive(MODEL, Clipped(0.5), scaling="mean-field")
    sequence = dmft.Model(dmft.Attention(2), dmft.Attention(2), encoding=1)
    with pytest.raises(BadParameter, match="sequence"):
        dmft.derive(sequence, Clipped(0.5))
    with pytest.raises(BadParameter, match="leave repeat"):
        Clipped(0.5, repeat=dmft.Repeat(2))
    with pytest.raises(BadParameter, match="defines no update"):
        dmft.SGD(0.5, repeat=dmft.SGD(0.5))

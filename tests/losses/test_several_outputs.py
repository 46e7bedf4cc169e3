"""Cross-entropy of several outputs: the shared vector, samples of the definition, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.special import erf

import dmft
from dmft.equations.risk import ErrorRate
from dmft.errors import BadParameter, ShapeMismatch

z, f, y = sp.symbols("z f y", real=True)
F, Y = sp.symbols("f1:5", real=True), sp.symbols("y1:4", real=True)
ROOT = Path(__file__).parents[2]
VECTOR = {
    v["name"]: v
    for v in json.loads((ROOT / "tests/reference/structured_inputs.json").read_text())["vectors"]
}["traj_softmax_K3_mixture"]
AT, WANTED = VECTOR["inputs"], np.array(VECTOR["outputs"]["G"])[:, 0]
G0 = np.array(AT["G0"])[0]
MIXTURE = dmft.GaussianMixture(np.eye(3), weights=AT["prob"], scales=AT["kappa_c"])
STUDENT = dmft.Committee(z, 3, [[3, 0, 0], [0, 3, 0], [0, 0, 3]])
# psi of the vector is ours over 3, and so is its clock.
SOFTMAX, SLOWER = dmft.SGD(AT["gamma"] / 3, loss="cross-entropy"), 3.0
TIMES = [t / SLOWER for t in AT["times"]]
Array = NDArray[np.float64]


def overlaps(G: Array) -> dmft.Overlaps:
    return dmft.Overlaps(G[:3, :3], G[:3, 3:], G[3:, 3:])


@pytest.mark.slow
def test_vector_of_three_classes() -> None:
    """The run of the theory file, by the fourth-order rule on the NumPy reference."""
    equations = dmft.derive(dmft.Model(STUDENT, MIXTURE), SOFTMAX)

    def rates(G: Array) -> Array:
        found, moved = equations.evaluate(overlaps(G), nodes=12), np.zeros((6, 6))
        moved[:3, :3], moved[:3, 3:], moved[3:, :3] = found["Q"], found["M"], found["M"].T
        return moved

    G, steps = G0, 2
    for number in range(4):
        h = (TIMES[number + 1] - TIMES[number]) / steps
        for _ in range(steps):
            one = rates(G)
            two = rates(G + h / 2 * one)
            three = rates(G + h / 2 * two)
            G = G + h / 6 * (one + 2 * two + 2 * three + rates(G + h * three))
        assert np.abs(G - WANTED[number + 1]).max() < VECTOR["tolerance"] / 5


def scores(found: Any, sample: Array, error: Any = 0.0) -> float:
    """Largest distance from the mean of a sample in its standard errors."""
    deviation = sample.std(axis=-1) / np.sqrt(sample.shape[-1]) + np.max(error)
    return float(np.abs((found - sample.mean(axis=-1)) / deviation).max())


def test_measures_and_rates_of_clusters_by_monte_carlo() -> None:
    """(14) for erf units and more outputs than units, with risk and error rate."""
    rows = np.array([[2.0, 0.3], [-0.5, 1.0], [1.0, -1.5]])
    model = dmft.Model(dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, rows.tolist()), MIXTURE)
    G, count, rng = WANTED[-1], 80_000, np.random.default_rng(0)
    start = dmft.Overlaps(G[:2, :2], G[:2, 3:], G[3:, 3:])
    keep = [0, 1, 3, 4, 5]
    c = rng.choice(3, count, p=AT["prob"])
    scale = np.array(AT["kappa_c"])[c]
    root = np.linalg.cholesky(G[np.ix_(keep, keep)])
    lam = root @ rng.normal(size=(5, count)) * np.sqrt(scale) + G[keep][:, 3:][:, c]
    out = rows @ erf(lam[:2] / np.sqrt(2)) / 2
    share, right = np.exp(out) / np.exp(out).sum(axis=0), np.arange(3)[:, None] == c
    psi = np.sqrt(2 / np.pi) * np.exp(-(lam[:2] ** 2) / 2) * (rows.T @ (right - share))
    found = dmft.derive(model, SOFTMAX).evaluate(start, nodes=40)
    assert scores(found["M"], np.einsum("in,jn->ijn", psi, lam[2:])) < 4.0
    Q = np.einsum("in,jn->ijn", psi, lam[:2])
    noise = np.einsum("in,jn->ijn", psi, psi) * scale / 2
    assert scores(found["Q"], Q + Q.transpose(1, 0, 2) + noise) < 4.0
    risk = dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P)
    assert scores(risk, ((right - out) ** 2).sum(axis=0) / 2) < 4.0
    constants = {"P": start.P, "readout": rows[None], "teacher_readout": np.ones(3)}
    rate, error = ErrorRate(model).along(start.Q[None], start.M[None], constants, {})
    assert scores(rate[0], out.argmax(axis=0) != c, error[0]) < 4.0


def test_classes_by_the_largest_output_of_a_teacher() -> None:
    """Sobol nodes in all fields, whose claimed error holds."""
    rows, own = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), [[1, 0], [0, 1], [-1, -1]]
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, rows.tolist())
    model = dmft.Model(student, dmft.Committee(z, 2, own))
    equations = dmft.derive(model, SOFTMAX)
    start = dmft.Overlaps(
        [[0.5, 0.1], [0.1, 0.4]], [[0.2, 0.1], [-0.1, 0.3]], [[1.0, 0.2], [0.2, 0.8]]
    )
    found, error = equations.evaluate(start), equations.evaluate_error(start)
    count = 80_000
    lam = np.linalg.cholesky(start.Omega) @ np.random.default_rng(1).normal(size=(4, count))
    c, out = (np.array(own) @ lam[2:]).argmax(axis=0), rows @ erf(lam[:2] / np.sqrt(2)) / 2
    share = np.exp(out) / np.exp(out).sum(axis=0)
    pull = rows.T @ ((np.arange(3)[:, None] == c) - share)
    psi = np.sqrt(2 / np.pi) * np.exp(-(lam[:2] ** 2) / 2) * pull
    assert scores(found["M"], np.einsum("in,jn->ijn", psi, lam[2:]), error["M"]) < 4.0
    Q = np.einsum("in,jn->ijn", psi, lam[:2])
    Q = Q + Q.transpose(1, 0, 2) + np.einsum("in,jn->ijn", psi, psi) / 2
    assert scores(found["Q"], Q, error["Q"]) < 4.0
    risk = dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P, nodes=8192)
    right = np.arange(3)[:, None] == c
    assert scores(risk, ((right - out) ** 2).sum(axis=0) / 2, risk.error) < 4.0


def test_classes_of_a_teacher_of_one_unit() -> None:
    """Its outputs are multiples of one function, whose sign tells the class."""
    own = np.array([[1.0], [-0.5], [0.2]])
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1, [[1.0], [0.5], [-1.0]])
    model = dmft.Model(student, dmft.Committee(z, 1, own.tolist()))
    start = dmft.Overlaps([[0.5]], [[0.3]])
    equations = dmft.derive(model, SOFTMAX)
    found, error = equations.evaluate(start), equations.evaluate_error(start)
    lam = np.linalg.cholesky(start.Omega) @ np.random.default_rng(4).normal(size=(2, 80_000))
    rows, c = np.array([[1.0], [0.5], [-1.0]]), (own * lam[1]).argmax(axis=0)
    out = rows * erf(lam[0] / np.sqrt(2))
    pull = (np.arange(3)[:, None] == c) - np.exp(out) / np.exp(out).sum(axis=0)
    psi = np.sqrt(2 / np.pi) * np.exp(-(lam[0] ** 2) / 2) * (rows.T @ pull)
    assert scores(found["M"], (psi * lam[1])[None], error["M"]) < 4.0


def test_error_rates_of_classes_on_a_spectrum() -> None:
    """The largest of two outputs on inputs with blocks, by samples of the fields."""
    rows, own = np.array([[1.0, 0.5], [-0.5, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    model = dmft.Model(
        dmft.Committee(z, 2, rows.tolist()), dmft.Committee(z, 2, own.tolist()),
        inputs=dmft.Spectrum([2.0, 0.5], [0.5, 0.5]),
    )  # fmt: skip
    start = dmft.Overlaps(
        [[[0.5, 0.1], [0.1, 0.3]]] * 2, [[[0.2, 0.1], [0.0, 0.1]]] * 2, [np.eye(2) / 2] * 2
    )
    run = dmft.solve(dmft.derive(model, dmft.SGD(0.5)), start, 1e-3, nodes=64, quadrature_tol=0.5)
    root = np.linalg.cholesky(2.5 * start.Omega[0])
    lam = root @ np.random.default_rng(0).normal(size=(4, 80_000))
    wrong = (rows @ lam[:2]).argmax(axis=0) != (own @ lam[2:]).argmax(axis=0)
    error = 2 * run.error["error_rate"][0]
    assert scores(run.error_rate[0], wrong[None], error) < 4.0


# Losses of three outputs: in SymPy, and their -dl/df_o (o, n) in NumPy.
RIGHT = sum(f_ * y_ for f_, y_ in zip(F, Y, strict=False))
LOSSES: dict[str, tuple[Any, Any]] = {
    "squared": ("squared", lambda out, right: right - out),
    "correlation": ("correlation", lambda out, right: right + 0 * out),
    "own": (
        sp.cosh(F[0] - Y[0]) + (F[1] - Y[1]) ** 4 / 4 + F[0] * F[2] * Y[1],
        lambda out, right: np.stack([
            -np.sinh(out[0] - right[0]) - out[2] * right[1],
            -((out[1] - right[1]) ** 3),
            -out[0] * right[1],
        ]),
    ),
    "hinge": (  # sum over the others of max(0, 1 + f_o - f_y)
        sp.Add(*((1 - y_) * sp.Max(0, 1 + f_ - RIGHT) for f_, y_ in zip(F, Y, strict=False))),
        lambda out, right: _of_hinge(out, right),
    ),
    "cross-entropy": (
        "cross-entropy", lambda out, right: right - np.exp(out) / np.exp(out).sum(axis=0)
    ),
}  # fmt: skip


def _of_hinge(out: Array, right: Array) -> Array:
    over = (1 + out - (out * right).sum(axis=0) > 0) * (1 - right)
    return right * over.sum(axis=0) - over


@pytest.mark.cases(2)
@pytest.mark.parametrize("by_teacher", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_one_step_in_few_dimensions(name: str, by_teacher: bool) -> None:
    """Weights in R^9 move as the rates say, where |x|^2/d is put at its limit."""
    declared, pull = LOSSES[name]
    rng, d, count, gamma = np.random.default_rng(3), 9, 60_000, 0.8
    rows, own = np.array([[2.0, 0.3], [-0.5, 1.0], [1.0, -1.5]]), np.eye(3)
    W, W_star = rng.normal(size=(2, d)), rng.normal(size=(3, d))
    X, scale = rng.normal(size=(count, d)), np.ones(count)
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, rows.tolist())
    if by_teacher:
        model = dmft.Model(student, dmft.Committee(z, 3, own.tolist()))
        c = (X @ W_star.T).argmax(axis=1)
    else:
        model = dmft.Model(student, MIXTURE)
        c = rng.choice(3, count, p=AT["prob"])
        scale = np.array(AT["kappa_c"])[c]
        X = X * np.sqrt(scale)[:, None] + W_star[c] / np.sqrt(d)
    h, right = W @ X.T / np.sqrt(d), np.arange(3)[:, None] == c
    errors = pull(rows @ erf(h / np.sqrt(2)) / 2, right)
    psi = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2) * (rows.T @ errors)
    start = dmft.Overlaps(W @ W.T / d, W @ W_star.T / d, W_star @ W_star.T / d)
    equations = dmft.derive(model, dmft.SGD(gamma, loss=declared, readout_rate=0.7))
    found, claim = equations.evaluate(start), equations.evaluate_error(start)
    moved = np.einsum("jn,rn->jrn", psi, W_star @ X.T / np.sqrt(d))
    assert scores(found["M"], moved, claim["M"]) < 4.5
    along = np.einsum("jn,ln->jln", psi, h)
    noise = gamma / 2 * np.einsum("jn,ln->jln", psi, psi) * scale
    assert scores(found["Q"], along + along.transpose(1, 0, 2) + noise, claim["Q"]) < 4.5
    push = 0.7 * np.einsum("on,jn->ojn", errors, erf(h / np.sqrt(2)))
    assert scores(found["readout"], push, claim["readout"]) < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "hinge", "squared"])
def test_own_losses_are_simulated(name: str) -> None:
    """Runs in R^d of two dimensions, and the rates of the equations at their start."""
    declared, _ = LOSSES[name]
    model, t = dmft.Model(STUDENT, MIXTURE), 0.02
    algorithm = dmft.SGD(0.5, loss=declared, readout_rate=2.0)
    start, found = overlaps(WANTED[1]), dmft.derive(model, algorithm)
    rates = found.evaluate(start)
    for dim in (100, 400):
        runs = dmft.simulate(model, algorithm, dim, t, 24, start, "overlaps", save_at=[0.0, t])
        for block, value in (("Q", start.Q), ("M", start.M), ("readout", 3.0 * np.eye(3))):
            off = np.abs(runs.mean[block][1] - value - t * rates[block])
            assert np.all(off < 4.5 * runs.stderr[block][1] + 3 * t**2 + 1.0 / dim), block


def test_two_classes_are_the_logistic_loss() -> None:
    """f = f_1 - f_0 under log(1 + exp(-y f)): the same psi, by another way through the library."""
    twins = dmft.GaussianMixture([[-1.0], [1.0]], scales=[0.7, 1.3])
    signs = dmft.GaussianMixture([[-1.0], [1.0]], labels=[-1, 1], scales=[0.7, 1.3])
    erf_unit = sp.erf(z / sp.sqrt(2))
    two = dmft.Model(dmft.Committee(erf_unit, 2, [[-0.4, -0.2], [0.6, 0.9]]), twins)
    one = dmft.Model(dmft.Committee(erf_unit, 2, [1.0, 1.1]), signs)
    start = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.2], [0.1]], [[1.0]])
    wanted = dmft.derive(one, dmft.SGD(1.0, loss="logistic")).evaluate(start)
    found = dmft.derive(two, dmft.SGD(1.0, loss="cross-entropy")).evaluate(start)
    for block in ("Q", "M"):
        np.testing.assert_allclose(found[block], wanted[block], atol=1e-9)


def test_blocks_of_a_spectrum() -> None:
    """One block of eigenvalue 1 is the isotropic model; two equal ones are it in parts."""
    own = [[1, 0], [0, 1]]
    model = {"student": dmft.Committee(z, 2, own), "teacher": dmft.Committee(z, 2, own)}
    start = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.2, 0.1], [-0.1, 0.3]], np.eye(2))
    plain = dmft.derive(dmft.Model(**model), SOFTMAX).evaluate(start)
    halves = dmft.Model(**model, inputs=dmft.Spectrum([1.0, 1.0], [0.5, 0.5]))
    parts = dmft.Overlaps(*(np.stack([b / 2, b / 2]) for b in (start.Q, start.M, start.P)))
    found = dmft.derive(halves, SOFTMAX).evaluate(parts)
    for block in ("Q", "M"):
        np.testing.assert_allclose(found[block].sum(axis=0), plain[block], atol=2e-3)


@pytest.mark.parametrize(
    ("method", "dim"),
    [
        ("overlaps", 300),
        *(pytest.param(m, 1200, marks=pytest.mark.slow) for m in ("overlaps", "weights")),
    ],
)
def test_simulations_follow_the_vector(method: Any, dim: int) -> None:
    """Runs in R^d; their risk is that of the equations."""
    model = dmft.Model(STUDENT, MIXTURE)
    runs = dmft.simulate(model, SOFTMAX, dim, TIMES[-1], 12, overlaps(G0), method, save_at=TIMES)
    for block, wanted in (("Q", WANTED[:, :3, :3]), ("M", WANTED[:, :3, 3:])):
        off = np.abs(runs.mean[block] - wanted)[1:]
        assert np.all(off < 4.5 * runs.stderr[block][1:] + 5.0 / dim), block
    first = dmft.population_risk(model)(Q=G0[:3, :3], M=G0[:3, 3:], P=G0[3:, 3:])
    assert runs.mean.risk[0] == pytest.approx(first, rel=1e-9)


SCALED = {
    "adam": dmft.Adam(0.5, second_moment_rate=4.0, initial=0.5, loss="cross-entropy"),
    "rmsprop": dmft.RMSProp(0.5, 4.0, eps=0.5, initial=0.5, loss="cross-entropy"),
    "adagrad": dmft.AdaGrad(0.5, initial=0.5, loss="cross-entropy"),
    "norm": dmft.AdaGradNorm(0.5, 0.5, loss="cross-entropy"),
}


def integrated(equations: dmft.Equations, end: float) -> dict[str, Array]:
    """Where the NumPy reference gets to, by an integrator of SciPy's."""
    first = overlaps(G0)
    kept = equations.algorithm.kept
    shape = () if kept == "accumulator" else (3,)
    state = {"Q": first.Q, "M": first.M, kept: np.full(shape, 0.5)}
    ends = np.cumsum([value.size for value in state.values()])[:-1]

    def blocks(packed: Array) -> dict[str, Array]:
        parts = zip(state.items(), np.split(packed, ends), strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in parts}

    def rates(_: float, packed: Array) -> Array:
        here = blocks(packed)
        start = dmft.Overlaps(here["Q"], here["M"], first.P, memory={kept: here[kept]})
        found = equations.evaluate(start, nodes=12)
        return np.concatenate([np.ravel(found[name]) for name in here])

    packed = np.concatenate([value.ravel() for value in state.values()])
    return blocks(solve_ivp(rates, (0.0, end), packed, rtol=1e-4, atol=1e-6).y[:, -1])


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("adam", 300),
        *(pytest.param(n, 300, marks=pytest.mark.slow) for n in ("rmsprop", "adagrad", "norm")),
        *(pytest.param(n, 1200, marks=pytest.mark.slow) for n in SCALED),
    ],
)
def test_scaled_steps_of_several_outputs(name: str, dim: int) -> None:
    """Runs of the optimiser's own step on weights against the equations, 16 seeds."""
    model, end = dmft.Model(STUDENT, MIXTURE), 0.2
    wanted = integrated(dmft.derive(model, SCALED[name]), end)
    runs = dmft.simulate(model, SCALED[name], dim, end, 16, overlaps(G0), save_at=2)
    worst = {}
    for block, value in wanted.items():
        off = np.abs(runs.mean[block][-1] - value)
        worst[block] = off.max()
        assert np.all(off < 4.5 * runs.stderr[block][-1] + 6.0 / dim * (1 + np.abs(value))), block
    print(f"{name} d = {dim}: {worst}, spread {runs.std.M[-1].max():.4f}")
    off = abs(
        dmft.population_risk(model)(Q=wanted["Q"], M=wanted["M"], P=np.eye(3)) - runs.risk[-1]
    )
    assert off < 4.5 * runs.stderr.risk[-1] + 6.0 / dim


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "cross-entropy"])
def test_trained_readouts_at_two_dimensions(name: str) -> None:
    """Runs of weights in R^d, with decay and momentum, follow the solution and lie nearer to it."""
    algorithm = dmft.SGD(
        0.4, loss=LOSSES[name][0], readout_rate=4.0, momentum=0.3, weight_decay=0.2, batch_size=2
    )
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, [[2.0, 0.3], [-0.5, 1.0], [1.0, -1.5]])
    model, times = dmft.Model(student, MIXTURE), [0.0, 0.5, 1.0]
    G = WANTED[1]
    start = dmft.Overlaps(G[:2, :2], G[:2, 3:], G[3:, 3:], [[1.0, 0.5], [0.0, 1.0], [0.5, -1.0]])
    run = dmft.solve(dmft.derive(model, algorithm), start, 1.0, save_at=times)
    assert run.readout.shape == (3, 3, 2)
    assert np.abs(run.readout[-1] - run.readout[0]).max() > 0.05
    for dim in (200, 800):
        runs = dmft.simulate(model, algorithm, dim, 1.0, 16, start, "weights", save_at=times)
        for block in ("Q", "M", "readout"):
            off = np.abs(runs.mean[block] - getattr(run, block))[1:]
            assert np.all(off < 4.5 * runs.stderr[block][1:] + 3.0 / dim), block
        assert np.all(np.abs(runs.mean.risk - run.risk) < 4.5 * runs.stderr.risk + 3.0 / dim)


def test_readouts_have_rows_in_every_record(tmp_path: Any) -> None:
    """Starts, equations that are changed, runs, tables and files."""
    model = dmft.Model(STUDENT, MIXTURE)
    algorithm = dmft.SGD(1.0, loss="squared", readout_rate=1.0)
    start = dmft.random_overlaps(model, 100, 0)
    assert start.readout is not None
    assert start.readout.tolist() == (3.0 * np.eye(3)).tolist()
    with pytest.raises(BadParameter, match="rows have equal lengths"):
        dmft.Overlaps(start.Q, start.M, start.P, [[1.0, 2.0, 3.0], [1.0]])
    equations = dmft.derive(model, algorithm)
    a, (o, j) = sp.IndexedBase("readout"), sp.symbols("o j", integer=True)
    decayed = equations.with_term("readout", "decay", -a[o, j])
    moved = (
        decayed.evaluate(start, nodes=8)["readout"] - equations.evaluate(start, nodes=8)["readout"]
    )
    np.testing.assert_allclose(moved, -start.readout, atol=1e-12)
    assert r"a_{o j}" in equations.latex()
    line = dmft.Model(dmft.Committee(z, 1, [[1.0], [-1.0]]), dmft.GaussianMixture([[1.0], [-1.0]]))
    run = dmft.solve(
        dmft.derive(line, algorithm), dmft.Overlaps([[0.5]], [[0.1]]), 0.1, save_at=2, nodes=8
    )
    run.save(tmp_path / "run.nc")
    again = dmft.load(tmp_path / "run.nc")
    np.testing.assert_array_equal(again.readout, run.readout)
    assert run.to_xarray()["readout"].dims == ("t", "outputs", "p")
    assert {"readout[1,0]"} <= set(run.to_pandas().columns)
    assert run.final.readout.shape == (2, 1)


@pytest.mark.slow
def test_solved_by_compiled_code() -> None:
    """The vector by `solve`, with loss and error rate."""
    equations = dmft.derive(dmft.Model(STUDENT, MIXTURE), SOFTMAX)
    run = dmft.solve(equations, overlaps(G0), TIMES[-1], save_at=TIMES)
    assert np.abs(run.Q - WANTED[:, :3, :3]).max() < VECTOR["tolerance"] / 20
    assert np.abs(run.M - WANTED[:, :3, 3:]).max() < VECTOR["tolerance"] / 20
    assert np.all(np.diff(run.loss) < 0)
    assert run.error_rate.shape == (5,)
    run = dmft.solve(dmft.derive(dmft.Model(STUDENT, MIXTURE), dmft.SGD(1.0)), overlaps(G0), 0.01)
    assert run.loss == pytest.approx(run.risk, rel=1e-9)


def test_flow_is_that_of_the_squared_loss() -> None:
    """And it goes down the risk, which the noise of steps adds to."""
    model, start = dmft.Model(STUDENT, MIXTURE), overlaps(G0)
    found = dmft.derive(model, dmft.SGD(1.0)).evaluate(start, nodes=12)
    flow = dmft.derive(model, dmft.GradientFlow()).evaluate(start, nodes=12)
    np.testing.assert_allclose(found["M"], flow["M"], rtol=1e-12)
    assert np.all(np.linalg.eigvalsh(found["Q"] - flow["Q"]) > 0)
    risk, step = dmft.population_risk(model), 1e-3
    moved = {n: getattr(start, n) + step * flow[n] for n in "QM"}
    assert risk(**moved, P=start.P) < risk(Q=start.Q, M=start.M, P=start.P)


def test_ties_are_broken_uniformly_in_error_rates() -> None:
    """All outputs of ReLU units may be 0; `solve` and `simulate` share one definition."""
    relu, rows = sp.Max(z, 0), np.array([[1.0, 0.5], [-0.5, 1.0], [0.25, -1.0]])
    twins = dmft.Model(dmft.Committee(relu, 1, [[1], [-1]]), dmft.GaussianMixture([[1.0], [-1.0]]))
    by_teacher = dmft.Model(dmft.Committee(relu, 2, rows), dmft.Committee(z, 3, np.eye(3)))
    M = np.array([[0.5, -0.3, 0.1], [-0.2, 0.4, 0.3]])
    # Without overlap a student says nothing of the class: half and two thirds are wrong.
    cases: list[tuple[dmft.Model, Array, float | None]] = [
        (twins, np.zeros((1, 1)), 1 / 2),
        (by_teacher, np.zeros((2, 3)), 2 / 3),
        (by_teacher, M, None),
    ]
    for model, here, rate in cases:
        start = dmft.Overlaps(np.eye(len(here)), here)
        if rate is None:
            root = np.linalg.cholesky(start.Omega)
            fields = root @ np.random.default_rng(0).standard_normal((5, 400_000))
            out = rows @ np.maximum(fields[:2], 0)
            largest = out == out.max(axis=0)
            right = largest[fields[2:].argmax(axis=0), np.arange(400_000)]
            rate = 1 - float((right / largest.sum(axis=0)).mean())
        found, error = ErrorRate(model).along(
            start.Q[None], start.M[None], constants_of(model, start), {}
        )
        assert abs(found[0] - rate) < 3e-3 + error[0]
        runs = dmft.simulate(model, SOFTMAX, 50, 0.1, 1, start, save_at=[0.0])
        assert abs(runs.error_rate[0] - rate) < 3e-3


def constants_of(model: dmft.Model, start: dmft.Overlaps) -> dict[str, Array]:
    """P and readouts of a run of one saved time."""
    student = np.array(model.student.readout, dtype=float)
    teacher = np.array(getattr(model.teacher, "readout", None) or np.ones(start.k), dtype=float)
    return {"P": start.P, "readout": student[None], "teacher_readout": teacher}


def test_refusals() -> None:
    """Each in words, with what to do instead."""
    model, line = dmft.Model(STUDENT, MIXTURE), dmft.Committee(z, 1)
    start = overlaps(G0)
    labelled = dmft.GaussianMixture(np.eye(3), labels=[1, 2, 3])
    run = {"dim": 50, "t_max": 0.1, "seeds": 1, "start": start}
    for words, call in {
        "several outputs": lambda: dmft.derive(dmft.Model(line, line), SOFTMAX),
        "no class where": lambda: dmft.Model(STUDENT, dmft.Committee(sp.Max(z, 0), 3, np.eye(3))),
        "requires a student": lambda: dmft.simulate(dmft.Model(line, line), SOFTMAX, 50, 0.1, 1),
        "is not a loss of 3 outputs": lambda: dmft.derive(model, dmft.SGD(1.0, loss=f * y)),
        "write it in f1, ..., f3": lambda: dmft.derive(model, dmft.SGD(1.0, loss=F[3] ** 2)),
        "contains no output": lambda: dmft.SGD(1.0, loss=Y[0]),
        "for several outputs in f1": lambda: dmft.SGD(1.0, loss=F[0] * y),
        "loss = f1.*several outputs": lambda: dmft.derive(
            dmft.Model(line, line), dmft.SGD(1.0, loss=F[0] ** 2)
        ),
        "is not a loss of 3 outputs: write": lambda: dmft.simulate(
            model, dmft.SGD(1.0, loss="hinge"), **run
        ),
        "other updates": lambda: dmft.derive(model, dmft.SGD(1.0, loss="cross-entropy", clip=0.1)),
        "additional rows": lambda: dmft.derive(
            model, dmft.SGD(1.0, loss="cross-entropy", average=1.0)
        ),
        "explanations": lambda: dmft.explain(dmft.population_risk(model)),
        "equations are unrolled": lambda: dmft.derive(model, SOFTMAX).explicit(),
        "risks are unrolled": lambda: dmft.population_risk(model).explicit(),
        "is not a class": lambda: dmft.Model(STUDENT, labelled),
        "classes have no noise": lambda: dmft.Model(STUDENT, MIXTURE, label_flip=0.1),
        "draws labels": lambda: dmft.Model(STUDENT, MIXTURE, label_channel=(1 + f) / 2),
        "largest output": lambda: dmft.Model(STUDENT, dmft.MultiIndex(z, [z])),
        "the teacher 1": lambda: dmft.Model(STUDENT, dmft.Committee(z, 3)),
        "the student has 1": lambda: dmft.Model(line, STUDENT),
        "rows": lambda: dmft.Committee(z, 2, [[1, 2]]),
        "do not support first_passage=": lambda: dmft.simulate(
            model, SOFTMAX, **run, events=dmft.Event("M[0,0]", 0.5)
        ),
        "simulated under plain SGD": lambda: dmft.simulate(
            model, dmft.SGD(1.0, loss="cross-entropy", repeat=dmft.Lookahead(0.1)), **run
        ),
        "escape": lambda: dmft.escape_formula(model, SOFTMAX),
        "expected .3, 3.": lambda: dmft.derive(model, SOFTMAX).evaluate(
            dmft.Overlaps(start.Q, start.M, start.P, [1.0, 1.0, 1.0])
        ),
    }.items():
        with pytest.raises((BadParameter, ShapeMismatch), match=words):
            call()


@pytest.mark.slow
def test_trained_readouts_start_as_declared() -> None:
    """A start without readouts is one with those of the model."""
    rows = [[2.0, -1.0], [-0.5, 1.5], [0.0, -1.0]]
    model = dmft.Model(dmft.Committee(z, 2, rows), MIXTURE)
    equations = dmft.derive(model, dmft.SGD(0.5, loss="cross-entropy", readout_rate=0.7))
    Q, M = [[0.8, 0.2], [0.2, 0.6]], [[0.3, 0.1, 0.0], [-0.2, 0.2, 0.1]]
    one, two = (
        dmft.solve(equations, dmft.Overlaps(Q, M, readout=a), 0.05, save_at=2, nodes=8)
        for a in (None, rows)
    )
    np.testing.assert_allclose(one.readout, two.readout, rtol=1e-12)
    rate = equations.evaluate(dmft.Overlaps(Q, M), nodes=8)["readout"]
    np.testing.assert_allclose((one.readout[1] - rows) / 0.05, rate, atol=0.05)

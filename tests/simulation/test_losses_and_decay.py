"""Losses, weight decay and readouts of repeated samples: both simulators against the equations."""

from functools import cache

import numpy as np
import pytest
import sympy as sp
from scipy.linalg import expm
from scipy.special import erf

import dmft

Z = sp.Symbol("z", real=True)
F, Y = sp.symbols("f y", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
MODEL = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.1)
DIM, T = 400, 1.0
SPHERE = dmft.random_overlaps(MODEL, DIM, seed=3, normalised=True)
ALGORITHMS = {
    "decay": dmft.SGD(0.5, weight_decay=0.4),
    "cubic with decay": dmft.SGD(
        0.5, 4, loss=(F - Y) ** 3 / 6 + (F - Y) ** 2 / 2, weight_decay=0.2
    ),
    "logistic": dmft.SGD(0.5, loss=sp.log(1 + sp.exp(-F * Y))),
    "twice with readout and decay": dmft.SGD(
        0.5, repeat=dmft.Repeat(2), readout_rate=0.5, weight_decay=0.1
    ),
    "lookahead with readout": dmft.SGD(0.5, repeat=dmft.Lookahead(0.2), readout_rate=0.5),
}


@cache
def end_of_reference(name):
    """Blocks at T: three steps of Runge-Kutta with rates of the NumPy reference; no code."""
    equations, start = (
        dmft.derive(MODEL, ALGORITHMS[name]),
        dmft.random_overlaps(MODEL, DIM, seed=0),
    )
    blocks = {"Q": start.Q, "M": start.M, "readout": np.ones(start.p)}

    def rates(at):
        return equations.evaluate(dmft.Overlaps(at["Q"], at["M"], start.P, readout=at["readout"]))

    def moved(by, slopes):
        return blocks | {name: blocks[name] + by * slope for name, slope in slopes.items()}

    step = T / 3
    for _ in range(3):
        one = rates(blocks)
        two = rates(moved(step / 2, one))
        three = rates(moved(step / 2, two))
        four = rates(moved(step, three))
        slopes = {n: (one[n] + 2 * two[n] + 2 * three[n] + four[n]) / 6 for n in one}
        blocks = moved(step, slopes)
    return {name: blocks[name] for name in slopes}


@cache
def end_of_run(name):
    """The same by compiled code."""
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    run = dmft.solve(dmft.derive(MODEL, ALGORITHMS[name]), start, T, save_at=[T])
    return {block: getattr(run, block)[-1] for block in run.blocks}


# Code on nodes takes ten seconds to compile, and long to read.
@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize(
    ("name", "end"),
    [
        *((name, end_of_reference) for name in ALGORITHMS),
        *(pytest.param(name, end_of_run, marks=pytest.mark.slow) for name in ALGORITHMS),
    ],
)
def test_simulations_follow_the_equations(name, end, method):
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    truth = dmft.simulate(
        MODEL, ALGORITHMS[name], DIM, T, seeds=16, start=start, method=method, save_at=2
    )
    for block, value in end(name).items():
        off = np.abs(truth.mean[block][-1] - value)
        assert np.all(off < 4.5 * truth.stderr[block][-1] + 3.0 / DIM), block


@pytest.mark.parametrize("momentum", [0, 0.4, dmft.Momentum(2.0, 0.3)], ids=str)
def test_noise_of_gradients_diffuses(momentum):
    """Weights of a student that learns nothing diffuse; of linear ones the rates are known."""
    gamma, noise, p, t = 0.6, 0.8, 2, 1.5
    still = dmft.Model(dmft.Committee(Z, p, readout=[0, 0]), dmft.Committee(Z, 1))
    algorithm = dmft.SGD(gamma, 3, momentum=momentum, gradient_noise=noise)
    start = dmft.Overlaps([[1.0, 0.1], [0.1, 0.5]], [[0.1], [0.2]], [[1.0]])
    run = dmft.solve(dmft.derive(still, algorithm), start, t)
    found = dmft.simulate(still, algorithm, dim=400, t_max=t, start=start, seeds=8)
    pace, spread = 1.0, 1.0
    if momentum == 0.4:
        pace = 1 / (1 - momentum)
    elif momentum:
        # Response alpha_1 + 1 - exp(-kappa s) of the weights to noise a time s ago.
        s = (np.arange(10000) + 0.5) * t / 10000
        spread = np.mean((0.3 + 1 - np.exp(-2.0 * s)) ** 2)
    grown = gamma * pace / p * noise * spread * t
    np.testing.assert_allclose(run.Q[-1] - start.Q, grown * np.eye(p), atol=1e-6)
    for name, value in (("Q", run.Q[-1]), ("M", run.M[-1])):
        apart = getattr(found.mean, name)[-1] - value
        assert np.all(np.abs(apart) < 5 * getattr(found.stderr, name)[-1])
    if momentum == 0:
        line = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1), 0.1)
        one = dmft.Overlaps([[0.7]], [[0.2]], [[1.0]])
        rates = dmft.derive(line, dmft.SGD(gamma, gradient_noise=noise)).evaluate(one)
        squares = 1 - 2 * 0.2 + 0.7 + 0.1
        expected = 2 * (0.2 - 0.7) + gamma * squares + gamma * noise
        assert abs(rates["Q"].item() - expected) < 1e-12


def test_noise_of_gradients_is_spread_over_blocks():
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.1, inputs=law)
    blocks = (np.eye(2), np.full((2, 1), 0.1), np.eye(1))
    start = dmft.Overlaps(*(np.stack([f * y for f in law.fractions]) for y in blocks))
    noisy, quiet = (
        dmft.derive(model, dmft.SGD(0.5, gradient_noise=s)).evaluate(start)["Q"] for s in (0.4, 0)
    )
    np.testing.assert_allclose(noisy - quiet, 0.1 * law.fractions[:, None, None] * np.eye(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, noisy: dmft.simulate(model, noisy, 100, 1.0, seeds=1, method="overlaps"),
        lambda model, noisy: dmft.explain(dmft.derive(model, noisy)),
        lambda model, noisy: dmft.derive(model, noisy, dim=100, fluctuations=True),
        lambda model, noisy: dmft.escape_formula(model, noisy),
        lambda model, noisy: noisy.as_torch(dim=100, width=2),
        lambda model, noisy: dmft.SGD(0.5, repeat=dmft.Repeat(2), gradient_noise=0.1),
    ],
)
def test_noise_of_gradients_elsewhere_is_refused(call):
    with pytest.raises(dmft.errors.BadParameter, match=r"gradient_noise = 0\.1"):
        call(MODEL, dmft.SGD(0.5, gradient_noise=0.1))


def test_decay_alone_is_exponential():
    """A student of zero learning: with psi = 0 rows shrink by (1 - gamma zeta/(p d)) a step."""
    rule = dmft.UpdateField(0 * F + sp.S.Zero, fields=(Z, F, Y), learning_rate=1, weight_decay=0.5)
    model = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1))
    start = dmft.Overlaps([[1.0]], [[0.5]])
    run = dmft.solve(dmft.derive(model, rule), start, 2.0, save_at=[2.0], rtol=1e-10)
    assert run.M[-1, 0, 0] == pytest.approx(0.5 * np.exp(-1.0), rel=1e-9)
    assert run.Q[-1, 0, 0] == pytest.approx(np.exp(-2.0), rel=1e-9)
    truth = dmft.simulate(model, rule, dim=100, t_max=2.0, start=start, seeds=1)
    assert truth.mean["M"][-1, 0, 0] == pytest.approx(0.5 * (1 - 0.5 / 100) ** 200, rel=1e-12)


AVERAGE = 0.7


def shrunk(steps, zeta, decoupled, beta=0.0, kappa=0.0, direct=0.0):
    """Length, velocity and average after steps of these sizes gamma/(p d) without a gradient.

    By the definition in torch.optim.SGD, whose rate multiplies the velocity.
    """
    w, u, average = 1.0, 0.0, 1.0
    for step in steps:
        shorter = zeta * w
        g = 0.0 if decoupled else -shorter
        beside = shorter if decoupled else 0.0
        if kappa:  # v <- (1 - kappa step) v + kappa step g
            u += kappa * step * (g - u)
            w += step * (direct * g + u - beside)
        else:
            u = beta * u + g
            w += step * (u - beside)
        average += AVERAGE * step / (1 - beta) * (w - average)
    return w, u, average


def steps_of(rate, d, T):
    """Sizes gamma(t)/d of the steps up to the one that ends nearest to T."""
    t, sizes = 0.0, []
    while t + rate(t) / (2 * d) < T:
        sizes.append(rate(t) / d)
        t += sizes[-1]
    return sizes


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("memory", [{"beta": 0.6}, {"kappa": 2.0, "direct": 0.3}])
def test_velocities_remember_a_decay_that_is_not_decoupled(memory, decoupled):
    """With psi = 0, against loops over the definition and dw/dt = A w of (18), solved exactly."""
    zeta, d, T = 0.5, 100, 2.0
    beta = memory.get("beta", 0.0)
    momentum = beta or dmft.Momentum(memory["kappa"], memory["direct"])
    rule = dmft.SGD(1, weight_decay=zeta, momentum=momentum, decoupled=decoupled, average=AVERAGE)
    model = dmft.Model(dmft.Committee(Z, 1, readout=[0]), dmft.Committee(Z, 1))
    start = dmft.Overlaps([[1.0]], [[0.5]])
    if beta:
        schedules = {sp.S.One: lambda _: 1 / (1 - beta)}
        A = np.diag([-zeta * (1 - beta if decoupled else 1), 0.0, -AVERAGE])
    else:
        schedules = {sp.S.One: lambda _: 1.0, 1 / (1 + dmft.t): lambda t: 1 / (1 + t)}
        kappa, direct = memory["kappa"], memory["direct"]
        share = np.array([[1.0, 0.0, 0.0]] if decoupled else [[direct, kappa, 0.0]]).T
        A = np.array([[0.0, 1.0, 0.0], [0.0, -kappa, 0.0], [0.0, 0.0, -AVERAGE]])
        A += share * [-zeta, 0.0, 0.0]
    A[2, 0] = AVERAGE
    found, velocity, average = expm(A * T) @ [1.0, 0.0, 1.0]
    for schedule, rate in schedules.items():
        truth = dmft.simulate(model, rule, d, T, 1, start, save_at=2, learning_rate=schedule)
        sizes = np.array(steps_of(rate, d, T)) * (1 - beta)
        w, u, mean = shrunk(sizes, zeta, decoupled, **memory)
        assert truth.steps()[-1] == sizes.size
        assert truth.mean["M"][-1, 0, 0] == pytest.approx(0.5 * w, rel=1e-12)
        assert truth.mean["average_M"][-1, 0, 0] == pytest.approx(0.5 * mean, rel=1e-12)
        assert mean == pytest.approx(average, abs=0.01)
        if not beta:
            assert truth.mean["velocity_M"][-1, 0, 0] == pytest.approx(0.5 * u, rel=1e-10)
            assert u == pytest.approx(velocity, abs=0.01)
    run = dmft.solve(dmft.derive(model, rule), start, T, save_at=[T], rtol=1e-11, atol=1e-13)
    assert run.M[-1, 0, 0] == pytest.approx(0.5 * found, rel=1e-8)
    assert run.Q[-1, 0, 0] == pytest.approx(found**2, rel=1e-8)
    assert run.average_M[-1, 0, 0] == pytest.approx(0.5 * average, rel=1e-8)
    if not beta:
        assert run.velocity_M[-1, 0, 0] == pytest.approx(0.5 * velocity, rel=1e-8, abs=1e-12)
        assert run.velocity[-1, 0, 0] == pytest.approx(velocity**2, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("kind", [dmft.SGD, dmft.Adam, dmft.RMSProp, dmft.AdaGrad])
@pytest.mark.parametrize("decoupled", [False, True])
def test_one_simulated_step_divides_a_decay_that_is_not_decoupled(kind, decoupled):
    """The same sample with and without a decay: the weights differ by it alone."""
    own = {"initial": 0.25} if kind is not dmft.SGD else {}
    if kind in (dmft.Adam, dmft.RMSProp):
        own |= {"second_moment_rate": 1e-6}
    linear, d, zeta = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1)), 50, 0.8
    start = dmft.Overlaps([[1.0]], [[0.5]])
    with_it, without = (
        dmft.simulate(
            linear, kind(0.3, weight_decay=level, decoupled=decoupled, **own), d, 0.3 / d, 1,
            start, save_at=[0.3 / d],
        ).mean.M[-1, 0, 0]
        for level in (zeta, 0.0)
    )  # fmt: skip
    gain = 1.0 if decoupled or kind is dmft.SGD else 2.0
    # AdaGrad's sum takes up the gradient of this step, a part of 1/d.
    rel = 0.1 if kind is dmft.AdaGrad and not decoupled else 1e-4
    assert with_it - without == pytest.approx(-0.3 / d * zeta * gain * 0.5, rel=rel)


def test_decays_that_have_no_limit_are_refused():
    with pytest.raises(
        dmft.errors.BadParameter, match="inside the signs of gradients has no limit"
    ):
        dmft.SignSGD(0.1, weight_decay=0.2, decoupled=False)
    assert dmft.SignSGD(0.1, weight_decay=0.2).decoupled
    with pytest.raises(dmft.errors.BadParameter, match="with a fixed beta2 is divided by"):
        dmft.RMSProp(0.1, beta2=0.5, weight_decay=0.2)
    dmft.RMSProp(0.1, beta2=0.5, weight_decay=0.2, decoupled=True)
    with pytest.raises(dmft.errors.BadParameter, match="decoupled = 1 must be True or False"):
        dmft.SGD(0.1, weight_decay=0.2, decoupled=1)
    line = dmft.Committee(Z, 1)
    law = dmft.Spectrum.preconditioned(np.diag([1.0, 2.0]), np.diag([1.0, 2.0**-0.5]))
    model = dmft.Model(line, line, inputs=law)
    with pytest.raises(dmft.errors.BadParameter, match="divided in the basis of the coordinates"):
        dmft.derive(model, dmft.Adam(0.1, weight_decay=0.2))
    dmft.derive(model, dmft.Adam(0.1, weight_decay=0.2, decoupled=True))


@pytest.mark.slow
def test_runs_report_the_loss_itself(solve):
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    plain = solve(dmft.derive(MODEL, dmft.SGD(0.5, loss=(F - Y) ** 2 / 2)), start, 0.1)
    assert plain.loss == pytest.approx(plain.risk + 0.05, abs=1e-13)
    equations = dmft.derive(MODEL, dmft.SGD(0.5, loss=sp.log(sp.cosh(F - Y))))
    run = solve(equations, start, 1e-3, save_at=[0.0], quadrature_tol=1e-4)
    rng = np.random.default_rng(2)
    lam = np.linalg.cholesky(start.Omega) @ rng.standard_normal((3, 400_000))
    value = [erf(x / np.sqrt(2)) for x in lam]
    y = value[2] + np.sqrt(0.1) * rng.standard_normal(lam.shape[1])
    loss = np.log(np.cosh((value[0] + value[1]) / 2 - y))
    assert run.loss[0] == pytest.approx(loss.mean(), abs=5 * loss.std() / np.sqrt(loss.size))


def test_runs_report_losses_that_have_names():
    """E[1 - y f] by samples, also on the sphere; half of E(y - f)^2 is the risk and the noise."""
    rng = np.random.default_rng(5)
    lam = np.linalg.cholesky(SPHERE.Omega) @ rng.standard_normal((3, 400_000))
    value = erf(lam / np.sqrt(2))
    y = value[2] + np.sqrt(0.1) * rng.standard_normal(lam.shape[1])
    f = (value[0] + value[1]) / 2
    for loss, sample in (("correlation", 1 - y * f), ("squared", (f - y) ** 2 / 2)):
        sgd = dmft.SGD(0.5, loss=loss, constraint="sphere")
        run = dmft.solve(dmft.derive(MODEL, sgd), SPHERE, 0.1, save_at=[0.0])
        error = 5 * sample.std() / np.sqrt(sample.size)
        assert run.loss[0] == pytest.approx(sample.mean(), abs=error), loss
        risk = np.mean((value[2] - f) ** 2) / 2
        assert run.risk[0] == pytest.approx(risk, abs=error), loss
    flow = dmft.solve(dmft.derive(MODEL, dmft.GradientFlow()), SPHERE, 0.1, save_at=[0.0])
    assert flow.loss == pytest.approx(flow.risk + 0.05, rel=1e-15)
    rule = dmft.UpdateField(Y, fields=(Z, F, Y), learning_rate=1)
    with pytest.raises(AttributeError, match="loss"):
        _ = dmft.solve(dmft.derive(MODEL, rule), SPHERE, 0.1, save_at=[0.0]).loss


@pytest.mark.slow
def test_momentum_is_a_larger_rate():
    """Equations, clock and decay are those of gamma / (1 - beta), at run time too."""
    beta = sp.Symbol("beta", positive=True)
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    how = {"weight_decay": 0.2, "readout_rate": 0.5}
    plain = dmft.derive(MODEL, dmft.SGD(2.0, **how))
    expected = dmft.solve(plain, start, T)
    for algorithm, given in (
        (dmft.SGD(0.5, momentum=0.75, **how), {}),
        (dmft.SGD(0.5, momentum=beta, **how), {"beta": 0.75}),
        (dmft.SGD(9.0, momentum=0.9, **how), {"learning_rate": 0.5, "momentum": 0.75}),
    ):
        run = dmft.solve(dmft.derive(MODEL, algorithm), start, T, **given)
        np.testing.assert_allclose(run.M[-1], expected.M[-1], rtol=1e-11)
        np.testing.assert_allclose(run.readout[-1], expected.readout[-1], rtol=1e-11)
        assert run.steps(1000)[-1] == pytest.approx(expected.steps(1000)[-1], rel=1e-14)
    points = {"learning_rate": [0.25, 0.5], "momentum": [0.5, 0.75]}
    equations = dmft.derive(MODEL, dmft.SGD(1.0, momentum=0.1, **how))
    found = dmft.sweep(points, "final_risk", equations=equations, start=start, t_max=T)
    alone = dmft.solve(plain, start, T, learning_rate=2.0)
    assert found.values["final_risk"][1, 1] == pytest.approx(alone.risk[-1], rel=1e-12)


@pytest.mark.slow
def test_a_schedule_with_momentum_is_that_of_a_larger_rate():
    """The rate at each time is the declared one, and the steps are counted with the momentum."""
    t, start = sp.Symbol("t"), dmft.random_overlaps(MODEL, DIM, seed=0)
    plain = dmft.solve(dmft.derive(MODEL, dmft.SGD(1)), start, T / 4, learning_rate=2 / (1 + t))
    slowed = dmft.derive(MODEL, dmft.SGD(1, momentum=0.75))
    run = dmft.solve(slowed, start, T / 4, learning_rate=0.5 / (1 + t))
    np.testing.assert_allclose(run.M[-1], plain.M[-1], rtol=1e-11)
    assert run.steps(1000)[-1] == pytest.approx(plain.steps(1000)[-1], rel=1e-9)


def test_momentum_stands_in_the_equations():
    """Printed, evaluated, unrolled and changed as what is run."""
    equations = dmft.derive(MODEL, dmft.SGD(0.5, momentum=0.75))
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    expected = dmft.derive(MODEL, dmft.SGD(2.0)).evaluate(start)
    np.testing.assert_allclose(equations.evaluate(start)["Q"], expected["Q"], rtol=1e-13)
    assert r"\left(1 - \beta\right)" in equations.latex()
    assert "(1 - momentum)" in equations.time_unit
    assert dmft.derive(MODEL, dmft.SGD(0.5, momentum=0.75), scaling="noise-dominated").latex()
    without = equations.replace({"momentum": 0})
    plain = dmft.derive(MODEL, dmft.SGD(0.5)).evaluate(start)
    np.testing.assert_allclose(without.evaluate(start)["Q"], plain["Q"], rtol=1e-13)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"constraint": "sphere"},
        {"constraint": "sphere-gradient"},
        pytest.param({"repeat": dmft.Lookahead(0.3), "readout_rate": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_momentum_of_many_weights(options):
    sgd = dmft.SGD(0.4, 2, momentum=0.5, **options)
    truth = dmft.simulate(MODEL, sgd, DIM, T, seeds=24, start=SPHERE, save_at=2)
    run = dmft.solve(dmft.derive(MODEL, sgd), SPHERE, T, save_at=[T])
    off = np.abs(truth.mean.M[-1] - run.M[-1])
    assert np.all(off < 4.5 * truth.stderr.M[-1] + 5.0 / DIM)


def test_momentum_of_the_weights(solve):
    """Heavy balls in R^d against the equations."""
    linear = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1))
    start = dmft.Overlaps([[1.0]], [[0.2]])
    algorithm = dmft.SGD(0.3, momentum=0.7, weight_decay=0.1)
    truth = dmft.simulate(linear, algorithm, DIM, T, seeds=24, start=start, save_at=2)
    run = solve(dmft.derive(linear, algorithm), start, T, save_at=[T])
    for block in ("Q", "M"):
        off = np.abs(truth.mean[block][-1] - getattr(run, block)[-1])
        assert np.all(off < 4.5 * truth.stderr[block][-1] + 5.0 / DIM), block


def noisy_heavy_ball():
    linear = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1), 0.5)
    return linear, dmft.Overlaps([[1.0]], [[0.2]]), dmft.SGD(0.2, momentum=0.6)


def test_fluctuations_with_momentum_are_those_of_a_larger_rate():
    linear, start, heavy = noisy_heavy_ball()
    found = dmft.derive(linear, heavy, dim=200, fluctuations=True).evaluate(start)
    plain = dmft.derive(linear, dmft.SGD(0.5), dim=200, fluctuations=True)
    np.testing.assert_allclose(found["covariance"], plain.evaluate(start)["covariance"], rtol=1e-13)


@pytest.mark.slow  # as tests/workflow/test_paths_of_overlaps.py at the larger rate
def test_fluctuations_with_momentum_are_those_of_seeds():
    """Variance over seeds of heavy balls in R^d, and the covariance of the sde."""
    linear, start, heavy = noisy_heavy_ball()
    runs = dmft.simulate(linear, heavy, dim=200, t_max=0.5, start=start, seeds=1500, save_at=[0.5])
    paths = dmft.solve(
        dmft.derive(linear, heavy, dim=200, fluctuations=True),
        start, 0.5, paths=4000, dt=0.01, save_at=[0.5],
    )  # fmt: skip
    for block in ("Q", "M"):
        of_weights, of_paths = (run.std[block][-1, 0, 0] for run in (runs, paths))
        # Standard error of a standard deviation: 1/sqrt(2 n); terms left out are of order 1/d.
        assert of_paths == pytest.approx(of_weights, rel=4.5 / np.sqrt(3000) + 0.03), block


@pytest.mark.cases(2)
@pytest.mark.parametrize("scaling", ["gradient-flow", "mean-field", "noise-dominated"])
def test_momentum_in_other_limits_is_a_larger_rate(scaling):
    start = dmft.random_overlaps(MODEL, DIM, seed=0)
    heavy, plain = (
        dmft.solve(dmft.derive(MODEL, sgd, scaling=scaling), start, 0.5, save_at=[0.5])
        for sgd in (dmft.SGD(0.01, momentum=0.75), dmft.SGD(0.04))
    )
    np.testing.assert_allclose(heavy.M[-1], plain.M[-1], rtol=1e-11)
    assert heavy.steps(DIM)[-1] == pytest.approx(plain.steps(DIM)[-1], rel=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_with_momentum_by_hand(batch):
    """A rule psi = 1 adds white noise: Q grows by the squares of all steps, each with its echo."""
    rule = dmft.UpdateField(
        sp.S.One, fields=(Z, F, Y), learning_rate=1, batch_size=batch, momentum=0.5
    )
    model = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(Z, 1))
    start = dmft.Overlaps([[1.0]], [[0.0]])
    runs = dmft.simulate(model, rule, dim=300, t_max=0.2, start=start, seeds=100, save_at=2)
    steps = np.rint(runs.steps()).astype(int)[-1]
    echo = (1 - 0.5 ** np.arange(steps, 0, -1)) / 0.5
    grown = 1.0 + (echo**2).sum() / (300 * batch)
    assert abs(runs.mean.Q[-1, 0, 0] - grown) < 4.5 * runs.stderr.Q[-1, 0, 0]


@pytest.mark.parametrize(
    "given",
    [
        {"momentum": 1.0}, {"momentum": -0.1}, {"momentum": 0.5, "repeat": dmft.Repeat(2)},
    ],
)  # fmt: skip
def test_momentum_that_is_no_larger_rate_is_refused(given):
    with pytest.raises(dmft.errors.BadParameter, match="momentum"):
        dmft.SGD(0.5, **given)


def test_momentum_elsewhere_is_refused():
    sgd = dmft.SGD(0.5, 2, momentum=0.5)
    for batch in (2, sp.Symbol("d") ** 2):
        with pytest.raises(dmft.errors.BadParameter, match="momentum ="):
            dmft.derive(MODEL, dmft.SGD(0.5, batch, momentum=0.5), dim=100)
    with pytest.raises(dmft.errors.BadParameter, match="chain of overlaps"):
        dmft.simulate(MODEL, sgd, 100, 1.0, 1, method="overlaps")
    with pytest.raises(dmft.errors.BadParameter, match="momentum"):
        dmft.maximal_learning_rate(MODEL, sgd)
    with pytest.raises(dmft.errors.BadParameter, match="momentum"):
        dmft.solve(dmft.derive(MODEL, sgd), SPHERE, T, momentum=1.5)


@pytest.mark.parametrize("what", ["weight_decay", "momentum"])
def test_sequence_models_know_neither_decay_nor_momentum(what):
    """Decay was ignored."""
    z = sp.symbols("z1:3", real=True)
    model = dmft.Model(dmft.SequenceNetwork(Z**2, 2), dmft.SequenceTarget(z[0] * z[1], z))
    sgd = dmft.SGD(0.1, **{what: 0.1})
    with pytest.raises(dmft.errors.BadParameter, match=what):
        dmft.derive(model, sgd)
    with pytest.raises(dmft.errors.BadParameter, match=what):
        dmft.simulate(model, sgd, 100, 1.0, 1, dmft.Alignment(m=0.5))

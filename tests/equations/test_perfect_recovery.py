"""Stability of the perfect solution: published table, the full Jacobian, the noise floor."""

import mpmath
import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.escape.recovery import perfect_limit, recovery
from dmft.errors import BadParameter

z = sp.Symbol("z", real=True)
K = sp.Symbol("K", integer=True, positive=True)
ACTIVATIONS = {"erf": sp.erf(z / sp.sqrt(2)), "square": z**2, "relu": sp.Max(z, 0)}
# theory/one_pass G.1, cut after eight decimals; the square's is K^2 / (2 (K + 2)).
TABLE = {
    "erf": {1: 4.05577868, 2: 9.22731078, 3: 14.58607055, 4: 19.99028449, 10: 52.58239212},
    "square": {1: 1 / 6, 2: 0.5, 3: 0.9, 4: 4 / 3, 10: 25 / 6},
    "relu": {1: 2.0, 2: 5.07179677, 3: 8.65735822, 4: 12.43983914, 10: 36.09730554},
}


def matched(name, width, noise=0):
    committee = dmft.Committee(ACTIVATIONS[name], width=width)
    return dmft.Model(committee, committee, label_noise=noise)


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_maximal_learning_rates(name):
    for width in (1, 2, 10):
        found = dmft.maximal_learning_rate(matched(name, width), dmft.SGD(0.1))
        assert float(found) == pytest.approx(TABLE[name][width], abs=1e-8)


@pytest.mark.parametrize("name", TABLE)
def test_the_limit_that_runs_mention_is_that_of_the_table(name):
    for width, value in TABLE[name].items():
        found = perfect_limit(matched(name, width), dmft.SGD(0.1), exact=False)
        assert float(found) == pytest.approx(value, abs=1e-8)


def test_a_run_does_not_simplify_what_it_says():
    # sigma' of z cos z has moments of hundreds of exponentials: a run once spent a minute on them.
    wave = dmft.Committee(z * sp.cos(z), width=1)
    found = perfect_limit(dmft.Model(wave, wave), dmft.SGD(0.1), exact=False)

    def moment(n):
        def integrand(x):
            return (mpmath.cos(x) - x * mpmath.sin(x)) ** n * mpmath.npdf(x)

        return mpmath.quad(integrand, range(-12, 13))

    assert found.is_Float
    assert float(found) == pytest.approx(float(2 * moment(2) / moment(4)), rel=1e-12)


@pytest.mark.parametrize("name", ["square", "relu"])
def test_symbolic_width_gives_the_same_numbers(name):
    formula = dmft.maximal_learning_rate(matched(name, K), dmft.SGD(0.1))
    for width, value in TABLE[name].items():
        assert float(formula.subs(K, width)) == pytest.approx(value, abs=1e-8)
    if name == "square":
        assert sp.simplify(formula - K**2 / (2 * (K + 2))) == 0


def test_batches_raise_the_limit():
    single = dmft.maximal_learning_rate(matched("square", 2), dmft.SGD(0.1))
    assert (
        dmft.maximal_learning_rate(matched("square", 2), dmft.SGD(0.1, batch_size=4)) == 4 * single
    )


def jacobian(problem, width, rate):
    """Jacobian of the compiled full system at Q = M = P = I, by central differences.

    Called below the checks of a start: analytic rates exist beside the cone of covariances too.
    """
    identity, step = np.eye(width), 1e-5
    readouts = {"readout": np.ones(width), "teacher_readout": np.ones(width)}
    scalars = {"learning_rate": rate, "label_noise": 0.0}
    par = problem.pack_parameters(scalars, {"P": identity, **readouts})
    widths = np.array([width, width])
    center = problem.pack({"Q": identity, "M": identity})

    def rates(y):
        out = np.empty_like(y)
        problem.rhs(0.0, y, widths, par, out)
        return out

    size = width * width
    pairs = [sorted((i * width + j, j * width + i)) for i in range(width) for j in range(i + 1)]
    directions = [np.isin(np.arange(2 * size), pair) * 1.0 for pair in pairs]
    directions += list(np.eye(2 * size)[size:])
    columns = [
        (rates(center + step * e) - rates(center - step * e)) / (2 * step) for e in directions
    ]
    kept = [pair[0] for pair in pairs] + list(range(size, 2 * size))
    return np.transpose(columns)[kept]


# Rotating the students of a square committee changes nothing: neutral modes beside the leading one.
@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    ("name", "width", "neutral"), [("square", 1, 0), ("square", 2, 1), ("erf", 2, 0)]
)
def test_leading_eigenvalue_of_the_full_system_vanishes_there(name, width, neutral):
    problem = dmft.build(dmft.derive(matched(name, width), dmft.SGD(0.1)))
    limit = float(dmft.maximal_learning_rate(matched(name, width), dmft.SGD(0.1)))

    def leading(factor):
        modes = np.linalg.eigvals(jacobian(problem, width, factor * limit)).real
        by_size = modes[np.argsort(abs(modes))]
        assert np.all(abs(by_size[:neutral]) < 1e-9)
        return by_size[neutral:].max()

    assert leading(0.95) < -1e-3
    assert leading(1.05) > 1e-3
    assert abs(leading(1.0)) < 1e-7


def test_noise_floor_is_where_the_flow_ends():
    model = matched("erf", 1, noise=1e-4)
    floor = float(recovery(model, dmft.SGD(1.0)).noise_floor(1.0, 1e-4))
    start = dmft.Overlaps([[1.0]], [[0.999]])
    run = dmft.solve(dmft.derive(model, dmft.SGD(1.0)), start, 200.0, save_at=2)
    assert run.risk[-1] == pytest.approx(floor, rel=2e-4)  # G.2: relative 4e-5 at gamma = 1


@pytest.mark.parametrize(
    ("model", "algorithm", "reason"),
    [
        (
            matched("square", 2),
            dmft.GradientFlow(),
            r"algorithm = GradientFlow.* must be a dmft\.SGD",
        ),
        (
            dmft.Model(dmft.Committee(z**2, 2), dmft.Committee(z**2, 1)),
            dmft.SGD(0.1),
            "equal widths",
        ),
        (
            dmft.Model(dmft.Committee(z**2, 1), dmft.Committee(z**3, 1)),
            dmft.SGD(0.1),
            "one activation",
        ),
        (dmft.Model(dmft.Committee(z, 2), dmft.Committee(z, 2)), dmft.SGD(0.1), "flat direction"),
    ],
)
def test_refusals(model, algorithm, reason):
    with pytest.raises(BadParameter, match=reason):
        dmft.maximal_learning_rate(model, algorithm)


def test_batches_of_the_order_of_d_are_refused():
    """At n_b = d and gamma = 1.5 d a linear unit diverges, below the 2 n_b of fixed batches."""
    line = dmft.Committee(z, 1)
    model = dmft.Model(line, line, label_noise=0.1)
    sgd = dmft.SGD(1500.0, batch_size=sp.Symbol("d"))
    step = dmft.derive(model, sgd, dim=1000)
    assert dmft.solve(step, dmft.Overlaps([[1.0]], [[0.9]], [[1.0]]), 300).status == "diverged"
    for verb in (dmft.maximal_learning_rate, dmft.noise_floor):
        for each in (model, matched("erf", 2)):
            with pytest.raises(BadParameter, match="grows with the dimension"):
                verb(each, sgd)


def test_noise_floor_refuses_trained_readouts():
    """Two ReLU units have .00035 with fixed readouts, and .00015 at t = 2000 with trained ones."""
    with pytest.raises(BadParameter, match="fixed readouts"):
        dmft.noise_floor(matched("relu", 2, 0.01), dmft.SGD(0.5, readout_rate=1.0))


def test_noise_floor_refuses_an_unstable_rate():
    with pytest.raises(BadParameter, match="unstable"):
        recovery(matched("square", 1), dmft.SGD(0.1)).noise_floor(0.2, 0.1)


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6, 1e-8])
def test_rounding_of_the_risk_next_to_the_perfect_solution(distance):
    """Absolute, 4e-16 of E f*^2, against the arcsine law in 40 digits at the same floats."""
    risk = dmft.population_risk(matched("erf", 1))
    for along, across in np.random.default_rng(0).standard_normal((10, 2)):
        m = 1 + distance * along
        q = m**2 + (distance * across) ** 2
        with mpmath.workdps(40):
            Q, M = mpmath.mpf(q), mpmath.mpf(m)
            pairs = ((1, Q / (1 + Q)), (-2, M / mpmath.sqrt(2 * (1 + Q))), (1, mpmath.mpf(1) / 2))
            exact = float(sum(c * mpmath.asin(y) for c, y in pairs) / mpmath.pi)
        assert abs(risk([[q]], [[m]]) - exact) < 4e-16 / 3

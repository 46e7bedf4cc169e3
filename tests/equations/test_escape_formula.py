"""Escape formulas: published vectors, the equations they come from, refusals."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad, solve_ivp

import dmft
from dmft.equations.escape.formula import _one_logarithm
from dmft.equations.escape.passage import transient_noise
from dmft.errors import BadParameter
from dmft.literature import phase_retrieval

z = sp.Symbol("z", real=True)
p = sp.Symbol("p", integer=True, positive=True)
g, D = sp.Symbol("gamma", positive=True), sp.Symbol("Delta", nonnegative=True)


def sphere(rate=g, **options):
    return dmft.SGD(rate, constraint="sphere", **options)


def hermite_model(order, noise=0):
    one = dmft.Committee(dmft.hermite(order, z) / sp.sqrt(sp.factorial(order)), 1)
    return dmft.Model(one, one, noise)


def test_one_neuron_on_the_sphere(dynamics_vectors):
    formula = dmft.escape_formula(phase_retrieval(1, label_noise=D), sphere())
    assert formula.exact
    for v in dynamics_vectors["exit"]["spherical_p1"]:
        where, at = (v["d"], v["T"]), {"Delta": v["Delta"], "gamma": v["gamma"]}
        assert formula.time(*where, **at) == pytest.approx(v["t_exit"], abs=1e-12)
        mean = formula.mean_time(*where, **at)
        assert mean == pytest.approx(v["mean_exit_random_init_noise"], abs=1e-12)
        assert formula.std(*where, **at) == pytest.approx(v["std_exit"], abs=1e-12)


def test_any_width_on_the_sphere(dynamics_vectors):
    formula = dmft.escape_formula(phase_retrieval(p, label_noise=D), sphere())
    for v in dynamics_vectors["exit"]["spherical_p_linear"]:
        numbers = {"p": v["p"], "Delta": v["Delta"], "gamma": v["p"] * v["gamma_over_p"]}
        rates = (formula.optimal_learning_rate(**numbers), formula.maximal_learning_rate(**numbers))
        assert float(rates[0]) / v["p"] == pytest.approx(v["gamma_over_p_opt"], rel=1e-13)
        assert float(rates[1]) / v["p"] == pytest.approx(v["gamma_over_p_max"], rel=1e-13)
        one = dmft.escape_formula(
            phase_retrieval(v["p"], label_noise=v["Delta"]), sphere(numbers["gamma"])
        )
        assert float(one.growth_rate) == pytest.approx(v["Lambda"], rel=1e-13)
        grown = transient_noise(one.law, one._values({}), 1.0)
        assert grown == pytest.approx(v["noise_kappa"], rel=1e-13)
        prefactor = formula.steps_prefactor(**numbers)
        assert float(prefactor) == pytest.approx(v["steps_prefactor_opt_over_dlog"], rel=1e-13)
    gain = formula.gain_from_width()
    width = next(iter(gain.free_symbols - {D}))
    assert sp.simplify(sp.limit(gain, width, sp.oo) - (12 + D) / (2 + D)) == 0


@pytest.mark.cases(1)
@pytest.mark.parametrize("number", range(4))
def test_free_lengths(dynamics_vectors, number):
    v = dynamics_vectors["exit"]["free"][number]
    model = phase_retrieval(v["p"], label_noise=v["Delta"])
    formula = dmft.escape_formula(model, dmft.SGD(v["p"] * v["gamma_over_p"]))
    assert formula.time(1e8, u=v["u1"]) == pytest.approx(v["t_exit"], abs=1e-12)
    # From short lengths; a unit length at p = 1 is the other limit.
    short = dmft.escape_formula(model, dmft.SGD(v["p"] * v["gamma_over_p"]), length=0.3)
    found = float(short.maximal_learning_rate()) / v["p"]
    assert found == pytest.approx(v["gamma_over_p_max"], rel=1e-12)


@pytest.mark.slow
def test_learning_rates_of_free_lengths(dynamics_vectors):
    short = dmft.escape_formula(
        phase_retrieval(p, label_noise=D), dmft.SGD(g), length=sp.Rational(3, 10)
    )
    for v in dynamics_vectors["exit"]["free_learning_rates"]:
        at = {"p": v["p"], "Delta": v["Delta"]}
        largest, fastest = short.maximal_learning_rate(**at), short.optimal_learning_rate(**at)
        assert float(largest) / v["p"] == pytest.approx(v["gamma_over_p_max"], rel=1e-12)
        assert float(fastest) / v["p"] == pytest.approx(v["gamma_over_p_opt"], rel=1e-12)
        prefactor = float(short.steps_prefactor(**at))
        assert prefactor == pytest.approx(v["steps_prefactor_opt_over_dlog"], rel=1e-12)


def test_unit_lengths_of_one_neuron_escape_up_to_the_spherical_limit():
    formula = dmft.escape_formula(phase_retrieval(1, label_noise=D), dmft.SGD(g))
    assert sp.simplify(formula.maximal_learning_rate() - 2 / (12 + D)) == 0
    for noise in (0.0, 1.0, 4.0, 20.0):
        rates = (
            formula.optimal_learning_rate(Delta=noise),
            formula.maximal_learning_rate(Delta=noise),
        )
        assert 0 < float(rates[0]) < float(rates[1])


def test_hermite_links(dynamics_vectors):
    for v in dynamics_vectors["exit"]["hermite"]:
        formula = dmft.escape_formula(hermite_model(v["l"], v["Delta"]), sphere(v["gamma"]))
        dim = 1 / v["m0"] ** 2
        limit = float(formula.maximal_learning_rate(dim))
        assert formula.exponent == v["l"]
        assert limit == pytest.approx(v["gamma_max"], rel=1e-12)
        optimal = float(formula.optimal_learning_rate(dim)) / limit
        expected = dynamics_vectors["exit"]["hermite_constants"]["y_opt"]
        assert optimal == pytest.approx(expected, rel=1e-12)
        if v["y"] > 0.5:
            with pytest.warns(dmft.AccuracyWarning, match="noise of the samples"):
                steps = formula.steps(v["d"], u=math.inf, u0=v["m0"] ** 2)
        else:
            steps = formula.steps(v["d"], u=math.inf, u0=v["m0"] ** 2)
        assert steps == pytest.approx(v["steps"], rel=1e-12)
    batch = dmft.escape_formula(hermite_model(3), sphere(batch_size=7))
    single = dmft.escape_formula(hermite_model(3), sphere())
    assert sp.simplify(batch.maximal_learning_rate() - 7 * single.maximal_learning_rate()) == 0


# The equations themselves --------------------------------------------------------------------


@pytest.fixture(params=["read", pytest.param("compiled", marks=pytest.mark.slow)])
def crossing(request, read):
    """Return the time at which the first overlap of equal ones passes m1, by the equations."""

    def time(model, algorithm, m0, m1, t_max=1e4):
        width, teachers = int(model.student.width), int(model.teacher.width)
        start = dmft.Overlaps(np.eye(width), np.full((width, teachers), m0))
        equations = dmft.derive(model, algorithm)
        if request.param == "compiled":
            run = dmft.solve(
                equations, start, t_max, events=[dmft.Event("M[0, 0]", m1)], rtol=1e-11, atol=1e-15
            )
            assert run.status == "event", run.message
            return run.t[-1]
        system = read(equations, start, {})

        def passage(t, y):
            return system.blocks(t, y)["M"][0, 0] - m1

        passage.terminal = True
        run = solve_ivp(
            system.rates, (0.0, t_max), system.y0, "DOP853", rtol=1e-8, atol=1e-13, events=passage
        )
        assert run.status == 1, run.message
        return run.t[-1]

    return time


def test_drift_of_one_erf_neuron(crossing):
    erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
    model = dmft.Model(erf, erf, 0.1)
    formula = dmft.escape_formula(model, sphere(0.5))
    assert formula.exponent == 1
    found = crossing(model, sphere(0.5), 1e-3, 0.02)
    assert formula.time(1e6, overlap=0.02) == pytest.approx(found, rel=1e-3)


def test_any_even_activation_at_any_width(crossing):
    student = dmft.Committee(sp.Abs(z), 2)
    model = dmft.Model(student, dmft.Committee(sp.Abs(z), 1), 0.2)
    formula = dmft.escape_formula(model, sphere(0.3))
    found = crossing(model, sphere(0.3), 1e-4, 1e-2)
    assert formula.time(1e8, overlap=1e-2) == pytest.approx(found, rel=1e-3)


def test_a_link_of_higher_order_under_another_activation(crossing):
    student = dmft.Committee(z**3, 1)
    model = dmft.Model(student, dmft.MultiIndex(z**3 - 3 * z, [z]), 0.2)
    formula = dmft.escape_formula(model, sphere(1e-6))
    assert formula.exponent == 3
    found = crossing(model, sphere(1e-6), 1e-3, 2e-2)
    assert formula.time(1e6, overlap=2e-2) == pytest.approx(found, rel=5e-3)


def test_gradient_flow_with_free_lengths(crossing):
    model = phase_retrieval(4)
    formula = dmft.escape_formula(model, dmft.GradientFlow())
    found = crossing(model, dmft.GradientFlow(), 1e-5, 1e-3)
    # The lengths still settle when the threshold is met, within exp(-4 t).
    assert formula.time(1e10, u=1e-6) == pytest.approx(found, rel=5e-4)
    with pytest.raises(BadParameter, match="no steps"):
        formula.steps(1e4, u=1e-2)


# Statistics ----------------------------------------------------------------------------------


def test_first_passage_of_a_diffusion_gives_the_linear_law(dynamics_vectors):
    """The quadrature for any exponent against the closed form at exponent 2."""
    from dmft.equations.escape.passage import diffusion_passage

    formula = dmft.escape_formula(phase_retrieval(1), sphere(1 / 12))
    mean, std = diffusion_passage(formula.law, formula._values({}), 1e7, 0.03)
    growth, noise = 2.0, 1.0
    expected = (math.log(9e-4 * 1e7 / (1 + noise)) + np.euler_gamma + math.log(2)) / (2 * growth)
    assert mean == pytest.approx(expected, abs=2e-3)
    assert std == pytest.approx(math.pi / (2 * math.sqrt(2) * growth), rel=2e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dmft.AccuracyWarning")
def test_mean_of_a_third_hermite_at_its_optimal_rate_against_chains():
    """Where the deterministic time is off by a factor the mean over paths is not."""
    dim = 100
    rate = float(dmft.escape_formula(hermite_model(3), sphere()).optimal_learning_rate(dim))
    formula = dmft.escape_formula(hermite_model(3), sphere(rate))
    single = formula.time(dim, overlap=0.5)
    runs = dmft.simulate(
        hermite_model(3), sphere(rate), dim, 30 * single, 200, method="overlaps", save_at=2,
        first_passage=dmft.FirstPassage("overlap", 0.5),
    )  # fmt: skip
    found = dmft.escape_time(runs, overlap=0.5)
    assert abs(found.mean - formula.mean_time(dim, overlap=0.5)) < 3 * found.stderr
    assert found.mean > 2 * single


# Words ---------------------------------------------------------------------------------------


def test_validity_reports_both_optima():
    text = dmft.escape_formula(phase_retrieval(8), sphere(0.8)).validity
    assert "Weak recovery only" in text
    assert "3.36842" in text  # p / B_p
    assert "1.33333" in text  # p / 6
    assert "nothing is learned in the end" in text
    free = dmft.escape_formula(phase_retrieval(2), dmft.SGD(0.1)).validity
    assert f"by the fraction {1 / 6:.6g} " in free
    assert "heavy tailed" in dmft.escape_formula(hermite_model(3), sphere()).validity


@pytest.mark.slow
def test_validity_at_any_width_has_its_formulas():
    free = dmft.escape_formula(phase_retrieval(p), dmft.SGD(g)).validity
    assert "2/((p + 1)*(p + 2))" in free


def test_latex_names_what_was_declared():
    text = dmft.escape_formula(phase_retrieval(1, label_noise=D), sphere()).latex()
    assert text.startswith(r"\begin{align*}")
    assert r"\gamma \left(12 + \Delta\right)" in text


def test_latex_writes_the_time_as_one_logarithm():
    text = dmft.escape_formula(phase_retrieval(1), sphere()).latex()
    assert text.count(r"\log") == 1
    assert "= 4 - 24" in text
    # du/dt = 2 u (Lambda - A u) by quadrature from .01 to .3.
    rate, curvature = 1.5, 2.0
    found = _one_logarithm(dmft.escape_formula(phase_retrieval(1), sphere()).law.time)
    values = {"u_0": 0.01, "u_1": 0.3, "Lambda": rate, "A": curvature}
    time = found.subs({s: values[s.name] for s in found.free_symbols})
    exact, _ = quad(lambda u: 1 / (2 * u * (rate - curvature * u)), 0.01, 0.3)
    assert float(time) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "algorithm", "reason"),
    [
        (phase_retrieval(1), sphere(1 / 6), "not below the maximal learning rate 0.166667"),
        (phase_retrieval(2), dmft.SGD(0.42), "not below the maximal learning rate"),
        (dmft.literature.saad_solla(2), dmft.SGD(0.1), "not where this model starts to learn"),
        (hermite_model(3), dmft.GradientFlow(), "on the sphere"),
        (phase_retrieval(1), sphere(0.1, readout_rate=1), "readout"),
        (phase_retrieval(1), sphere(0.1, batch_size=sp.Symbol("d")), "grows with the dimension"),
        (
            dmft.Model(dmft.Committee(z**2, 1), dmft.Committee(-(z**2), 1)),
            sphere(0.01),
            "shrinks",
        ),
        (dmft.Model(dmft.Committee(z**2, 1), dmft.Committee(z, 1)), sphere(0.01), "nothing"),
        (dmft.Model(dmft.Committee(z**4, 2), dmft.Committee(z**4, 1)), dmft.SGD(0.01), "quadratic"),
    ],
)
def test_refusals(model, algorithm, reason):
    with pytest.raises(BadParameter, match=reason):
        dmft.escape_formula(model, algorithm)


def test_thresholds_are_refused_where_they_mean_nothing():
    formula = dmft.escape_formula(phase_retrieval(1, label_noise=1), sphere(0.05))
    with pytest.raises(BadParameter, match="not below the maximal learning rate"):
        formula.time(1000, learning_rate=0.2)
    with pytest.raises(BadParameter, match="settles at"):
        formula.time(1000, u=0.99)
    with pytest.raises(BadParameter, match="met at the start"):
        formula.time(1000, u=1e-4)
    free = dmft.escape_formula(phase_retrieval(1), dmft.SGD(0.05))
    with pytest.raises(BadParameter, match="lengths relax"):
        free.time(1e4, fraction=0.1)
    assert free.time(1e4, fraction=0.1, reference="plateau") > 0
    with pytest.raises(BadParameter, match="not below the maximal learning rate"):
        dmft.escape_formula(hermite_model(3), sphere(0.01)).time(1e4)


@pytest.mark.slow
def test_perfect_solution_on_the_sphere():
    """Leading eigenvalue of the derived Jacobian, at equal and at unequal widths."""
    erf = sp.erf(z / sp.sqrt(2))
    for activation, width, teachers in ((z**2, 2, 2), (z**2, 3, 1), (erf, 2, 2), (erf, 2, 1)):
        model = dmft.Model(dmft.Committee(activation, width), dmft.Committee(activation, teachers))
        limit = float(dmft.maximal_learning_rate(model, sphere(0.1)))
        equations = dmft.derive(model, sphere(1.0))
        M = np.eye(width) if teachers == width else np.ones((width, 1))
        point = dmft.Overlaps(M @ M.T, M)
        below, above = (
            dmft.stability(equations, point, learning_rate=factor * limit).growth_rate
            for factor in (0.95, 1.05)
        )
        assert below < 1e-9
        assert above > 1e-3
    assert dmft.maximal_learning_rate(phase_retrieval(1, label_noise=D), sphere()) == 2 / (12 + D)

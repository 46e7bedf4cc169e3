"""Rates, runs and fixed points of rules against equations that were written and checked by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft import laws
from dmft.equations.rules.latex import _in_averages
from dmft.literature import rules as lit
from dmft.rules import Field, Mean

SPEC = importlib.util.spec_from_file_location("vectors", Path(__file__).parent / "vectors.py")
known = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(known)
ALL = known.vectors()
# Long: sums over many nodes, implicit functions.
SLOW = ("eqprop", "infonce", "cd1", "rl_3of5", "reinforce", "ica_laplace", "feedback", "continual")


def of_kind(*kinds):
    found = [v for v in ALL if v["kind"] in kinds]
    marks = [[pytest.mark.slow] * any(s in v["id"] for s in SLOW) for v in found]
    pairs = zip(found, marks, strict=True)
    return [pytest.param(v, id=v["id"], marks=m) for v, m in pairs]


def named(v):
    """Name and parameters of the rule of a vector."""
    name = v["id"].split("_", 1)[1]
    for end in ("_d500", "_d1000", "_d2000", "_0", "_2"):
        name = name.removesuffix(end)
    p = dict(v["inputs"].get("params", {})) if isinstance(v["inputs"].get("params"), dict) else {}
    return name, p, v["inputs"].get("g", p.get("g"))


@pytest.mark.parametrize("v", of_kind("rate"))
def test_rates(v):
    name, p, g = named(v)
    rule = known.rule_of(name, p, g)
    theta = [p["b"]] if name == "dae" else v["inputs"].get("theta", [])
    start = known.start_of(rule, v["inputs"].get("Gram") or v["inputs"]["Gram_blocks"], theta)
    more = {"nodes": 200} if name in ("cd1", "eqprop", "reinforce") else {}
    rows, scalars = known.rates_of(rule, start, **more)
    expected = v["expected"]
    want = expected.get("dGram_moving_rows") or expected["dGram_blocks_moving_row"]
    np.testing.assert_array_less(
        abs(rows.reshape(np.shape(want)) - want), np.array(v["tolerance"]) + 1e-300
    )
    if "dtheta" in expected:
        np.testing.assert_allclose(scalars, expected["dtheta"], atol=v["tolerance"], rtol=0)


def run_of(v, **given):
    """Rows and scalars of a run at the times of a vector."""
    name, p, g = named(v)
    i = v["inputs"]
    rule = known.rule_of(name, p, g)
    theta = [p["b"]] if name == "dae" else i.get("start_theta", [])
    start = known.start_of(rule, i["start_Gram"], theta)
    t = np.array(v["expected"]["t"])
    run = dmft.solve(
        dmft.derive(rule), start, float(t[-1]), save_at=t, rtol=1e-10, atol=1e-12, **given
    )
    assert str(run.status) == "ok", run.message
    scalars = [run.blocks[s.name] for s in rule.learned]
    return np.concatenate([run.Q, run.M], axis=-1), np.stack(scalars, 1) if scalars else None


@pytest.mark.parametrize("v", [x for x in of_kind("trajectory") if "feedback_linear" not in x.id])
def test_trajectories(v):
    rows, scalars = run_of(v, **({"quadrature_tol": 1e-8} if "ica_laplace" in v["id"] else {}))
    tolerance = v["tolerance"]
    want = np.array(v["expected"]["Gram_moving_rows"])
    np.testing.assert_allclose(rows, want, rtol=tolerance, atol=tolerance)
    if "theta" in v["expected"]:
        np.testing.assert_allclose(scalars, v["expected"]["theta"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("v", of_kind("simulation"))
def test_simulations(v):
    rows, scalars = run_of(v)
    expected, d = v["expected"], v["inputs"]["d"]
    allowed = 4 * np.array(expected["stderr"]) + 5 / d
    assert np.all(abs(rows - expected["Gram_moving_rows_mean"]) < allowed)
    if scalars is not None and "theta_mean" in expected:
        allowed = 4 * np.array(expected["theta_stderr"]) + 5 / d
        assert np.all(abs(scalars - expected["theta_mean"]) < allowed)


def vector(name):
    return next(v["expected"] for v in ALL if v["id"] == name)


@pytest.mark.parametrize(
    ("kind", "error"), [("hebb", 0.0890139), ("perceptron", 0.09929), ("adatron", 0.0700266)]
)
def test_errors_of_perceptrons(kind, error):
    eqs = dmft.derive(lit.perceptron_rule(kind))
    run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.0]]), 20.0, rtol=1e-11, atol=1e-13)
    if kind != "perceptron":
        error = vector(f"long_{kind}")["eps"]
        assert run["error"][-1] == pytest.approx(error, abs=1e-8)
    assert run["error"][-1] == pytest.approx(error, abs=6e-6)


def test_rewards_have_two_stable_states():
    expected = vector("rl_fixed_points_T8")
    eqs = dmft.derive(lit.reinforcement_perceptron(8, 1.0, 0.1))

    def cosine(first):
        run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[first]]), 2000.0)
        return run.M[-1, 0, 0] / run.Q[-1, 0, 0] ** 0.5

    assert cosine(0.05) == pytest.approx(expected["rho_stable"], abs=1e-6)
    assert cosine(0.6) > 0.99


@pytest.mark.parametrize("g", ["0.5", "1.4"])
def test_components_are_lost_one_by_one(g):
    expected = vector(f"sanger_fixed_g{g}")
    eqs = dmft.derive(lit.principal_components([2.0, 0.6], "sanger", float(g)))
    start = dmft.Overlaps([[0.9, 0.05], [0.05, 0.8]], [[0.3, 0.1], [-0.1, 0.25]])
    run = dmft.solve(eqs, start, 400.0)
    np.testing.assert_allclose(np.diag(run.Q[-1]), expected["Q"], atol=1e-6)
    np.testing.assert_allclose(abs(np.diag(run.M[-1])), expected["M_diag"], atol=1e-6)


@pytest.mark.parametrize("law", ["rademacher", "laplace"])
def test_largest_rate_of_ica(law):
    """States with signal exist up to the largest g at which dM/dt = 0 has a root."""
    expected = vector(f"ica_gmax_{law}")
    sign = 1 if law == "laplace" else -1
    eqs = dmft.derive(lit.independent_component(known.LAWS[law], sign * known.z**3, sp.Symbol("g")))

    def rate(M, g):
        start = dmft.Overlaps([[1.0]], [[M]])
        return eqs.evaluate(start, g=g)["M"][0, 0]

    M = expected["M"]
    slope = rate(M, 1.0) - rate(M, 0.0)
    largest = -rate(M, 0.0) / slope
    assert largest == pytest.approx(expected["g_max"], abs=1e-6)
    for other in (M - 0.02, M + 0.02):
        assert -rate(other, 0.0) / (rate(other, 1.0) - rate(other, 0.0)) < largest


def test_a_linear_unit_aligns_and_memorises():
    expected = vector("feedback_linear")
    F = 0.8
    from dmft.rules import Rows, View, fixed

    w, B, x, v = Rows("w"), fixed("B"), View("x"), sp.Symbol("v", real=True)
    e = B @ x - v * (w @ x)
    rule = dmft.UpdateField({w: F * e * x}, scalars={v: e * (w @ x)}, learning_rate=1e-300)
    start = dmft.Overlaps([[0.0]], [[0.0]], scalars={v: 0.0})
    run = dmft.solve(dmft.derive(rule), start, 2.0, rtol=1e-11, atol=1e-13)
    found = [run.M[-1, 0, 0], run.v[-1], run.Q[-1, 0, 0]]
    np.testing.assert_allclose(found, [expected[n] for n in "MvQ"], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", ["0.0", "0.5", "0.9"])
def test_forgetting_is_largest_at_intermediate_similarity(similarity):
    expected = vector(f"forgetting_V{similarity}")
    V, replay = float(similarity), sp.Symbol("replay", real=True)
    eqs = dmft.derive(lit.continual_learning(replay))
    heads = dict(zip(("a0", "a1", "b0", "b1"), (0.2, -0.1, 0.15, 0.25), strict=True))
    start = dmft.Overlaps(
        [[0.2, 0.01], [0.01, 0.15]], [[0.05, 0.02], [-0.03, 0.04]], [[1, V], [V, 1]], scalars=heads
    )
    first = dmft.solve(eqs, start, 60.0, replay=0.0, rtol=1e-10, atol=1e-12)
    second = dmft.solve(eqs, first.final, 120.0, replay=1.0, rtol=1e-10, atol=1e-12, t_start=60.0)
    found = [first.first_risk[-1], second.first_risk[-1], second.second_risk[-1]]
    want = [expected[n] for n in ("risk0_before", "risk0_after", "risk1_after")]
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("s2", ["0.5", "2.0"])
def test_denoising_finds_the_means(s2):
    expected = vector(f"dae_long_g0.05_s{s2}")
    eqs = dmft.derive(lit.denoising_autoencoder(float(s2), 0.05))
    start = dmft.Overlaps([[0.5]], [[0.2]], [[2.0]], scalars={"b": 1 / (1 + float(s2))})
    run = dmft.solve(eqs, start, 60.0, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        [run.Q[-1, 0, 0], run.M[-1, 0, 0]], [expected["Q"], expected["M"]], atol=1e-6
    )


@pytest.mark.slow
def test_long_rates_are_printed_as_averages():
    """110 lines of closed forms before; the averages are sampled from the declared inputs."""
    eqs = dmft.derive(lit.denoising_autoencoder(0.5, 0.05))
    text = str(eqs)
    assert len(text.split("\n")) < 36
    assert "⟨λ[w]^x erf(λ[w]^n/sqrt(2))⟩" in text
    assert "- G[w,μ] ⟨erf²(λ[w]^n/sqrt(2))⟩" in " ".join(text.split())
    assert "db/dt = 1 - 3 b/2" in text
    assert r"\langle" not in eqs.latex(form="closed")
    q, m, mu, b = 0.5, 0.2, 2.0, 0.6
    start = dmft.Overlaps([[q]], [[m]], [[mu]], scalars={"b": b})
    rng, count = np.random.default_rng(1), 400_000
    s = rng.choice([-1.0, 1.0], count)
    # Rows w and mu in an orthonormal frame, and the components of both noises along it.
    w, u = np.array([np.sqrt(q), 0.0]), np.array([m / np.sqrt(q), np.sqrt(mu - m**2 / q)])
    noise = rng.standard_normal((count, 2))
    more = noise + np.sqrt(0.5) * rng.standard_normal((count, 2))
    values = {
        "w_x": s * m + noise @ w, "w_n": s * m + more @ w,
        "mu_x": s * mu + noise @ u, "mu_n": s * mu + more @ u,
    }  # fmt: skip
    rates = eqs.evaluate(start)
    want = {"Q_1_1": rates["Q"][0, 0], "M_1_1": rates["M"][0, 0]}
    known = {"Q_1_1": q, "M_1_1": m, "P_1_1": mu, "b": b, "learning_rate": 0.05}
    for d in _in_averages(eqs, eqs.model):
        total, spread = 0.0, 0.0
        if d.name not in want:
            continue
        for term in sp.expand(
            d.expr.subs({y: known[y.name] for y in d.expr.free_symbols if y.name in known})
        ).args:
            (average,) = term.atoms(Mean)
            inside = average.args[0]
            fields = sorted(inside.atoms(Field), key=str)
            sampled = sp.lambdify(fields, inside, ["scipy", "numpy"])(
                *(values[str(f)] for f in fields)
            )
            factor = float(term / average)
            total += factor * sampled.mean()
            spread += abs(factor) * sampled.std() / np.sqrt(count)
        assert total == pytest.approx(want[d.name], abs=4 * spread)


def test_floor_of_node_perturbation():
    eqs = dmft.derive(lit.node_perturbation(2, 0.4, 0.2))
    run = dmft.solve(eqs, dmft.Overlaps(0.3 * np.eye(2), 0.1 * np.eye(2)), 60.0)
    assert 2 * run.risk[-1] == pytest.approx(vector("nodepert_floor")["trE"], abs=1e-7)


def test_a_discriminator_sees_the_feature():
    """dq/dt = (rho - g (eta_T^2 + eta_G^2) / 2) q at the uninformative state."""
    eqs = dmft.derive(lit.adversarial_network(laws.Rademacher(), 1, 1, 0, 1, 0.6))
    at = dmft.Overlaps([[0.6, 0.0], [0.0, 0.0]], [[1e-6], [0.0]])
    rate = eqs.evaluate(at)["M"][0, 0] / 1e-6
    assert rate == pytest.approx(vector("gan_growth")["growth_of_q"], abs=1e-6)

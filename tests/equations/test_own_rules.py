"""Learning rules of a user's own: classic errors, direct simulation, Monte Carlo, refusals."""

import numpy as np
import pytest
import sympy as sp
from scipy import special

import dmft
from dmft.errors import BadParameter

H, STAR, Y, Z = sp.symbols("h h_star y z", real=True)
SIGN = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(sp.sign(Z), 1))
RULES = {
    "Hebb": Y,
    "perceptron": Y * sp.Heaviside(-H * Y),
    "AdaTron": Y * sp.Abs(H) * sp.Heaviside(-H * Y),
}
SAMPLES = 100_000


def own(psi, **options):
    return dmft.UpdateField(psi, fields=(H, STAR, Y), learning_rate=1, **options)


@pytest.mark.parametrize(
    ("name", "error"), [("Hebb", 0.0890), ("perceptron", 0.0993), ("AdaTron", 0.0700)]
)
def test_errors_of_one_unit_on_a_sign_teacher(name, error, solve):
    """Rate 1, samples/d = 20, from an overlap of almost nothing; the issue's numbers."""
    equations = dmft.derive(SIGN, own(RULES[name]))
    assert equations.approximation == "exact"
    run = solve(equations, dmft.Overlaps([[1.0]], [[1e-3]]), 20.0)
    cosine = run.M[-1, 0, 0] / np.sqrt(run.Q[-1, 0, 0])
    assert np.arccos(cosine) / np.pi == pytest.approx(error, abs=6e-5)


@pytest.mark.parametrize("psi", [(Y - sp.sign(H)) / 2, Y * sp.Heaviside(-H * Y)])
def test_one_rule_in_two_forms(psi):
    start = dmft.Overlaps([[1.3]], [[0.4]])
    rates = dmft.derive(SIGN, own(psi)).evaluate(start)
    angle = np.arccos(0.4 / np.sqrt(1.3))
    # By hand: E[(s* - s) h*]/2, E[(s* - s) h] + P(s != s*).
    root = np.sqrt(2 / np.pi)
    assert rates["M"][0, 0] == pytest.approx((root - root * 0.4 / np.sqrt(1.3)) / 2, rel=1e-13)
    dQ = root * 0.4 - root * np.sqrt(1.3) + angle / np.pi
    assert rates["Q"][0, 0] == pytest.approx(dQ, rel=1e-12)


@pytest.mark.cases(3)
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize("name", RULES)
def test_simulations_follow_the_rule(name, method, solve):
    rule, start = own(RULES[name]), dmft.Overlaps([[1.0]], [[0.2]])
    run = solve(dmft.derive(SIGN, rule), start, 1.0, save_at=[1.0])
    truth = dmft.simulate(SIGN, rule, 500, 1.0, seeds=24, start=start, method=method, save_at=2)
    for block in ("M", "Q"):
        off = truth.mean[block][-1] - getattr(run, block)[-1]
        assert np.all(np.abs(off) < 4.5 * truth.stderr[block][-1] + 5.0 / 500)


def test_a_committee_with_noise_its_output_and_shorthands():
    """psi = tanh(y - f) h^2 of two neurons: on nodes, against Monte Carlo of the definition."""
    out, error = sp.symbols("f e", real=True)
    u, v = sp.symbols("u v", real=True)
    rule = dmft.UpdateField(
        sp.tanh(error) * H**2,
        fields=(H, u, v, Y),
        definitions=[(error, Y - out)],
        learning_rate=sp.Rational(1, 2),
    )
    model = dmft.Model(dmft.Committee(Z**2, 2), dmft.MultiIndex(u * v, [u, v]), 0.1)
    start = dmft.Overlaps([[0.9, 0.2], [0.2, 0.7]], [[0.3, -0.1], [0.05, 0.4]])
    equations = dmft.derive(model, rule)
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    rng = np.random.default_rng(5)
    lam = np.linalg.cholesky(start.Omega) @ rng.standard_normal((4, SAMPLES))
    h, star = lam[:2], lam[2:]
    y = star[0] * star[1] + np.sqrt(0.1) * rng.standard_normal(SAMPLES)
    psi = np.tanh(y - (h**2).mean(0)) * h**2
    own_step = psi[:, None] * h + h[:, None] * psi + 0.25 * psi[:, None] * psi
    for name, move in (("M", psi[:, None] * star), ("Q", own_step)):
        spread = move.std(-1) / np.sqrt(SAMPLES)
        off = np.abs(rates[name] - move.mean(-1)) / np.hypot(spread, claims[name] / 2.6)
        assert off.max() < 5


def test_weight_decay_and_the_sphere_hold_for_rules():
    start = dmft.Overlaps([[1.0]], [[0.3]])
    plain = dmft.derive(SIGN, own(Y)).evaluate(start)
    decayed = dmft.derive(SIGN, own(Y, weight_decay=0.2)).evaluate(start)
    assert decayed["M"] == pytest.approx(plain["M"] - 0.2 * 0.3)
    assert decayed["Q"] == pytest.approx(plain["Q"] - 0.4)
    sphere = dmft.derive(SIGN, own(Y, constraint="sphere")).evaluate(start)
    assert sphere["Q"] == pytest.approx(np.zeros((1, 1)), abs=1e-15)
    assert sphere["M"] == pytest.approx(plain["M"] - 0.3 * plain["Q"] / 2)


def test_refusals():
    with pytest.raises(BadParameter, match="distinct"):
        dmft.UpdateField(Y, fields=(H, H, Y), learning_rate=1)
    with pytest.raises(BadParameter, match="contains z"):
        own(Y * Z)
    with pytest.raises(BadParameter, match="2 teacher fields"):
        dmft.derive(SIGN, dmft.UpdateField(Y, fields=(H, STAR, Z, Y), learning_rate=1))
    with pytest.raises(BadParameter, match="positive"):
        dmft.UpdateField(Y, fields=(H, STAR, Y), learning_rate=0)
    with pytest.raises(BadParameter, match="quadratic in f and y"):
        dmft.derive(SIGN, own(Y), scaling="mean-field")
    with pytest.raises(BadParameter, match="squared and the correlation loss"):
        dmft.escape_formula(SIGN, own(Y))


def test_measures_are_reported_along_the_run(tmp_path):
    pytest.importorskip("h5netcdf")
    measures = {"wrong": sp.Heaviside(-H * Y), "length": H**2}
    equations = dmft.derive(SIGN, own(RULES["perceptron"], measures=measures))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 2.0)
    cosine = run.M[:, 0, 0] / np.sqrt(run.Q[:, 0, 0])
    assert run.wrong == pytest.approx(np.arccos(cosine) / np.pi, abs=1e-14)
    assert run.length == pytest.approx(run.Q[:, 0, 0], rel=1e-14)
    run.save(tmp_path / "run.nc")
    assert dmft.load(tmp_path / "run.nc").wrong[-1] == run.wrong[-1]
    for name in ("error", "two words", "Q"):
        with pytest.raises(BadParameter, match="measure"):
            own(Y, measures={name: H})


def test_a_measure_on_nodes_leaves_the_rule_exact():
    measures = {"margin": sp.tanh(H * Y), "wrong": sp.Heaviside(-H * Y)}
    equations = dmft.derive(SIGN, own(Y, measures=measures))
    start = dmft.Overlaps([[1.0]], [[0.4]])
    run = dmft.solve(equations, start, 0.5, save_at=[0.0])
    rng = np.random.default_rng(4)
    h, star = np.linalg.cholesky(start.Omega) @ rng.standard_normal((2, SAMPLES))
    margin = np.tanh(h * np.sign(star))
    assert run.margin[0] == pytest.approx(margin.mean(), abs=6 * margin.std() / SAMPLES**0.5)
    assert run.wrong[0] == pytest.approx(np.arccos(0.4) / np.pi, abs=1e-14)
    assert equations.evaluate(start)["M"][0, 0] == pytest.approx(np.sqrt(2 / np.pi), rel=1e-14)


def test_no_measure_is_hidden_by_an_attribute_of_runs():
    run = dmft.solve(dmft.derive(SIGN, own(Y)), dmft.Overlaps([[1.0]], [[0.1]]), 0.1)
    for name in (n for n in dir(run) if not n.startswith("_")):
        with pytest.raises(BadParameter, match="measure"):
            own(Y, measures={name: H})


def test_rules_are_hashed_and_pickled():
    import pickle

    rule = own(Y, measures={"wrong": sp.Heaviside(-H * Y)})
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert hash(rule) == hash(own(Y, measures={"wrong": sp.Heaviside(-H * Y)}))


def test_a_rule_may_read_the_slope_of_the_activation():
    """slope (y - f) is SGD; clipped errors against samples of the definition; both simulated."""
    h, star, y, f, slope = sp.symbols("h h_star y f slope", real=True)
    sigmoid = sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2))
    model = dmft.Model(dmft.Committee(sigmoid, 2), dmft.Committee(sigmoid, 1), 0.1)
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.3], [-0.2]], [[1.1]])
    plain = dmft.UpdateField(slope * (y - f), fields=(h, star, y), learning_rate=0.5)
    found, wanted = (dmft.derive(model, a).evaluate(start) for a in (plain, dmft.SGD(0.5)))
    for block, value in wanted.items():
        np.testing.assert_allclose(found[block], value, rtol=0, atol=1e-14)
    assert dmft.derive(model, plain).approximation == "exact"
    runs = [
        dmft.simulate(model, a, 50, 0.3, 2, start, "overlaps", save_at=[0.3]).runs.M
        for a in (plain, dmft.SGD(0.5))
    ]
    np.testing.assert_allclose(*runs, rtol=1e-10)
    clipped = dmft.UpdateField(
        slope * sp.Max(-0.3, sp.Min(0.3, y - f)), fields=(h, star, y), learning_rate=0.5
    )
    equations, rng = dmft.derive(model, clipped), np.random.default_rng(1)
    lam = np.linalg.cholesky(start.Omega) @ rng.standard_normal((3, 100_000))
    value = special.erf(lam / np.sqrt(2))
    label = value[2] + np.sqrt(0.1) * rng.standard_normal(lam.shape[1])
    error = np.clip(label - (value[0] + value[1]) / 2, -0.3, 0.3)
    psi = np.sqrt(2 / np.pi) * np.exp(-(lam[:2] ** 2) / 2) * error
    sample = psi * lam[2]
    off = np.abs(equations.evaluate(start)["M"][:, 0] - sample.mean(axis=1))
    claim = equations.evaluate_error(start)["M"][:, 0]
    assert np.all(off < 5 * sample.std(axis=1) / np.sqrt(sample.shape[1]) + claim)
    step = dmft.Model(dmft.Committee(sp.sign(sp.Symbol("z", real=True)), 1), model.teacher)
    with pytest.raises(BadParameter, match="slope"):
        dmft.derive(step, clipped)
    with pytest.raises(BadParameter, match="slope"):
        dmft.simulate(step, clipped, 50, 0.3, 1)

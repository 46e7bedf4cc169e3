"""Terms that a user adds, drops and replaces: against motions of vectors and rates by hand."""

import numpy as np
import pytest
import sympy as sp
from scipy.linalg import expm

import dmft
from dmft.errors import BadParameter

Z = sp.Symbol("z", real=True)
ZETA, TEMPERATURE = sp.symbols("zeta T", positive=True)
LINE, SQUARE = dmft.Committee(Z, 1), dmft.Committee(Z**2, 1)
ERF = sp.erf(Z / sp.sqrt(2))
ONE = dmft.Overlaps([[1.2]], [[0.4]], [[0.9]])


def two(activation=Z, noise=0.1):
    return dmft.Model(dmft.Committee(activation, 2), dmft.Committee(activation, 2), noise)


def rows(seed=0, unit=False):
    rng = np.random.default_rng(seed)
    w, target = rng.normal(size=(2, 2, 7))
    return w / np.linalg.norm(w, axis=1)[:, None] * np.sqrt(7) if unit else w, target


def overlaps(w, target):
    return dmft.Overlaps(w @ w.T / 7, w @ target.T / 7, target @ target.T / 7)


def with_decay(equations, zeta=ZETA):
    """-zeta w added to the motion of the rows, written by a user."""
    Q, M = equations.symbols["Q"], equations.symbols["M"]
    j, l, r = (equations.indices[name] for name in "jlr")  # noqa: E741
    decaying = equations.with_term("M", "decay", -zeta * M[j, r])
    return decaying.with_term("Q", "decay", -2 * zeta * Q[j, l])


def compiled(equations, start, **parameters):
    """Rates by the compiled right-hand side, as blocks."""
    from dmft.workflow.solving.inputs import run_inputs

    problem, given = dmft.build(equations), run_inputs(equations, start, parameters)
    y = problem.pack(given["state"])
    out = np.empty_like(y)
    widths = np.array([given["widths"][name] for name in problem.widths])
    par = problem.pack_parameters(given["parameters"], given["constants"])
    problem.rhs(0.0, y, widths, par, out)
    return problem.unpack(out, given["widths"])


def both(equations, start, **parameters):
    """Rates by the reference; those of compiled code must be the same."""
    rates = equations.evaluate(start, **parameters)
    for name, block in compiled(equations, start, **parameters).items():
        np.testing.assert_allclose(block, rates[name], rtol=1e-12, atol=1e-13)
    return rates


# Weight decay --------------------------------------------------------------------------------


def test_decay_of_linear_rows_is_their_exact_motion():
    """dw_j/dt = mean of the teachers - mean of the students - zeta w_j, in seven dimensions."""
    w, target = rows()
    equations = with_decay(dmft.derive(two(Z, 0), dmft.GradientFlow()))
    run = dmft.solve(equations, overlaps(w, target), 3.0, rtol=1e-11, atol=1e-13, zeta=0.3)
    A = np.block([
        [-np.full((2, 2), 0.5) - 0.3 * np.eye(2), np.full((2, 2), 0.5)],
        [np.zeros((2, 4))],
    ])  # fmt: skip
    end = (expm(3.0 * A) @ np.concatenate([w, target]))[:2]
    np.testing.assert_allclose(run.M[-1], end @ target.T / 7, atol=1e-9)
    np.testing.assert_allclose(run.Q[-1], end @ end.T / 7, atol=1e-9)
    assert run.provenance["equations"] == equations.fingerprint


def linear_sgd(zeta, gamma, noise, P):
    """Rates A (M, Q) + b of one linear unit under SGD with weight decay."""
    A = np.array([[-1 - zeta, 0.0], [2 - 2 * gamma, -2 - 2 * zeta + gamma]])
    return A, np.array([P, gamma * (P + noise)])


def test_decay_of_noisy_linear_rows_is_a_linear_system():
    equations = with_decay(dmft.derive(dmft.Model(LINE, LINE, sp.Symbol("D")), dmft.SGD(0.7)))
    run = dmft.solve(equations, ONE, 2.5, rtol=1e-11, atol=1e-13, zeta=0.2, D=0.5)
    A, b = linear_sgd(0.2, 0.7, 0.5, 0.9)
    rest = np.linalg.solve(A, -b)
    M, Q = rest + expm(2.5 * A) @ (np.array([0.4, 1.2]) - rest)
    np.testing.assert_allclose([run.M[-1, 0, 0], run.Q[-1, 0, 0]], [M, Q], atol=1e-9)
    (point,) = dmft.fixed_points(equations, ONE, zeta=0.2, D=0.5)
    np.testing.assert_allclose([point.overlaps.M[0, 0], point.overlaps.Q[0, 0]], rest, rtol=1e-10)
    modes = dmft.stability(equations, point, zeta=0.2, D=0.5)
    np.testing.assert_allclose(
        np.sort(modes.eigenvalues.real), np.sort(np.linalg.eigvals(A)), rtol=1e-10
    )


def test_decay_is_that_of_sgd_in_finite_dimension(solve):
    """One-pass SGD on vectors with the decay in its step, 24 runs in 200 dimensions."""
    dim, runs, gamma, zeta, t_max = 200, 24, 0.5, 0.4, 1.0
    rng = np.random.default_rng(1)
    target = np.sqrt(dim) * np.linalg.qr(rng.normal(size=(dim, 2)))[0].T
    w = np.repeat(rng.normal(size=(1, 2, dim)) + 0.3 * target, runs, axis=0)
    start = dmft.Overlaps(w[0] @ w[0].T / dim, w[0] @ target.T / dim, target @ target.T / dim)
    from scipy.special import erf

    for _ in range(round(t_max * 2 * dim / gamma)):
        x = rng.normal(size=(runs, dim))
        h = np.einsum("nji,ni->nj", w, x) / np.sqrt(dim)
        y = erf(x @ target.T / np.sqrt(2 * dim)).mean(1) + np.sqrt(0.1) * rng.normal(size=runs)
        error = y - erf(h / np.sqrt(2)).mean(1)
        psi = error[:, None] * np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
        w += gamma / 2 * (psi[:, :, None] * x[:, None] / np.sqrt(dim) - zeta * w / dim)
    run = solve(with_decay(dmft.derive(two(ERF), dmft.SGD(gamma))), start, t_max, zeta=zeta)
    for found, theory in (
        (np.einsum("nji,nli->njl", w, w) / dim, run.Q[-1]),
        (w @ target.T / dim, run.M[-1]),
    ):
        spread = found.std(0, ddof=1) / np.sqrt(runs)
        assert np.all(np.abs(found.mean(0) - theory) < 4 * spread + 2 / dim)


# Every kind of equations -----------------------------------------------------------------------

KINDS = {
    "ode": (dmft.SGD(0.5), {}),
    "flow": (dmft.GradientFlow(), {}),
    "trained readout": (dmft.SGD(0.5, readout_rate=0.1), {}),
    "map": (dmft.SGD(50, batch_size=1000), {"dim": 1000}),
}


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize("kind", KINDS)
def test_a_term_adds_to_free_rates(kind):
    algorithm, options = KINDS[kind]
    equations, start = dmft.derive(two(), algorithm, **options), overlaps(*rows())
    before = equations.evaluate(start)
    after = both(with_decay(equations), start, zeta=0.3)
    np.testing.assert_allclose(after["M"], before["M"] - 0.3 * start.M, atol=1e-14)
    np.testing.assert_allclose(after["Q"], before["Q"] - 0.6 * start.Q, atol=1e-14)


def test_terms_of_averages_on_nodes_and_of_trained_readouts():
    algorithm = dmft.SGD(0.5, repeat=dmft.Lookahead(0.1), readout_rate=0)
    equations, start = dmft.derive(two(noise=0), algorithm), overlaps(*rows())
    change = with_decay(equations).evaluate(start, zeta=0.3)["Q"] - equations.evaluate(start)["Q"]
    np.testing.assert_allclose(change, -0.6 * start.Q, atol=1e-13)
    trained = dmft.derive(two(), dmft.SGD(0.5, readout_rate=0.1))
    a, j = trained.symbols["a"], trained.indices["j"]
    ridge = trained.with_term("readout", "ridge", -ZETA * a[j])
    change = ridge.evaluate(start, zeta=0.3)["readout"] - trained.evaluate(start)["readout"]
    np.testing.assert_allclose(change, [-0.3, -0.3], atol=1e-14)


def with_pull(equations):
    """B a_j sum_s w*_s added to the motion of the rows."""
    M, P, a = (equations.symbols[name] for name in ("M", "P", "a"))
    j, l, r, s = (equations.indices[name] for name in "jlrs")  # noqa: E741
    k, B = equations.symbols["k"], sp.Symbol("B")
    pulled = equations.with_term("M", "pull", B * a[j] * sp.Sum(P[r, s], (s, 1, k)))
    if "Q_perp" in equations.terms:
        return pulled
    return pulled.with_term("Q", "pull", 2 * B * a[j] * sp.Sum(M[l, s], (s, 1, k)))


@pytest.mark.usefixtures("generated_code")
def test_the_constraint_acts_on_a_term():
    """A pull B a_j sum_s w*_s of the rows, by its tangential part w_j' - w_j (w_j . w_j')/d."""
    w, target = rows(unit=True)
    start = overlaps(w, target)
    equations = dmft.derive(two(), dmft.SGD(0.5, constraint="sphere"))
    before, after = equations.evaluate(start), both(with_pull(equations), start, B=0.7)
    pull = 0.7 * np.tile(target.sum(0), (2, 1))
    tangent = pull - w * np.sum(w * pull, axis=1)[:, None] / 7
    np.testing.assert_allclose(after["M"] - before["M"], tangent @ target.T / 7, atol=1e-14)
    change = tangent @ w.T / 7
    np.testing.assert_allclose(after["Q"] - before["Q"], change + change.T, atol=1e-14)
    still = with_decay(equations).evaluate(start, zeta=0.7)  # decay is along the rows
    np.testing.assert_allclose(still["M"], before["M"], atol=1e-15)
    np.testing.assert_allclose(still["Q"], before["Q"], atol=1e-15)


@pytest.mark.usefixtures("generated_code")
def test_a_map_divides_by_the_lengths_after_a_term():
    w, target = rows(unit=True)
    start = overlaps(w, target)
    sgd = dmft.SGD(50, batch_size=1000)
    free = with_decay(dmft.derive(two(), sgd, dim=1000)).evaluate(start, zeta=0.1)
    sphere = dmft.derive(two(), dmft.SGD(50, batch_size=1000, constraint="sphere"), dim=1000)
    after = both(with_decay(sphere), start, zeta=0.1)
    length = 1 / np.sqrt(1 + np.diag(free["Q"]))
    M = (start.M + free["M"]) * length[:, None] - start.M
    Q = (start.Q + free["Q"]) * np.outer(length, length) - start.Q
    np.testing.assert_allclose(after["M"], M, atol=1e-13)
    np.testing.assert_allclose(after["Q"], Q, atol=1e-13)


@pytest.mark.usefixtures("generated_code")
def test_terms_of_wide_students():
    """M and Q_perp of the rows: free, and scaled back on the sphere."""
    w, target = rows(unit=True)
    start = overlaps(w, target)
    for constraint in (None, "sphere"):
        flow = dmft.derive(two(Z**2 + Z, 0), dmft.GradientFlow(constraint), scaling="mean-field")
        M, Q_perp = flow.symbols["M"], flow.symbols["Q_perp"]
        j, r = flow.indices.of("M")
        decaying = flow.with_term("M", "decay", -ZETA * M[j, r])
        decaying = decaying.with_term("Q_perp", "decay", -2 * ZETA * Q_perp[j])
        before, after = flow.evaluate(start), both(decaying, start, zeta=0.3)
        state, scale = flow.state(start), 0.0 if constraint else 0.3
        np.testing.assert_allclose(after["M"] - before["M"], -scale * start.M, atol=1e-14)
        change = after["Q_perp"] - before["Q_perp"]
        np.testing.assert_allclose(change, -2 * scale * state["Q_perp"], atol=1e-14)
        assert decaying.without("decay") == flow
        assert decaying.without("decay", block="M").without("decay", block="Q_perp") == flow
    pull = 0.7 * np.tile(target.sum(0), (2, 1))
    tangent = pull - w * np.sum(w * pull, axis=1)[:, None] / 7
    after = both(with_pull(flow), start, B=0.7)
    np.testing.assert_allclose(after["M"] - before["M"], tangent @ target.T / 7, atol=1e-13)
    residual = w - w @ target.T @ np.linalg.inv(target @ target.T) @ target
    change = 2 * np.sum(residual * tangent, axis=1) / 7
    np.testing.assert_allclose(after["Q_perp"] - before["Q_perp"], change, atol=1e-13)


def test_terms_of_the_infinitely_wide_limit_add_as_they_are():
    model, sgd = dmft.literature.phase_retrieval(100), dmft.SGD(20, constraint="sphere")
    equations = dmft.derive(model, sgd, scaling="wide-high-dimensional")
    X, (r,) = equations.symbols["variance"], equations.indices.of("variance")
    start = dmft.random_overlaps(model, 1000, seed=0, normalised=True)
    change = equations.with_term("variance", "leak", -ZETA * X[r]).evaluate(start, zeta=0.5)
    leak = change["variance"] - equations.evaluate(start)["variance"]
    np.testing.assert_allclose(leak, -0.5 * equations.state(start)["variance"], rtol=1e-12)


def test_a_term_of_an_sde_changes_the_drift_alone():
    model = dmft.Model(SQUARE, SQUARE, 0.3)
    noisy = dmft.derive(model, dmft.SGD(0.05), dim=200, fluctuations=True)
    before, after = noisy.evaluate(ONE), with_decay(noisy).evaluate(ONE, zeta=0.4)
    np.testing.assert_allclose(after["M"] - before["M"], -0.4 * ONE.M, atol=1e-14)
    np.testing.assert_allclose(after["covariance"], before["covariance"])
    with pytest.raises(BadParameter, match="covariance of the increments would keep"):
        noisy.replace({"label_noise": 0})


@pytest.mark.slow
def test_paths_with_a_term_follow_its_drift():
    model = dmft.Model(SQUARE, SQUARE, 0.3)
    noisy = dmft.derive(model, dmft.SGD(0.05), dim=200, fluctuations=True)
    paths = dmft.solve(with_decay(noisy), ONE, 0.1, paths=400, dt=0.01, seed=0, zeta=0.4)
    drift = dmft.solve(with_decay(dmft.derive(model, dmft.SGD(0.05))), ONE, 0.1, zeta=0.4)
    gap = paths.mean.M[-1, 0, 0] - drift.M[-1, 0, 0]
    assert abs(gap) < 4 * paths.stderr.M[-1, 0, 0] + 0.02  # the drift at order 1/d


def test_a_temperature_is_a_delta_of_the_indices(solve):
    """dw = -zeta w dt + sqrt(2 T) dB alone: Q relaxes to T / zeta."""
    equations = with_decay(dmft.derive(two(noise=0), dmft.GradientFlow()))
    j, l = equations.indices.of("Q")  # noqa: E741
    hot = equations.with_term("Q", "heat", 2 * TEMPERATURE * sp.KroneckerDelta(j, l))
    bath = hot.without("learning", "interaction")
    start = overlaps(*rows())
    both(hot, start, zeta=0.3, T=0.2)
    run = solve(bath, start, 1.5, rtol=1e-10, atol=1e-12, zeta=0.3, T=0.2)
    fall = np.exp(-2 * 0.3 * 1.5)
    expected = start.Q * fall + 0.2 / 0.3 * (1 - fall) * np.eye(2)
    np.testing.assert_allclose(run.Q[-1], expected, atol=1e-9)
    explicit = bath.explicit()
    assert explicit.rhs[explicit.symbols["Q_12"]] == -2 * ZETA * explicit.symbols["Q_12"]
    assert explicit.rhs[explicit.symbols["Q_11"]].has(TEMPERATURE)


@pytest.mark.usefixtures("generated_code")
def test_text_of_a_user_is_symmetrised_and_any_function_runs():
    equations, start = dmft.derive(two(), dmft.GradientFlow()), overlaps(*rows())
    Q, M, p, k = (equations.symbols[name] for name in "QMpk")
    j, l, r, u = (equations.indices[name] for name in "jlru")  # noqa: E741
    term = sp.Sum(M[j, r] * sp.exp(-Q[l, l]) * sp.sqrt(Q[u, u]), (r, 1, k), (u, 1, p))
    term += sp.sin(TEMPERATURE / p) * sp.tanh(M[j, 2]) / Q[l, l]
    after = both(equations.with_term("Q", "odd", term), start, T=0.2)
    sizes = np.diag(start.Q)
    plain = np.outer(start.M.sum(1), np.exp(-sizes)) * np.sqrt(sizes).sum()
    plain = plain + np.sin(0.1) * np.outer(np.tanh(start.M[:, 1]), 1 / sizes)
    change = after["Q"] - equations.evaluate(start)["Q"]
    np.testing.assert_allclose(change, (plain + plain.T) / 2, rtol=1e-12)
    error = equations.with_term("Q", "odd", term).evaluate_error(start, T=0.2)["Q"]
    assert np.all((error > 0) & (error < 1e-12))


def test_numbers_and_averages_are_terms_too():
    tanh = dmft.derive(two(sp.tanh(Z)), dmft.SGD(0.5))
    start, options = overlaps(*rows()), {"nodes": 256, "seed": 0, "replicas": 4}
    noise = tanh.terms["Q"]["sgd_noise"]
    halved = tanh.replace("Q", "sgd_noise", noise / 2).with_term("M", "wind", 0.1)
    before, after = (e.evaluate(start, **options) for e in (tanh, halved))
    quiet = tanh.without("sgd_noise").evaluate(start)
    np.testing.assert_allclose(after["Q"], (before["Q"] + quiet["Q"]) / 2, rtol=1e-12)
    np.testing.assert_allclose(after["M"], before["M"] + 0.1, rtol=1e-12)
    other = dmft.derive(two(sp.Symbol("beta") * Z**2), dmft.GradientFlow())
    own = next(d.expr for d in other.definitions if d.name == "b_learning")
    with pytest.raises(BadParameter, match="is an average of another model: it contains beta"):
        tanh.with_term("Q", "foreign", own)


@pytest.mark.usefixtures("generated_code")
def test_a_term_may_read_what_a_constraint_rewrites():
    """b and Phi are cut to their tangential parts unless a user's term reads them."""
    start = overlaps(*rows(unit=True))
    model = two(Z**2 + Z, 0)
    sphere = dmft.derive(model, dmft.GradientFlow(constraint="sphere"))
    free = dmft.derive(model, dmft.GradientFlow())
    j, r = sphere.indices.of("M")
    b, Phi, p = (sphere.symbols[name] for name in ("b_learning", "Phi", "p"))
    before = sphere.evaluate(start)
    after = both(sphere.with_term("M", "again", b[j, p + r]), start)
    drift = free.evaluate(start)["M"] - free.without("learning", block="M").evaluate(start)["M"]
    np.testing.assert_allclose(after["M"] - before["M"], drift, atol=1e-14)
    after = sphere.with_term("M", "length", Phi[j, j]).evaluate(start)
    growth = np.diag(free.evaluate(start)["Q"])[:, None] * np.ones((1, 2))
    np.testing.assert_allclose(after["M"] - before["M"], growth, atol=1e-14)
    loose = sphere.without("sphere", block="Q").evaluate(start)
    np.testing.assert_allclose(loose["Q"], free.evaluate(start)["Q"], atol=1e-14)
    np.testing.assert_allclose(loose["M"], before["M"], atol=1e-14)


# Dropping and replacing ------------------------------------------------------------------------


def by_hand(q, m, P, g, D, *, own=True, label=True):
    """theory/one_pass E.2: rates of one squared unit, its own output and the label noise apart."""
    F_m = 6 * m * P - (6 * m * q if own else 0)
    F_q = 4 * (P * q + 2 * m**2 - 3 * q**2) + 4 * g * (
        15 * q**3 - 6 * P * q**2 + 3 * P**2 * q - 24 * m**2 * q + 12 * P * m**2
    )
    return F_m, F_q + (4 * g * D * q if label else 0)


@pytest.mark.usefixtures("generated_code")
def test_dropping_terms_is_dropping_them_by_hand():
    equations = dmft.derive(dmft.Model(SQUARE, SQUARE, 0.2), dmft.SGD(0.1))
    for kept, hand in (
        (equations, {}),
        (equations.without("interaction", block="M"), {"own": False}),
        (equations.without("label_noise"), {"label": False}),
        (equations.without("label_noise", block="Q"), {"label": False}),
    ):
        rates, expected = both(kept, ONE), by_hand(1.2, 0.4, 0.9, 0.1, 0.2, **hand)
        np.testing.assert_allclose([rates["M"][0, 0], rates["Q"][0, 0]], expected, rtol=1e-13)
    assert equations.without("interaction", block="M").dropped == ("interaction",)


@pytest.mark.usefixtures("generated_code")
def test_replacing_terms_and_parameters():
    equations = dmft.derive(dmft.Model(SQUARE, SQUARE, 0.2), dmft.SGD(0.1))
    noise = equations.terms["Q"]["label_noise"]
    twice = both(equations.replace("Q", "label_noise", 2 * noise), ONE)
    np.testing.assert_allclose(twice["Q"], by_hand(1.2, 0.4, 0.9, 0.1, 0.4)[1], rtol=1e-13)
    assert (
        equations.replace("Q", "label_noise", 2 * noise).replace("Q", "label_noise", noise)
        == equations
    )
    tau = sp.Symbol("tau", positive=True)
    other = equations.replace({"label_noise": tau**2, equations.symbols["gamma"]: tau / 2})
    assert set(other.parameters) == {"tau"}
    rates = both(other, ONE, tau=0.6)
    np.testing.assert_allclose(rates["Q"], by_hand(1.2, 0.4, 0.9, 0.3, 0.36)[1], rtol=1e-13)
    run = dmft.solve(other, ONE, 0.1, tau=0.6)
    assert run.provenance["time_step_times_dim"] == 0.1  # the declared learning rate is the clock
    silent = equations.replace({"label_noise": 0})
    assert "label_noise" not in silent.terms["Q"]


# Records ---------------------------------------------------------------------------------------


def test_equations_say_how_they_were_changed(tmp_path):
    equations = dmft.derive(dmft.Model(SQUARE, SQUARE, 0.2), dmft.SGD(0.1))
    changed = with_decay(equations).without("sgd_noise")
    difference = equations.diff(changed)
    assert {b: list(t) for b, t in difference.added.items()} == {"M": ["decay"], "Q": ["decay"]}
    assert list(difference.dropped["Q"]) == ["sgd_noise"]
    assert not difference.changed
    assert not difference.others
    assert not equations.diff(equations)
    assert str(equations.diff(equations)) == "no difference"
    assert repr(changed.changes) == repr(difference)
    assert str(difference).splitlines()[1].split() == ["block", "change", "term", "expression"]
    assert len(str(difference).splitlines()) == 2 + 3
    assert difference.latex().count("decay") == 2
    assert r"\zeta M_{j r}" in difference.latex()
    back = changed.diff(equations)
    assert list(back.added["Q"]) == ["sgd_noise"]
    half = equations.replace("Q", "sgd_noise", equations.terms["Q"]["sgd_noise"] / 2)
    old, new = equations.diff(half).changed["Q"]["sgd_noise"]
    assert sp.simplify(new / old) == sp.Rational(1, 2)
    flow = dmft.derive(equations.model, dmft.GradientFlow())
    assert {"scaling", "algorithm"} <= set(flow.diff(equations).others)
    # Provenance, and what caches go by.
    assert changed.fingerprint != equations.fingerprint
    assert equations.provenance["changed_terms"] == []
    assert "M  added    decay: - ζ M[j,r]" in changed.provenance["changed_terms"]
    assert changed.provenance["dropped_terms"] == ["sgd_noise"]
    assert changed.without("decay") == equations.without("sgd_noise")
    assert with_decay(equations).without("decay") == equations
    assert with_decay(equations).without("decay").fingerprint == equations.fingerprint
    assert dmft.build(changed).source != dmft.build(equations).source
    # Shown, saved and read again.
    assert r"- \zeta M_{j r}" in changed.latex(symbolic=True)
    assert ", decay" in changed.latex(symbolic=True)
    assert "dM/dt = M [6 (P - Q) - ζ]" in str(changed)
    assert "Terms: M (learning, interaction, decay)," in str(changed)
    run = dmft.solve(changed, ONE, 0.5, zeta=0.1)
    run.save(tmp_path / "run.nc")
    known = dmft.load(tmp_path / "run.nc")
    assert known.parameters["zeta"] == 0.1
    assert known.provenance["changed_terms"] == changed.provenance["changed_terms"]
    assert known.provenance["equations"] == changed.fingerprint


def test_a_new_parameter_is_an_axis_of_sweeps_and_branches():
    equations = with_decay(dmft.derive(dmft.Model(LINE, LINE), dmft.GradientFlow()))
    zetas = [0.0, 0.25, 1.0]
    found = dmft.sweep({"zeta": zetas}, "final_risk", equations=equations, start=ONE, t_max=60)
    rest = [0.9 / 2 * (z / (1 + z)) ** 2 for z in zetas]
    np.testing.assert_allclose(found.values["final_risk"].ravel(), rest, atol=1e-8)
    point = dmft.Overlaps([[0.9]], [[0.9]], [[0.9]])
    branch = dmft.fixed_point_branch(equations, point, "zeta", (0.0, 1.0))
    np.testing.assert_allclose(branch.M[:, 0, 0], 0.9 / (1 + branch.parameter), rtol=1e-9)
    np.testing.assert_allclose(branch.growth_rate, -1 - branch.parameter, rtol=1e-9)
    with pytest.raises(BadParameter, match="no value for zeta; pass zeta="):
        dmft.solve(equations, ONE, 1.0)
    with pytest.raises(BadParameter, match="unknown parameter 'eta'"):
        dmft.solve(equations, ONE, 1.0, zeta=0.1, eta=0.1)


def test_a_perfect_solution_is_not_spoken_of_once_terms_changed():
    sgd = dmft.derive(two(ERF, 0), dmft.SGD(30.0))
    start = dmft.Overlaps(0.2 * np.eye(2), 0.1 * np.eye(2))
    assert "maximal learning rate" in dmft.solve(sgd, start, 0.01).message
    assert "maximal" not in dmft.solve(with_decay(sgd), start, 0.01, zeta=0.1).message


# Bad input ---------------------------------------------------------------------------------------

Q, M, P, A, H, OTHER = (sp.IndexedBase(name) for name in ("Q", "M", "P", "readout", "h", "X"))
J, L, R, S, FOREIGN = sp.symbols("j l r s n_0", integer=True)

REFUSED = [
    ("N", "decay", M[J, R], "no block is called 'N'; these equations have"),
    ("M", "learning", M[J, R], "have a term 'learning' already"),
    ("M", "free", M[J, R], "have a term 'free' already"),
    ("M", "weight decay", M[J, R], "the name of a term must be one word"),
    (
        "M",
        "new",
        M[J, FOREIGN],
        "the index n_0 of M.j, n_0. is not an index of teachers: use one of",
    ),
    ("M", "new", M[R, J], "the index r of M.r, j. is not an index of students"),
    ("M", "new", M[J, S], "the index s is free .* sum over it"),
    ("M", "new", M[J], "has 1 indices, write M.j, r."),
    ("M", "new", Q, "Q is an array: write its entries"),
    ("M", "new", "-zeta*M", "must be a SymPy expression"),
    ("M", "new", H[J] * M[J, R], "h.j. is a field of one sample"),
    ("M", "new", OTHER[J], "X.j. is not available in the rate of M.j, r.; available are"),
    ("M", "new", J * M[J, R], "the index j is used as a number"),
    ("M", "new", M[J, 3], "the index 3 of M.j, 3. is not known to be one of 1..2"),
    ("M", "new", sp.Symbol("Q") * M[J, R], "Q is an array: write its entries, Q.j, l."),
    ("M", "new", sp.log(Q[J, J]), "has no compiled code"),
    ("M", "new", Q[J, J] ** ZETA, "has no compiled code"),
    ("M", "new", sp.I * M[J, R], "is not a real number"),
    ("M", "new", sp.nan, "must be a SymPy expression or a finite number"),
    ("M", "new", sp.Sum(M[J, S], (S, 1, 2)), "sums run over all neurons"),
    ("M", "new", sp.Sum(M[J, R], (R, 1, sp.Symbol("k"))), "hides an index of the same name"),
    ("M", "new", ZETA * sp.Symbol("t") * M[J, R], "the rates do not depend on t"),
    ("M", "new", sp.Symbol("Delta") * M[J, R], "is printed like label_noise"),
    ("M", "new", sp.Symbol("seed") * M[J, R], "the symbol seed is reserved here; rename it"),
    ("M", "new", sp.Symbol("Omega") * M[J, R], "Omega is an array"),
    ("M", "new", sp.gamma(ZETA) * M[J, R], "gamma"),
    ("Q", "own", -2 * sp.Symbol("Q_11") ** 2, r"Q_11 is printed like the entry Q\[1, 1\]: "),
    ("M", "new", sp.Symbol("M[0,1]"), r"is printed like the entry M\[0, 1\]"),
    ("M", "new", sp.Symbol("a_1") * M[J, R], r'a_1 is printed .*equations.symbols\["readout"\]'),
]


@pytest.mark.parametrize(("block", "name", "expr", "words"), REFUSED)
def test_what_no_term_can_be_is_refused_in_words(block, name, expr, words):
    with pytest.raises(BadParameter, match=words):
        dmft.derive(two(), dmft.GradientFlow()).with_term(block, name, expr)


def test_symbols_of_equal_names_are_those_of_the_equations():
    """What a user types by hand, without the assumptions of the library."""
    equations = dmft.derive(two(), dmft.SGD(0.5))
    plain = {name: sp.Symbol(name) for name in ("j", "r", "learning_rate", "zeta")}
    hand = (
        -plain["zeta"]
        * plain["learning_rate"]
        * sp.IndexedBase("M", real=True)[plain["j"], plain["r"]]
    )
    j, r = equations.indices.of("M")
    own = -plain["zeta"] * equations.symbols["gamma"] * equations.symbols["M"][j, r]
    assert equations.with_term("M", "decay", hand) == equations.with_term("M", "decay", own)
    named = dmft.derive(two(), dmft.SGD(sp.Symbol("gamma")))  # the user's own name of the rate
    term = named.with_term("M", "decay", -sp.Symbol("gamma") * equations.symbols["M"][j, r])
    start = overlaps(*rows())
    change = term.evaluate(start, gamma=0.5)["M"] - named.evaluate(start, gamma=0.5)["M"]
    np.testing.assert_allclose(change, -0.5 * start.M, atol=1e-14)


def test_symbols_that_read_like_entries_are_refused_everywhere():
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, width=1)
    flow = dmft.derive(dmft.Model(square, square, label_noise=sp.Symbol("D")), dmft.SGD(0.1))
    with pytest.raises(BadParameter, match=r"M_11 is printed like the entry M\[1, 1\]"):
        flow.replace({"label_noise": sp.Symbol("M_11")})
    network = dmft.Committee(sp.Symbol("M_11") * sp.Symbol("z", real=True), width=1)
    with pytest.raises(BadParameter, match=r"M_11 is printed like overlap M\[1, 1\]"):
        dmft.derive(dmft.Model(network, network), dmft.SGD(0.1))
    descent = dmft.derive(dmft.Model(square, square), dmft.GradientDescent(0.1, samples_per_dim=2))
    with pytest.raises(BadParameter, match=r"Q_11 is printed like the entry Q\[1, 1\]"):
        descent.with_term("M", "own", sp.Symbol("Q_11"))
    # Numbers from 1 alone are in print.
    assert "Q_0" in flow.with_term("Q", "own", sp.Symbol("Q_0")).parameters


def test_other_refusals():
    flow = dmft.derive(two(), dmft.GradientFlow())
    with pytest.raises(BadParameter, match="M has no term 'noise'; it has"):
        flow.replace("M", "noise", 0)
    with pytest.raises(BadParameter, match="needs the new expression"):
        flow.replace("M", "learning")
    with pytest.raises(BadParameter, match="'gamma' is not a parameter that can be replaced"):
        flow.replace({"gamma": 1})
    with pytest.raises(BadParameter, match="no term of M is called 'noise'"):
        flow.without("noise", block="M")
    with pytest.raises(BadParameter, match="no block is called 'X'"):
        flow.without("learning", block="X")
    with pytest.raises(BadParameter, match="no block is called 'X'; available"):
        flow.indices.of("X")
    with pytest.raises(BadParameter, match="compared with equations of the same family"):
        flow.diff(dmft.population_risk(two()))
    steps = dmft.derive(two(), dmft.SGD(50, batch_size=1000), dim=sp.Symbol("d"))
    with pytest.raises(BadParameter, match="dim"):
        steps.replace({"dim": 100})
    descent = dmft.derive(dmft.Model(LINE, LINE), dmft.GradientDescent(0.1, samples_per_dim=2))
    M, (t, j, r) = descent.symbols["M"], descent.indices.of("M")
    with pytest.raises(BadParameter, match="have a term 'decay' already"):
        descent.with_term("M", "decay", 0)
    with pytest.raises(BadParameter, match="the index l is free"):
        descent.with_term("M", "own", M[t, descent.indices["l"], r])
    with pytest.raises(BadParameter, match="not an array of these equations"):
        descent.with_term("M", "own", sp.IndexedBase("P_3")[j, r])
    with pytest.raises(BadParameter, match="compared with equations of the same family"):
        descent.diff(flow)

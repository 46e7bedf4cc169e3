"""Fixed points, stability, boundaries, diagrams and escape times of rules; files and documents."""

import json
import runpy
import shutil
import subprocess

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft
from dmft import laws, rules
from dmft.errors import BadParameter, NotClosed
from dmft.literature import rules as lit
from dmft.rules import Random, Rows, View, fixed

penalty, g = sp.symbols("penalty g", positive=True)
# Minima of G_T, update_rules (8), and roots at penalty .1 (vectors rl_bistability_T*, rl_fixed).
THRESHOLDS = {2: 8.471448051549126, 8: 0.0576426632171232}
STABLE, UNSTABLE = 0.0588732490028664, 0.5136678270168368


def rewarded(T, rate=1, reward=1):
    return dmft.derive(lit.reinforcement_perceptron(T, reward, penalty, learning_rate=rate))


def reward_rates(y, T, eta2, rate=1.0):
    """(7) of the theory for rewards of T right decisions: dQ/dt and dM/dt."""
    Q, M = y
    s, rho = np.sqrt(Q), M / np.sqrt(Q)
    right = 1 - np.arccos(rho) / np.pi
    eta, A, B = 1 + eta2, right ** (T - 1), right**T
    front = eta / np.sqrt(2 * np.pi)
    dM = front * A * (1 + rho) - eta2 * rho * np.sqrt(2 / np.pi)
    noise = rate / (2 * s * T) * (B + eta2**2 * (1 - B))
    dQ = 2 * s * (front * A * (1 + rho) - eta2 * np.sqrt(2 / np.pi) + noise)
    return np.array([dQ, dM])


def hand_jacobian(y, T, eta2):
    """Differences of (7) with steps relative to lengths."""
    y = np.asarray(y)
    steps = 1e-4 * np.array([y[0], np.sqrt(y[0])])
    columns = []
    for n, h in enumerate(steps):
        e = h * np.eye(2)[n]
        at = [reward_rates(y + m * e, T, eta2) for m in (-2, -1, 1, 2)]
        columns.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h))
    return np.stack(columns, axis=1)


def test_rewards_have_a_stable_and_an_unstable_state():
    """Both are found without a start; their modes are those of the hand-written rates."""
    eqs = rewarded(8)
    points = dmft.fixed_points(eqs, penalty=0.1)
    assert "nan" not in str(points) + repr(points)  # the rule has no risk
    cosines = sorted(p.overlaps.M[0, 0] / p.overlaps.Q[0, 0] ** 0.5 for p in points)
    np.testing.assert_allclose(cosines, [STABLE, UNSTABLE], atol=1e-9)
    for point in points:
        at = point.overlaps.Q[0, 0], point.overlaps.M[0, 0]
        modes = dmft.stability(eqs, point, penalty=0.1)
        wanted = np.sort(np.linalg.eigvals(hand_jacobian(at, 8, 0.1)).real)[::-1]
        np.testing.assert_allclose(modes.eigenvalues.real, wanted, rtol=1e-7)
        right = 1 - np.arccos(at[1] / np.sqrt(at[0])) / np.pi
        assert point.measures == {"reward": pytest.approx(right**8, rel=1e-10)}
        assert modes.verdict == ("stable" if at[0] < 1e-3 else "unstable")


@pytest.mark.parametrize("T", [2, 8])
def test_bistability_begins_at_a_fold(T):
    """Stable and unstable state merge at the minimum of G_T; the learning rate drops out."""
    eqs, first = rewarded(T), 1.05 * THRESHOLDS[T]
    point = dmft.fixed_points(eqs, penalty=first)[0]
    ends = (first, 0.9 * THRESHOLDS[T])
    branch = dmft.fixed_point_branch(eqs, point, "penalty", ends)
    np.testing.assert_allclose(branch.folds, [THRESHOLDS[T]], rtol=1e-8)


@pytest.mark.slow  # test_bistability_begins_at_a_fold finds the same number
def test_boundary_of_bistability():
    """The branch of the stable state ends at the threshold, at every learning rate."""
    reward = sp.Symbol("reward", positive=True)
    eqs = dmft.derive(lit.reinforcement_perceptron(2, reward, 1, learning_rate=g))
    found = dmft.boundary(
        "growth_rate", ("reward", 0.105, 0.13), ("g", 0.5, 2.0), equations=eqs,
        start=dmft.Overlaps([[0.3]], [[0.4]]), grid=(3, 3), step=0.2,
    )  # fmt: skip
    (curve,) = found.curves
    np.testing.assert_allclose(1 / curve.x, THRESHOLDS[2], atol=3e-6)


def test_transition_of_principal_components():
    """The empty state of Oja's rule grows at omega - g/2: the transition is at g = 2 omega."""
    omega = sp.Symbol("omega", positive=True)
    found = dmft.boundary(
        "growth_rate", ("g", 0.5, 2.5), ("omega", 0.4, 1.0), grid=(3, 3), step=0.25,
        equations=dmft.derive(lit.principal_components([omega], "oja", g)),
        start=dmft.Overlaps([[1.2]], [[0.0]]),
    )  # fmt: skip
    (curve,) = found.curves
    np.testing.assert_allclose(curve.x, 2 * curve.y, atol=1e-5)


def test_modes_of_scalars_and_of_orthonormal_rows():
    """A linear unit with readout v around M = (2F)^(1/3); the empty state of a row on a sphere."""
    F = 0.5
    w, B, x, v = Rows("w"), fixed("B"), View("x"), sp.Symbol("v", real=True)
    e = B @ x - v * (w @ x)
    rule = dmft.UpdateField({w: F * e * x}, scalars={v: e * (w @ x)}, learning_rate=g)
    start = dmft.Overlaps([[1.1]], [[0.9]], scalars={v: 0.9})
    eqs = dmft.derive(rule)
    point, *_ = dmft.fixed_points(eqs, start, g=0.1)
    assert point.overlaps.scalars["v"] * point.overlaps.M[0, 0] == pytest.approx(1.0)
    modes = dmft.stability(eqs, point, g=0.1)
    assert modes.scalars["v"].shape == modes.eigenvalues.shape
    M, V = point.overlaps.M[0, 0], point.overlaps.scalars["v"]
    Q, S = point.overlaps.Q[0, 0], 0.1 * F**2
    # dQ = 2F(M - vQ) + S(1 - 2vM + v^2 Q), dM = F(1 - vM), dv = M - vQ
    wanted = np.linalg.eigvals([
        [-2 * F * V + S * V**2, 2 * F - 2 * S * V, -2 * F * Q + S * (2 * V * Q - 2 * M)],
        [0.0, -F * V, -F * M], [-V, 1.0, -Q],
    ])  # fmt: skip
    key = lambda y: (-y.real, y.imag)  # noqa: E731
    np.testing.assert_allclose(
        sorted(modes.eigenvalues, key=key), sorted(wanted, key=key), rtol=1e-6, atol=1e-7
    )
    u, omega = fixed("u"), 2.0
    spike = View("x", replaces={u: Random("c", laws.Normal(variance=1 + omega))})
    for constraint in ("sphere", "orthonormal"):
        rule = dmft.UpdateField({w: (w @ spike) * spike}, learning_rate=g, constraint=constraint)
        modes = dmft.stability(dmft.derive(rule), dmft.Overlaps([[1.0]], [[0.0]]), g=0.5)
        np.testing.assert_allclose(modes.eigenvalues, [omega - 0.25], rtol=1e-9)


def test_fixed_points_on_nodes_are_ends_of_runs():
    """Averages on nodes have no tangent equations: their rates are differenced."""
    eqs = dmft.derive(lit.contrastive_divergence(1.1))
    start = dmft.Overlaps([[0.5]], [[0.3]], [[1.5]], scalars={"b": 0.1})
    run = dmft.solve(eqs, start, 60.0, nodes=24, save_at=2)
    (point,) = dmft.fixed_points(eqs, run.final, nodes=24)
    assert str(point.status) == "ok", point.message
    rates = eqs.evaluate(point.overlaps, nodes=24)
    assert max(float(np.abs(y).max()) for y in rates.values()) < 1e-10
    assert dmft.stability(eqs, point, nodes=24).growth_rate < 0


def test_measures_of_rules_are_measures_of_diagrams():
    """The end and the escape of a reward, against the hand-written rates."""
    eqs, start = rewarded(3, g), dmft.Overlaps([[1.0]], [[0.2]])
    how = {"equations": eqs, "start": start, "t_max": 30.0}
    axes = ("penalty", [0.0, 0.02]), ("g", [0.5, 1.0])
    ends = dmft.phase_diagram("reward", *axes, **how)
    times = dmft.phase_diagram("escape_time", *axes, observable="reward", threshold=0.5, **how)

    def reward(y):
        return (1 - np.arccos(y[1] / np.sqrt(y[0])) / np.pi) ** 3

    for i, rate in enumerate((0.5, 1.0)):
        for j, eta2 in enumerate((0.0, 0.02)):
            run = solve_ivp(
                lambda t, y, *more: reward_rates(y, 3, *more), (0, 30), [1.0, 0.2],
                events=lambda t, y, *_: reward(y) - 0.5, args=(eta2, rate),
                rtol=1e-11, atol=1e-13, method="DOP853",
            )  # fmt: skip
            assert ends.values[i, j] == pytest.approx(reward(run.y[:, -1]), abs=1e-6)
            assert times.values[i, j] == pytest.approx(run.t_events[0][0], abs=1e-6)


def test_escape_of_a_measure_is_that_of_a_risk():
    """The same average, called risk or by a name of one's own; from the start and the plateau."""
    w, B, x = Rows("w", 2), fixed("B"), View("x")
    sigma = lambda y: sp.erf(y / sp.sqrt(2))  # noqa: E731
    e = sigma(B @ x) - sum(sigma(row @ x) for row in w) / 2
    steps = {row: e * sp.exp(-((row @ x) ** 2) / 2) * x for row in w}
    start = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.02], [0.03]])
    found = []
    for name, more in (("risk", {}), ("half", {"observable": "half"})):
        rule = dmft.UpdateField(steps, learning_rate=0.1, measures={name: e**2 / 2})
        run = dmft.solve(dmft.derive(rule), start, 40.0)
        found.append([
            dmft.escape_time(run, fraction=0.7, reference=reference, **more).value
            for reference in ("start", "plateau")
        ])  # fmt: skip
    np.testing.assert_array_equal(*found)


def test_refusals_of_questions():
    eqs, start = rewarded(2), dmft.Overlaps([[1.0]], [[0.2]])
    axes = ("penalty", [0.0, 0.1]), ("learning_rate", [0.5, 1.0])
    how = {"equations": eqs, "start": start, "t_max": 3.0}
    with pytest.raises(BadParameter, match="name one of them by observable="):
        dmft.escape_time(eqs, start, 3.0, penalty=0.0)
    with pytest.raises(BadParameter, match="the praise is not among"):
        dmft.escape_time(eqs, start, 3.0, penalty=0.0, observable="praise")
    with pytest.raises(BadParameter, match="no measure called risk; name one of reward"):
        dmft.phase_diagram("final_risk", *axes, **how)
    with pytest.raises(BadParameter, match="or one of reward"):
        dmft.boundary("praise", *axes, **how)
    with pytest.raises(BadParameter, match="needs starts="):
        dmft.fixed_points(dmft.derive(lit.feedback_alignment()))


# Files and documents ----------------------------------------------------------------------------

EXPORTED = {
    "adatron": lambda: lit.perceptron_rule("adatron"),
    "sanger": lambda: lit.principal_components([2, 0.6], "sanger", 0.5),
    "ica": lambda: lit.independent_component(laws.Rademacher()),
    "feedback": lambda: lit.feedback_alignment(),
    "episodes": lambda: lit.reinforcement_perceptron(3, 1, penalty),
    "blocks": lambda: lit.curriculum(1.0, 0.5),
}


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_rates_are_those_of_the_reference(name, tmp_path):
    """Each file compares itself with the NumPy reference at random states."""
    eqs = dmft.derive(EXPORTED[name]())
    file = dmft.export(eqs, tmp_path / "rates.py")
    found = runpy.run_path(str(file))
    error, passed = found["check"]()
    assert passed, error
    assert "Step of" in file.read_text()
    cc, node = shutil.which("cc"), shutil.which("node")
    if cc:
        source, binary = dmft.export(eqs, tmp_path / "rates.c"), tmp_path / "rates"
        how = [cc, "-std=c99", "-O1", "-ffp-contract=off", "-DDMFT_TEST", source, "-lm"]
        subprocess.run([*how, "-o", binary], check=True)
        subprocess.run([binary], check=True)
    if node:
        subprocess.run([node, dmft.export(eqs, tmp_path / "rates.mjs.js")], check=True)
    compile(dmft.export(eqs, tmp_path / "rates_jax.py").read_text(), "rates_jax.py", "exec")


@pytest.mark.slow
def test_exported_rates_are_the_rates_of_papers(tmp_path):
    """AdaTron, update_rules (6), from the file alone; a notebook that solves Sanger's rule."""
    found = runpy.run_path(str(dmft.export(dmft.derive(EXPORTED["adatron"]()), tmp_path / "a.py")))
    Q, M = 1.7, 0.6
    theta = np.arccos(M / np.sqrt(Q))
    A = (theta - np.cos(theta) * np.sin(theta)) / np.pi
    rates = found["rhs"](0.0, [[Q]], [[M]], [[1.0]])
    wanted = np.sqrt(Q) / np.pi * (np.sin(theta) - theta * np.cos(theta))
    assert rates["M"][0, 0] == pytest.approx(wanted, rel=1e-12)
    assert rates["Q"][0, 0] == pytest.approx(-2 * Q * A + Q * A, rel=1e-12)
    assert found["observables"]([[Q]], [[M]], [[1.0]])["error"] == pytest.approx(theta / np.pi)
    notebook = dmft.export(dmft.derive(EXPORTED["sanger"]()), tmp_path / "s.ipynb")
    book = json.loads(notebook.read_text())
    assert any('["Q"]' in "".join(cell["source"]) for cell in book["cells"])


def test_refusals_of_exports(tmp_path):
    with pytest.raises(NotClosed, match="an average without closed form"):
        dmft.export(dmft.derive(lit.reinforce()), tmp_path / "a.py")
    w, B, x = Rows("w"), fixed("B"), View("x")
    rule = dmft.UpdateField({w: sp.Abs(w @ x - B @ x) * sp.sign(B @ x) * x}, learning_rate=1)
    with pytest.raises(NotClosed, match=r"an average of signs and powers.*save the run"):
        dmft.export(dmft.derive(rule), tmp_path / "a.py")
    w, x, par = Rows("w"), View("x"), sp.Symbol("par", real=True)
    rule = dmft.UpdateField({w: par * x}, scalars={par: w @ x - par}, learning_rate=1)
    with pytest.raises(BadParameter, match="rename it"):
        dmft.export(dmft.derive(rule), tmp_path / "a.py")


@pytest.mark.slow
def test_documents_of_rules(tmp_path):
    every = [dmft.derive(EXPORTED[name]()) for name in ("adatron", "feedback", "ica")]
    text = dmft.latex(tmp_path / "rules.tex", *every, title="Rules").read_text()
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}") > 6
    assert "saad_solla_1995" in dmft.cite(every[0])
    if shutil.which("pdflatex"):
        how = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "rules.tex"]
        subprocess.run(how, cwd=tmp_path, check=True, capture_output=True)


# Exponents --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "f", "power", "coefficient"),
    [
        (laws.Rademacher(), -(sp.Symbol("z") ** 3), 3, 2),
        (laws.Uniform(-sp.sqrt(3), sp.sqrt(3)), -(sp.Symbol("z") ** 3), 3, sp.Rational(6, 5)),
        (laws.Laplace(1 / sp.sqrt(2)), sp.Symbol("z") ** 3, 3, 3),
        # E c^3 = 3/2: the square of the field has exponent 3, not 2.
        (laws.Discrete({2: 0.2, -sp.Rational(1, 2): 0.8}), sp.Symbol("z") ** 2, 2, 1.5),
    ],
)
def test_latent_directions_shift_the_exponent(law, f, power, coefficient):
    """dM/dt at g -> 0 begins with a cumulant of the latent, update_rules (12)."""
    flow = dmft.derive(lit.independent_component(law, f, sp.Symbol("g"))).explicit().rhs
    rate = next(value for symbol, value in flow.items() if symbol.name == "M_1_1")
    m = sp.Symbol("m", positive=True)
    values = {"M_1_1": m, "Q_1_1": 1, "P_1_1": 1, "learning_rate": 0}
    at = rate.xreplace({s: sp.sympify(values[s.name]) for s in rate.free_symbols})
    terms = sp.Poly(sp.expand(at), m).terms()
    found = {n: float(c) for (n,), c in terms if abs(float(c)) > 1e-12}
    assert min(found) == power
    assert found[power] == pytest.approx(float(coefficient), rel=1e-10)


def test_exponents_of_rules_are_refused():
    with pytest.raises(BadParameter, match="power of a small overlap"):
        dmft.information_exponent(lit.independent_component(laws.Rademacher()), [sp.Symbol("z")])


def test_overlaps_of_blocks_in_diagrams():
    """The cosine of totals, as the fields see them, for a spectrum and for a rule with blocks."""
    erf = sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2))
    spectrum = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    unit = dmft.Committee(erf, 1)
    model = dmft.Model(unit, unit, label_noise=0.1, inputs=spectrum)
    share = sp.Symbol("share", positive=True)
    blocks = dmft.Overlaps([[[0.3]], [[0.7]]], [[[0.1]], [[0.2]]], [[[0.3]], [[0.7]]])
    for eqs, names, P in (
        (dmft.derive(model, dmft.SGD(0.5)), ("learning_rate", "label_noise"), 2 * 0.3 + 0.5 * 0.7),
        (dmft.derive(lit.curriculum(1.0, 0.5, share, learning_rate=g)), ("g", "share"), 1.0),
    ):
        at = dict(zip(names, (0.4, 0.2), strict=True))
        axes = [(name, [value, 2 * value]) for name, value in at.items()]
        found = dmft.phase_diagram("overlap", *axes, equations=eqs, start=blocks, t_max=3.0)
        run = dmft.solve(eqs, blocks, 3.0, save_at=2, **at)
        wanted = abs(run.M[-1, 0, 0]) / (run.Q[-1, 0, 0] * P) ** 0.5
        assert found.values[0, 0] == pytest.approx(wanted, rel=1e-6)


def test_units_without_length_are_fixed_points():
    """A contrastive rule at w = 0, where dM = (2 (k + tau) - decay) M for clusters +-u, |u|^2 = k.

    Newton's method comes to Q = -2e-106 as well, which is no negative length.
    """
    tau, decay, k = sp.Symbol("tau", real=True), 0.5, 1.5
    w, u = Rows("w"), fixed("u")
    (a, b), n = (
        rules.views("a b", cov=[[1, tau], [tau, 1]], adds={u: Random("c", laws.Rademacher())}),
        View("n", adds={u: Random("e", laws.Rademacher())}),
    )
    h, other, far = w @ a, w @ b, w @ n
    step = other * a + h * b - h * far**2 * a - h**2 * far * n - decay * w
    eqs = dmft.derive(dmft.UpdateField({w: step}, learning_rate=0.2))
    found = dmft.phase_diagram(
        "growth_rate", ("tau", [0.2, 0.45]), ("learning_rate", [0.01, 0.19, 0.21, 0.3]),
        equations=eqs, start=dmft.Overlaps([[0.4]], [[0.0]], [[k]]),
    )  # fmt: skip
    np.testing.assert_allclose(found.values, [[2 * (k + t) - decay for t in (0.2, 0.45)]] * 4)


def test_fixed_points_and_modes_without_fixed_rows():
    """Oja's rule without spikes: dQ/dt = 2 Q - 2 Q^2 + g Q vanishes at Q = 1 + g/2."""
    w, x, g = Rows("w"), View("x"), 0.3
    h = w @ x
    eqs = dmft.derive(dmft.UpdateField({w: h * (x - h * w)}, learning_rate=g))
    start = dmft.Overlaps([[0.8]], np.zeros((1, 0)), np.zeros((0, 0)))
    (point,) = dmft.fixed_points(eqs, start)
    assert point.overlaps.Q[0, 0] == pytest.approx(1 + g / 2, rel=1e-12)
    modes = dmft.stability(eqs, point)
    assert modes.eigenvalues == pytest.approx([-2 - g], rel=1e-9)
    assert modes.M.shape == (1, 1, 0)


@pytest.mark.filterwarnings("error")
def test_growth_rates_of_rules_on_nodes():
    """Small rows grow by g/2 (E a^4 + (E a^2)^2) under noise alone; the search meets no Q < 0."""
    w, B, a = Rows("w"), fixed("B"), Random("a", laws.Uniform(0.5, 1.5))
    x = rules.copies(View("x", scale=a), 2)
    step = sp.tanh(w @ x[0]) * sp.sign(B @ x[1]) * (x[0] + x[1])
    eqs = dmft.derive(dmft.UpdateField({w: step}, learning_rate=0.6, batch_size=2))
    start, rates = dmft.Overlaps([[1.1]], [[0.3]], [[1.2]]), [0.1, 0.2]
    found = dmft.sweep({"learning_rate": rates}, "growth_rate", equations=eqs, start=start)
    fourth, second = (1.5**5 - 0.5**5) / 5, (1.5**3 - 0.5**3) / 3
    wanted = np.array(rates) / 2 * (fourth + second**2)
    np.testing.assert_allclose(found.values["growth_rate"], wanted, rtol=1e-4)

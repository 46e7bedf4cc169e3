"""Equations of motion of sequence models: published rates, closed forms, raw updates, runs."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.model import Encoding, token_fields

omega, alpha, rate = sp.symbols("omega alpha gamma", positive=True)
z = sp.Symbol("z", real=True)
m, e = sp.symbols("m e", real=True)
gamma = sp.Symbol("learning_rate", positive=True)
noise = sp.Symbol("label_noise", nonnegative=True)
TWO = dmft.Attention(2)
RELU = sp.Max(0, z)


def hermite_sum(length):
    y = token_fields(length)
    return dmft.SequenceTarget(sum(x**2 - 1 for x in y) / sp.sqrt(length), y)


def linear_sum(length):
    y = token_fields(length)
    return dmft.SequenceTarget(sum(y) / sp.sqrt(length), y)


def first_token(length):
    y = token_fields(length)
    return dmft.SequenceTarget(sp.sqrt(length) * y[0], y)


@pytest.fixture(scope="module")
def two_tokens():
    model = dmft.Model(
        TWO, TWO.mixture(omega, [[alpha, 1 - alpha], [1 - alpha, alpha]]), encoding=1
    )
    return dmft.derive(model, dmft.SGD(rate))


def values(row):
    return {"omega": row["omega"], "alpha": 1 / (1 + np.exp(-2 * row["a"] ** 2))}


def test_published_rates(two_tokens, sequence_vectors):
    problem = dmft.build(two_tokens)
    for number, row in enumerate(sequence_vectors["ode_rhs"]):
        start = dmft.Alignment(row["e"], row["m"])
        at = {**values(row), "gamma": row["gamma"]}
        rates = two_tokens.evaluate(start, **at)
        assert rates["e"] == pytest.approx(row["dedt"], abs=5e-14)
        assert rates["m"] == pytest.approx(row["dmdt"], abs=5e-14)
        if number > 2:
            continue
        # Compiled code and reference are views of one object.
        scalars = two_tokens.values(start, at).scalars
        par = np.array([scalars[name] for name in problem.parameters])
        out = np.empty(2)
        problem.rhs(0.0, np.array([row["e"], row["m"]]), np.array([2, 1]), par, out)
        np.testing.assert_allclose(out, [rates["e"], rates["m"]], atol=1e-14)


def test_published_run_of_attention(two_tokens):
    # theory/sequence C.4: ODE values at a = 1, omega = .6 from (.3, .3).
    at = {"omega": 0.6, "alpha": 1 / (1 + np.exp(-2.0))}
    start = dmft.Alignment(0.3, 0.3)
    run = dmft.solve(two_tokens, start, 60, gamma=2, **at)
    assert run.m[-1] == pytest.approx(0.9310, abs=5e-5)
    assert run.e.shape == run.m.shape == run.t.shape
    assert run.steps(1000)[-1] == pytest.approx(60 * 1000 / 2)
    assert dmft.solve(two_tokens, start, 80, gamma=4, **at).m[-1] == pytest.approx(0.7934, abs=5e-5)
    flow = dmft.derive(two_tokens.model, dmft.GradientFlow())
    assert dmft.solve(flow, start, 60, **at).m[-1] == pytest.approx(1.0, abs=5e-5)


def test_closed_forms_of_relu_networks():
    for length in (1, 2, 5):
        model = dmft.Model(dmft.SequenceNetwork(RELU, length), linear_sum(length))
        equations = dmft.derive(model, dmft.SGD(rate))
        N = sp.expand(next(d.expr for d in equations.definitions if d.name == "noise"))
        assert sp.expand(N - (1 - m)) == 0
        found = equations.explicit()[m]
        exact = (1 - m) * (1 + m - gamma * m) / 2 - gamma * noise * m / 4
        assert sp.expand(found - exact) == 0


def test_closed_forms_of_relu_networks_on_one_token():
    length = 4
    tied = dmft.derive(
        dmft.Model(dmft.SequenceNetwork(RELU, length), first_token(length)), dmft.SGD(rate)
    ).explicit()[m]
    N = ((1 - m) ** 2 + length - m**2) / 2
    assert sp.expand(tied.subs(noise, 0) - ((1 - m**2) / 2 - gamma * N * m / 2)) == 0
    untied = dmft.derive(
        dmft.Model(dmft.SequenceNetwork(RELU, length, False), first_token(length)), dmft.SGD(rate)
    ).explicit()
    ms = [s for s in untied if s.name.startswith("m")]
    mu = [s / 2 for s in ms]  # m_l / sqrt(4)
    N = (1 - 2 * 2 * mu[0] + length) / 2
    drift = [(2 * (1 - mu[0] ** 2) - gamma * N * mu[0]) / 2]
    drift += [-x * (2 * mu[0] + gamma * N) / 2 for x in mu[1:]]
    for symbol, wanted in zip(ms, drift, strict=True):
        assert sp.expand(untied[symbol].subs(noise, 0) / 2 - wanted) == 0


def test_closed_form_of_square_networks():
    for length in (2, 3):
        L = sp.Integer(length)
        # The theory's H_2 is He_2 / sqrt(2).
        network = dmft.SequenceNetwork((z**2 - 1) / sp.sqrt(2), length)
        target = dmft.SequenceTarget(hermite_sum(length).expr / sp.sqrt(2), token_fields(length))
        found = dmft.derive(dmft.Model(network, target), dmft.SGD(rate)).explicit()[m]
        q = m**2
        N = 10 * (1 - q / sp.sqrt(L)) ** 2 + (2 * (L - 2 * q + q**2) + 12 * q * (1 - q)) / L
        wanted = 4 * q * (1 - q) / sp.sqrt(L) - gamma * N * q
        assert sp.expand(2 * m * found.subs(noise, 0) - wanted) == 0


def raw_rates(model, e, m, gamma, label_noise, size=100_000):
    """Drift of (e.., m) by the mean of the exact step of C.1 in its d -> infinity limit."""
    rng = np.random.default_rng(11)
    length = model.length
    gram = np.array(model.encoding.gram.tolist(), dtype=float)
    pattern = np.array(model.encoding.pattern.tolist(), dtype=float).reshape(length, -1)
    # Projections of a token on w*, the positional basis, and w, jointly Gaussian.
    s = np.array([m, *e])
    joint = np.block([[gram, s[:, None]], [s[None, :], np.ones((1, 1))]])
    root = np.linalg.cholesky(joint + 1e-13 * np.eye(len(joint)))
    x = np.einsum("ab,nlb->nla", root, rng.standard_normal((size, length, len(joint))))
    shift = np.einsum("la,ab->lb", pattern, joint[1:-1, :])  # p_l projected on everything
    h = x[:, :, -1] + shift[:, -1]
    star = x[:, :, 0]
    fields = token_fields(length)
    pull = np.zeros_like(h)
    for mine, theirs in zip(model.student.outputs, model.teacher.outputs, strict=True):
        f, y, *slopes = (
            np.broadcast_to(sp.lambdify(fields, expr, ["scipy", "numpy"])(*arguments), size)
            for expr, arguments in [
                (mine, h.T), (theirs, star.T), *((sp.diff(mine, v), h.T) for v in fields),
            ]
        )  # fmt: skip
        error = f - y - np.sqrt(label_noise) * rng.standard_normal(size)
        pull += error[:, None] * np.array(slopes).T
    rows = []
    for a in range(len(s)):
        u = np.einsum("nl,nl->n", pull, x[:, :, a] + shift[:, a])
        radial = np.einsum("nl,nl->n", pull, h)
        rows.append(-u + s[a] * (radial - gamma / 2 * (pull**2).sum(axis=1)))
    return [(row.mean(), row.std() / np.sqrt(size)) for row in rows]


y3 = token_fields(3)
CUBIC = dmft.SequenceTarget(y3[0] * y3[1] + y3[2], y3)
RAW = {
    "oblique pair": (TWO, TWO.mixture(0.3, np.eye(2).tolist()), Encoding(
        [1, -1], [[1, 0.45], [0.45, 2.25]]), [0.3], 0.4, 0.0),
    "trace of three": (dmft.Attention(3, "trace"), CUBIC, None, [], 0.4, 0.5),
    "tanh network": (dmft.SequenceNetwork(sp.tanh(z), 3), CUBIC, None, [], 0.4, 0.2),
    "polynomials": (dmft.SequenceTarget(y3[0] * y3[2] - y3[1], y3), CUBIC,
                    np.eye(4).tolist(), [0.2, -0.3, 0.4], 0.5, 0.0),
}  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "oblique pair" else []) for n in RAW]
)
def test_rates_are_those_of_the_raw_update(name):
    student, teacher, encoding, at, overlap, label_noise = RAW[name]
    model = dmft.Model(student, teacher, label_noise, encoding=encoding)
    equations = dmft.derive(model, dmft.SGD(0.7))
    where = at[0] if len(at) == 1 else at or 0.0
    start = dmft.Alignment(where, overlap, radius=1.5)
    rates = equations.evaluate(start)
    measured = raw_rates(model, at, overlap, 0.7, label_noise)
    found = [float(rates["m"]), *(np.atleast_1d(rates["e"]) if at else [])]
    for value, (mean, error) in zip(found, measured, strict=True):
        assert abs(value - mean) < 4.5 * error


def test_batches_divide_the_noise_and_correlation_drops_the_own_output():
    network = dmft.SequenceNetwork(z**2 - 1, 2)
    model = dmft.Model(network, hermite_sum(2), label_noise=0.3)
    start = dmft.Alignment(m=0.4)
    one, ten = (dmft.derive(model, dmft.SGD(0.5, batch_size=n)).evaluate(start) for n in (1, 10))
    flow = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    assert one["m"] - flow["m"] == pytest.approx(10 * (ten["m"] - flow["m"]))
    correlated = dmft.derive(model, dmft.SGD(0.5, loss="correlation")).evaluate(start)
    # E sigma'(u)^2 y^2 + Delta E sigma'^2 by the closed form: sigma' = 2 u, y = sum He_2 / sqrt(2).
    law = dmft.Gaussian(
        sp.symbols("a b c d", real=True),
        [[1, 0, 0.4, 0], [0, 1, 0, 0.4], [0.4, 0, 1, 0], [0, 0.4, 0, 1]],
    )
    a, b, c, d = law.fields
    target = (a**2 + b**2 - 2) / sp.sqrt(2)
    u = (c + d) / sp.sqrt(2)
    N = float(law.expect(sp.expand(4 * u**2 * (target**2 + sp.Rational(3, 10)))))
    drift = float(flow["m"])  # E f^2 does not depend on m
    assert correlated["m"] == pytest.approx(drift - 0.5 / 2 * N * 0.4)


def test_terms_can_be_dropped_and_printed():
    model = dmft.Model(dmft.SequenceNetwork(z**2 - 1, 2), hermite_sum(2))
    equations = dmft.derive(model, dmft.SGD(0.5))
    assert sorted(equations.terms["m"]) == ["label_noise", "learning", "sgd_noise", "sphere"]
    flow = dmft.derive(model, dmft.GradientFlow())
    quiet = equations.without("sgd_noise", "label_noise")
    start = dmft.Alignment(m=0.4)
    assert quiet.evaluate(start)["m"] == pytest.approx(float(flow.evaluate(start)["m"]))
    assert quiet.fingerprint != equations.fingerprint
    assert quiet.provenance["dropped_terms"] == ["sgd_noise", "label_noise"]
    text = equations.latex()
    assert r"\frac{d m}{dt}" in text
    assert r"\mathcal{G} &=" in text
    assert "approx" not in text
    with pytest.raises(BadParameter, match="no term"):
        equations.without("drift")


def test_run_reaches_perfect_recovery_and_its_file_is_itself(tmp_path):
    model = dmft.Model(dmft.SequenceNetwork(RELU, 3), linear_sum(3))
    equations = dmft.derive(model, dmft.SGD(0.5))
    run = dmft.solve(equations, dmft.Alignment(m=0.05), 12, save_at=7)
    # (1 + (1 - gamma) m) / (1 - m) = C exp((2 - gamma) t / 2), theory/sequence C.4
    left = (1 + 0.5 * run.m) / (1 - run.m)
    np.testing.assert_allclose(left / left[0], np.exp(0.75 * run.t), rtol=1e-5)
    np.testing.assert_array_equal(run.e, np.zeros(7))
    assert run.provenance["approximation"] == "exact"
    assert "SequenceNetwork" in run.provenance["model"]
    assert "0.5" in run.provenance["algorithm"]
    assert dmft.load(run.save(tmp_path / "run.nc")) == run
    escape = dmft.escape_time(run, overlap=0.5)
    exact = np.log((1.25 / 0.5) / ((1 + 0.5 * 0.05) / 0.95)) / 0.75
    assert escape.value == pytest.approx(exact, rel=1e-8)
    event = dmft.Event("m", 0.5, 1)
    stopped = dmft.solve(equations, dmft.Alignment(m=0.05), 12, events=event)
    assert stopped.t[-1] == pytest.approx(exact, rel=1e-6)
    by_risk = dmft.escape_time(equations, dmft.Alignment(m=0.05), 12, fraction=0.2)
    assert by_risk.value < escape.value * 2


def test_runs_are_drawn(tmp_path):
    model = dmft.Model(dmft.SequenceNetwork(RELU, 2, False), first_token(2))
    run = dmft.solve(dmft.derive(model, dmft.SGD(0.2)), dmft.Alignment(m=[0.1, 0.05]), 5)
    assert run.m.shape == (len(run), 2)
    overlaps, risk = dmft.plot(run, path=tmp_path / "run.png")
    labels = [t.get_text() for t in overlaps.get_legend().get_texts()]
    assert labels == ["$m_{1}$", "$m_{2}$"]
    assert run.overlap[-1] == pytest.approx(np.linalg.norm(run.m[-1]) / np.sqrt(2))
    assert run.risk[-1] < run.risk[0]
    assert (tmp_path / "run.png").exists()
    chains = dmft.simulate(
        model, dmft.SGD(0.2), 200, 5.0, 4, dmft.Alignment(m=[0.1, 0.05]), "overlaps", save_at=4
    )
    _, risk = dmft.plot(run, chains)
    assert any("mean of 4 runs" in t.get_text() for t in risk.get_legend().get_texts())


def test_tied_and_untied_runs_are_one_for_symmetric_targets():
    tied = dmft.derive(dmft.Model(dmft.SequenceNetwork(RELU, 3), linear_sum(3)), dmft.SGD(0.5))
    untied = dmft.derive(
        dmft.Model(dmft.SequenceNetwork(RELU, 3, False), linear_sum(3)), dmft.SGD(0.5)
    )
    one = dmft.solve(tied, dmft.Alignment(m=0.1), 4, save_at=5)
    other = dmft.solve(untied, dmft.Alignment(m=[0.1] * 3), 4, save_at=5)
    np.testing.assert_allclose(one.m, other.m[:, 0], rtol=1e-6)
    # The same curve takes L times as many steps: the gain.
    np.testing.assert_allclose(other.steps(100), 3 * one.steps(100))


def test_refusals(two_tokens):
    with pytest.raises(InvalidCovariance, match=r"e\^2/r\^2 \+ m\^2"):
        dmft.solve(two_tokens, dmft.Alignment(1.4, 0.3, radius=2), 1, gamma=1, omega=0.5, alpha=0.9)
    network = dmft.SequenceNetwork(z**2, 2)
    model = dmft.Model(network, hermite_sum(2))
    equations = dmft.derive(model, dmft.SGD(0.1))
    cases = [
        (lambda: dmft.derive(model, dmft.SGD(0.1), dim=100), "fluctuations=True"),
        (lambda: dmft.derive(model, dmft.SGD(0.1), fluctuations=True), "pass dim="),
        (lambda: dmft.derive(model, dmft.SGD(0.1, repeat=dmft.Repeat(2))), "no repeat"),
        (lambda: dmft.derive(model, dmft.GradientDescent(0.1, 2)), "GradientFlow"),
        (lambda: dmft.derive(model, dmft.SGD(0.1, loss="huber")), "not derived for sequence"),
        (lambda: dmft.derive(model, dmft.SGD(0.1, loss="logistic")), "'correlation'"),
        (lambda: dmft.solve(equations, dmft.Overlaps([[1]], [[0.1]]), 1), "Alignment"),
        (lambda: dmft.random_overlaps(model, 100, 0), "committees"),
        (lambda: dmft.escape_formula(model, dmft.SGD(0.1)), "committees"),
        (lambda: dmft.regimes(model), "committees"),
        (lambda: dmft.weak_recovery(model, dmft.SGD(0.1)), "sequence"),
        (
            lambda: dmft.derive(
                dmft.Model(network, dmft.SequenceTarget(e * a_(), [a_()])), dmft.SGD(0.1)
            ),
            "tokens",
        ),
    ]
    for refused, words in cases:
        with pytest.raises((BadParameter, ShapeMismatch), match=words):
            refused()
    for name in (e, sp.Symbol("t_max", real=True)):
        named = dmft.SequenceTarget(name * z, [z, sp.Symbol("y")])
        with pytest.raises(BadParameter, match="reserved"):
            dmft.derive(dmft.Model(network, named), dmft.SGD(0.1))


def a_():
    return sp.Symbol("a", real=True)


def test_largest_learning_rates(sequence_vectors):
    known = sequence_vectors["gamma_max_attention_L2_omega0"]
    attention = dmft.Model(TWO, TWO, encoding=1)
    found = dmft.maximal_learning_rate(attention, dmft.SGD(0.1))
    assert float(found) == pytest.approx(known["gamma_max"], abs=1e-11)
    for network in (dmft.SequenceNetwork(RELU, 3), dmft.SequenceNetwork(z, 2, False)):
        teacher = dmft.SequenceNetwork(network.activation, network.length)
        assert dmft.maximal_learning_rate(dmft.Model(network, teacher), dmft.SGD(0.1)) == 2
    other = dmft.Model(dmft.SequenceNetwork(RELU, 2), linear_sum(2))
    with pytest.raises(BadParameter, match="no perfect solution"):
        dmft.maximal_learning_rate(other, dmft.SGD(0.1))
    with pytest.raises(BadParameter, match="one activation"):
        dmft.noise_floor(attention, dmft.SGD(0.1))


@pytest.mark.slow
def test_the_largest_learning_rate_is_where_recovery_turns_unstable():
    attention = dmft.Model(TWO, TWO, encoding=1)
    equations = dmft.derive(attention, dmft.SGD(rate))
    limit = float(dmft.maximal_learning_rate(attention, dmft.SGD(0.1)))
    # Terms of order 1 - m move the limit by less than the margins.
    start = dmft.Alignment(0.0, 1 - 1e-3)
    below, above = (equations.evaluate(start, gamma=limit * f)["m"] for f in (0.99, 1.01))
    assert below > 0 > above


def test_initial_learning_rates_are_where_a_small_overlap_stops_growing():
    attention = dmft.Model(dmft.Attention(2, "trace"), hermite_sum(2))
    cubic = dmft.Model(dmft.SequenceNetwork(z**3 - 3 * z, 2), dmft.SequenceNetwork(z**3 - 3 * z, 2))
    plain = dmft.Model(dmft.SequenceNetwork(RELU, 2, False), linear_sum(2), label_noise=0.2)
    for model, direction in ((attention, 1.0), (cubic, 1.0), (plain, np.ones(2))):
        limit = dmft.initial_learning_rate(model, dmft.SGD(1), overlap=1e-3)
        equations = dmft.derive(model, dmft.SGD(rate))
        start = dmft.Alignment(m=1e-3 * direction)
        below, above = (
            np.max(equations.evaluate(start, gamma=limit * f)["m"]) for f in (0.99, 1.01)
        )
        assert below > 0 > above
    stuck = dmft.Model(
        dmft.Attention(2, "trace"), dmft.SequenceTarget(sp.prod(token_fields(2)), token_fields(2))
    )
    with pytest.raises(BadParameter, match="does not grow"):
        dmft.initial_learning_rate(stuck, dmft.SGD(1), overlap=0.01)


@pytest.mark.parametrize("length", [2, 5, 8])
def test_gains_from_the_length_of_a_sequence(length):
    relu = dmft.SequenceNetwork(RELU, length)
    y = token_fields(length)
    gain = dmft.sequence_length_gain
    assert gain(linear_sum(length), relu) == pytest.approx(length)
    assert gain(first_token(length), relu) == pytest.approx(np.sqrt(length))
    assert gain(hermite_sum(length), relu) == pytest.approx(length)
    assert gain(dmft.SequenceTarget(y[0] - y[1], y), relu) == pytest.approx(0, abs=1e-12)
    # z_1 z_2: tied sees 1/L of it, the best direction (1, 1)/sqrt(2) half of it.
    assert gain(dmft.SequenceTarget(y[0] * y[1], y), relu) == pytest.approx(2)
    # The curvature along (1, ..., 1) is negative: the tied network is driven away from the target.
    assert gain(dmft.SequenceTarget(y[0] ** 2 - 3 * y[1] ** 2, y), relu) == 0

"""Inputs from clusters in one pass: every rate against Monte Carlo of one step in R^10."""

import numpy as np
import pytest
import sympy as sp
from scipy import stats

import dmft
from dmft.equations.reference import evaluate
from dmft.errors import BadParameter, ShapeMismatch

z, f, y, u, v = sp.symbols("z f y u v", real=True)
erf, relu, tanh = sp.erf(z / sp.sqrt(2)), sp.Max(0, z), sp.tanh(z)
LOGISTIC = sp.log(1 + sp.exp(-f * y))
DIM, SAMPLES, SIGMAS = 10, 100_000, 5.0

ONE = dmft.Overlaps([[1.0]], [[0.3]], [[1.2]])
PAIR = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.1, 0.2], [0.3, 0.1]], [[1.2, 0.1], [0.1, 0.9]])
WIDE = dmft.Overlaps([[1.0]], [[0.2, 0.1]], [[1.0, 0.1], [0.1, 1.0]])
UNIT = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.1, 0.2], [0.3, 0.1]], [[1.2, 0.1], [0.1, 0.9]])

SCALED = dmft.GaussianMixture([[1.0], [-0.7]], weights=[0.3, 0.7], scales=[1.0, 0.5])
THREE = dmft.GaussianMixture([[1.0, 0.2], [-0.5, 0.3], [0.0, 0.0]], weights=[0.3, 0.5, 0.2])
TWINS = dmft.GaussianMixture([[1.0], [-0.7]], [1, -1], [0.4, 0.6])
XOR = dmft.GaussianMixture([[1, 0], [-1, 0], [0, 1], [0, -1]], [1, 1, -1, -1], scales=[0.6] * 4)
CURVED = dmft.GaussianMixture([[1.0], [-0.7]], [u**2, -1], [0.4, 0.6], fields=u)


def network(activation, width, readout=None):
    return dmft.Committee(activation, width, readout)


def drawn(model, start, samples=SAMPLES, seed=0):
    """Inputs (n, d), fields, labels without noise, clusters and weights, by the definition."""
    rng = np.random.default_rng(seed)
    p, k = start.p, start.k
    basis = np.linalg.qr(rng.standard_normal((DIM, p + k)))[0].T
    rows = np.sqrt(DIM) * np.linalg.cholesky(start.Omega) @ basis
    mixture = model.inputs
    number = rng.choice(len(mixture.weights), samples, p=mixture.weights)
    X = rng.standard_normal((samples, DIM)) * np.sqrt(mixture.scales[number])[:, None]
    X += (mixture.means @ rows[p:] / np.sqrt(DIM))[number]
    fields = X @ rows.T / np.sqrt(DIM)
    noise = np.sqrt(float(model.label_noise)) * rng.standard_normal(samples)
    label = labels(model, fields[:, p:], number)
    return X, fields[:, :p], fields[:, p:], label, noise, number


def function(expr, *symbols):
    """A SymPy expression on arrays."""
    plain = expr.replace(sp.Heaviside, lambda q, *_: (1 + sp.sign(q)) / 2)
    called = sp.lambdify(symbols, plain, ["scipy", "numpy"])
    return lambda *arrays: np.broadcast_to(called(*arrays), arrays[0].shape).astype(float)


def labels(model, star, number):
    teacher = model.teacher
    if isinstance(teacher, dmft.Committee):
        return function(teacher.activation, z)(star).mean(axis=1)
    if isinstance(teacher, dmft.MultiIndex):
        return function(teacher.expr, *teacher.fields)(*star.T)
    found = np.zeros(len(star))
    for c, label in enumerate(teacher.labels):
        found[number == c] = function(label, *teacher.fields)(*star[number == c].T)
    return found


def updates(model, algorithm, start, draw):
    """psi (n, p), the error -dl/df (n,), the output (n,), the loss (n,)."""
    _, h, _, label, noise, _ = draw
    readout = np.array(model.student.readout or [1.0] * start.p, dtype=float)
    sigma = model.student.activation
    output = function(sigma, z)(h) @ readout / start.p
    loss = getattr(algorithm, "loss", "squared")
    loss = {"squared": (f - y) ** 2 / 2, "correlation": 1 - f * y}.get(loss, loss)
    error = -function(sp.diff(loss, f), f, y)(output, label + noise)
    slope = function(sp.diff(sigma, z), z)(h)
    return (
        readout * slope * error[:, None],
        error,
        output,
        function(loss, f, y)(output, label + noise),
    )


def mean(values):
    """Mean over samples and its standard error."""
    return values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))


def check(model, algorithm, start):
    """All rates and the risk within five standard errors of one step in R^10."""
    equations = dmft.derive(model, algorithm)
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    draw = drawn(model, start)
    _, h, star, label, _, number = draw
    psi, error, output, _ = updates(model, algorithm, start, draw)
    pulled = psi[:, :, None] * h[:, None, :]
    dQ = pulled + pulled.transpose(0, 2, 1)
    decay = float(algorithm.weight_decay)
    if isinstance(algorithm, dmft.SGD):
        scale = float(algorithm.learning_rate) / start.p / algorithm.batch_size
        square = model.inputs.scales[number][:, None, None] * psi[:, :, None] * psi[:, None, :]
        dQ = dQ + scale * square
    dM = psi[:, :, None] * star[:, None, :]
    if algorithm.on_sphere:
        own = np.diagonal(dQ, axis1=1, axis2=2) / 2
        dM = dM - start.M * own[:, :, None]
        dQ = dQ - start.Q * (own[:, :, None] + own[:, None, :])
    wanted = {"M": mean(dM - decay * start.M), "Q": mean(dQ - 2 * decay * start.Q)}
    if getattr(algorithm, "trains_readout", False):
        step = float(algorithm.readout_rate) * error[:, None]
        wanted["readout"] = mean(step * function(model.student.activation, z)(h))
    for name, (value, spread) in wanted.items():
        gap = np.abs(rates[name] - value)
        assert np.all(gap <= SIGMAS * spread + claims[name] + 1e-12), (name, gap, spread)
    value, spread = mean((label - output) ** 2 / 2)
    risk = dmft.population_risk(model)(start.Q, start.M, start.P)
    assert abs(risk - value) <= SIGMAS * spread + getattr(risk, "error", 0.0)


SPHERE = dmft.SGD(0.5, constraint="sphere")
FLOW = dmft.GradientFlow(weight_decay=0.2)
WHOLE = dmft.SGD(0.5, readout_rate=0.3, weight_decay=0.1, batch_size=2)
PRODUCT = dmft.MultiIndex(u * v, [u, v])
CASES = {
    # of the student, of the labels, of the loss, of the algorithm
    "square, teacher": (network(z**2, 2), network(z**2, 2), THREE, WHOLE, PAIR),
    "square, XOR": (network(z**2, 2, (1, -0.5)), XOR, None, dmft.SGD(0.5), PAIR),
    "square, product, correlation": (
        network(z**2, 1), PRODUCT, THREE, dmft.SGD(0.5, loss="correlation"), WIDE,
    ),
    "cubic on the sphere": (network(z**3 - 3 * z, 2), XOR, None, SPHERE, UNIT),
    "erf, teacher, scales": (network(erf, 1), network(erf, 1), SCALED, WHOLE, ONE),
    "erf, XOR": (network(erf, 2, (1, -0.5)), XOR, None, dmft.SGD(0.5), PAIR),
    "erf on the sphere": (network(erf, 1), TWINS, None, SPHERE, dmft.Overlaps([[1]], [[0.3]])),
    "erf, own labels, flow": (network(erf, 1), CURVED, None, FLOW, ONE),
    "ReLU, teacher": (network(relu, 1), network(relu, 1), SCALED, dmft.SGD(0.5), ONE),
    "tanh, clusters": (network(tanh, 1), TWINS, None, FLOW, ONE),
    "tanh, product": (network(tanh, 1), PRODUCT, THREE, dmft.SGD(0.5), WIDE),
    "line, logistic": (network(z, 1), TWINS, None, dmft.SGD(0.5, loss=LOGISTIC), ONE),
    "erf, logistic, readout": (
        network(erf, 2), XOR, None, dmft.SGD(0.5, loss=LOGISTIC, readout_rate=0.3), PAIR,
    ),
    "ReLU, logistic, sign": (
        network(relu, 1), network(sp.sign(z), 1), SCALED, dmft.SGD(0.5, loss=LOGISTIC), ONE,
    ),
    "line, quartic loss": (
        network(z, 2), network(z, 2), THREE, dmft.SGD(0.5, loss=(f - y) ** 4 / 4), PAIR,
    ),
}  # fmt: skip


@pytest.mark.cases("erf on the sphere", "erf, teacher, scales", "line, logistic")
@pytest.mark.parametrize("name", CASES)
def test_rates_against_one_step(name):
    student, teacher, inputs, algorithm, start = CASES[name]
    noise = 0.0 if "sphere" in name else 0.1
    check(dmft.Model(student, teacher, noise, inputs=inputs), algorithm, start)


@pytest.mark.cases("erf, logistic, readout")
@pytest.mark.parametrize("name", ["line, logistic", "erf, logistic, readout"])
def test_expected_loss_is_its_mean(name):
    student, teacher, _, algorithm, start = CASES[name]
    model = dmft.Model(student, teacher)
    equations = dmft.derive(model, algorithm)
    values = equations.values(start, {})
    found = evaluate(equations.on_nodes, equations.state(start), values, "observable")
    value, spread = mean(updates(model, algorithm, start, drawn(model, start))[3])
    assert abs(found["loss"] - value) <= SIGMAS * spread + 1e-3 * abs(value)


@pytest.mark.parametrize("repeat", [dmft.Lookahead(0.3), dmft.SharpnessAware(0.3), dmft.Repeat(2)])
def test_repeated_samples_of_clusters(repeat):
    """A gradient at fields displaced along the sample's own gradient, |x|^2/d being the scale."""
    mixture = dmft.GaussianMixture([[1.0], [-0.7]], [1, -1], [0.4, 0.6], scales=[0.5, 1.5])
    gamma, model = 0.4, dmft.Model(network(erf, 1), mixture)
    rates = dmft.derive(model, dmft.SGD(gamma, repeat=repeat)).evaluate(ONE)
    _, h, star, label, _, number = drawn(model, ONE)
    sigma, slope = function(erf, z), function(sp.diff(erf, z), z)
    scale = mixture.scales[number]

    def psi(at):
        return slope(at) * (label - sigma(at))

    at = h[:, 0]
    step = gamma if isinstance(repeat, dmft.Repeat) else repeat.sign * float(repeat.rho)
    second = psi(at + scale * step * psi(at))
    total = psi(at) + second if isinstance(repeat, dmft.Repeat) else second
    for value, rate in (
        (total * star[:, 0], rates["M"][0, 0]),
        (2 * total * at + gamma * scale * total**2, rates["Q"][0, 0]),
    ):
        value, spread = mean(value)
        assert abs(rate - value) <= SIGMAS * spread + 1e-6


def gradient_gram(model, start, parts=40):
    """Gram matrix of the mean gradients E[psi_j x], over d, and its standard error."""
    draw = drawn(model, start)
    psi = updates(model, dmft.SGD(1.0), start, draw)[0]
    split = [np.array_split(array, parts) for array in (psi, draw[0])]
    means = np.array([a.T @ b / len(a) for a, b in zip(*split, strict=True)])
    grams = [one @ two.T for one, two in zip(means[::2], means[1::2], strict=True)]
    return mean(np.array([(gram + gram.T) / 2 for gram in grams]))


@pytest.mark.cases("square", "erf")
@pytest.mark.parametrize(
    ("student", "teacher", "inputs", "start"),
    [
        (network(z**2, 2), network(z**2, 2), THREE, PAIR),
        (network(erf, 1), TWINS, None, ONE),
        (network(tanh, 1), PRODUCT, THREE, WIDE),
        (network(tanh, 1), network(tanh, 1), SCALED, ONE),
        (network(relu, 1), network(relu, 1), SCALED, ONE),
    ],
    ids=["square", "erf", "tanh, product", "tanh", "ReLU"],
)
def test_map_of_large_batches(student, teacher, inputs, start):
    """dQ = drift + (d/n_b) S + (1 - 1/n_b) times the Gram matrix of the mean gradients."""
    model, size, dim = dmft.Model(student, teacher, 0.1, inputs=inputs), 300, 200
    step = 1.0 / start.p
    map_ = dmft.derive(model, dmft.SGD(float(dim), batch_size=size), dim=dim).evaluate(start)
    flow = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    one = dmft.derive(model, dmft.SGD(1.0)).evaluate(start)
    S = (one["Q"] - flow["Q"]) * start.p
    gram, spread = gradient_gram(model, start)
    wanted = step * flow["Q"] + step**2 * (dim / size * S + (1 - 1 / size) * gram)
    assert np.allclose(map_["M"], step * flow["M"], rtol=1e-12)
    assert np.all(np.abs(map_["Q"] - wanted) <= SIGMAS * step**2 * spread + 1e-6)


PLAIN = {
    "ode": (network(erf, 2), network(erf, 2), dmft.SGD(0.5, readout_rate=0.2), {}),
    "sphere": (network(z**3 - 3 * z, 2), network(z**2, 2), SPHERE, {}),
    "logistic": (network(erf, 2), network(sp.sign(z), 2), dmft.SGD(0.5, loss=LOGISTIC), {}),
    "map": (network(z**2, 2), PRODUCT, dmft.SGD(200.0, batch_size=300), {"dim": 200}),
    "lookahead": (network(z**2, 2), PRODUCT, dmft.SGD(0.5, repeat=dmft.Lookahead(0.1)), {}),
}


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", PLAIN)
def test_one_cluster_at_the_origin_is_the_plain_model(name):
    student, teacher, algorithm, options = PLAIN[name]
    start = UNIT if name == "sphere" else PAIR
    centre = dmft.GaussianMixture([[0.0, 0.0]])
    plain, one = (
        dmft.derive(dmft.Model(student, teacher, 0.1, inputs=inputs), algorithm, **options)
        for inputs in (None, centre)
    )
    wanted = plain.evaluate(start)
    for key, value in one.evaluate(start).items():
        assert np.allclose(value, wanted[key], rtol=1e-13, atol=1e-13), key


def fluctuating(inputs, **options):
    """Equations with fluctuations of an erf committee that learns an erf unit."""
    model = dmft.Model(network(erf, 2, (1, -0.5)), network(erf, 1), 0.1, inputs=inputs)
    algorithm = dmft.SGD(0.5, readout_rate=0.3, **options)
    return dmft.derive(model, algorithm, dim=100, fluctuations=True)


HALF = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.1], [0.3]], [[1.2]])


def test_fluctuations_of_one_cluster_are_those_of_the_plain_model():
    """Twice the same cluster is one: nothing is added between clusters."""
    plain = fluctuating(None).evaluate(HALF, nodes=14)["Sigma"]
    for weights in ([1.0], [0.3, 0.7]):
        inputs = dmft.GaussianMixture([[0.0]] * len(weights), weights=weights)
        found = fluctuating(inputs).evaluate(HALF, nodes=14)["Sigma"]
        np.testing.assert_allclose(found, plain, atol=1e-13)


@pytest.mark.slow
def test_fluctuations_of_clusters_say_what_is_left_out():
    model = dmft.Model(network(z**2, 1), network(z**2, 1), inputs=SCALED)
    equations = dmft.derive(model, dmft.SGD(0.5), dim=100, fluctuations=True)
    assert "the terms of inputs from clusters at order 1/d are left out" in str(equations)
    assert r"\psi_{j}^{[2]}" in equations.latex(symbolic=True)
    with pytest.raises(BadParameter, match="x ~ N"):
        equations.explicit()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared", LOGISTIC])
def test_compiled_fluctuations_of_clusters(loss):
    equations = fluctuating(SCALED, loss=loss)
    found, values, compiled = (
        equations.evaluate(HALF), equations.values(HALF, {}), dmft.build(equations)
    )  # fmt: skip
    y = compiled.pack({**equations.state(HALF), "readout": values.arrays["readout"]})
    par = compiled.pack_parameters(values.scalars, values.arrays)
    widths = np.array([values.widths[name] for name in compiled.widths])
    sigma = np.empty((y.size, y.size))
    compiled.diffusion(0.0, y, widths, par, sigma)
    np.testing.assert_allclose(sigma, found["Sigma"], atol=1e-12 * np.abs(sigma).max())


def test_equal_clusters_are_one():
    """Means and labels decide, not how often a cluster is named."""
    student, sgd = network(erf, 1), dmft.SGD(0.5)
    twice = dmft.GaussianMixture([[1.0], [-0.7], [-0.7]], [1, -1, -1], [0.4, 0.25, 0.35])
    one, two = (dmft.derive(dmft.Model(student, m), sgd).evaluate(ONE) for m in (TWINS, twice))
    assert all(np.allclose(one[name], two[name], rtol=1e-13) for name in one)


def test_risk_by_quadrature():
    """Two fields in each cluster, on a Gauss-Hermite grid."""
    model = dmft.Model(network(tanh, 1), network(erf, 1), inputs=SCALED)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = np.outer(weights, weights) / (2 * np.pi)
    root = np.linalg.cholesky(ONE.Omega)
    wanted = 0.0
    for weight, (mean_,), scale in zip(SCALED.weights, SCALED.means, SCALED.scales, strict=True):
        points = np.stack(np.meshgrid(nodes, nodes, indexing="ij"))
        h, star = np.sqrt(scale) * np.tensordot(root, points, 1)
        h, star = h + 0.3 * mean_, star + 1.2 * mean_
        gap = np.tanh(h) - (2 * stats.norm.cdf(star) - 1)
        wanted += weight * np.sum(weights * gap**2) / 2
    assert dmft.population_risk(model)(ONE.Q, ONE.M, ONE.P) == pytest.approx(wanted, abs=1e-9)


def test_rates_of_an_own_rule():
    """A Hebb rule with its own measure: E[y h*] and E[y h] over the clusters."""
    h, star, label = sp.symbols("h star label", real=True)
    hebb = dmft.UpdateField(label, fields=(h, star, label), learning_rate=1.0)
    model = dmft.Model(network(z, 1), TWINS)
    rates = dmft.derive(model, hebb).evaluate(ONE)
    along = 0.4 * 1.0 + 0.6 * 0.7  # E[y mean]
    assert rates["M"][0, 0] == pytest.approx(1.2 * along, rel=1e-13)
    assert rates["Q"][0, 0] == pytest.approx(2 * 0.3 * along + 1.0, rel=1e-13)


@pytest.mark.slow
def test_printed_and_changed():
    equations = dmft.derive(dmft.Model(network(z**2, 1), XOR), dmft.SGD(0.5))
    # The noise of two clusters is printed below.
    text = equations.without("sgd_noise").latex(symbolic=True, width=2000)
    assert r"\sigma'(0.7746 h_{j} + m_{j}^{[1]})" in text
    assert r"\rho_3 = 0.25,\ \mu_3 = (0, 1),\ s_3 = 0.6,\ y_3 = -1" in text
    assert "dM[r]/dt = M_1 P[r,1] - M_2 P[r,2]" in str(equations)
    risk = dmft.population_risk(equations.model)
    assert r"\sigma(0.7746 h_{u} + m_{u}^{[1]})" in risk.latex(symbolic=True)
    rates, flow = equations.evaluate(ONE_TWO), equations.without("sgd_noise").evaluate(ONE_TWO)
    assert rates["Q"][0, 0] > flow["Q"][0, 0]
    logistic = dmft.derive(equations.model, dmft.SGD(0.5, loss=LOGISTIC))
    assert r"\psi_{j}^{[4]}" in logistic.latex(symbolic=True)


CENTRED = dmft.GaussianMixture([[1.0], [-1.0]])
ONE_TWO = dmft.Overlaps([[1.0]], [[0.3, 0.1]])
REFUSED = {
    "wide limits": lambda m, sgd: dmft.derive(m, sgd, scaling="mean-field"),
    "escape formulas": dmft.escape_formula,
    "perfect recovery": dmft.maximal_learning_rate,
    "regimes": dmft.regimes,
    "weak recovery": dmft.weak_recovery,
    "learned directions": lambda m, _: dmft.learned_directions(m, dmft.GradientDescent(0.1, 2)),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("inputs", [CENTRED, None], ids=["inputs", "labels"])
def test_what_is_derived_for_one_law_refuses_clusters(what, inputs):
    model = dmft.Model(network(erf, 1), network(erf, 1) if inputs else TWINS, inputs=inputs)
    with pytest.raises(BadParameter, match=f"{what} .* for inputs x ~ N.* the model has Gaussian"):
        REFUSED[what](model, dmft.SGD(0.1))


def test_refusals_of_declarations():
    line = network(z, 1)
    with pytest.raises(BadParameter, match="has no labels"):
        dmft.Model(line, SCALED)
    with pytest.raises(BadParameter, match="both the teacher and the clusters define labels"):
        dmft.Model(line, line, inputs=TWINS)
    with pytest.raises(ShapeMismatch, match="one for each row of the teacher, which has 1"):
        dmft.Model(line, line, inputs=THREE)
    with pytest.raises(BadParameter, match="numeric teacher width"):
        dmft.Model(line, network(z, sp.Symbol("k")), inputs=SCALED)
    with pytest.raises(BadParameter, match=r"inputs must be a dmft\.GaussianMixture"):
        dmft.Model(line, line, inputs=[[1.0]])
    with pytest.raises(BadParameter, match="variances and must be positive"):
        dmft.GaussianMixture([[1.0]], scales=[0.0])
    with pytest.raises(ShapeMismatch, match="scales has shape"):
        dmft.GaussianMixture([[1.0]], scales=[1.0, 2.0])
    with pytest.raises(BadParameter, match="clusters of unit variance"):
        dmft.derive(dmft.Model(line, line, inputs=SCALED), dmft.GradientDescent(0.1, 2))
    with pytest.raises(BadParameter, match="clusters of unit variance"):
        dmft.simulate(dmft.Model(line, line, inputs=SCALED), dmft.GradientDescent(0.1, 2), 9, 2, 2)


@pytest.mark.parametrize(
    ("pieces", "value", "slope"),
    [
        ((z / 10, z), lambda h: np.where(h < 0, h / 10, h), lambda h: np.where(h < 0, 0.1, 1.0)),
        (
            (sp.exp(z) - 1, z),
            lambda h: np.where(h < 0, np.expm1(np.minimum(h, 0)), h),
            lambda h: np.exp(np.minimum(h, 0)),
        ),
    ],
    ids=["leaky ReLU", "ELU"],
)
def test_piecewise_units_learn_clusters_of_different_scales(pieces, value, slope):
    """Rates of M by Monte Carlo: means have the index of a neuron, as sums over neurons have."""
    unit = sp.Piecewise((pieces[0], z < 0), (pieces[1], True))
    shift, scale, labels = np.array([-0.6, 0.4]), np.array([1.5, 0.6]), np.array([-1.0, 1.0])
    mixture = dmft.GaussianMixture(shift[:, None], labels.tolist(), scales=scale)
    a = np.array([-1.02, 1.48])
    model = dmft.Model(dmft.Committee(unit, 2, a.tolist()), mixture)
    start = dmft.Overlaps([[1.5, 0.5], [0.5, 1.2]], [[-0.1], [-0.2]], [[0.8]])
    equations = dmft.derive(model, dmft.SGD(0.6))
    rate, claim = equations.evaluate(start)["M"], equations.evaluate_error(start)["M"]
    rng, count = np.random.default_rng(4), 400_000
    gram = np.block([[start.Q, start.M], [start.M.T, start.P]])
    cluster = rng.integers(0, 2, count)
    fields = rng.standard_normal((count, 3)) @ np.linalg.cholesky(gram).T
    fields = fields * np.sqrt(scale)[cluster, None] + shift[cluster, None] * gram[2]
    h = fields[:, :2]
    drawn = (labels[cluster] - value(h) @ a / 2)[:, None] * slope(h) * a * fields[:, 2:]
    error = drawn.std(axis=0) / np.sqrt(count)
    assert (np.abs(drawn.mean(axis=0) - rate[:, 0]) < 4.5 * error + claim[:, 0]).all()


def test_rates_of_waves_over_clusters_match_quadrature():
    """Against Gauss-Hermite quadrature: their closed form has no code."""
    wave, gamma = z * sp.sin(z), 0.5
    model = dmft.Model(network(wave, 1), network(z**2, 1), inputs=SCALED)
    equations = dmft.derive(model, dmft.SGD(gamma))
    rates, claims = equations.evaluate(ONE), equations.evaluate_error(ONE)
    x, w = np.polynomial.hermite_e.hermegauss(60)
    weight = np.outer(w, w) / (2 * np.pi)
    exact = {"M": 0.0, "Q": 0.0}
    for share, mean, scale in zip(SCALED.weights, SCALED.means, SCALED.scales, strict=True):
        root = np.sqrt(scale) * np.linalg.cholesky(ONE.Omega)
        h, star = (
            np.tensordot(root, np.meshgrid(x, x), axes=1) + (ONE.Omega[:, 1:] @ mean)[:, None, None]
        )
        psi = (star**2 - function(wave, z)(h)) * function(sp.diff(wave, z), z)(h)
        exact["M"] += share * (weight * psi * star).sum()
        exact["Q"] += share * (weight * (2 * psi * h + gamma * scale * psi**2)).sum()
    for block in ("M", "Q"):
        assert abs(rates[block].item() - exact[block]) <= claims[block].item() + 1e-10
        assert claims[block].item() < 0.05

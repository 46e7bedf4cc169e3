"""`derive(Model, SGD)` term by term: each is a rule of vectors with the same rates."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft import laws
from dmft.model import FIELD
from dmft.rules import Random, Rows, View, fixed, gram, mean, views

z = sp.Symbol("z", real=True)
u, v = sp.symbols("u v", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LINE, SQUARE, CUBE = z, z**2, z**3 - z


def rule_of(model, sgd):
    """The step of a network under SGD, written with vectors; g = gamma/p.

    Numbers of the optimiser are rows: the velocities of `Momentum`, averaged weights, and fresh
    views for the noise of the gradient. Trained readouts are scalars.
    """
    p, k = int(model.student.width), int(model.teacher.width)
    w, B = list(Rows("w", p)), list(fixed("B", k))
    x, label = _sample(model, B)
    noises = [Random(f"xi{o}", laws.Normal()) for o in range(model.student.outputs)]
    y = [f + sp.sqrt(model.label_noise) * xi for f, xi in zip(label, noises, strict=True)]
    a, learned = model.student.rows, {}
    if sgd.trains_readout:
        a = [sp.symbols(f"a1:{p + 1}", real=True)]
    rate = sgd.learning_rate / p
    slope = sp.diff(model.student.activation, FIELD)

    def errors(h):
        s = [model.student.activation.xreplace({FIELD: field}) for field in h]
        f = [sp.Add(*(c * unit for c, unit in zip(row, s, strict=True))) / p for row in a]
        if sgd.loss == "correlation":
            return y
        if isinstance(sgd.loss, sp.Expr):
            names = {s: {"f": f[0], "y": y[0]}[s.name] for s in sgd.loss.free_symbols}
            out = next(s for s in names if s.name == "f")
            return [-sp.diff(sgd.loss, out).xreplace(names)]
        return [one - other for one, other in zip(y, f, strict=True)]

    def gradient(h):
        e = errors(h)
        return [
            slope.xreplace({FIELD: h[j]})
            * sp.Add(*(c[j] * one for c, one in zip(a, e, strict=True)))
            for j in range(p)
        ]

    def ahead(h, size):
        return [field + size * one for field, one in zip(h, gradient(h), strict=True)]

    h = [row @ x for row in w]
    if isinstance(sgd.repeat, dmft.Repeat):
        passes = [h]
        for _ in range(sgd.repeat.times - 1):
            passes.append(ahead(passes[-1], rate / sgd.batch_size))
        psi = [sp.Add(*one) for one in zip(*map(gradient, passes), strict=True)]
    elif sgd.normalised:  # p psi/|psi| of one unit
        psi = [sp.sign(one) for one in gradient(h)]
    elif sgd.repeat is not None:
        psi = gradient(ahead(h, sgd.repeat.sign * sgd.repeat.rho))
    else:
        psi = gradient(h)
    if sgd.trains_readout:
        (e,) = errors(h)
        for j, s in enumerate(a[0]):
            unit = model.student.activation.xreplace({FIELD: h[j]})
            learned[s] = sgd.readout_rate * e * unit
    step = [c * x - sgd.weight_decay * row for row, c in zip(w, psi, strict=True)]
    kicks = [View(f"n{j}", fractions=x.fractions) for j in range(p)]
    size = sp.sqrt(sgd.gradient_noise * sgd.batch_size)
    step = [one + size * n for one, n in zip(step, kicks, strict=True)]
    steps = dict(zip(w, step, strict=True))
    if isinstance(sgd.momentum, dmft.Momentum):
        kappa, direct = sgd.momentum.rate, sgd.momentum.direct
        velocities = list(Rows("U", p))
        steps = {row: direct * one + s for row, one, s in zip(w, step, velocities, strict=True)}
        steps |= {s: kappa * one - kappa * s for s, one in zip(velocities, step, strict=True)}
    elif sgd.momentum != 0:
        rate /= 1 - sgd.momentum
    if sgd.average != 0:
        steps |= {s: sgd.average * (row - s) for s, row in zip(Rows("A", p), w, strict=True)}
    return dmft.UpdateField(
        steps, scalars=learned, learning_rate=rate, batch_size=sgd.batch_size,
        constraint="sphere" if sgd.on_sphere else None,
    )  # fmt: skip


def _sample(model, B):
    """The view of a sample, and the label's outputs without noise."""
    inputs, flip = model.inputs, Random("flip", laws.Bernoulli(model.label_flip))
    scale, fractions, adds, labels = 1, (1,), None, None
    if isinstance(inputs, dmft.Spectrum):
        scale = [sp.sqrt(c) for c in inputs.eigenvalues]
        fractions = tuple(inputs.fractions)
    elif inputs is not None:  # two clusters: s = 0, 1
        first, second = inputs.weights
        s = Random("s", laws.Discrete({0: first, 1: second}))

        def of_cluster(pair):
            return pair[0] + (pair[1] - pair[0]) * s

        adds = {row: of_cluster(inputs.means[:, r]) for r, row in enumerate(B)}
        scale = of_cluster([sp.sqrt(c) for c in np.ravel(inputs.scales)])
        if inputs.labels is not None:
            classes = [[int(y == c) for y in inputs.labels] for c in range(model.outputs)]
            labels = [of_cluster(y) for y in (classes if model.outputs > 1 else [inputs.labels])]
    x = View("x", adds=adds, scale=scale, fractions=fractions)
    labels = labels or model.teacher.outputs_at([row @ x for row in B])
    if model.outputs > 1 and inputs is None:  # 1 for the class of the largest output
        labels = [sp.Heaviside(labels[c] - labels[1 - c]) for c in (0, 1)]
    if model.label_flip != 0:
        labels = [(1 - 2 * flip) * one for one in labels]
    return x, labels


def start_of(seed, p, k, blocks=1, readout=False, lengths=None):
    """Random overlaps; rows of length one where `lengths` is given."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(blocks, p + k, p + k + 2)) / 2
    if lengths:
        rows[:, :p] /= np.linalg.norm(rows[:, :p], axis=-1, keepdims=True)
    G = rows @ rows.swapaxes(1, 2)
    G = G if blocks > 1 else G[0]
    a = generator.normal(size=p) if readout else None
    return dmft.Overlaps(G[..., :p, :p], G[..., :p, p:], G[..., p:, p:], readout=a)


def of_rows(start):
    """The same overlaps, with readouts as scalars of the rule."""
    a = start.readout
    scalars = None if a is None else {f"a{j}": value for j, value in enumerate(a, 1)}
    return dmft.Overlaps(start.Q, start.M, start.P, scalars=scalars)


def same_rates(model, sgd, start, *, rtol=1e-11, nodes=None):
    """Rates of the equations of a model, and of its rule."""
    wanted, found = dmft.derive(model, sgd), dmft.derive(rule_of(model, sgd))
    how = [{"nodes": nodes} if nodes and eqs.averages else {} for eqs in (wanted, found)]
    one, two = wanted.evaluate(start, **how[0]), found.evaluate(of_rows(start), **how[1])
    if sgd.trains_readout:
        two["readout"] = np.array([two[f"a{j}"] for j in range(1, start.p + 1)])
    for block in one:
        np.testing.assert_allclose(two[block], one[block], rtol=rtol, atol=1e-10)


def network(f, g=None, p=2, k=2, readout=None, **more):
    teacher = (
        g if isinstance(g, dmft.MultiIndex | dmft.GaussianMixture) else dmft.Committee(g or f, k)
    )
    return dmft.Model(dmft.Committee(f, p, readout), teacher, **more)


y, f = sp.symbols("y f", real=True)
# A model, its algorithm, and options of the comparison.
CASES = {
    "erf": (network(ERF, label_noise=0.3), dmft.SGD(0.7)),
    "quadratic": (network(SQUARE, label_noise=0.3), dmft.SGD(0.7)),
    "cubic": (network(CUBE, LINE, label_noise=0.3), dmft.SGD(0.2)),
    "relu": (network(sp.Max(0, z), p=1, label_noise=0.3), dmft.SGD(0.5)),
    "batch": (network(ERF, label_noise=0.3), dmft.SGD(0.7, batch_size=4)),
    "decay": (network(SQUARE, label_noise=0.3), dmft.SGD(0.7, weight_decay=0.2)),
    "sphere": (network(ERF, label_noise=0.3), dmft.SGD(0.7, constraint="sphere")),
    "correlation": (network(SQUARE, CUBE), dmft.SGD(0.7, loss="correlation")),
    "another loss": (network(LINE), dmft.SGD(0.7, loss=(f - y) ** 4 / 4)),
    "readout": (network(ERF, readout=[0.5, -0.3]), dmft.SGD(0.7, readout_rate=0.6)),
    "normalised": (network(LINE, p=1, label_noise=0.1), dmft.SGD(0.7, normalised=True)),
    "gradient noise": (network(SQUARE), dmft.SGD(0.7, batch_size=3, gradient_noise=0.4)),
    "heavy ball": (network(ERF, label_noise=0.3), dmft.SGD(0.7, momentum=0.6, weight_decay=0.1)),
    "flips": (network(ERF, sp.sign(z), k=1, label_flip=0.2), dmft.SGD(0.7)),
    "several directions": (network(SQUARE, dmft.MultiIndex(u * v + u, [u, v])), dmft.SGD(0.4)),
    "classes of clusters": (
        dmft.Model(
            dmft.Committee(SQUARE, 2, [[1, -0.5], [0.2, 0.7]]),
            dmft.GaussianMixture([[1.0], [-0.5]], [0, 1], [0.4, 0.6]),
        ),
        dmft.SGD(0.7),
    ),
    "covariance": (network(ERF, inputs=dmft.Spectrum([2.0, 0.5], [0.3, 0.7])), dmft.SGD(0.7)),
    "clusters": (
        network(
            ERF, dmft.GaussianMixture([[1.0], [-0.5]], [1, -1], [0.4, 0.6], scales=[0.7, 1.2])
        ),
        dmft.SGD(0.7),
    ),
    "labelled clusters": (
        network(SQUARE, CUBE, inputs=dmft.GaussianMixture([[1.0, 0.2], [-0.5, 0.0]])), dmft.SGD(0.3)
    ),
    "two steps": (network(SQUARE, p=1, k=1, label_noise=0.1), dmft.SGD(0.3, repeat=dmft.Repeat(2))),
    "three linear steps": (network(LINE, label_noise=0.1), dmft.SGD(0.3, repeat=dmft.Repeat(3))),
    "look ahead": (network(SQUARE, k=1, p=1), dmft.SGD(0.3, repeat=dmft.Lookahead(0.2))),
    "sharpness": (
        network(SQUARE, k=1, p=1),
        dmft.SGD(0.3, repeat=dmft.SharpnessAware(0.2), constraint="sphere"),
    ),
}  # fmt: skip
# Averages on nodes: Gauss-Hermite for the model, Gauss-Legendre on both sides of zero for the rule.
ON_NODES = {
    "tanh": (network(sp.tanh(z), p=1, k=1, label_noise=0.3), dmft.SGD(0.7)),
    "two steps of erf": (network(ERF, p=1, k=1), dmft.SGD(0.7, repeat=dmft.Repeat(2))),
    "logistic": (
        network(LINE, p=1, k=1, label_noise=0.2), dmft.SGD(0.7, loss=sp.log(1 + sp.exp(-f * y)))
    ),
}  # fmt: skip


@pytest.mark.cases(7)
@pytest.mark.parametrize("name", CASES)
def test_models_are_rules(name):
    model, sgd = CASES[name]
    p, k = int(model.student.width), int(model.teacher.width)
    blocks = model.spectrum.blocks if isinstance(model.inputs, dmft.Spectrum) else 1
    start = start_of(len(name), p, k, blocks, sgd.trains_readout, sgd.on_sphere)
    same_rates(model, sgd, start)


@pytest.mark.parametrize("name", ON_NODES)
def test_models_are_rules_on_nodes(name):
    same_rates(*ON_NODES[name], start_of(len(name), 1, 1), rtol=1e-7, nodes=100)


@pytest.mark.slow
def test_the_largest_output_is_a_kink():
    """Two classes of a linear teacher: closed for the rule, on nodes within their claim here."""
    model = dmft.Model(
        dmft.Committee(ERF, 3, [[1, -0.5, 0.3], [0.2, 0.7, 1.1]]),
        dmft.Committee(LINE, 2, [[1, 0.4], [-0.6, 0.8]]),
    )
    sgd, start = dmft.SGD(0.7), start_of(11, 3, 2)
    eqs, rule = dmft.derive(model, sgd), dmft.derive(rule_of(model, sgd))
    assert not rule.averages
    one, two, claim = eqs.evaluate(start), rule.evaluate(start), eqs.evaluate_error(start)
    for block in "QM":
        assert np.all(abs(one[block] - two[block]) < claim[block])


@pytest.mark.slow
def test_memories_are_rows():
    """Velocities of `Momentum` and averaged weights, with all their overlaps."""
    model = network(ERF, label_noise=0.3)
    sgd = dmft.SGD(0.7, weight_decay=0.1, momentum=dmft.Momentum(2.0, 0.3), average=0.4)
    whole = start_of(5, 6, 2)  # w, U, A
    Q = whole.Q.reshape(3, 2, 3, 2).swapaxes(1, 2)
    M = whole.M.reshape(3, 2, 2)
    memory = {
        "velocity_M": M[1], "velocity_Q": Q[1, 0], "velocity": Q[1, 1],
        "average_M": M[2], "average_Q": Q[2, 0], "average": Q[2, 2], "velocity_average": Q[1, 2],
    }  # fmt: skip
    start = dmft.Overlaps(Q[0, 0], M[0], whole.P, memory=memory)
    one = dmft.derive(model, sgd).evaluate(start)
    two = dmft.derive(rule_of(model, sgd)).evaluate(whole)
    Q, M = two["Q"].reshape(3, 2, 3, 2).swapaxes(1, 2), two["M"].reshape(3, 2, 2)
    wanted = {"Q": Q[0, 0], "M": M[0]} | {
        "velocity_M": M[1], "velocity_Q": Q[1, 0], "velocity": Q[1, 1],
        "average_M": M[2], "average_Q": Q[2, 0], "average": Q[2, 2], "velocity_average": Q[1, 2],
    }  # fmt: skip
    for block, rate in one.items():
        np.testing.assert_allclose(rate, wanted[block], rtol=1e-11, atol=1e-11, err_msg=block)


def test_a_flow_is_a_rule_without_the_noise_of_steps():
    model, start = network(SQUARE, ERF), start_of(3, 2, 2)
    one = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    rule = dmft.derive(rule_of(model, dmft.SGD(0.7))).without("sgd_noise")
    for block, rate in rule.evaluate(start).items():
        np.testing.assert_allclose(rate, one[block], rtol=1e-11, atol=1e-11)


def test_an_update_field_is_a_rule():
    """The same psi of (h, h*, y) for all neurons."""
    h, k, y = sp.symbols("h k y", real=True)
    field = dmft.UpdateField(y * h**2 - k, fields=(h, k, y), learning_rate=0.6)
    model = network(LINE, sp.sign(z), k=1)
    w, B, x = Rows("w", 2), fixed("B"), View("x")
    at = {k: B @ x, y: sp.sign(B @ x)}
    steps = {row: field.psi.xreplace({**at, h: row @ x}) * x for row in w}
    start = start_of(7, 2, 1)
    one = dmft.derive(model, field).evaluate(start)
    two = dmft.derive(dmft.UpdateField(steps, learning_rate=0.3)).evaluate(start)
    for block, rate in one.items():
        np.testing.assert_allclose(two[block], rate, rtol=1e-11, atol=1e-11)


def test_signs_of_inputs_are_a_second_view():
    """`SignSGD`: sign(psi) times the signs of the coordinates, of covariance sqrt(2/pi) with x."""
    model, sgd, start = network(LINE, label_noise=0.2), dmft.SignSGD(0.6), start_of(9, 2, 2)
    w, B = Rows("w", 2), fixed("B", 2)
    c = sp.sqrt(2 / sp.pi)
    x, signs = views("x s", cov=[[1, c], [c, 1]])
    e = sum(row @ x for row in B) / 2 - sum(row @ x for row in w) / 2
    e += sp.sqrt(0.2) * Random("xi", laws.Normal())
    rule = dmft.UpdateField({row: sp.sign(e) * signs for row in w}, learning_rate=0.3)
    one, two = dmft.derive(model, sgd).evaluate(start), dmft.derive(rule).evaluate(start)
    for block, rate in one.items():
        np.testing.assert_allclose(two[block], rate, rtol=1e-11, atol=1e-11)


# Sequences: a view for each token, rows for the positions ----------------------------------------


def tokens_as_views(model, sgd):
    """Fields h_l = w.(x_l + p_l)/sqrt(d); the part of a step along p_l is one of rows."""
    L, code = model.length, model.encoding
    w, B = Rows("w"), fixed("B")
    places = list(fixed("E", code.rank)) if code.rank else []
    x = [View(f"x{n}") for n in range(L)]
    h = [
        w @ x[n] + sum(code.pattern[n, a] * gram(w, E) for a, E in enumerate(places))
        for n in range(L)
    ]
    z = model.student.fields
    f = model.student.outputs
    label = model.teacher.outputs.xreplace(dict(zip(z, (B @ y for y in x), strict=True)))
    noise = sp.Matrix(*f.shape, lambda i, j: Random(f"xi{i}{j}", laws.Normal()))
    e = label + sp.sqrt(model.label_noise) * noise - f.xreplace(dict(zip(z, h, strict=True)))
    step = 0
    for n in range(L):
        slope = f.diff(z[n]).xreplace(dict(zip(z, h, strict=True)))
        psi = sp.Add(*(a * b for a, b in zip(slope, e, strict=True)))
        step += psi * x[n]
        step += sum((psi * code.pattern[n, a]) * E for a, E in enumerate(places))
    return dmft.UpdateField({w: step}, learning_rate=sgd.learning_rate, constraint="sphere")


t1, t2 = sp.symbols("z1 z2", real=True)
TWO = dmft.SequenceTarget(t1 * t2 + t1, (t1, t2))
SEQUENCES = {
    "no positions": (dmft.Model(TWO, TWO, label_noise=0.2), []),
    "opposite positions": (
        dmft.Model(dmft.SequenceTarget(t1 * t2**2, (t1, t2)), TWO, encoding=0.8), [0.3]
    ),
    "network": (
        dmft.Model(dmft.SequenceNetwork(z**2, 2), TWO, label_noise=0.1, encoding=[1, 0.5]), [0.4]
    ),
    "two positions": (
        dmft.Model(TWO, TWO, encoding=[[1, 0.2, 0.1], [0.2, 0.7, -0.3], [0.1, -0.3, 0.9]]),
        [0.2, -0.3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_tokens_are_views(name):
    model, e = SEQUENCES[name]
    sgd = dmft.SGD(0.3, constraint="sphere")
    one = dmft.derive(model, sgd).evaluate(dmft.Alignment(e if len(e) > 1 else (e or [0])[0], 0.45))
    P = np.array(model.encoding.gram, dtype=float) if e else np.eye(1)
    start = dmft.Overlaps([[1.0]], [[0.45, *e]], P)
    two = dmft.derive(tokens_as_views(model, sgd)).evaluate(start)
    np.testing.assert_allclose(two["M"][0, 0], one["m"], rtol=1e-11, atol=1e-11)
    if e:
        np.testing.assert_allclose(two["M"][0, 1:], np.ravel(one["e"]), rtol=1e-11, atol=1e-11)


def test_untied_tokens_share_a_sphere():
    """The length of all rows together is kept by an average in the step."""
    model = dmft.Model(dmft.SequenceNetwork(z**2, 2, tied=False), TWO, label_noise=0.1)
    w, B, x, g = Rows("w", 2), fixed("B"), [View("x0"), View("x1")], 0.3
    h = sum(row @ y for row, y in zip(w, x, strict=True)) / sp.sqrt(2)
    e = (B @ x[0]) * (B @ x[1]) + B @ x[0] - h**2 + sp.sqrt(0.1) * Random("xi", laws.Normal())
    psi = sp.sqrt(2) * h * e
    longer = sum(mean(psi * (row @ y)) for row, y in zip(w, x, strict=True)) / 2
    longer += g * mean(psi**2) / 2
    steps = {row: psi * y - longer * row for row, y in zip(w, x, strict=True)}
    rule = dmft.derive(dmft.UpdateField(steps, learning_rate=g))
    m = np.array([0.3, 0.5])
    two = rule.evaluate(dmft.Overlaps(np.eye(2), m[:, None]))
    one = dmft.derive(model, dmft.SGD(g, constraint="sphere")).evaluate(dmft.Alignment(0, m))
    # Their time is steps * gamma / (L d).
    np.testing.assert_allclose(2 * two["M"][:, 0], one["m"], rtol=1e-11)
    assert np.trace(two["Q"]) == pytest.approx(0.0, abs=1e-12)

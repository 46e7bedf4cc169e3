"""Fluctuations of one-pass SGD against published polynomials, quadrature and one-step Monte Carlo.

The truths of this file know the update rule of a step and nothing of the library's derivation.
"""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.definitions import base_name
from dmft.equations.views.closed import closed_system
from dmft.equations.views.latex import subject_of

Z = sp.Symbol("z", real=True)
REFERENCE = Path(__file__).parents[1] / "reference" / "increments.json"
SQUARE, ERF = Z**2, sp.erf(Z / sp.sqrt(2))


def equations(act, p=1, k=1, star=None, constraint=None, gamma=0.1, noise=0.3, batch=1, **options):
    readout = options.pop("readout", None)
    model = dmft.Model(
        dmft.Committee(act, width=p, readout=readout),
        dmft.Committee(act if star is None else star, width=k),
        label_noise=noise,
    )
    algorithm = dmft.SGD(gamma, batch_size=batch, constraint=constraint, **options)
    return dmft.derive(model, algorithm, dim=sp.Symbol("d"), fluctuations=True)


@pytest.fixture(scope="module")
def vectors():
    return json.loads(REFERENCE.read_text())


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ["Eu", "Ev", "Vq", "C", "Vm"])
def test_phase_retrieval_is_that_of_the_literature_term_by_term(vectors, name):
    gamma, delta = sp.symbols("gamma Delta", positive=True)
    explicit = equations(SQUARE, gamma=gamma, noise=delta).explicit()
    q, m, rho = (explicit.symbols[s] for s in ("Q_11", "M_11", "P_11"))
    names = {"q": q, "m": m, "rho": rho, "gamma": gamma, "Delta": delta}
    expected = sp.sympify(vectors["polynomials"][name], locals=names)
    place = {s: n for n, s in enumerate(explicit.rhs)}
    d = sp.Symbol("d")
    found = {
        "Eu": lambda: sp.limit(explicit.rhs[q], d, sp.oo),
        "Ev": lambda: sp.limit(explicit.rhs[m], d, sp.oo),
        "Vq": lambda: explicit.covariance[place[q], place[q]],
        "C": lambda: explicit.covariance[place[q], place[m]],
        "Vm": lambda: explicit.covariance[place[m], place[m]],
    }[name]()
    assert sp.expand(found - expected) == 0


def test_the_spherical_covariance_is_that_of_the_literature(vectors):
    gamma, delta = sp.symbols("gamma Delta", positive=True)
    explicit = equations(SQUARE, gamma=gamma, noise=delta, constraint="sphere").explicit(P=[[1]])
    m = explicit.symbols["M_11"]
    names = {"m": m, "gamma": gamma, "Delta": delta}
    expected = sp.sympify(vectors["polynomials"]["S"], locals=names)
    place = list(explicit.rhs).index(m)
    assert sp.expand(explicit.covariance[place, place] - expected) == 0


def test_increments_have_the_published_covariance(vectors):
    for case in vectors["increments"]:
        act = {"square": SQUARE, "erf": ERF}[case["act"]]
        eqs = equations(act, gamma=case["gamma"], noise=case["Delta"])
        start = dmft.Overlaps(case["Q"], case["M"], case["P"])
        values = eqs.evaluate(start, d=100)
        error = eqs.evaluate_error(start, d=100)["Sigma"].max()
        assert values["Sigma"] == pytest.approx(np.array(case["cov"]), rel=1e-12, abs=error + 1e-12)
        assert values["covariance"] == pytest.approx(values["Sigma"] * case["gamma"] / 100)


# Brute force -----------------------------------------------------------------------------------


def increments(start, psi, h, star, gain, sphere):
    """u and v of samples: (p, p, n) and (p, k, n)."""
    u = psi[:, None] * h[None] + psi[None] * h[:, None] + gain * psi[:, None] * psi[None]
    v = psi[:, None] * star[None]
    if sphere:
        own = np.einsum("jjn->jn", u)
        u, v = (
            u - 0.5 * start.Q[:, :, None] * (own[:, None] + own[None]),
            v - 0.5 * start.M[:, :, None] * own[:, None],
        )
    return u, v


def numeric(expr):
    f = sp.lambdify(Z, expr, ["numpy", "scipy"])
    return lambda y: f(y) * np.ones_like(y)


def brute_covariance(eqs, start, act, star, gamma, delta, batch, sphere, correlation, points):
    """Tensor Gauss-Hermite over all fields and the label noise."""
    z, w = np.polynomial.hermite_e.hermegauss(points)
    size = start.p + start.k
    nodes = np.array(list(product(z, repeat=size + 1))).T
    mass = np.array(list(product(w / w.sum(), repeat=size + 1))).prod(axis=1)
    fields = np.linalg.cholesky(start.Omega) @ nodes[:size]
    h, h_star = fields[: start.p], fields[start.p :]
    a = np.ones(start.p) if start.readout is None else start.readout
    error = numeric(star)(h_star).mean(axis=0) + np.sqrt(delta) * nodes[size]
    if not correlation:
        error = error - a @ numeric(act)(h) / start.p
    psi = a[:, None] * numeric(sp.diff(act, Z))(h) * error
    u, v = increments(start, psi, h, h_star, gamma / (start.p * batch), sphere)
    rows = np.concatenate([u.reshape(-1, mass.size), v.reshape(-1, mass.size)])
    rows = rows - (rows @ mass)[:, None]
    return (rows * mass) @ rows.T


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("act", "star", "constraint", "loss", "batch", "points"),
    [
        (SQUARE, SQUARE, None, "squared", 1, 8),
        (SQUARE, SQUARE, "sphere", "squared", 3, 8),
        (Z**3 - 3 * Z, Z**2, "sphere", "squared", 2, 12),
        (Z**2 - 1, Z**3, None, "correlation", 1, 10),
    ],
)
def test_two_students_have_the_covariance_of_brute_force(
    act, star, constraint, loss, batch, points
):
    options = {"p": 2, "star": star, "constraint": constraint, "batch": batch, "loss": loss}
    eqs = equations(act, **options)
    q = 1.0 if constraint else 0.8
    start = dmft.Overlaps([[q, 0.2], [0.2, q]], [[0.3], [-0.4]], [[1.1]], readout=[1.2, -0.5])
    truth = brute_covariance(
        eqs, start, act, star, 0.1, 0.3, batch, constraint is not None, loss == "correlation",
        points,
    )  # fmt: skip
    assert eqs.evaluate(start, d=50)["Sigma"] == pytest.approx(
        truth, rel=1e-11, abs=1e-11 * truth.max()
    )


def test_written_out_polynomials_of_two_students_are_those_of_the_nodes():
    eqs = equations(SQUARE, p=2, constraint="sphere", batch=2, loss="correlation")
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.4]], [[1.1]])
    explicit = eqs.explicit(P=[[1.1]])
    d = sp.Symbol("d")
    at = {s: float(getattr(start, n[0])[int(n[2]) - 1, int(n[3]) - 1])
          for n, s in explicit.symbols.items() if n[0] in "QM"}  # fmt: skip
    at[d] = 60
    values = eqs.evaluate(start, d=60)
    for number, (symbol, rate) in enumerate(explicit.rhs.items()):
        name, j, n = next((k[0], int(k[2]) - 1, int(k[3]) - 1)
                          for k, s in explicit.symbols.items() if s == symbol)  # fmt: skip
        assert float(rate.subs(at)) == pytest.approx(values[name][j, n], rel=1e-11, abs=1e-12)
        place = j * 2 + n if name == "Q" else 4 + j
        variance = float(explicit.covariance[number, number].subs(at))
        assert variance == pytest.approx(values["Sigma"][place, place], rel=1e-11, abs=1e-11)


# One step in d dimensions ----------------------------------------------------------------------


def remainder_of_one_step(start, act, gamma, delta, batch, dim, sphere, samples, rng):
    """Mean and error of (increment/dt - its linear part) of one exact step, for Q and M.

    The linear part has a mean of order one, known exactly; what is left is of order 1/d and has
    a small variance, so that it is seen at moderate numbers of samples.
    """
    p = start.p
    w, V = np.linalg.eigh(start.Omega)
    root = (V * np.sqrt(w))[:, w > 1e-12]
    z = rng.standard_normal((samples, batch, root.shape[1]))
    fields = z @ root.T
    h, star = fields[..., :p], fields[..., p:]
    f = numeric(act)
    error = f(star).mean(axis=-1) - f(h).mean(axis=-1)
    error = error + np.sqrt(delta) * rng.standard_normal((samples, batch))
    psi = numeric(sp.diff(act, Z))(h) * error[..., None]
    gram = z @ z.transpose(0, 2, 1)
    T = np.zeros((samples, batch, batch))
    for i in range(batch):  # what the samples have outside the weights, by Bartlett
        T[:, i, i] = np.sqrt(rng.chisquare(dim - root.shape[1] - i, samples))
        for n in range(i):
            T[:, i, n] = rng.standard_normal(samples)
    gram = gram + T @ T.transpose(0, 2, 1)
    c, dt, along = gamma / (p * batch), gamma / (p * dim), psi.transpose(0, 2, 1)
    cross, first = along @ star, along @ h
    first = first + first.transpose(0, 2, 1)
    dM = c / dim * cross
    dQ = c / dim * first + (c / dim) ** 2 * along @ gram @ psi
    u, v = (first + c * along @ psi) / batch, cross / batch
    if sphere:
        length = np.sqrt(np.einsum("njj->nj", start.Q + dQ))
        dM = (start.M + dM) / length[:, :, None] - start.M
        dQ = (start.Q + dQ) / (length[:, :, None] * length[:, None]) - start.Q
        own = np.einsum("njj->nj", u)
        v = v - 0.5 * start.M * own[:, :, None]
        u = u - 0.5 * start.Q * (own[:, :, None] + own[:, None])
    rest = (dQ / dt - u, dM / dt - v)
    return [(x.mean(axis=0), x.std(axis=0) / np.sqrt(samples)) for x in rest]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("act", "constraint", "p", "batch", "gamma"),
    [
        (SQUARE, None, 1, 1, 0.1),
        (SQUARE, "sphere", 1, 1, 0.05),
        (SQUARE, None, 2, 2, 0.1),
        (SQUARE, "sphere", 2, 2, 0.1),
        (ERF, "sphere", 1, 2, 0.8),
    ],
)
def test_the_drift_is_the_mean_of_one_step_to_order_one_over_d(act, constraint, p, batch, gamma):
    dim, q = 400, 1.0 if constraint else 0.8
    Q = q * np.eye(p) + 0.2 * (1 - np.eye(p))
    start = dmft.Overlaps(Q, [[0.5], [-0.2]][:p], [[1.0]])
    eqs = equations(act, p=p, constraint=constraint, gamma=gamma, batch=batch)
    leading = eqs.without(*eqs.noise.terms).evaluate(start, d=dim)
    full = eqs.evaluate(start, d=dim)
    found = remainder_of_one_step(
        start, act, gamma, 0.3, batch, dim, constraint is not None, 250_000,
        np.random.default_rng(11),
    )  # fmt: skip
    for name, (mean, error) in zip("QM", found, strict=True):
        expected = full[name] - leading[name]
        # 4 standard errors, and the next order in 1/d.
        band = 4 * error + 20 / dim * np.max(np.abs(expected)) + 1e-12
        assert np.all(np.abs(mean - expected) < band)
    size = max(np.max(np.abs(full[n] - leading[n])) for n in "QM")
    assert size > 8 * max(error.max() for _, error in found) or act is ERF


@pytest.mark.slow
def test_both_terms_on_the_sphere_matter():
    # theory/one_pass E.3, d = 200: leading 1.0400, simulation 1.0281 +- 0.0010.
    eqs = equations(SQUARE, constraint="sphere", gamma=0.05, noise=0.2)
    start = dmft.Overlaps([[1.0]], [[0.5]])
    assert eqs.without("finite_size", "curvature").evaluate(start, d=200)["M"][0, 0] == (
        pytest.approx(1.04)
    )
    assert eqs.evaluate(start, d=200)["M"][0, 0] == pytest.approx(1.0281, abs=2.5e-3)
    assert eqs.without("finite_size").evaluate(start, d=200)["M"][0, 0] > 1.0425


# Views and refusals ----------------------------------------------------------------------------


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("act", "nodes"),
    [(sp.Max(0, Z), 8192), (ERF, 40), (sp.tanh(Z), 40)],
    ids=["relu", "erf", "tanh"],
)
def test_covariances_on_nodes_are_positive_and_say_their_error(act, nodes):
    eqs = equations(act, p=2, gamma=0.7)
    assert "on nodes" in eqs.approximation
    start = dmft.Overlaps([[0.9, 0.3], [0.3, 0.7]], [[0.3], [0.1]])
    value = eqs.evaluate(start, d=100)["Sigma"]
    fine = eqs.evaluate(start, d=100, nodes=nodes)["Sigma"]
    error = eqs.evaluate_error(start, d=100)["Sigma"]
    assert np.linalg.eigvalsh(value)[0] > -1e-14
    assert np.all(np.abs(value - fine) <= error + 1e-12)
    assert error.max() < 0.05 * value.max()
    with pytest.raises(dmft.errors.BadParameter, match="got 0"):
        eqs.evaluate(start, d=100, nodes=0)


@pytest.mark.cases(1)
@pytest.mark.parametrize("act", [ERF, sp.tanh(Z)], ids=["erf", "tanh"])
def test_half_a_lattice_of_four_fields_says_its_error(act):
    """At short and long rows, against a lattice that is twice as fine and against Sobol points."""
    model = dmft.Model(dmft.Committee(act, 2), dmft.Committee(act, 2))
    eqs = dmft.derive(model, dmft.SGD(0.5), dim=500, fluctuations=True)
    for size in (0.8, 1.0, 2.0):
        Q = size**2 * np.array([[1.2, 0.2], [0.2, 0.9]])
        start = dmft.Overlaps(Q, size * np.array([[0.7, 0.1], [0.2, 0.6]]))
        value, error = eqs.evaluate(start)["Sigma"], eqs.evaluate_error(start)["Sigma"]
        fine = eqs.evaluate(start, nodes=20)["Sigma"]
        assert np.all(np.abs(value - fine) <= error + 1e-12)
        sobol, spread = (
            f(start, nodes=4096, replicas=8)["Sigma"] for f in (eqs.evaluate, eqs.evaluate_error)
        )
        assert np.all(np.abs(fine - sobol) <= 1.5 * spread + 0.01 * value.max())


@pytest.mark.cases(1)
@pytest.mark.parametrize("act", [sp.tanh(Z), 1 / (1 + sp.exp(-Z))], ids=["tanh", "logistic"])
def test_drift_by_sums_of_error_functions_is_that_without_noise(act):
    """Against Sobol points, and against sums of nine terms, of the equations without noise."""
    model = dmft.Model(dmft.Committee(act, 2), dmft.Committee(act, 2), label_noise=0.3)
    eqs = dmft.derive(model, dmft.SGD(0.5), dim=500, fluctuations=True).without("finite_size")
    plain = dmft.derive(model, dmft.SGD(0.5))
    assert "error functions" in eqs.approximation
    for size in (0.1, 1.0, 2.0):
        Q = size**2 * np.array([[1.2, 0.2], [0.2, 0.9]])
        start = dmft.Overlaps(Q, size * np.array([[0.7, 0.1], [0.2, 0.6]]))
        drift, error = eqs.evaluate(start)["Q"], eqs.evaluate_error(start)["Q"]
        assert np.all(np.abs(drift - plain.evaluate(start, nodes=9)["Q"]) <= error)
        points = {"nodes": 8192, "replicas": 8}
        sobol, spread = (f(start, **points)["Q"] for f in (plain.evaluate, plain.evaluate_error))
        assert np.all(np.abs(drift - sobol) <= error + 1.5 * spread)
        assert error.max() < 3e-6


def test_latex_and_text_show_the_covariance():
    eqs = equations(SQUARE, constraint="sphere")
    assert r"\Sigma = \mathrm{Cov}" in eqs.latex(form="structured")
    assert "finite size" in eqs.latex(form="structured")
    assert "sqrt(γ/d) Σ^(1/2) dB" in str(eqs)
    assert eqs.kind == "sde"


@pytest.mark.parametrize("constraint", ["sphere", pytest.param(None, marks=pytest.mark.slow)])
def test_printed_polynomials_are_the_drift_and_the_covariance(constraint):
    """F with its part of order 1/d, and Sigma, at a state, against exact nodes; one page."""
    eqs = equations(SQUARE, constraint=constraint, noise=0.3)
    drift = replace(subject_of(eqs), kind="ode", fluctuates=False)
    system = eqs.noise.added_to(closed_system(drift))
    state = {"M": 0.4, "Q": 0.8, "P": 1.2} if constraint is None else {"M": 0.4, "Q": 1, "P": 1}
    want = eqs.evaluate(dmft.Overlaps(**{n: [[y]] for n, y in state.items()}), d=50)
    at = state | {"learning_rate": 0.1, "label_noise": 0.3, "dim": 50}
    names = ["Q", "M"]  # in the order of Sigma
    for target, expr, _ in system.rows:
        plain = expr.xreplace({s: s.plain for s in expr.free_symbols if hasattr(s, "plain")})
        value = float(plain.subs({s: at[s.name] for s in plain.free_symbols}))
        if "Sigma" in str(target):
            one, two = (names.index(y) for y in str(target)[-3:-1])
            assert value == pytest.approx(want["Sigma"][one, two], rel=1e-11)
        elif (name := base_name(target)) in names:
            assert value == pytest.approx(want[name][0, 0], rel=1e-11)
    assert len(system.rows) == (6 if constraint is None else 3)
    assert len(eqs.latex()) < 2700


def test_what_has_no_fluctuations_is_refused():
    model = dmft.Model(dmft.Committee(SQUARE, width=1), dmft.Committee(SQUARE, width=1))
    sgd = dmft.SGD(0.1)
    with pytest.raises(dmft.errors.BadParameter, match="dim="):
        dmft.derive(model, sgd, fluctuations=True)
    with pytest.raises(dmft.errors.BadParameter, match="gradient flow has no fluctuations"):
        dmft.derive(model, dmft.GradientFlow(), dim=100, fluctuations=True)
    other = dmft.SGD(0.1, constraint="sphere-gradient")
    with pytest.raises(dmft.errors.BadParameter, match="sphere-gradient"):
        dmft.derive(model, other, dim=100, fluctuations=True)
    with pytest.raises(dmft.errors.BadParameter, match="batches of order one"):
        dmft.derive(model, dmft.SGD(0.1, batch_size=sp.Symbol("d")), dim=100, fluctuations=True)
    displaced = dmft.derive(
        model, dmft.SGD(0.1, repeat=dmft.Lookahead(0.1)), dim=4, fluctuations=True
    )
    with pytest.raises(dmft.errors.BadParameter, match="too small for displaced samples"):
        displaced.evaluate(dmft.Overlaps([[1.0]], [[0.3]]))
    large = dmft.SGD(0.1, batch_size=100, repeat=dmft.Repeat(2))
    with pytest.raises(dmft.errors.BadParameter, match="two-time equations"):
        dmft.derive(model, large, dim=100)
    with pytest.raises(dmft.errors.BadParameter, match="rank 2"):
        dmft.derive(model, sgd, dim=1, fluctuations=True).evaluate(dmft.Overlaps([[1.0]], [[0.3]]))
    noisy = dmft.derive(model, sgd, dim=100, fluctuations=True)
    start = dmft.Overlaps([[1.0]], [[0.3]])
    with pytest.raises(dmft.errors.BadParameter, match="integer"):
        noisy.evaluate(start, dim=10.5)
    with pytest.raises(dmft.errors.BadParameter, match="belong to the flow"):
        dmft.fixed_points(noisy, start)
    with pytest.raises(dmft.errors.BadParameter, match="belong to the flow"):
        dmft.stability(noisy, start)


@pytest.mark.cases(1)
@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_compiled_covariance_is_that_of_brute_force_at_any_label_noise(noise):
    # one build: its label noise is a run-time value, and the code passes over what zero leaves out
    eqs = equations(SQUARE, p=2, star=Z**2 - 1, constraint="sphere", batch=3, noise=sp.Symbol("D"))
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.4]], [[1.1]], readout=[1.2, -0.5])
    problem, values = dmft.build(eqs), eqs.values(start, {"d": 50, "D": noise})
    y = np.concatenate([start.Q.ravel(), start.M.ravel()])
    widths = np.array([values.widths[name] for name in problem.widths])
    par = problem.pack_parameters(values.scalars, values.arrays)
    found, drift = np.full((6, 6), np.nan), np.full(6, np.nan)
    problem.diffusion(0.0, y, widths, par, found)
    problem.rhs(0.0, y, widths, par, drift)
    truth = brute_covariance(eqs, start, SQUARE, Z**2 - 1, 0.1, noise, 3, True, False, 8)
    assert found == pytest.approx(truth, rel=1e-11, abs=1e-11 * truth.max())
    rates = eqs.evaluate(start, d=50, D=noise)
    expected = np.concatenate([rates["Q"].ravel(), rates["M"].ravel()])
    assert drift == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_a_parameter_named_as_the_label_noise_of_a_sample_is_refused():
    xi = sp.Symbol("xi", real=True)
    model = dmft.Model(dmft.Committee(xi * Z**2, width=1), dmft.Committee(Z**2, width=1))
    with pytest.raises(dmft.errors.BadParameter, match="rename"):
        dmft.derive(model, dmft.SGD(0.1), dim=100, fluctuations=True)


@pytest.mark.usefixtures("generated_code")
def test_compiled_covariance_of_sums_of_error_functions():
    # The rates of tanh need an array of another width than the covariance knows.
    act = sp.tanh(Z)
    eqs = equations(act, noise=0.0)
    start = dmft.Overlaps([[0.8]], [[0.3]], [[1.1]])
    problem, values = dmft.build(eqs), eqs.values(start, {"d": 50})
    widths = np.array([values.widths[name] for name in problem.widths])
    par = problem.pack_parameters(values.scalars, values.arrays)
    found = np.full((2, 2), np.nan)
    problem.diffusion(0.0, np.array([0.8, 0.3]), widths, par, found)
    truth = brute_covariance(eqs, start, act, act, 0.1, 0.0, 1, False, False, 60)
    error = eqs.evaluate_error(start, d=50)["Sigma"]
    assert np.all(abs(found - truth) <= error + 1e-12)
    assert error.max() < 1e-3 * truth.max()


def test_the_drift_of_error_functions_at_order_one_over_d_is_in_closed_form():
    gamma, delta, dim = 0.5, 0.2, 100
    eqs = equations(ERF, p=2, k=1, gamma=gamma, noise=delta)
    start = dmft.Overlaps([[0.8, 0.2], [0.2, 0.6]], [[0.3], [-0.1]], [[0.7]])
    plain = dmft.derive(eqs.model, eqs.algorithm)
    found = eqs.evaluate(start, d=dim)["Q"] - plain.evaluate(start)["Q"]
    # E[psi_j psi_l (lambda^T Omega^-1 lambda - 3)] on a tensor rule of 40 nodes an axis.
    z, w = np.polynomial.hermite_e.hermegauss(40)
    points = np.array(list(product(z, repeat=3))).T
    weight = np.prod(np.array(list(product(w / w.sum(), repeat=3))), axis=1)
    fields = np.linalg.cholesky(start.Omega) @ points
    value, slope = numeric(ERF)(fields), numeric(sp.diff(ERF, Z))(fields[:2])
    error = value[2] - value[:2].mean(axis=0)
    excess = weight * (np.sum(points**2, axis=0) - 3)
    truth = np.einsum("q,jq,lq->jl", excess * (error**2 + delta), slope, slope)
    np.testing.assert_allclose(found, gamma / (2 * dim) * truth, rtol=1e-8)
    assert eqs.evaluate_error(start, d=dim)["Q"].max() < 1e-14

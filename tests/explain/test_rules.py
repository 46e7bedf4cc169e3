"""Every rule says what is true: one property test for each text, by numbers of SciPy and NumPy.

They use nothing of the engine: plain quadrature on a grid of two fields, finite differences,
simulations.
"""

import math

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss, hermeval
from scipy import integrate, special
from scipy.stats import multivariate_normal

from dmft.explanation.rules import RULES

C = np.array([[0.9, 0.35], [0.35, 1.2]])
RNG = np.random.default_rng(5)
GRID = np.linspace(-8, 8, 401)


def mean(f, cov=C, centre=(0.0, 0.0)):
    """E f(x, y) on a fine grid of independent coordinates; jumps cost a few digits."""
    L = np.linalg.cholesky(cov + 1e-300 * np.eye(2))
    u, v = np.meshgrid(GRID, GRID, indexing="ij")
    weight = np.exp(-(u**2 + v**2) / 2)
    x, y = centre[0] + L[0, 0] * u, centre[1] + L[1, 0] * u + L[1, 1] * v
    return float((f(x, y) * weight).sum() / weight.sum())


def close(one, two, tol=1e-6):
    assert abs(one - two) <= tol * max(1.0, abs(one)), (one, two)


def sgn(x, y):
    return np.sign(x) * np.sign(y)


def angle(cov=C):
    return 2 / math.pi * math.asin(cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1]))


def He(n, x, v=1.0):
    return v ** (n / 2) * hermeval(x / math.sqrt(v), [0] * n + [1])


def linearity():
    f, g = (lambda x, y: np.tanh(x) * y), (lambda x, y: x**2)
    close(mean(lambda x, y: 2 * f(x, y) - 3 * g(x, y)), 2 * mean(f) - 3 * mean(g))


def kinks():
    u = RNG.normal(size=100)
    np.testing.assert_allclose(np.abs(u), u * np.sign(u))
    np.testing.assert_allclose(np.maximum(0, u), (u + u * np.sign(u)) / 2)


def combination():
    a = np.array([1.0, -2.0])
    close(mean(lambda x, y: (a[0] * x + a[1] * y) ** 4), 3 * (a @ C @ a) ** 2)


def hermite():
    x = RNG.normal(size=50)
    v = 0.7
    np.testing.assert_allclose(He(3, x, v), x**3 - 3 * v * x)
    # Orthogonal in its own variance.
    nodes, weights = hermegauss(20)
    x, w = nodes * math.sqrt(v), weights / weights.sum()
    close(w @ (He(3, x, v) * He(1, x, v)), 0.0)


def diagrams():
    close(mean(lambda x, y: He(3, x, C[0, 0]) * He(3, y, C[1, 1])), 6 * C[0, 1] ** 3)
    close(mean(lambda x, y: He(4, x, C[0, 0]) * He(2, y, C[1, 1])), 0.0)


def tilt():
    b = 1.3
    T = C - b * np.outer(C[0], C[0]) / (1 + b * C[0, 0])
    F = lambda x, y: np.cos(x - 0.3 * y) * y  # noqa: E731
    G = lambda x, y: F(x, y) + y**2  # noqa: E731
    close(
        mean(lambda x, y: np.exp(-b * x**2 / 2) * G(x, y)), mean(G, T) / math.sqrt(1 + b * C[0, 0])
    )


def condition():
    t, width = 0.4, 1e-3

    def joint(x):
        """Density at x times the average of a function of y given x."""
        given = C[1, 1] - C[0, 1] ** 2 / C[0, 0]
        density = math.exp(-(x**2) / (2 * C[0, 0])) / math.sqrt(2 * math.pi * C[0, 0])
        return density * mean_line(lambda y: y**2 + np.tanh(y), C[0, 1] / C[0, 0] * x, given)

    # A narrow bump of area one in place of the Dirac factor.
    u = np.linspace(t - 6 * width, t + 6 * width, 201)
    weight = np.exp(-((u - t) ** 2) / (2 * width**2)) / (math.sqrt(2 * math.pi) * width)
    close(float(np.trapezoid(weight * np.array([joint(x) for x in u]), u)), joint(t), 1e-4)
    x = RNG.multivariate_normal([0, 0], C, size=400_000)
    wide = np.abs(x[:, 0] - t) < 0.05
    sampled = (wide * (x[:, 1] ** 2 + np.tanh(x[:, 1]))).mean() / 0.1
    close(float(sampled), joint(t), 0.02)


def mean_line(f, centre, variance):
    y = centre + math.sqrt(variance) * GRID
    w = np.exp(-(GRID**2) / 2)
    return float((f(y) * w).sum() / w.sum())


def stein():
    left = mean(lambda x, y: x * np.tanh(x) * special.erf(y))
    slope_x = mean(lambda x, y: special.erf(y) / np.cosh(x) ** 2)
    slope_y = mean(lambda x, y: np.tanh(x) * 2 / math.sqrt(math.pi) * np.exp(-(y**2)))
    close(left, C[0, 0] * slope_x + C[0, 1] * slope_y)


def fixed():
    close(mean(lambda x, y: y**2 * x, np.array([[1e-20, 0], [0, 1.0]]), (1.5, 0)), 1.5)


def two_jumps():
    x, s, t = RNG.normal(size=200), -0.3, 0.6
    np.testing.assert_allclose(np.sign(x - s) * np.sign(x - t), 1 - np.sign(x - s) + np.sign(x - t))


def parallel_signs():
    x = RNG.normal(size=100)
    np.testing.assert_allclose(np.sign(2 * x - 1) * np.sign(x - 0.5), 1)
    np.testing.assert_allclose(np.sign(-2 * x) * np.sign(x), -1)


def parity():
    close(mean(lambda x, y: x * y**2 + np.sign(x)), 0.0)


def smoothing():
    a, c, m = 0.8, -0.3, 0.4
    value = mean_line(lambda x: special.erf(a * x + c), m, C[0, 0])
    close(value, math.erf((a * m + c) / math.sqrt(1 + 2 * a**2 * C[0, 0])))


def noise():
    a, c, x = -0.8, 0.3, 0.7
    spread = math.sqrt(1 / (2 * a**2))
    positive = 0.5 * math.erfc(-(x + c / a) / (spread * math.sqrt(2)))
    close(math.erf(a * x + c), np.sign(a) * (2 * positive - 1))


def probability():
    m, v = 0.4, 0.9
    positive = 0.5 * math.erfc(-m / math.sqrt(2 * v))
    close(2 * positive - 1, math.erf(m / math.sqrt(2 * v)))


def arcsine():
    p = multivariate_normal(cov=C).cdf([0, 0])
    close(4 * p - 1, angle(), 1e-7)
    widened = C + np.eye(2)
    close(mean(lambda x, y: special.erf(x / 2**0.5) * special.erf(y / 2**0.5)), angle(widened))


def two_signs():
    h, k, rho = 0.3, -0.5, 0.4
    joint = multivariate_normal(cov=[[1, rho], [rho, 1]])
    root = math.sqrt(2)
    text = 4 * joint.cdf([h, k]) - math.erf(h / root) - math.erf(k / root) - 1
    agree = sum(
        s * t * multivariate_normal(cov=[[1, s * t * rho], [s * t * rho, 1]]).cdf([s * h, t * k])
        for s in (1, -1) for t in (1, -1)
    )  # fmt: skip
    close(text, agree, 1e-7)


def four_signs():
    # Exchangeable signs of correlation 1/2: all four agree with probability 2/5.
    cov = 0.5 + 0.5 * np.eye(4)
    x = RNG.multivariate_normal(np.zeros(4), cov, size=400_000)
    close(float(np.sign(x).prod(axis=1).mean()), 0.2, 0.01)


def price():
    def at(t):
        here = np.array([[C[0, 0], t * C[0, 1]], [t * C[0, 1], C[1, 1]]])
        f = lambda x, y: special.erf(x) * np.tanh(y)  # noqa: E731
        g = lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-(x**2)) / np.cosh(y) ** 2  # noqa: E731
        return mean(f, here), C[0, 1] * mean(g, here)

    close((at(0.51)[0] - at(0.49)[0]) / 0.02, at(0.5)[1], 1e-4)


def independent():
    cov = np.diag([0.9, 1.2])
    f, g = (lambda x: x**2 + x), (lambda y: np.cos(y))
    close(
        mean(lambda x, y: f(x) * g(y), cov),
        mean(lambda x, y: f(x), cov) * mean(lambda x, y: g(y), cov),
    )


def integral():
    q, r, m = C[0, 0], C[1, 1], C[0, 1]
    density = lambda t: 2 * m / (math.pi * math.sqrt(q * r - t**2 * m**2))  # noqa: E731
    close(integrate.quad(density, 0, 1)[0], angle())


def moment_of_signs():
    # E[x y sign(x) sign(y)] by Stein: the angle and what conditioning leaves.
    q, r, m = C[0, 0], C[1, 1], C[0, 1]
    text = m * angle() + 2 / math.pi * math.sqrt(q * r - m**2)
    close(mean(lambda x, y: np.abs(x * y)), text, 1e-3)


def waves():
    s, m, v = 0.9, 0.3, 1.2
    close(mean_line(lambda q: np.cos(s * q), m, v), math.cos(s * m) * math.exp(-(s**2) * v / 2))


def branches():
    v = 0.8
    exact = 0.5 * special.erfcx(math.sqrt(v / 2))  # E[exp(-x) 1(x > 0)]
    found = integrate.quad(lambda x: math.exp(-x - x**2 / (2 * v)), 0, 30)[0]
    close(found / math.sqrt(2 * math.pi * v), exact)


def collect():
    close(0.5 * 2.0 + 0.25, 1.25)


def series():
    rho = 0.4
    nodes, weights = hermegauss(60)
    w = weights / weights.sum()
    c = [w @ (np.tanh(nodes) * He(n, nodes)) for n in range(12)]
    text = sum(rho**n * a * a / math.factorial(n) for n, a in enumerate(c))
    close(mean(lambda x, y: np.tanh(x) * np.tanh(y), np.array([[1, rho], [rho, 1]])), text)


def nodes():
    value, error = integrate.quad(lambda x: math.tanh(x) ** 2 * math.exp(-(x**2) / 2), -9, 9)
    assert (
        abs(value - integrate.quad(lambda x: math.tanh(x) ** 2 * math.exp(-(x**2) / 2), -8, 8)[0])
        < error + 1e-12
    )


def weights_and_inputs(d=400, n=40_000):
    """Weights with the overlaps C, and their fields over inputs."""
    frame, _ = np.linalg.qr(RNG.normal(size=(d, 2)))
    W = np.linalg.cholesky(C) @ frame.T * math.sqrt(d)
    x = RNG.normal(size=(n, d))
    return W, x, x @ W.T / math.sqrt(d)


def local_fields():
    W, _, fields = weights_and_inputs()
    np.testing.assert_allclose(W @ W.T / 400, C)
    np.testing.assert_allclose(np.cov(fields.T), C, atol=0.05)


def pair():
    big = np.array([[0.9, 0.35, 0.2], [0.35, 1.2, -0.1], [0.2, -0.1, 1.0]])
    x = RNG.multivariate_normal(np.zeros(3), big, size=300_000)
    close(float((np.tanh(x[:, 0]) * x[:, 1]).mean()), mean(lambda a, b: np.tanh(a) * b), 0.01)


def drift():
    # One step along psi x / sqrt(d) changes w . w* / d by gamma psi h* / d.
    W, x, fields = weights_and_inputs(n=1)
    psi, gamma, d = math.tanh(fields[0, 0]), 0.3, 400
    moved = W[0] + gamma * psi * x[0] / math.sqrt(d)
    close((moved @ W[1] - W[0] @ W[1]) / d, gamma / d * psi * fields[0, 1])


def square():
    W, x, fields = weights_and_inputs(n=4000)
    psi, gamma, d = np.tanh(fields[:, 0]), 0.3, 400
    moved = W[0] + gamma * psi[:, None] * x / math.sqrt(d)
    gain = ((moved**2).sum(axis=1) - W[0] @ W[0]) / d
    text = 2 * gamma / d * psi * fields[:, 0] + gamma**2 / d * psi**2
    close(float(gain.mean() * d), float(text.mean() * d), 0.02)


def block_drift():
    # Two independent parts of one field: tanh'(h) averages with the overlap of a part.
    c, g = np.array([1.5, 0.4]), np.array([[0.3, 0.1], [0.1, 0.5]])
    cov = np.diag(c * np.diag(g))
    left = mean(lambda x, y: x * np.tanh(x + y), cov)
    slope = mean(lambda x, y: 1 / np.cosh(x + y) ** 2, cov)
    close(left, c[0] * g[0, 0] * slope)


def block_square():
    # Half of the coordinates have the variance 1.8: their share of |x|^2/d is 0.9.
    W, x, fields = weights_and_inputs(n=4000)
    psi, gamma, d, half = np.tanh(fields[:, 0]), 0.3, 400, 200
    deviation = math.sqrt(1.8)
    moved = W[0, :half] + gamma * psi[:, None] * deviation * x[:, :half] / math.sqrt(d)
    gain = ((moved**2).sum(axis=1) - W[0, :half] @ W[0, :half]) / d
    field = deviation * x[:, :half] @ W[0, :half] / math.sqrt(d)
    text = 2 * gamma / d * psi * field + gamma**2 / d * 0.9 * psi**2
    close(float(gain.mean() * d), float(text.mean() * d), 0.02)


def mean_gradient():
    # A batch of two: what is beyond the squares of single samples is the product of the means.
    W, x, fields = weights_and_inputs(n=40_000)
    psi, d = np.tanh(fields[:, 0]), 400
    moves = psi[:, None] * x / 2
    one, two = moves[::2], moves[1::2]
    both = ((one + two) ** 2).sum(axis=1).mean() - (one**2 + two**2).sum(axis=1).mean()
    half = len(psi) // 2
    text = 0.5 * (psi[:half] @ x[:half] / half) @ (psi[half:] @ x[half:] / half)
    close(float(both), float(text), 0.1)
    # By Stein's identity: E[psi x] = E[psi'] w / sqrt(d).
    slope = float((1 / np.cosh(fields[:, 0]) ** 2).mean())
    close(float(2 * text), slope**2 * float(W[0] @ W[0]) / d, 0.1)


def sphere():
    M, rate, growth, t = 0.35, 0.8, 0.6, 1e-6
    after = (M + t * rate) / math.sqrt(1 + t * growth)
    close((after - M) / t, rate - M * growth / 2, 1e-4)


def mehler():
    m = 0.3
    cov = np.array([[1, m], [m, 1]])
    nodes, weights = hermegauss(60)
    c = (weights / weights.sum()) @ (np.tanh(nodes) * He(3, nodes))
    close(mean(lambda x, y: np.tanh(x) * He(3, y), cov), m**3 * c)


def coefficient():
    nodes, weights = hermegauss(30)
    close((weights / weights.sum()) @ (nodes**3 * He(3, nodes)), 6.0)


def token_fields():
    d, m, e = 300, 0.4, 0.3
    frame, _ = np.linalg.qr(RNG.normal(size=(d, 3)))
    star, position, rest = frame.T * math.sqrt(d)
    w = m * star + e * position + math.sqrt(1 - m**2 - e**2) * rest
    x = RNG.normal(size=(40_000, d)) + position / math.sqrt(d)
    h, h_star = x @ w / math.sqrt(d), x @ star / math.sqrt(d)
    np.testing.assert_allclose(np.cov(h_star, h), [[1, m], [m, 1]], atol=0.05)
    np.testing.assert_allclose([h_star.mean(), h.mean()], [0, e], atol=0.03)


def moments():
    # A function of the mean field of two tokens: E[h*_1 G(u)] = m c_1(G) / sqrt 2.
    m = 0.4
    value = mean(lambda a, b: a * np.tanh(b), np.array([[1, m / 2**0.5], [m / 2**0.5, 1]]))
    nodes, weights = hermegauss(60)
    close(value, m / 2**0.5 * ((weights / weights.sum()) @ (nodes * np.tanh(nodes))))


def uninformative():
    # Independent fields: averages of products are products of moments.
    mu = 1e-4
    value = mean(lambda x, y: x * (x**2) * y * (y**2), np.array([[1, mu], [mu, 1]]))
    close(value / mu, 9.0, 1e-3)


def lengths():
    # Gradient flow of one square without a teacher: dq/dt = -2 E[2 h h^2 h] = -12 q^2.
    q = 0.7
    nodes, weights = hermegauss(20)
    h = nodes * math.sqrt(q)
    close(-2 * (weights / weights.sum()) @ (2 * h * h**2 * h), -12 * q**2)


def growth():
    rate = lambda m: 2.5 * m - 2.0 * m**3  # noqa: E731
    close((rate(1e-4) - rate(-1e-4)) / 2e-4, 2.5)


def passage():
    L, A, u0, u1 = 1.1, 1.3, 0.05, 0.3
    rate = lambda t, u: 2 * u * (L - A * u)  # noqa: E731
    reached = lambda t, u: u[0] - u1  # noqa: E731
    solved = integrate.solve_ivp(rate, (0, 9), [u0], rtol=1e-10, atol=1e-12, events=reached)
    close(solved.t_events[0][0], integrate.quad(lambda u: 1 / (2 * u * (L - A * u)), u0, u1)[0])


def first_step():
    W, x, fields = weights_and_inputs(d=200, n=600)
    eta, alpha, ridge, d = 0.3, 3.0, 0.1, 200
    gradient = np.tanh(fields[:, 0]) - np.tanh(fields[:, 1])
    moved = (1 - eta * ridge) * W[0] - eta * gradient @ x / math.sqrt(d)
    text = (1 - eta * ridge) * C[0, 1] - eta * alpha * float((gradient * fields[:, 1]).mean())
    close(float(moved @ W[1] / d), text)


def linear_response():
    """Sites x <- tanh(J x) with site 0 at 0 and at a small value, after two steps."""
    J = np.random.default_rng(4).standard_normal((5, 5)) / 2
    moved = lambda x0: np.tanh(J[1:, 1:] @ np.tanh(J[1:, 0] * x0))  # noqa: E731
    response = J[1:, 1:] @ J[1:, 0]
    np.testing.assert_allclose(moved(1e-5) - moved(0.0), response * 1e-5, rtol=1e-8)


def new_couplings():
    """Sums of (J_0j y_j)^2 and J_0j J_j0 r_jj over pairs of normal couplings of correlation .4."""
    rng, size, sigma, gamma = np.random.default_rng(5), 200_000, 1.3, 0.4
    z = rng.standard_normal((2, size))
    pair = sigma * z[0], sigma * (gamma * z[0] + math.sqrt(1 - gamma**2) * z[1])
    y = np.cos(np.arange(size))
    assert abs(np.mean((pair[0] * y) ** 2) - sigma**2 * np.mean(y**2)) < 0.02
    assert abs(np.mean(pair[0] * pair[1] * y**2) - gamma * sigma**2 * np.mean(y**2)) < 0.02


def one_step():
    """One row, two views of correlated noise, a step along itself, at d = 400: mean changes."""
    rng, d, g, n = np.random.default_rng(6), 400, 0.8, 4000
    w, u = rng.standard_normal((2, d))
    a, b = rng.standard_normal((2, n, d))
    x, y = a, 0.5 * a + math.sqrt(0.75) * b
    h, k = x @ w / math.sqrt(d), y @ w / math.sqrt(d)
    first, second, Phi = np.tanh(h), h * k / 2, -(k**2)
    moved = w + g / math.sqrt(d) * (first[:, None] * x + second[:, None] * y)
    moved = moved + g / d * Phi[:, None] * w
    M = first * (x @ u) / math.sqrt(d) + second * (y @ u) / math.sqrt(d) + Phi * (w @ u) / d
    near = lambda one, two: abs(np.mean(one - two)) < 5 * np.std(one - two) / n**0.5 + 5 / d  # noqa: E731
    assert near((moved - w) @ u / g, M)
    Q = w @ w / d
    square = g * (first**2 + second**2 + first * second)
    drift = 2 * (first * h + second * k + Phi * Q)
    assert near((np.sum(moved**2, axis=1) - w @ w) / g, drift + square)


def latents():
    p, c = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.5, 2.0])
    x = np.random.default_rng(7).standard_normal(400_000)
    drawn = np.random.default_rng(8).choice(c, p=p, size=x.size)
    assert abs(np.tanh(x + drawn).mean() - p @ [np.tanh(x + y).mean() for y in c]) < 0.01


def latent_means():
    """Inputs whose coordinates along two directions are replaced, and to which one is added."""
    rng, d = np.random.default_rng(9), 7
    w, u, v, m = rng.standard_normal((4, d))
    U, c = np.array([u, v]), np.array([0.7, -1.3])
    noise = rng.standard_normal((5, d))
    across = noise - noise @ U.T @ np.linalg.inv(U @ U.T) @ U
    x = across + math.sqrt(d) * c @ np.linalg.inv(U @ U.T) @ U
    np.testing.assert_allclose(x @ U.T / math.sqrt(d), np.tile(c, (5, 1)))
    K = (w @ U.T / d) @ np.linalg.inv(U @ U.T / d)
    fields = across @ w / math.sqrt(d) + K @ c
    np.testing.assert_allclose(x @ w / math.sqrt(d), fields)
    added = (0.4 * m / math.sqrt(d) + noise) @ w / math.sqrt(d)
    np.testing.assert_allclose(added, 0.4 * (w @ m) / d + noise @ w / math.sqrt(d))


def wick():
    m = (0.3, -0.7)
    third = mean(lambda x, y: x * x * y, centre=m)
    pair = mean(lambda x, y: x * y, centre=m)
    close(third, m[0] * pair + C[0, 0] * m[1] + C[0, 1] * m[0])


PROPERTIES = {
    "linearity": linearity, "kinks": kinks, "combination": combination, "hermite": hermite,
    "diagrams": diagrams, "tilt": tilt, "condition": condition, "stein": stein, "fixed": fixed,
    "two_jumps": two_jumps, "parallel_signs": parallel_signs, "parity": parity,
    "smoothing": smoothing, "noise": noise, "probability": probability, "arcsine": arcsine,
    "two_signs": two_signs, "four_signs": four_signs, "price": price, "independent": independent,
    "integrate": integral, "moment_of_signs": moment_of_signs, "waves": waves,
    "branches": branches, "collect": collect, "series": series, "nodes": nodes, "table": nodes,
    "local_fields": local_fields, "pair": pair, "closed": collect, "values": collect,
    "insert": collect,
    "drift": drift, "square": square, "stein_fields": stein,
    "block_drift": block_drift, "block_square": block_square,
    "mean_gradient": mean_gradient, "names": collect, "sphere": sphere,
    "mehler": mehler, "coefficient": coefficient, "token_fields": token_fields,
    "moments": moments, "uninformative": uninformative, "lengths": lengths, "growth": growth,
    "passage": passage, "first_step": first_step,
    "linear_response": linear_response, "new_couplings": new_couplings,
    "one_step": one_step, "latents": latents, "latent_means": latent_means, "wick": wick,
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_rules_hold(name):
    PROPERTIES[name]()


def test_every_rule_has_a_text_and_a_property():
    assert set(PROPERTIES) == set(RULES)
    for rule in RULES.values():
        assert rule.title
        assert rule.text.endswith(".")
        assert bool(rule.plain) == bool(rule.formula)
        assert rule.formula.count("{") == rule.formula.count("}")

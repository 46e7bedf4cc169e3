r"""Population risk from overlaps by quadrature, sharing nothing with the closed forms.

R = (1/2) sum_{mn} c_m c_n E[s_m(u_m) s_n(u_n)] over all p + k fields, c = (-a/p, a*/k):
each term is an integral over two fields. Three rules:

* both networks polynomial: no quadrature, their Hermite polynomials are orthogonal;
* smooth: trapezoidal rule in both normal variables, whose error falls like exp(-const/h) for
  analytic functions (1e-12 for erf and tanh at variances up to ten), where Gauss-Hermite stalls
  at large variances; the spacing follows the variances;
* with kinks or jumps (ReLU, sign): Gauss-Legendre panels that end on every kink.

A multi-index target g is averaged over its k fields instead, given one student's field at a time:
E[g(h*) s(h_j)] = E_u s(h_j) E_z g(M_j u / sqrt(Q_jj) + L z), L L^T = P - M_j M_j^T / Q_jj, on the
nodes z of `measures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numba import types
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.model import FIELD
from dmft.simulation.risk_arguments import Activation

VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
FUNCTION = types.FunctionType(types.float64(types.float64, VECTOR))
# nodes and weights of a fixed rule; kinks of student and teacher; [refinement]. For a multi-index
# target z_1, ..., z_k and weight of every node replace the teacher's kinks; E g^2 follows
# (NaN: it is that of each cluster), and a third entry says that the label takes their number.
RULE = types.UniTuple(VECTOR, 5)
RISK_SIGNATURE = types.float64(
    MATRIX, MATRIX, MATRIX, VECTOR, VECTOR, FUNCTION, FUNCTION, VECTOR, VECTOR, RULE, MATRIX
)
RISK = types.FunctionType(RISK_SIGNATURE)
Rule = tuple[NDArray[np.float64], ...]
Function = Callable[..., float]

# Normal density beyond this many standard deviations: 1e-20, times what the activation grows.
REACH = 9.5
# Spacing of the trapezoidal rule: at unit variance, and for larger ones.
SPACING, SPACING_PER_DEVIATION = 0.25, 0.5
# Largest variance of a smooth function's field: 5,400 nodes.
LARGEST = 1e4
# Longest Gauss-Legendre panel, in standard deviations.
PANEL = 2.0
# Panels around a smoothed kink end this many widths of the smoothing away from it.
BEND_BREAKS = (-6.0, -2.0, 0.0, 2.0, 6.0)
LEGENDRE_NODES, LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(10)
DENSITY = 1.0 / math.sqrt(2.0 * math.pi)
# A conditional variance this far below zero (relative) is rounding of a singular covariance.
CLAMP = 1e-10

KINKED = (sp.Abs, sp.sign, sp.Heaviside, sp.Max, sp.Min, sp.Piecewise)


@njit(nogil=True, cache=True, error_model="numpy")
def smooth_rule(
    variance: float, refinement: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for the mean of a smooth function of a field of this variance.

    NaN for a variance above `LARGEST`, as in a run that diverges: the number of nodes grows like
    the deviation, and pairs of fields take its square.
    """
    if not variance <= LARGEST:
        return np.zeros(1), np.full(1, np.nan)
    spacing = min(SPACING, SPACING_PER_DEVIATION / math.sqrt(1.0 + 2.0 * variance)) * refinement
    half = math.ceil(REACH / spacing)
    nodes = np.empty(2 * half + 1)
    weights = np.empty(2 * half + 1)
    for i in range(2 * half + 1):
        z = (i - half) * spacing
        nodes[i] = z
        weights[i] = spacing * DENSITY * math.exp(-0.5 * z * z)
    return nodes, weights


@njit(nogil=True, cache=True, error_model="numpy")
def panel_rule(
    breaks: NDArray[np.float64], width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for the mean over one standard normal variable, split at `breaks`."""
    edges = np.empty(breaks.size + 2)
    edges[0] = -REACH
    size = 1
    for b in breaks:
        if abs(b) < REACH:
            # Insertion sort: the entries are few.
            at = size
            while edges[at - 1] > b:
                edges[at] = edges[at - 1]
                at -= 1
            edges[at] = b
            size += 1
    edges[size] = REACH
    panels = 0
    for e in range(size):
        panels += math.ceil((edges[e + 1] - edges[e]) / width)
    per = LEGENDRE_NODES.size
    nodes, weights = np.empty(panels * per), np.empty(panels * per)
    at = 0
    for e in range(size):
        pieces = math.ceil((edges[e + 1] - edges[e]) / width)
        for piece in range(pieces):
            half = 0.5 * (edges[e + 1] - edges[e]) / pieces
            middle = edges[e] + (2 * piece + 1) * half
            for i in range(per):
                z = middle + half * LEGENDRE_NODES[i]
                nodes[at] = z
                weights[at] = half * LEGENDRE_WEIGHTS[i] * DENSITY * math.exp(-0.5 * z * z)
                at += 1
    return nodes, weights


@njit(nogil=True, cache=True, error_model="numpy")
def outer_breaks(
    kinks_f: NDArray[np.float64], kinks_g: NDArray[np.float64], a: float, b: float, s: float
) -> NDArray[np.float64]:
    """Where the integrand is rough in z1, with u = a z1 and v = b z1 + s z2.

    f breaks at its kinks; the mean of g over z2 bends where b z1 meets a kink, over a width s/b.
    """
    sides = len(BEND_BREAKS)
    breaks = np.empty(kinks_f.size + sides * kinks_g.size)
    # Division by zero puts a break at infinity (or NaN), which `panel_rule` leaves out.
    for i in range(kinks_f.size):
        breaks[i] = kinks_f[i] / a
    for i in range(kinks_g.size):
        for side in range(sides):
            at = kinks_f.size + sides * i + side
            breaks[at] = (kinks_g[i] + BEND_BREAKS[side] * s) / b
    return breaks


@njit(nogil=True, cache=True, error_model="numpy")
def inner_breaks(kinks: NDArray[np.float64], centre: float, s: float) -> NDArray[np.float64]:
    """Where g breaks in z2, with v = centre + s z2."""
    breaks = np.empty(kinks.size)
    for i in range(kinks.size):
        breaks[i] = (kinks[i] - centre) / s
    return breaks


@njit(nogil=True, cache=True, error_model="numpy")
def conditional_deviation(variance: float, explained: float) -> float:
    """Standard deviation left after conditioning; NaN for an indefinite covariance."""
    rest = variance - explained
    if rest < 0.0 and rest > -CLAMP * variance:
        return 0.0
    return math.sqrt(rest)


@njit(nogil=True, cache=True, error_model="numpy")
def pair_mean(  # type: ignore[no-untyped-def]
    star_f, star_g, cff, cfg, cgg, mean_f, mean_g, sigma, sigma_star, par, par_star, rule
):
    """E[f(mean_f + u) g(mean_g + v)] for zero-mean (u, v); sigma_star where flagged, else sigma."""
    kinks_f = (rule[3] if star_f else rule[2]) - mean_f
    kinks_g = (rule[3] if star_g else rule[2]) - mean_g
    a = math.sqrt(cff)
    b = cfg / a if a > 0.0 else 0.0
    s = conditional_deviation(cgg, b * b)
    nodes, weights = rule[0], rule[1]
    split = nodes.size == 0 and kinks_f.size + kinks_g.size > 0
    if split:
        nodes, weights = panel_rule(outer_breaks(kinks_f, kinks_g, a, b, s), PANEL * rule[4][0])
    elif nodes.size == 0:
        nodes, weights = smooth_rule(max(cff, cgg), rule[4][0])
    inner_nodes, inner_weights = nodes, weights
    total = 0.0
    for i in range(nodes.size):
        centre = b * nodes[i]
        if split and s > 0.0:
            breaks = inner_breaks(kinks_g, centre, s)
            inner_nodes, inner_weights = panel_rule(breaks, PANEL * rule[4][0])
        inner = 0.0
        # Without conditional variance one inner node, of weight one, is all.
        for n in range(inner_nodes.size if s > 0.0 else 1):
            v = centre + s * inner_nodes[n] if s > 0.0 else centre
            v += mean_g
            value = sigma_star(v, par_star) if star_g else sigma(v, par)
            inner += (inner_weights[n] if s > 0.0 else 1.0) * value
        u = mean_f + a * nodes[i]
        total += weights[i] * inner * (sigma_star(u, par_star) if star_f else sigma(u, par))
    return total


# Nothing is allocated: without counting references a call costs a third.
UNCOUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


@njit(cache=True, **UNCOUNTED)
def hermite_coefficient(table, size, n, variance):  # type: ignore[no-untyped-def]
    """Coefficient of H_n = C^(n/2) He_n(u / sqrt(C)) in a polynomial of a field u of variance C."""
    value = 0.0
    for i in range(size - 1 - (size - 1 - n) % 2, n - 1, -2):
        value = value * variance + table[n * size + i]
    return value


@njit(RISK_SIGNATURE, cache=True, **UNCOUNTED)
def polynomial_risk_at(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters):  # type: ignore[no-untyped-def]
    """Population risk of polynomial committees; their tables of coefficients are in the rule.

    Exact, by orthogonality: E[H_n(u) H_m(v)] = n! C_uv^n for n = m, else 0. The quadrature calls
    the activations a hundred times, which would cost more than the step itself.
    """
    p, k = M.shape
    student, teacher, s, t = rule[0], rule[1], rule[2].size, rule[3].size
    total = 0.0
    for m in range(p + k):
        for n in range(m + 1):
            mean, power = 0.0, 1.0
            if m < p:
                for i in range(s):
                    one = hermite_coefficient(student, s, i, Q[m, m])
                    two = one if m == n else hermite_coefficient(student, s, i, Q[n, n])
                    mean += power * one * two
                    power *= (i + 1.0) * Q[m, n]
                mean *= a[m] * a[n] / (p * p)
            elif n < p:
                for i in range(min(s, t)):
                    one = hermite_coefficient(teacher, t, i, P[m - p, m - p])
                    mean -= power * one * hermite_coefficient(student, s, i, Q[n, n])
                    power *= (i + 1.0) * M[n, m - p]
                mean *= a[n] * a_star[m - p] / (p * k)
            else:
                for i in range(t):
                    one = hermite_coefficient(teacher, t, i, P[m - p, m - p])
                    two = one if m == n else hermite_coefficient(teacher, t, i, P[n - p, n - p])
                    mean += power * one * two
                    power *= (i + 1.0) * P[m - p, n - p]
                mean *= a_star[m - p] * a_star[n - p] / (k * k)
            total += mean if m == n else 2.0 * mean
    return 0.5 * total


@njit(nogil=True, cache=True, error_model="numpy")
def semidefinite_root(D, L):  # type: ignore[no-untyped-def]
    """Lower root L L^T = D of a covariance (overwritten by it); NaN for an indefinite one."""
    n = D.shape[0]
    scale = 0.0
    for i in range(n):
        scale = max(scale, D[i, i])
    for c in range(n):
        root = 0.0
        if D[c, c] > CLAMP * scale or D[c, c] < -CLAMP * scale:
            root = math.sqrt(D[c, c])
        for i in range(n):
            L[i, c] = D[i, c] / root if i >= c and root > 0.0 else 0.0
        if math.isnan(root):
            L[c, c] = root
        for i in range(c + 1, n):
            for j in range(c + 1, n):
                D[i, j] -= L[i, c] * L[j, c]


@njit(nogil=True, cache=True, error_model="numpy")
def target_mean(centre, L, nodes, power, target, star):  # type: ignore[no-untyped-def]
    """E g(centre + L z)^power over the nodes z; the fields but the first go into `star`."""
    k = centre.size
    total = 0.0
    for q in range(0, nodes.size, k + 1):
        first = centre[0] + L[0, 0] * nodes[q]
        for r in range(1, k):
            field = centre[r]
            for c in range(r + 1):
                field += L[r, c] * nodes[q + c]
            star[r - 1] = field
        value = target(first, star)
        total += nodes[q + k] * (value if power == 1 else value * value)
    return total


@njit(types.float64(MATRIX, VECTOR, FUNCTION, VECTOR), nogil=True, cache=True, error_model="numpy")
def target_square(P, nodes, target, par_star):  # type: ignore[no-untyped-def]
    """E g(h*)^2 over teacher fields of covariance P."""
    L = np.empty(P.shape)
    semidefinite_root(P.copy(), L)
    return target_mean(np.zeros(P.shape[0]), L, nodes, 2, target, par_star.copy())


@njit(nogil=True, cache=True, error_model="numpy")
def student_rule(q, mean, rule):  # type: ignore[no-untyped-def]
    """Nodes and weights for the mean over u of s(mean + sqrt(q) u) times a smooth function."""
    if rule[0].size > 0:
        return rule[0], rule[1]
    if rule[2].size > 0 and q > 0.0:
        return panel_rule((rule[2] - mean) / math.sqrt(q), PANEL * rule[4][0])
    return smooth_rule(max(q, 0.0), rule[4][0])


@njit(nogil=True, cache=True, error_model="numpy")
def target_terms(Q, M, P, a, mean, scale, sigma, target, par, par_star, rule):  # type: ignore[no-untyped-def]
    """E g^2 - 2 E f g of a target of fields with means; its nodes are in the rule."""
    p, k = M.shape
    star, centre, D, L = par_star.copy(), np.empty(k), np.empty((k, k)), np.empty((k, k))
    total = rule[4][1]
    if math.isnan(total):
        semidefinite_root(scale * P, L)
        total = target_mean(mean[p:], L, rule[3], 2, target, star)
    for j in range(p):
        length = math.sqrt(scale * Q[j, j])
        for r in range(k):
            for s in range(k):
                along = M[j, r] * M[j, s] / Q[j, j] if length > 0.0 else 0.0
                D[r, s] = scale * (P[r, s] - along)
        semidefinite_root(D, L)
        nodes, weights = student_rule(scale * Q[j, j], mean[j], rule)
        cross = 0.0
        for n in range(nodes.size):
            for r in range(k):
                along = scale * M[j, r] / length * nodes[n] if length > 0.0 else 0.0
                centre[r] = mean[p + r] + along
            value = target_mean(centre, L, rule[3], 1, target, star)
            cross += weights[n] * sigma(mean[j] + length * nodes[n], par) * value
        total -= 2.0 * a[j] / p * cross
    return total


@njit(RISK_SIGNATURE, nogil=True, cache=True, error_model="numpy")
def risk_at(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters):  # type: ignore[no-untyped-def]
    """Population risk at one set of overlaps; the teacher's own term is included.

    Over inputs from clusters it is the sum over their laws; rows of clusters may end with the means
    of the fields and their covariance.
    """
    p, k = M.shape
    has_fields, by_cluster = rule[4].size > 1, rule[4].size > 2
    count = p if has_fields else p + k
    c, cov, mean = np.empty(p + k), np.empty((p + k, p + k)), np.zeros(p + k)
    for m in range(p + k):
        c[m] = -a[m] / p if m < p else a_star[min(m - p, a_star.size - 1)] / k
        for n in range(m + 1):
            cov[m, n] = Q[m, n] if m < p else M[n, m - p] if n < p else P[m - p, n - p]
            cov[n, m] = cov[m, n]
    risk, star, before = 0.0, par_star.copy(), 0.0
    for number in range(max(clusters.shape[0], 1)):
        scale, through = 1.0, 1.0
        if clusters.shape[0] > 0:
            scale, through = clusters[number, 1] * clusters[number, 1], clusters[number, 0]
            own = clusters.shape[1] > 2 + k
            for m in range(p + k):
                mean[m] = clusters[number, 2 + k + m] if own else 0.0
                for n in range(p + k if own else 0):
                    cov[m, n] = clusters[number, 2 + k + (1 + m) * (p + k) + n]
                for r in range(0 if own else k):
                    mean[m] += cov[m, p + r] * clusters[number, 2 + r]
        total = 0.0
        for m in range(count):
            for n in range(m + 1):
                both = pair_mean(
                    n >= p, m >= p, scale * cov[n, n], scale * cov[n, m], scale * cov[m, m],
                    mean[n], mean[m], sigma, sigma_star, par, par_star, rule,
                )  # fmt: skip
                total += (1.0 if m == n else 2.0) * c[m] * c[n] * both
        if has_fields:
            if by_cluster:
                star[k - 1] = number
            total += target_terms(
                cov[:p, :p].copy(), cov[:p, p:].copy(), cov[p:, p:].copy(), a, mean, scale, sigma,
                sigma_star, par, star, rule,
            )  # fmt: skip
        risk += 0.5 * (through - before) * total
        before = through
    return risk


def choose_rule(student: Activation, teacher: Activation, refinement: float = 1.0) -> Rule:
    """Rule for this pair of activations; a smaller `refinement` takes more nodes."""
    empty = np.empty(0)
    settings = np.array([refinement])
    if student.degree is not None and teacher.degree is not None:
        powers = power_coefficients(student), power_coefficients(teacher)
        return hermite_table(powers[0]), hermite_table(powers[1]), *powers, settings
    return empty, empty, find_kinks(student), find_kinks(teacher), settings


def own_values(activation: Activation, count: int) -> NDArray[np.float64]:
    """Values of an activation's own parameters; rules read the label and more before them."""
    return activation.parameters[activation.parameters.size - count :]


def power_coefficients(activation: Activation) -> NDArray[np.float64]:
    """Coefficients of a polynomial activation, the constant first."""
    symbols = sorted(activation.expr.free_symbols - {FIELD}, key=str)
    values = dict(zip(symbols, own_values(activation, len(symbols)), strict=True))
    coefficients = sp.Poly(activation.expr, FIELD).all_coeffs()[::-1]
    return np.array([float(c.xreplace(values)) for c in coefficients])


def hermite_table(powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficient of C^m H_n in sum_i powers[i] u^i, at n size + i with i = n + 2 m."""
    size = powers.size
    table = np.zeros((size, size))
    for n in range(size):
        for i in range(n, size, 2):
            # u^i holds i! / (n! 2^m m!) C^m of H_n, with m = (i - n)/2.
            m = (i - n) // 2
            ways = math.factorial(i) / (math.factorial(n) * 2.0**m * math.factorial(m))
            table[n, i] = ways * powers[i]
    return table.ravel()


def find_kinks(activation: Activation) -> NDArray[np.float64]:
    """Points where the activation or a derivative jumps: zeros of linear arguments.

    Others are missed, which the comparison with a refined rule then shows.
    """
    expr = activation.expr
    symbols = sorted(expr.free_symbols - {FIELD}, key=str)
    values = own_values(activation, len(symbols))
    expr = expr.subs(dict(zip(symbols, map(sp.Float, values), strict=True)))
    found: set[float] = set()
    for node in expr.atoms(*KINKED):
        for argument in _switches(node):
            slope = argument.coeff(FIELD, 1)
            root = -argument.subs(FIELD, 0) / slope if slope.is_number and slope != 0 else sp.nan
            if argument.is_polynomial(FIELD) and sp.degree(argument, FIELD) == 1 and root.is_finite:
                found.add(float(root))
    return np.array(sorted(found))


def _switches(node: sp.Expr) -> list[sp.Expr]:
    """Expressions at whose zeros this node switches branch."""
    if isinstance(node, sp.Max | sp.Min):
        arguments = node.args
        return [sp.expand(x - y) for i, x in enumerate(arguments) for y in arguments[:i]]
    if isinstance(node, sp.Piecewise):
        relations = [r for _, c in node.args for r in c.atoms(sp.core.relational.Relational)]
        return [sp.expand(r.lhs - r.rhs) for r in relations]
    return [sp.expand(node.args[0])]

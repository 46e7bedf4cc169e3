"""Baseline: descent on repeated data by plain Monte Carlo of the single-process form, in NumPy.

One path of the noise omega and the process r for each sample (theory/batch_reuse A.2):
    r^{t+1} = (1 - eta ridge) r^t - eta (g^t + sum_{s<=t} R_l(t, s) r^s + omega^t),
with omega correlated in time (its Cholesky factor grows a row a step, normals are kept) and the
response by Stein's identity: alpha E[g z^T] = R_l L, where L z is the part of r without the
sample's own gradients. Only the benchmarks use this; it is checked against the library there.

Sums over earlier times stand as the formulas have them, one time after the other (`TERMS`); with
`PRODUCTS` they are one matrix product over all times, as NumPy likes them best.
"""

import numpy as np
from scipy.linalg import solve_triangular


def terms_mixed(kernel, paths):
    """sum_s kernel[s] paths[s]: (t, p, p), (t, p, n) to (p, n)."""
    return sum(np.einsum("ij,jn->in", a, x) for a, x in zip(kernel, paths, strict=True))


def terms_averaged(now, paths):
    """E[now paths[s]^T] for each s: (t, p, p)."""
    return np.array([np.einsum("in,jn->ij", now, x) / now.shape[1] for x in paths])


def products_mixed(kernel, paths):
    p = kernel.shape[1]
    return kernel.transpose(1, 0, 2).reshape(p, -1) @ paths.reshape(-1, paths.shape[-1])


def products_averaged(now, paths):
    p, n = now.shape
    return (now @ paths.reshape(-1, n).T / n).reshape(p, -1, p).transpose(1, 0, 2)


TERMS, PRODUCTS = (terms_mixed, terms_averaged), (products_mixed, products_averaged)


def descent(target, gradient, Q, M, P, eta, alpha, ridge, steps, samples, seed, sums=TERMS):
    """M (steps + 1, p, k) of one set of samples; `gradient(h, y)` gives g (p, samples)."""
    mixed, averaged = sums
    rng = np.random.default_rng(seed)
    p, k = M.shape
    keep = 1.0 - eta * ridge
    P_inverse = np.linalg.inv(P)
    star = np.linalg.cholesky(P) @ rng.standard_normal((k, samples))
    y = target(star)
    C_l, R_l, noise_root = (np.zeros((steps, steps, p, p)) for _ in range(3))
    # Normals of r^0, then those of omega^0, omega^1, ...; root is that of r without own gradients.
    normal = np.empty((steps, p, samples))
    root = np.zeros((steps, steps, p, p))
    normal[0] = rng.standard_normal((p, samples))
    root[0, 0] = np.linalg.cholesky(Q - M @ P_inverse @ M.T)
    r, g = np.empty((steps, p, samples)), np.empty((steps, p, samples))
    r[0] = root[0, 0] @ normal[0]
    overlaps = [M]
    for t in range(steps):
        seen = slice(0, t + 1)
        g[t] = gradient(M @ P_inverse @ star + r[t], y)
        C_l[t, seen] = alpha * averaged(g[t], g[seen])
        C_l[seen, t] = C_l[t, seen].transpose(0, 2, 1)
        R_l[t, seen] = response(root[seen, seen], alpha * averaged(g[t], normal[seen]))
        M = keep * M - eta * alpha * averaged(g[t], star[None])[0]
        overlaps.append(M)
        if t == steps - 1:
            break  # fields after the last step are nobody's
        noise_root[t, seen] = new_row(noise_root[:t, :t], C_l[t, seen])
        normal[t + 1] = rng.standard_normal((p, samples))
        omega = mixed(noise_root[t, seen], normal[1 : t + 2])
        r[t + 1] = keep * r[t] - eta * (g[t] + mixed(R_l[t, seen], r[seen]) + omega)
        root[t + 1] = keep * root[t] - eta * np.einsum("sij,sujk->uik", R_l[t, seen], root[seen])
        root[t + 1, 1 : t + 2] -= eta * noise_root[t, seen]
    return np.array(overlaps)


def flat(kernel):
    """(t, s, p, p) as a matrix over (time, neuron)."""
    t, s, p, _ = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(t * p, s * p)


def response(root, with_normal):
    """R_l(t, s) for s <= t from alpha E[g^t z^s] = sum_u R_l(t, u) L(u, s)."""
    t, p, _ = with_normal.shape
    rows = solve_triangular(flat(root), flat(with_normal[None]).T, lower=True, trans="T").T
    return rows.reshape(p, t, p).transpose(1, 0, 2)


def new_row(root, row):
    """Next row of the Cholesky factor of the noise, from the next row of its covariance."""
    t, p = len(root), row.shape[1]
    new, left = np.zeros_like(row), row[t].copy()
    if t:
        old = solve_triangular(flat(root), flat(row[None, :t]).T, lower=True).T
        new[:t] = old.reshape(p, t, p).transpose(1, 0, 2)
        left -= old @ old.T
    new[t] = np.linalg.cholesky(left + 1e-12 * np.trace(left) * np.eye(p))
    return new

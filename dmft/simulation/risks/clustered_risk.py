"""Population risk over inputs from clusters, by the quadratures of `dmft.simulation.risks.risk`.

Numba's cache does not notice changes of the functions that come from `risk`: their stamp stands
here, and tests/emit/restamp.py renews it.
"""

from __future__ import annotations

import math

import numpy as np

from dmft.compiled import njit
from dmft.compiled.copying import copy_into
from dmft.simulation.risks.risk import (
    RISK_SIGNATURE,
    pair_mean,
    semidefinite_root,
    student_rule,
    target_mean,
)

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.copying": "c5364e4a5c02",
    "dmft.simulation.risks.risk": "9a0116b51622",
}


@njit(nogil=True, cache=True, error_model="numpy")
def target_terms(Q, M, P, a, mean, scale, sigma, target, par, par_star, rule):  # type: ignore[no-untyped-def]
    """E g^2 - 2 E f g of a target of fields with means; its nodes are in the rule."""
    p, k = M.shape
    star, centre, D, L = par_star.copy(), np.empty(k), np.empty((k, k)), np.empty((k, k))
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
def clustered_risk_at(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, clusters):  # type: ignore[no-untyped-def]
    """Population risk over inputs from clusters, the sum over their laws.

    Rows of clusters may end with the means of the fields and their covariance.
    """
    p, k = M.shape
    has_fields, by_cluster = rule[4].size > 1, rule[4].size > 2
    count = p if has_fields else p + k
    c, cov, mean = np.empty(p + k), np.empty((p + k, p + k)), np.empty(p + k)
    copy_into(cov[:p, :p], Q)
    copy_into(cov[:p, p:], M)
    copy_into(cov[p:, :p], M.T)
    copy_into(cov[p:, p:], P)
    for m in range(p + k):
        c[m] = -a[m] / p if m < p else a_star[min(m - p, a_star.size - 1)] / k
    risk, star, before = 0.0, par_star.copy(), 0.0
    for number in range(clusters.shape[0]):
        scale = clusters[number, 1] * clusters[number, 1]
        if clusters.shape[1] > 2 + k:
            for m in range(p + k):
                mean[m] = clusters[number, 2 + k + m]
                for n in range(p + k):
                    cov[m, n] = clusters[number, 2 + k + (1 + m) * (p + k) + n]
        else:
            for m in range(p + k):
                mean[m] = 0.0
                for r in range(k):
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
        risk += 0.5 * (clusters[number, 0] - before) * total
        before = clusters[number, 0]
    return risk

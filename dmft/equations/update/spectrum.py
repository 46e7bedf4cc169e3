"""Inputs with a spectrum: rates of the overlaps within each block of equal eigenvalues.

The fields see the sum over the blocks of c_e G_e alone, G_e the unweighted Gram matrix of the rows
in block e. A step psi_j x/sqrt(d) moves row j in block e by c_e sum_m D_jm (row m), D = b Omega^+
the mean slopes of psi, whatever the block, so that the averages are those of one block
(structured_inputs.md (3)-(6)):

    dM_e = F_e*,   dQ_e = F_e + F_e^T + gamma/(p n_b) nu_e S,   F_e = c_e D G_e.

By Stein's identity E[psi_j lambda_i] is a sum of slopes times covariances with lambda_i: with the
entries of G_e in their place it is D G_e, without an inverse.
"""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample, free_indices
from dmft.equations.averages.inside import sums_inside
from dmft.equations.definitions import Definition, MeanSlope, define
from dmft.equations.update.optimiser import own_motion, step_size
from dmft.equations.update.overlaps import Moments, coefficient_definitions
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import SGD, GradientFlow


def covariance_definitions() -> list[Definition]:
    """Gram matrices of all rows by block, and the covariance of the fields."""
    e, j, l, r, s, p = x.block, x.j, x.l, x.r, x.s, x.p  # noqa: E741
    whole = sp.Sum(x.eigenvalue[e] * x.Gram[e, x.i, x.m], (e, 1, x.blocks))
    return [
        define(x.Gram[e, j, l], {"students": x.block_Q[e, j, l]}, "block"),
        define(x.Gram[e, j, p + r], {"overlap": x.block_M[e, j, r]}, "block"),
        define(x.Gram[e, p + r, j], {"overlap": x.block_M[e, j, r]}, "block"),
        define(x.Gram[e, p + r, p + s], {"teachers": x.block_P[e, r, s]}, "block"),
        define(x.Omega[x.i, x.m], {"blocks": whole}, "block"),
        *coefficient_definitions(),
    ]


class Drifts:
    """Drifts E[psi_j lambda_i] with the row i restricted to one block.

    Attributes
    ----------
    definitions : list of Definition
        Mean slopes of what has no closed averages, from averages along the directions z of the
        weights, lambda = root z.
    """

    def __init__(self) -> None:
        self.definitions: list[Definition] = []

    def within(self, drift: sp.Expr) -> sp.Expr:
        """The drift with D G_e in the place of D Omega."""
        drift = sums_inside(drift)
        whole = {q: self.along(q) for q in drift.atoms(Expectation) if q.has(x.lam)}
        covariances = {
            entry: x.Gram[(x.block, *entry.indices)]
            for entry in drift.atoms(sp.Indexed)
            if entry.base == x.Omega and any(index == x.i for index in entry.indices)
        }
        return drift.xreplace(whole | covariances)

    def along(self, average: Expectation) -> sp.Expr:
        """Sum over the fields of mean slopes times Gram entries.

        Raises
        ------
        NotClosed
            Where the average is one for each pair of neurons.
        """
        if free_indices(average) != (x.i, x.j):
            raise NotClosed(f"{average} has no closed form, which blocks of a spectrum need")
        number = len(self.definitions) // 2 + 1
        pull, slope = (sp.IndexedBase(f"{name}_{number}") for name in ("pull", "mean_slope"))
        inside = average.integrand.xreplace({x.lam[x.i]: x.coordinate[x.n]})
        law = average.law
        if not law.of_sample:
            kinked = average.integrand.has(*SWITCHES)
            law = OneSample(sp.Integer(-1) if kinked else sp.oo, sp.S.Zero)
        target, entry = pull[x.j, x.n], slope[x.j, x.i]
        values = {target: Expectation(inside, law), entry: MeanSlope(target, x.root[x.i, x.n])}
        self.definitions += [define(t, {"update": e}, "intermediate") for t, e in values.items()]
        gram = x.Gram[x.block, x.i, x.m]
        return sp.Sum(slope[x.j, x.m] * gram, (x.m, 1, x.p + x.k))


def rate_definitions(moments: Moments, quadratic: bool) -> list[Definition]:
    """Drifts by block, and the rates of the overlaps in each of them.

    Raises
    ------
    BadParameter
        For rows of constant length, whose lengths the fields do not see.
    """
    e, j, l, r, p = x.block, x.j, x.l, x.r, x.p  # noqa: E741
    algorithm: SGD | GradientFlow = moments.algorithm
    if algorithm.on_sphere:
        raise BadParameter(
            f"constraint = {algorithm.constraint!r} is not derived for inputs with a spectrum, "
            "whose overlaps have blocks; leave it out"
        )
    drifts = Drifts()
    entries = {
        moments.bases[n][e, j, x.i]: {n: drifts.within(y)} for n, y in moments.drifts.items()
    }
    result = [define(entry, terms, "intermediate") for entry, terms in entries.items()]
    result = [*drifts.definitions, *result]
    scale = x.eigenvalue[e]
    dM = {name: scale * b[e, j, p + r] for name, b in moments.bases.items()}
    dQ = {name: scale * (b[e, j, l] + b[e, l, j]) for name, b in moments.bases.items()}
    if quadratic and isinstance(algorithm, SGD):
        step = step_size(algorithm) / (p * algorithm.batch_size)
        dQ |= moments.quadratic(x.noise_factor[e] * step)
    for name, rate in own_motion(algorithm).items():
        dM[name], dQ[name] = rate * x.block_M[e, j, r], 2 * rate * x.block_Q[e, j, l]
    rates = [define(x.block_M[e, j, r], dM, "rate"), define(x.block_Q[e, j, l], dQ, "rate")]
    return [*result, *rates]

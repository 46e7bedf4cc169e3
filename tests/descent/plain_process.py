"""The recursions of a descent by hand (theory/batch_reuse A.1), with NumPy's matrix products.

What ran before the recursions were compiled from `DescentEquations.process`; kept as a witness. The
functions take the arrays that the solver hands to the compiled steps and nothing else of `dmft`.
"""

from types import SimpleNamespace

import numpy as np


def matrix(kernel):
    """A kernel (time, neuron, time, neuron) as a matrix, the same memory."""
    n, p, _, _ = kernel.shape
    return kernel.reshape(n * p, n * p)


def plain_process(values, fresh=False, sphere=False):
    """Steps like those of a `Process`, at the parameters `values`."""
    eta, alpha = values["learning_rate"], values["samples_per_dim"]
    ridge, momentum = values["ridge"], values["momentum"]

    def begin(t, par, y):
        y.C_theta[0, :, 0] = y.Q_at[0, :, 0] - y.M_at[0] @ y.P_inverse @ y.M_at[0].T

    def fields(t, par, y):
        y.to_star[t] = y.M_at[t] @ y.P_inverse
        y.to_driving[t] = np.eye(y.M_at.shape[1])
        y.to_past[t] = 0.0
        if not fresh:
            y.to_past[t, :, :t] = y.R_theta[t, :, :t]

    def averages(t, par, y):
        p = y.M_at.shape[1]
        row = alpha * y.gradient_pairs[:, : t + 1].reshape(p, -1)
        if fresh:
            row[:, : t * p] = 0.0
        now, seen = slice(t * p, (t + 1) * p), slice(0, (t + 1) * p)
        matrix(y.C_l)[now, seen], matrix(y.C_l)[seen, now] = row, row.T
        y.g_star[t], y.mean_pull[t] = y.gradient_stars, y.pulls

    def propagator(t, y):
        """A (p, (t + 1) p): weights at t + 1 by those at 0..t."""
        p = y.M_at.shape[1]
        A = -eta * y.R_l[t, :, : t + 1].reshape(p, -1)
        beta = momentum if t > 0 else 0.0  # w^{-1} = w^0: the first step has none
        A[:, t * p :] += (1.0 - eta * ridge + beta) * np.eye(p)
        if beta:
            A[:, (t - 1) * p : t * p] -= beta * np.eye(p)
        return A

    def respond(t, par, y):
        p = y.M_at.shape[1]
        response = y.slopes[:, : t + 1].reshape(p, -1).copy()
        if fresh:
            response[:, : t * p] = 0.0
        seen, R = (t + 1) * p, matrix(y.R_theta)
        matrix(y.R_l)[t * p : seen, :seen] = alpha * response
        R[seen : seen + p, :seen] = propagator(t, y) @ R[:seen, :seen]
        R[seen : seen + p, seen - p : seen] -= eta * np.eye(p)

    def advance(t, par, y):
        p = y.M_at.shape[1]
        drag = momentum * (y.M_at[t] - y.M_at[t - 1]) if t > 0 else 0.0
        y.M_at[t + 1] = (1.0 - eta * ridge) * y.M_at[t] - eta * alpha * y.g_star[t] + drag
        y.readout_at[t + 1] = y.readout_at[t] - values["readout_rate"] * y.mean_pull[t]
        seen, later = slice(0, (t + 1) * p), slice((t + 1) * p, (t + 2) * p)
        R, C, A = matrix(y.R_theta), matrix(y.C_theta), propagator(t, y)
        row = y.C_l[t, :, : t + 1].reshape(p, -1)
        cross = A @ C[seen, seen] - eta * row @ R[seen, seen].T
        C[later, seen], C[seen, later] = cross, cross.T
        own = A @ cross.T - eta * row @ R[later, seen].T
        own += 2.0 * eta * values.get("temperature", 0.0) * np.eye(p)
        C[later, later] = (own + own.T) / 2.0
        if sphere:
            M = y.M_at[t + 1]
            y.Q_free[t + 1] = C[later, later] + M @ y.P_inverse @ M.T
            S = np.diag(1.0 / np.sqrt(np.diag(y.Q_free[t + 1])))
            y.M_at[t + 1] = S @ M
            C[later, seen], C[seen, later] = S @ cross, cross.T @ S
            C[later, later] = S @ C[later, later] @ S

    def answer(t, par, y):
        later, R = slice((t + 1) * y.M_at.shape[1], (t + 2) * y.M_at.shape[1]), matrix(y.R_theta)
        R[later] /= np.sqrt(np.diag(y.Q_free[t + 1]))[:, None]

    def overlaps(t, par, y):
        n = t + 1
        Q = y.C_theta[t, :, :n] + np.einsum("jr,rq,slq->jsl", y.M_at[t], y.P_inverse, y.M_at[:n])
        y.Q_at[t, :, :n] = Q
        y.Q_at[:n, :, t] = Q.transpose(1, 2, 0)

    def drive(t, par, y):
        n = t + 1
        y.C_r[t, :, :n] = y.C_theta[t, :, :n]
        if fresh:
            y.C_r[t, :, :t] = 0.0
        y.C_r[:n, :, t] = y.C_r[t, :, :n].transpose(1, 2, 0)

    return SimpleNamespace(
        begin=begin, fields=fields, averages=averages, respond=respond, advance=advance,
        overlaps=overlaps, drive=drive, answer=answer if sphere else None,
    )  # fmt: skip

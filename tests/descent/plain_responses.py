"""Responses of a descent by their definition: NumPy only, nothing of `dmft`.

One student and one teacher of the same activation, p = k = 1, P = Q0 = 1, squared loss. The process
of theory/batch_reuse A.1 by plain Monte Carlo; R_l(t, s) = alpha dE[g^t]/d eps, with eps added to
the field at time s alone, by central differences with common random numbers (kinks included: delta
is far below a step).

    python tests/descent/plain_responses.py relu 0.01 5e-4 256

writes the row of `responses_at_t8.json` for rate 0.01 from 256 x 2^17 samples.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.special import erf

PATH = Path(__file__).with_name("responses_at_t8.json")
STEPS, ALPHA, NOISE, M0 = 8, 2.0, 0.5, 0.1
ACTIVATIONS = {
    "square": (lambda h: h * h, lambda h: 2 * h),
    "relu": (lambda h: np.maximum(h, 0.0), lambda h: (h > 0) * 1.0),
    "erf": (lambda h: erf(h / np.sqrt(2)), lambda h: np.sqrt(2 / np.pi) * np.exp(-h * h / 2)),
    "he3": (lambda h: h**3 - 3 * h, lambda h: 3 * h * h - 3),
}


def drawn(rng, n):
    """Teacher's field, label noise, normals of the driving process."""
    return (
        rng.standard_normal(n), np.sqrt(NOISE) * rng.standard_normal(n),
        rng.standard_normal((STEPS, n)),
    )  # fmt: skip


def gradients(name, draws, M, L, R_theta, shift):
    """g^t (T, n) with the fields shifted by `shift` (T,)."""
    f, slope = ACTIVATIONS[name]
    star, zeta, z = draws
    y = f(star) + zeta
    g = np.empty((STEPS, star.size))
    for t in range(STEPS):
        h = M[t] * star + L[t, : t + 1] @ z[: t + 1] + R_theta[t, :t] @ g[:t] + shift[t]
        g[t] = slope(h) * (f(h) - y)
    return g


def responses(name, draws, M, L, R_theta, delta):
    """R_l (T, T) on these samples."""
    R = np.zeros((STEPS, STEPS))
    for s in range(STEPS):
        shift = np.zeros(STEPS)
        shift[s] = delta
        up, down = (gradients(name, draws, M, L, R_theta, y) for y in (shift, -shift))
        R[:, s] = ALPHA * np.mean(up - down, axis=1) / (2 * delta)
    return np.tril(R)


def answers(rate, R_l):
    """R_theta from R_l, without ridge and momentum."""
    R_theta = np.zeros((STEPS + 1, STEPS + 1))
    for t in range(STEPS):
        A = -rate * R_l[t, : t + 1]
        A[t] += 1
        R_theta[t + 1, : t + 1] = A @ R_theta[: t + 1, : t + 1]
        R_theta[t + 1, t] -= rate
    return R_theta


def sweep(name, rate, delta, n, seed):
    """M, L and R_l of one causal sweep over n samples."""
    draws = drawn(np.random.default_rng(seed), n)
    M, C, L = np.zeros(STEPS + 1), np.zeros((STEPS + 1,) * 2), np.zeros((STEPS + 1,) * 2)
    R_l, C_l = np.zeros((STEPS, STEPS)), np.zeros((STEPS, STEPS))
    M[0], C[0, 0] = M0, 1 - M0**2
    L[0, 0] = np.sqrt(C[0, 0])
    for t in range(STEPS):
        R_theta = answers(rate, R_l)
        g = gradients(name, draws, M, L, R_theta, np.zeros(STEPS))
        R_l[t, : t + 1] = responses(name, draws, M, L, R_theta, delta)[t, : t + 1]
        C_l[t, : t + 1] = C_l[: t + 1, t] = ALPHA * (g[: t + 1] @ g[t]) / n
        A = -rate * R_l[t, : t + 1]
        A[t] += 1
        M[t + 1] = M[t] - rate * ALPHA * np.mean(g[t] * draws[0])
        R_theta = answers(rate, R_l)
        seen = slice(0, t + 1)
        cross = A @ C[seen, seen] - rate * C_l[t, seen] @ R_theta[seen, seen].T
        C[t + 1, seen] = C[seen, t + 1] = cross
        C[t + 1, t + 1] = A @ cross - rate * C_l[t, seen] @ R_theta[t + 1, seen]
        row = np.linalg.solve(L[seen, seen], cross)
        L[t + 1, seen] = row
        L[t + 1, t + 1] = np.sqrt(max(C[t + 1, t + 1] - row @ row, 1e-13))
    return M, L, R_l


def measured(name, rate, delta, chunks, first=2**19, each=2**17):
    """R_l, its standard error, and M: kernels from one sweep, R_theta refined once."""
    M, L, R_l = sweep(name, rate, delta, first, 1)
    for stage, number in enumerate((max(4, chunks // 4), chunks)):
        R_theta = answers(rate, R_l)
        found = [
            responses(
                name, drawn(np.random.default_rng((2 + stage, c)), each), M, L, R_theta, delta
            )
            for c in range(number)
        ]
        R_l, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(number)
    return R_l, error, M


if __name__ == "__main__":
    name, rate, delta, chunks = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    R_l, error, M = measured(name, rate, delta, int(chunks))
    rows = json.loads(PATH.read_text()) if PATH.exists() else {}
    rows[f"{name} {rate:g}"] = {
        "R": R_l.round(6).tolist(), "error": error.round(7).tolist(), "M": M.round(6).tolist()
    }  # fmt: skip
    PATH.write_text(json.dumps(rows, indent=None).replace("}, ", "},\n") + "\n")

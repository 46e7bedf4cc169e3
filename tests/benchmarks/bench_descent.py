"""Cost and error of descent on repeated data (`python tests/benchmarks`).

Two descents of theory/batch_reuse A.5 at seven steps: A2, two ReLU on tanh(z1 + He3(z2)); A3, erf
on erf. Times are CPU seconds of one thread, points and population risk included, best of several;
errors are those of M after six steps, rms over entries and seeds. The baseline
(`plain_descent.py`) is Monte Carlo, whose error falls like the root of its samples: its cost at
the error of ours is extrapolated by that law from 2^16 samples.
"""

import os
import time

import numpy as np
import plain_descent
import sympy as sp
from scipy.special import erf
from table import line

import dmft

z, u, v = sp.symbols("z u v", real=True)
STEPS, SHOWN, SEEDS, PLAIN_SEEDS = 7, 6, 24, 24
ROOT = np.sqrt(0.5)


def relu_pair():
    joint = dmft.MultiIndex(sp.tanh(u + v**3 - 3 * v), [u, v])
    student = dmft.Committee(sp.Max(z, 0), 2, readout=(sp.sqrt(2), -sp.sqrt(2)))
    equations = dmft.derive(dmft.Model(student, joint), dmft.GradientDescent(0.2, 3))

    def target(star):
        return np.tanh(star[0] + star[1] ** 3 - 3 * star[1])

    def gradient(h, y):
        error = ROOT * (np.maximum(h[0], 0.0) - np.maximum(h[1], 0.0)) - y
        return np.array([[ROOT], [-ROOT]]) * (h > 0.0) * error

    plain = (target, gradient, np.eye(2), np.zeros((2, 2)), np.eye(2), 0.2, 3.0, 0.0)
    return equations, dmft.Overlaps(np.eye(2), np.zeros((2, 2))), plain


def erf_one():
    one = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
    equations = dmft.derive(dmft.Model(one, one), dmft.GradientDescent(0.8, 2, ridge=0.1))

    def target(star):
        return erf(ROOT * star[0])

    def gradient(h, y):
        return np.sqrt(2 / np.pi) * np.exp(-0.5 * h * h) * (erf(ROOT * h) - y)

    plain = (target, gradient, np.eye(1), np.array([[0.2]]), np.eye(1), 0.8, 2.0, 0.1)
    return equations, dmft.Overlaps([[1.0]], [[0.2]]), plain


def measured(run, count, exact):
    """Best CPU time of a run, and the rms error of M, over seeds."""
    times, found = [], []
    for seed in range(count):
        began = time.process_time()
        found.append(run(seed))
        times.append(time.process_time() - began)
    errors = np.array(found) - exact
    return min(times), float(np.sqrt(np.mean(errors[:, SHOWN] ** 2))), errors


def compare(name, case, sizes):
    equations, start, plain = case()
    options = {"scrambles": 1, "threads": 1, "memory": 2**33}

    def ours(samples):
        return lambda seed: (
            dmft.solve(equations, start, STEPS, samples=samples, seed=seed + 1, **options).M
        )

    best = dmft.solve(equations, start, STEPS, samples=2**19, scrambles=16, memory=2**33)
    print(f"{name}: M({SHOWN}) known to {best.error['M'][SHOWN].max():.1e}")
    rows = {}
    for way in ("TERMS", "PRODUCTS"):
        sums = getattr(plain_descent, way)
        rows[way] = measured(
            lambda seed, sums=sums: plain_descent.descent(
                *plain, STEPS, 2**16, seed, sums=sums
            ),
            PLAIN_SEEDS, best.M,
        )  # fmt: skip
        seconds, error, errors = rows[way]
        shift = errors[:, SHOWN].mean(axis=0) / (errors[:, SHOWN].std(axis=0) / PLAIN_SEEDS**0.5)
        assert np.all(np.abs(shift) < 5), shift  # the baseline solves the same equations
        line(f"  NumPy, {way.lower()}, 2^16 samples", f"{seconds:.3f} s", f"error {error:.1e}")
    for samples in sizes:
        run = ours(samples)
        run(0)
        seconds, error, _ = measured(run, SEEDS, best.M)
        label = f"  dmft, 2^{samples.bit_length() - 1} samples"
        line(label, f"{seconds:.3f} s", f"error {error:.1e}")
        for way, (plain_seconds, plain_error, _) in rows.items():
            equal = plain_seconds * (plain_error / error) ** 2
            line(f"    NumPy, {way.lower()}, at that error", f"{equal:.1f} s", "",
                 f"{equal / seconds:.0f}x")  # fmt: skip


def main():
    line("what", "CPU", "", "ratio")
    print(f"load {os.getloadavg()[0]:.1f}")
    compare("A2, two ReLU", relu_pair, (2**14, 2**16, 2**18))
    compare("A3, erf", erf_one, (2**14, 2**16, 2**18))


if __name__ == "__main__":
    main()

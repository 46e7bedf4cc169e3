"""Speed of two-time problems (`python tests/benchmarks`): the 3-spin glass at T = 0.

The baseline is what theory E.1 describes: trapezoids on a uniform grid, two corrector passes, in
plain Numba; work t^3. Both at the error of E(20) that is shown, against a run at tol = 1e-7.
"""

import time

import numpy as np
from numba import njit
from table import line

import dmft

GLASS = dmft.literature.spherical_p_spin(3)


@njit(fastmath={"reassoc", "contract"}, error_model="numpy")
def uniform(count, h):
    """Energy at the end of `count` steps."""
    C, R = np.zeros((count + 1, count + 1)), np.zeros((count + 1, count + 1))
    C[0, 0] = R[0, 0] = 1.0
    rates, new = np.zeros((2, count + 1)), np.zeros((2, count + 1))
    energy = 0.0
    for n in range(count):
        for trial in range(3):
            i = n if trial == 0 else n + 1
            mu = 0.0
            for k in range(i + 1):
                w = 0.5 * h if k in (0, i) else h
                mu += 4.5 * w * C[i, k] ** 2 * R[i, k] if i else 0.0
            energy = -mu / 3.0
            for j in range(n + 1):
                a = b = c = 0.0
                for k in range(i + 1):
                    w = 0.5 * h if k in (0, i) else h
                    a += w * C[i, k] * R[i, k] * (C[k, j] if k > j else C[j, k])
                for k in range(j + 1):
                    b += (0.5 * h if k in (0, j) else h) * C[i, k] ** 2 * R[j, k]
                for k in range(j, i + 1):
                    c += (0.5 * h if k in (j, i) else h) * C[i, k] * R[i, k] * R[k, j]
                f = -mu * C[i, j] + (3.0 * a if i else 0.0) + (1.5 * b if j else 0.0)
                g = -mu * R[i, j] + (3.0 * c if i > j else 0.0)
                if trial == 0:
                    rates[0, j], rates[1, j] = f, g
                    new[0, j], new[1, j] = C[n, j] + h * f, R[n, j] + h * g
                else:
                    new[0, j] = C[n, j] + 0.5 * h * (rates[0, j] + f)
                    new[1, j] = R[n, j] + 0.5 * h * (rates[1, j] + g)
            C[n + 1, : n + 1], R[n + 1, : n + 1] = new[0, : n + 1], new[1, : n + 1]
            C[n + 1, n + 1] = R[n + 1, n + 1] = 1.0
    return energy


def solve(tol, t_max=20.0):
    return dmft.solve(GLASS, None, t_max, tol=tol, measure_error=False, save_at=[t_max])


def main():
    print("two-time problems: 3-spin glass, T = 0")
    truth = solve(1e-7).E[-1]
    uniform(4, 0.1)
    start = time.process_time()
    plain = abs(uniform(1000, 0.02) - truth)
    slow = time.process_time() - start
    solve(1e-4)
    start = time.process_time()
    ours = abs(solve(1e-4).E[-1] - truth)
    fast = time.process_time() - start
    ratio = f"{slow / fast:.0f}"
    line("t = 20: ours, uniform trapezoids (CPU s)", f"{fast:.3f}", f"{slow:.2f}", ratio)
    line("t = 20: error of E", f"{ours:.1e}", f"{plain:.1e}")
    start = time.process_time()
    run = solve(1e-4, 1000.0)
    line(f"t = 1000, {run.statistics['steps']} steps (CPU s)", f"{time.process_time() - start:.2f}")


if __name__ == "__main__":
    main()

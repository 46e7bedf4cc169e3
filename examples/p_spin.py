"""Spherical 3-spin glass after a quench: threshold energy, ageing, fluctuation and dissipation.

Left E(t) at T = 0 and its fit, middle C(t, s) at T = 0.5, right susceptibility over correlation.
Run as `python examples/p_spin.py [figure.png]`; prints the energy for t -> infinity and its error:
theory has the threshold -2/sqrt(3) = -1.154701.
"""

import sys

import numpy as np
from scipy.optimize import brentq

import dmft

t_max, T = 1000.0, 0.5
quench = dmft.solve(dmft.literature.spherical_p_spin(3), None, t_max, tol=1e-4)


def fit(run, first, last):  # E = limit + c t^(-2/3)
    t = np.geomspace(first, last, 200)
    return np.polyfit(t ** (-2 / 3), np.interp(t, run.t, run.E), 1)


c, limit = fit(quench, t_max / 10, t_max)
middle = t_max / 10**0.5
window = fit(quench, middle, t_max)[1] - fit(quench, t_max / 10, middle)[1]
error = abs(window) + quench.error.E[quench.t > t_max / 10].max()
print(f"{quench.statistics['steps']} steps, error {error:.5f}, limit {limit:.6f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    ages, warm = (3.0, 10.0, 30.0, 100.0), dmft.literature.spherical_p_spin(3, T)
    seen = (10.0, 100.0, t_max)
    rows = np.unique([*seen, *(a + lag for a in ages for lag in np.geomspace(0.1, t_max - a, 40))])
    run = dmft.solve(warm, None, t_max, tol=1e-4, save_at=rows, measure_error=False)
    figure, (left, centre, right) = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
    t = quench.t[quench.t > 1]
    left.loglog(t, quench.E[-t.size :] + 2 / 3**0.5, label=r"$E(t) - E_{th}$")
    left.loglog(t, c * t ** (-2 / 3), "k--", lw=1, label=r"$c\,t^{-2/3}$")
    left.set(xlabel="$t$", title=f"$T = 0$: limit {limit:.5f}({error:.5f})")
    for k, age in enumerate(ages):
        times = rows[rows >= age + 0.1]
        values = [run.at("C", t, age) for t in times]
        centre.semilogx(times - age, values, f"C{k}", label=f"$s = {age:g}$")
    centre.set(xlabel="$t - s$", ylabel="$C(t, s)$", title=f"ageing at $T = {T}$", ylim=(0, 1))
    for k, t in enumerate(seen):
        s, chi = run.integral("R", t)
        right.plot(run.row("C", t)[1], T * chi, f"C{k}", label=f"$t = {t:.0f}$")
    # Cugliandolo and Kurchan: f''(q) (1 - q)^2 = T^2, below q the slope X = (p - 2) (1 - q) / q.
    q = brentq(lambda y: 3 * y * (1 - y) ** 2 - T**2, 1 / 3, 1)
    C = np.array([0.0, q, 1.0])
    right.plot(C, [2 * (1 - q), 1 - q, 0], "k--", lw=1, label=r"$t \to \infty$ (theory)")
    right.plot(C, 1 - C, "k:", lw=1, label="equilibrium")
    right.set(xlabel="$C(t, s)$", ylabel=r"$T \int_s^t R(t, u)\,du$", xlim=(0, 1), ylim=(0, 1))
    right.legend(frameon=False, title="fluctuation-dissipation")
    for axes in (left, centre):
        axes.legend(frameon=False)
    figure.savefig(sys.argv[1], dpi=130)

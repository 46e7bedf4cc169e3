"""Export the right-hand side to files that do not need `dmft`.

The soft committee of Saad and Solla is written as Python, C and JavaScript. The Python file is
loaded, solved by SciPy and compared with `dmft.solve`; each file run by itself (`python`, `node`,
a C compiler) compares itself with values stored in it.
Run as `python examples/exported.py [folder]`; prints the difference of the final risks.
"""

import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

import dmft

z = sp.Symbol("z", real=True)
erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
model = dmft.Model(erf, erf)
equations = dmft.derive(model, dmft.SGD(learning_rate=0.5))
start = dmft.random_overlaps(model, dim=200, seed=1)

with tempfile.TemporaryDirectory() as scratch:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
    for name in ("soft_committee.py", "soft_committee.c", "soft_committee.js"):
        path = dmft.export(equations, folder / name)
        print(f"{path.name}: {len(path.read_text().splitlines())} lines")
    exported = runpy.run_path(str(folder / "soft_committee.py"))
print("largest error at the stored states:", exported["check"]()[0])


def slope(t, y):
    rates = exported["rhs"](t, y[:4].reshape(2, 2), y[4:].reshape(2, 2), start.P)
    return np.concatenate([rates["Q"].ravel(), rates["M"].ravel()])


y = np.concatenate([start.Q.ravel(), start.M.ravel()])
theirs = solve_ivp(slope, (0.0, 20.0), y, "DOP853", rtol=1e-9, atol=1e-11).y[:, -1]
ours = dmft.solve(equations, start, t_max=20.0, rtol=1e-9, atol=1e-11)
risk = exported["observables"](theirs[:4].reshape(2, 2), theirs[4:].reshape(2, 2), start.P)["risk"]
print(f"risk at t = 20: {risk:.9g} by SciPy, {ours.risk[-1]:.9g} by dmft.solve")
print("relative difference:", risk / ours.risk[-1] - 1)

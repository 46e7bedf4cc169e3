"""The positional/semantic diagram traced only from its region codes, and the closed forms.

A coarse grid of codes shows which regions there are; `dmft.boundary` follows their borders and
finds where three regions meet. The last line is the largest distance of a traced point, in omega,
from the nearest closed-form border. Run as `python examples/regions_traced.py [figure.png]`.
"""

import sys
import time

import numpy as np

import dmft
from dmft.literature import positional_semantic_boundaries, positional_semantic_regions

x, y = ("a", 0.77, 1.0), ("omega", 0.45, 1.0)
began, solves = time.perf_counter(), 0


def code(a, omega):
    return int(positional_semantic_regions(a, omega)[0, 0])


code(0.9, 0.9)  # tables
began = time.perf_counter()
found = dmft.boundary(code, x, y, grid=(9, 17), step=0.04)
seconds = time.perf_counter() - began
points = sum(c.x.size for c in found.curves)
print(f"{found}: {found.solves} for {points} points, {seconds:.1f} s")
print("regions meet at (a, omega) =", found.triple_points.round(6).tolist())
gap = 0.0
for curve in found.curves:
    exact = positional_semantic_boundaries(curve.x)
    borders = (exact.positional, exact.equal, exact.semantic, exact.direction, exact.fold)
    distance = np.nanmin([np.abs(curve.y - border) for border in borders], axis=0)
    gap = max(gap, float(distance.max()))
print(f"largest distance from the closed forms: {gap:.1e}")

if len(sys.argv) > 1:
    dmft.plot(found, path=sys.argv[1])

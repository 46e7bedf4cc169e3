"""Points of a sweep in one compiled batch against one call each (`python tests/benchmarks`).

CPU time of a point, best of several, one thread: one `dmft.solve` or `dmft.escape_time` for each
point, then the same points through `many` of the measure, which is what a chunk of a sweep calls.
What both find is compared, digit by digit.
"""

import time
import warnings

import numpy as np
import sympy as sp
from bench_dynamics import ERF, NOISE, Z
from table import line

import dmft
from dmft.analysis.phase_diagram import read_result
from dmft.workflow.diagrams.measures import EquationMeasure

POINTS, REPEATS = 400, 5


def measures():
    """What is measured, and its learning rates."""
    square = dmft.Committee(Z**2, width=1)
    model, start = dmft.Model(square, square, 0.1), dmft.Overlaps([[1.0]], [[0.1]])
    sphere = dmft.SGD(0.05, constraint="sphere")
    steps = dmft.SGD(0.05, batch_size=sp.Symbol("d", positive=True), constraint="sphere")
    how = {"fraction": 0.5, "reference": "start", "overlap": None}
    flow = dmft.derive(model, sphere)
    committee = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 2), NOISE)
    equations = dmft.derive(committee, dmft.SGD(0.5))
    unlearned = dmft.random_overlaps(committee, dim=500, seed=0)
    rates = np.linspace(0.02, 0.08, POINTS)
    yield "square on the sphere, final risk", ("final_risk", flow, start, 5.0), rates
    yield "square on the sphere, escape", ("escape_time", flow, start, 5.0, how), rates
    far = dmft.random_overlaps(committee, dim=1000, seed=0)
    for reference in ("start", "plateau"):
        here = {**how, "reference": reference}
        escape = ("escape_time", equations, far, 300.0, here)
        yield f"erf committee, p = 2, escape from its {reference}", escape, 5 * rates
    yield "erf committee, p = 2, t = 100", ("final_risk", equations, unlearned, 100.0), 5 * rates
    yield "map of a square, 200 steps", (
        "final_risk", dmft.derive(model, steps, dim=100), start, 200,
    ), rates  # fmt: skip


def cpu_of(job):
    """Least CPU time of a point."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        job()
        times.append(time.process_time() - began)
    return min(times) / POINTS


def reading(result):
    point = read_result(result)
    return repr(point.value), point.status, repr(point.horizon), point.message


def main():
    """Print the table."""
    line("points of a sweep, CPU time", "one batch", "one by one", "ratio")
    for name, declared, rates in measures():
        of = EquationMeasure(*declared)
        points = [{"learning_rate": float(rate)} for rate in rates]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = [reading(of(**point)) for point in points]
            assert [reading(result) for result in of.many(points)] == alone
            batch = cpu_of(lambda of=of, points=points: list(of.many(points)))
            single = cpu_of(lambda of=of, points=points: [of(**point) for point in points])
        line(name, f"{1e3 * batch:.3f} ms", f"{1e3 * single:.3f} ms", f"{batch / single:.2f}")


if __name__ == "__main__":
    main()

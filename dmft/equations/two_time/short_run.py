"""The first steps of descent on repeated data as a run, with the error of each number."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.equations.two_time.short_integrals import ShortIntegrals
from dmft.equations.two_time.short_numbers import Number
from dmft.equations.two_time.short_second import second_averages
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.names import VERSION, Status
from dmft.solvers.descent.run import DescentRun
from dmft.solvers.solution import Values

if TYPE_CHECKING:
    from dmft.equations.two_time.short_times import ShortTimes

Array = NDArray[np.float64]


def first_steps(
    short: ShortTimes, start: Overlaps, steps: int, rtol: float, parameters: Mapping[str, Any]
) -> DescentRun:
    """The run of `ShortTimes.evaluate`."""
    if steps not in (1, 2):
        raise BadParameter(f"steps must be 1 or 2 (solve takes more), got {steps!r}")
    began = time.monotonic()
    found = ShortIntegrals(short, start, rtol, parameters)
    found.close(0, found.first)
    losses = [found.first["train"]]
    if steps == 2:
        second = second_averages(found)
        losses.append(second["train"])
        found.close(1, second)
    return _record(found, steps, losses, time.monotonic() - began)


def _record(
    found: ShortIntegrals, steps: int, losses: Sequence[Number], seconds: float
) -> DescentRun:
    """Arrays and errors as a `DescentRun`."""
    p, k, start = found.p, found.k, found.start
    n = steps + 1
    values: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    for into, of in ((values, found.array), (errors, found.errors)):
        M = np.stack([of("M_at", (t,), (p, k)) for t in range(n)])
        kernel = np.zeros((n, n, p, p))
        for t in range(n):
            for s in range(t + 1):
                kernel[t, s] = of("C_theta", (t, s), (p, p))
                kernel[s, t] = kernel[t, s].T
        pull = np.linalg.pinv(start.P)
        if into is values:
            Q2 = kernel + np.einsum("tjr,rq,slq->tsjl", M, pull, M)
        else:
            size = np.abs(np.einsum("tjr,rq->tjq", values["M"], pull))
            cross = np.einsum("tjr,slr->tsjl", size, M)
            Q2 = kernel + cross + cross.transpose(1, 0, 3, 2)
        into |= {"M": M, "Q": Q2[np.arange(n), np.arange(n)], "Q2": Q2}
        for name, base in (("corr", "C_l"), ("resp", "R_l")):
            full = np.zeros((steps, steps, p, p))
            for t in range(steps):
                for s in range(t + 1):
                    full[t, s] = of(base, (t, s), (p, p))
                    if name == "corr":
                        full[s, t] = full[t, s].T
            into[name] = full
        into["readout"] = np.stack([of("readout_at", (t,), (p,)) for t in range(n)])
    values["train_loss"] = np.array([float(y) for y in losses])
    errors["train_loss"] = np.array([y.error for y in losses])
    equations = found.equations
    how = f"Gaussian integrals, closed forms and quadrature at rtol = {found.rtol:.0e}"
    return DescentRun(
        t=np.arange(n, dtype=float),
        arrays=Values(values),
        error=Values(errors),
        status=Status.OK,
        message=how,
        statistics={"seconds": seconds},
        parameters=dict(found.scalars),
        provenance={
            "equations": equations.fingerprint, "version": VERSION, "kind": "two-time",
            "time_unit": "steps", "method": how, "model": str(equations.model),
            "fresh": found.fresh, "algorithm": str(equations.algorithm), "approximation": how,
        },
    )  # fmt: skip

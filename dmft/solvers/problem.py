"""A compiled initial-value problem: what the integrators take, with no symbol in it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.compiled.machine_code import native_of
from dmft.names import VERSION
from dmft.record import Short
from dmft.solvers.pointers import entry


@dataclass(frozen=True)
class Block:
    """A named array in the packed state or in the packed constants (C order)."""

    name: str
    axes: tuple[str, ...]
    symmetric: bool = False

    def shape(self, widths: Mapping[str, int]) -> tuple[int, ...]:
        """Shape at these widths."""
        return tuple([widths[a] for a in self.axes])  # of lists: twice as fast as of generators

    def size(self, widths: Mapping[str, int]) -> int:
        """Number of entries at these widths."""
        return math.prod([widths[a] for a in self.axes])


@dataclass(frozen=True, repr=False)
class Problem(Short):
    """Compiled equations: right-hand side, observables and domain, with the layout of their arrays.

    All compiled functions share the arguments y (packed state blocks), widths (int64, in the
    order of `widths`) and par (the scalars `parameters`, the packed `constants`, then `tail`).

    Attributes
    ----------
    kind : "ode", "map" or "sde"
    rhs : void(t, y, widths, par, out)
        dy/dt of an ode, the increment per step of a map (t counts steps), the Ito drift of an sde.
    state, constants : tuple of Block
    parameters, widths : tuple of str
    observe : void(t, y, widths, par, out), writes one value for each of `observables`
    domain : float64(y, widths, par, shift) or None; negative when the covariance plus
        shift times the identity is not positive definite
    covariance : float64(y, widths, par, out[n, n]) or None; returns n, and writes the matrix that
        `domain` tests where `out` has this size
    jacobian : void(t, y, widths, par, out[n, n]) or None; for the implicit methods
    diffusion : void(t, y, widths, par, out[n, n]) or None; for an sde, the covariance of the noise
        per unit of time, as a full matrix
    parallel_band : float
        Fields whose squared overlap exceeds the Cauchy-Schwarz bound by at most this relative
        amount are treated as parallel. Beyond it the functions return NaN. With 0 no overlap is
        changed.
    lanes : LanesCode or None
        Right-hand side for several states at once, if available.
    source : str
        Generated source of the functions.
    time_unit : str
        Time unit, as text.
    origin
        Equations that the problem was built from; None for a problem written by hand.
    observables : tuple of str
        Names of the values that `observe` writes.
    provenance : mapping
        Provenance of the trajectories of this problem.
    tail : tuple of float or compiled function of the type of `rhs`
        Addresses of functions that the right-hand side calls, and further numbers that runs do not
        record. The right-hand side is thus compiled once for all such functions.

    Examples
    --------
    >>> from numba import njit
    >>> from dmft.solvers.signatures import RHS_SIGNATURE
    >>> from dmft.solvers.solve import solve_problem
    >>> @njit(RHS_SIGNATURE)
    ... def decay(t, y, widths, par, out):
    ...     out[0] = -par[0] * y[0]
    >>> problem = Problem("ode", decay, (Block("y", ()),), (), parameters=("rate",))
    >>> run = solve_problem(problem, {"y": 1.0}, 1.0, widths={}, parameters={"rate": 2.0})
    >>> str(run.status), round(float(run.y[-1]), 7)
    ('ok', 0.1353353)

    A map is given by its increments:

    >>> steps = Problem("map", decay, (Block("y", ()),), (), parameters=("rate",))
    >>> run = solve_problem(steps, {"y": 1.0}, 10, widths={}, parameters={"rate": 0.5})
    >>> run.t[:3].tolist(), run.y[:3].tolist()
    ([0.0, 1.0, 2.0], [1.0, 0.5, 0.25])
    """

    kind: str
    rhs: Any
    state: tuple[Block, ...]
    widths: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    constants: tuple[Block, ...] = ()
    observe: Any = None
    observables: tuple[str, ...] = ()
    domain: Any = None
    covariance: Any = None
    jacobian: Any = None
    diffusion: Any = None
    parallel_band: float = 0.0
    lanes: Any = None
    source: str = ""
    time_unit: str = "t"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    origin: Any = None
    tail: tuple[Any, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hash of the source, the state and the observables."""
        text = repr((self.source, self.state, self.observables))
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _in_words(self) -> str:
        return (
            f"{self.kind}: state {', '.join(b.name for b in self.state)}; parameters "
            f"{', '.join(self.parameters) or 'none'}; observables {', '.join(self.observables)}"
        )

    def pack(self, blocks: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """One vector of the blocks of the state, in their order, each in C order."""
        return _pack(self.state, blocks)

    def pack_parameters(
        self, scalars: Mapping[str, float], arrays: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """One vector of a number for each parameter, an array for each constant, and `tail`."""
        head = np.array([scalars[name] for name in self.parameters], dtype=np.float64)
        packed = _pack(self.constants, arrays, head)
        if not self.tail:
            return packed
        # Addresses are below 2^53, where all whole numbers are floats.
        numbers = [entry(one, "RHS") if callable(one) else one for one in self.tail]
        return np.append(packed, np.array(numbers, dtype=np.float64))

    def unpack(
        self, y: NDArray[np.float64], widths: Mapping[str, int]
    ) -> dict[str, NDArray[np.float64]]:
        """Views of the blocks in packed states (..., n) at these widths."""
        blocks, offset = {}, 0
        for block in self.state:
            shape = block.shape(widths)
            size = math.prod(shape)
            part = y[..., offset : offset + size]
            blocks[block.name] = part.reshape((*y.shape[:-1], *shape))
            offset += size
        return blocks


def _pack(
    layout: tuple[Block, ...],
    blocks: Mapping[str, NDArray[np.float64]],
    *heads: NDArray[np.float64],
) -> NDArray[np.float64]:
    parts = [np.asarray(blocks[b.name], dtype=np.float64).ravel() for b in layout]
    return np.concatenate([*heads, *parts]) if heads or parts else np.empty(0)


def sizes_of(problem: Problem, widths: Mapping[str, int]) -> NDArray[np.int64]:
    """Widths as the compiled functions take them."""
    return np.array([widths[name] for name in problem.widths], dtype=np.int64)


def observed_at(
    problem: Problem,
    t: float,
    y: NDArray[np.float64],
    sizes: NDArray[np.int64],
    par: NDArray[np.float64],
) -> dict[str, float]:
    """Observables by name, at a packed state and packed parameters."""
    values = np.empty(len(problem.observables))
    if values.size:
        problem.observe(t, y, sizes, par, values)
    return dict(zip(problem.observables, values.tolist(), strict=True))


def describe_problem(problem: Problem) -> dict[str, Any]:
    """Versions, fingerprint of the problem and unit of its time, as plain JSON values."""
    return {
        "dmft": VERSION,
        "numpy": np.__version__,
        "numba": _version("numba"),
        "scipy": _version("scipy"),
        "python": platform.python_version(),
        "problem": problem.digest,
        "time_unit": "steps" if problem.kind == "map" else problem.time_unit,
    }


@cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)


# Excess that the rounding of products explains: counted, but not worth a sentence.
ROUNDING = 1e-14


def parallel_statistics(
    problem: Problem, y: NDArray[np.float64], widths: NDArray[np.int64], par: NDArray[np.float64]
) -> dict[str, Any]:
    """Count the saved states in which fields beyond Cauchy-Schwarz were taken as parallel.

    Returns parallel_states, and parallel_excess = max(C_ij^2 / (C_ii C_jj)) - 1 of these states y
    (T, n), or 0; nothing where the problem has no `parallel_band`.
    """
    if problem.parallel_band <= 0.0 or problem.covariance is None:
        return {}
    excess = _excess(np.array([covariance_at(problem, row, widths, par) for row in y]))
    inside = (excess > 0.0) & (excess <= problem.parallel_band)
    largest = float(excess[inside].max()) if inside.any() else 0.0
    return {"parallel_states": int(inside.sum()), "parallel_excess": largest}


def parallel_message(statistics: dict[str, Any], states: int) -> str:
    """End of the message of a run, empty where only rounding was clamped."""
    excess = statistics.get("parallel_excess", 0.0)
    if excess <= ROUNDING:
        return ""
    count = statistics["parallel_states"]
    return (
        f"; in {count} of {states} saved states the overlaps violate the Cauchy-Schwarz "
        f"inequality by up to {excess:.1e} (relative), and the fields are treated as parallel"
    )


def covariance_at(
    problem: Problem, y: NDArray[np.float64], widths: NDArray[np.int64], par: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Matrix (n, n) that `Problem.domain` tests; of no size where the problem has none."""
    if problem.covariance is None:
        return np.empty((0, 0))
    function = native_of(problem.covariance) or problem.covariance
    found = np.empty((int(widths[:2].sum()),) * 2)  # enough for overlaps
    size = int(function(y, widths, par, found))
    if size != found.shape[0]:
        found = np.empty((size, size))
        function(y, widths, par, found)
    return found


def _excess(C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest C_ij^2 / (C_ii C_jj) - 1 of two fields, for matrices C (T, n, n).

    -1 for one field, NaN if undefined.
    """
    i, j = np.triu_indices(C.shape[1], 1)
    size = np.sqrt(C[:, i, i] * C[:, j, j])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Factored as in `dmft.special.orthant`, which compares it with its band.
        ratio = -(size - C[:, i, j]) * (size + C[:, i, j]) / size**2
    found: NDArray[np.float64] = ratio.max(axis=1, initial=-1.0)
    return found

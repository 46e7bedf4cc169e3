"""Rates of equations in free coordinates, and their Jacobian: what Newton's method solves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.roots import FLAT, STEP, Root, differences, newton
from dmft.arrays import Array
from dmft.codegen.linearised import compiled_tangent
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import Values
from dmft.errors import BadParameter, NotClosed
from dmft.model import Overlaps
from dmft.solvers.pointers import entry, loop
from dmft.solvers.problem import observed_at, sizes_of
from dmft.workflow.solving.inputs import problem_of

# Part of the Jacobian by which two differences may disagree.
SMOOTH = 1e-5
# Longest step of Newton's method among rows, in units of the longest row.
REACH = 0.5
# Least step of differences, in units of `STEP`: below it rounding is all that is seen.
LEAST_ROOM = 1e-6
# Blocks that are symmetric, by their names without what tells of a spectrum.
SYMMETRIC, OF_SPECTRUM = ("Q", "velocity"), "block_"


def plain_name(name: str) -> str:
    """A block without what tells of a spectrum."""
    return name.removeprefix(OF_SPECTRUM)


class StationarySystem:
    """Compiled rates and Jacobian of equations in free coordinates around a start."""

    def __init__(self, equations: Equations, point: Any, parameters: Mapping[str, Any]) -> None:
        """`point` is `Overlaps`, or a record that has them as `overlaps`."""
        start: Overlaps = getattr(point, "overlaps", point)
        self.linear = _tangent(equations)
        self.equations, self.problem = equations, problem_of(equations)
        self.start, self.given = start, dict(parameters)
        self.place = {name: n for n, name in enumerate(equations.parameters)}
        values = equations.values(start, self.given)
        self.par = self.packed_parameters(values)
        self.widths = sizes_of(self.problem, values.widths)
        self.p, self.k = start.p, start.k
        self.sizes = values.widths
        self.rows, self.columns = np.tril_indices(self.p, -equations.space.held)
        self.free = self.flat(self.problem.pack(equations.state(start, values)))

    def packed_parameters(self, values: Values) -> Array:
        """Scalars and constant arrays as the compiled functions read them."""
        scalars = {name: values.scalars[name] for name in self.equations.parameters}
        return self.problem.pack_parameters(scalars, values.arrays)

    def flat(self, packed: Array) -> Array:
        """Free coordinates of packed states or of their rates: one half of symmetric blocks."""
        free: Array = packed[..., self.places]
        return free

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where the free coordinates stand in a packed state."""
        size = sum(block.size(self.sizes) for block in self.problem.state)
        blocks = self.problem.unpack(np.arange(float(size)), self.sizes)
        lower = (..., self.rows, self.columns)
        parts = [b[lower] if plain_name(name) in SYMMETRIC else b for name, b in blocks.items()]
        return np.concatenate([part.ravel() for part in parts]).astype(np.int64)

    @cached_property
    def units(self) -> Array:
        """Displacement along each free coordinate, packed."""
        return np.array([self.pack(self.blocks(unit)) for unit in np.eye(self.places.size)])

    def blocks(self, y: NDArray[Any], base: Array | None = None) -> dict[str, NDArray[Any]]:
        """Blocks at free coordinates: Q, M, ..., with an axis in front where there is a spectrum.

        What of Q is not free comes from `base` (zero if None).
        """
        found, at = {}, 0
        for block in self.problem.state:
            name, shape = plain_name(block.name), block.shape(self.sizes)
            if name not in SYMMETRIC:
                size = int(np.prod(shape))
                found[name] = y[at : at + size].reshape(shape)
            else:
                half = (*shape[:-2], self.rows.size)
                size = int(np.prod(half))
                fixed = base is not None and name == "Q"
                Q = np.array(base if fixed else np.zeros(shape), dtype=y.dtype)
                Q[..., self.rows, self.columns] = y[at : at + size].reshape(half)
                Q[..., self.columns, self.rows] = Q[..., self.rows, self.columns]
                found[name] = Q
            at += size
        found.setdefault("M", np.zeros((*found["Q"].shape[:-1], 0)))  # rules without fixed rows
        return found

    def pack(self, blocks: Mapping[str, Array]) -> Array:
        """State or displacement of `blocks`, packed."""
        return self.problem.pack({b.name: blocks[plain_name(b.name)] for b in self.problem.state})

    def packed(self, y: Array) -> Array:
        """State at free coordinates, lengths on a sphere as at the start."""
        return self.pack(self.blocks(y, self.start.Q))

    def rates(self, y: Array) -> Array:
        """Rates of the free coordinates."""
        state = self.packed(y)
        out = np.empty_like(state)
        self.problem.rhs(0.0, state, self.widths, self.par, out)
        return self.flat(out)

    def jacobian(self, y: Array) -> Array:
        """Derivatives of the rates, by the derived tangent equations where there are any."""
        if self.linear is None:
            return differences(self.rates, y, self.scale(y) * self._room(y))
        units = self.units
        out = np.empty_like(units)
        both = np.concatenate([np.broadcast_to(self.packed(y), units.shape), units], axis=1)
        times, linear = np.zeros(len(units)), entry(self.linear, "RHS")
        loop("evaluate_rows")(linear, times, both, self.widths, self.par, out)
        return self.flat(out).T

    def root(self, tolerance: float, max_steps: int) -> Root:
        """Where Newton's method ends from the start.

        By differences it moves rows W instead of the overlaps Q = W W^T and M = W (P^(1/2), 0)^T,
        which are a covariance wherever it looks.
        """
        if self.linear is not None:
            return newton(
                self.rates, self.jacobian, self.free, tolerance=tolerance, max_steps=max_steps
            )
        blocks, teacher = self.blocks(self.free, self.start.Q), _root(self.start.P)
        along = blocks.pop("M") @ np.linalg.pinv(teacher, hermitian=True)
        across = _root(blocks.pop("Q") - along @ np.swapaxes(along, -1, -2))
        W = np.concatenate([along, across], axis=-1)
        lengths = np.sqrt(np.diagonal(self.start.Q, axis1=-2, axis2=-1))[..., None]

        def overlaps(u: Array) -> Array:
            rows, at = u[: W.size].reshape(W.shape), W.size
            if self.equations.space.held:
                rows = rows * (lengths / np.linalg.norm(rows, axis=-1, keepdims=True))
            found = {"Q": rows @ np.swapaxes(rows, -1, -2), "M": rows[..., : self.k] @ teacher}
            for name, block in blocks.items():
                found[name] = u[at : at + block.size].reshape(block.shape)
                at += block.size
            return self.flat(self.pack(found))

        parts = {"W": W, **blocks}
        start = np.concatenate([part.ravel() for part in parts.values()])
        sizes = {n: np.maximum(1.0, np.abs(part)) for n, part in parts.items()}
        sizes["W"] = np.broadcast_to(np.maximum(lengths, LEAST_ROOM), W.shape)
        scale = np.concatenate([size.ravel() for size in sizes.values()])

        def rates(u: Array) -> Array:
            return self.rates(overlaps(u))

        def jacobian(u: Array) -> Array:
            return differences(rates, u, scale)

        reach = REACH * float(scale.max())
        found = newton(
            rates, jacobian, start, tolerance=tolerance, max_steps=max_steps, reach=reach
        )
        return replace(found, y=overlaps(found.y))

    def scale(self, y: Array) -> Array:
        """Sizes of the free coordinates: products of the lengths of their rows; scalars from 1."""
        blocks = self.blocks(y, self.start.Q)
        own, other = (
            np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1)) for gram in (blocks["Q"], self.start.P)
        )
        sizes = {name: np.maximum(1.0, np.abs(value)) for name, value in blocks.items()}
        sizes["Q"] = own[..., :, None] * own[..., None, :]
        sizes["M"] = own[..., :, None] * other[..., None, :]
        found = self.flat(self.pack(sizes))
        return np.where(found > 0.0, found, 1.0)

    def _room(self, y: Array) -> float:
        """Part of the step of differences that leaves the overlaps a covariance."""
        blocks = self.blocks(y, self.start.Q)
        P, M = np.broadcast_to(self.start.P, (*blocks["M"].shape[:-2], self.k, self.k)), blocks["M"]
        gram = np.block([[blocks["Q"], M], [np.swapaxes(M, -1, -2), P]])
        lengths = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
        lengths = np.where(lengths > 0.0, lengths, 1.0)
        lowest = np.linalg.eigvalsh(gram / (lengths[..., None] * lengths[..., None, :])).min()
        return float(np.clip(lowest / (2.0 * STEP), LEAST_ROOM, 1.0))

    def finite_jacobian(self, y: Array) -> Array:
        """`jacobian`, refused where the rates leave the floats or have no derivatives."""
        found = self.jacobian(y)
        if self.linear is None:
            sizes = self.scale(y)
            other = differences(self.rates, y, sizes * self._room(y) / 4.0)
            gap, most = (
                np.abs(J * sizes / sizes[:, None]).max(initial=0.0) for J in (found - other, found)
            )
            if not gap <= SMOOTH * most:
                reason = "their averages on nodes are not smooth"
                if self._room(y) == LEAST_ROOM:
                    reason = "their covariance is singular there"
                raise NotClosed(
                    f"the rates there have no derivatives by finite differences: {reason}; solve "
                    "the equations from near the point instead"
                )
        if not np.all(np.isfinite(found)):
            raise BadParameter("the rates there are not finite: use smaller parameters or overlaps")
        return found

    def displacement(self, y: Array, overlaps: Overlaps) -> float:
        """How far errors of averages on nodes move a zero at most: Newton's step by them."""
        claims = self.equations.evaluate_error(overlaps, **self.given)
        jacobian = self.jacobian(y)
        if not np.all(np.isfinite(jacobian)):
            return np.nan
        names = [plain_name(block.name) for block in self.problem.state]
        errors = self.flat(self.pack({name: np.abs(claims[name]) for name in names}))
        moved = np.abs(np.linalg.pinv(jacobian, rcond=FLAT)) @ errors
        return float(moved.max(initial=0.0))

    def observed(self, y: Array) -> dict[str, float]:
        """Observables by name."""
        return observed_at(self.problem, 0.0, self.packed(y), self.widths, self.par)

    def risk(self, y: Array) -> float:
        """Population risk; nan where the equations have none."""
        return self.observed(y).get("risk", float("nan"))


def _root(matrix: Array) -> Array:
    """Symmetric square root of positive semi-definite matrices."""
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ np.swapaxes(
        vectors, -1, -2
    )
    return root


def _tangent(equations: Equations) -> Any:
    """Compiled tangent equations; None where an average has no derivative in closed form."""
    try:
        return compiled_tangent(equations)
    except NotClosed:
        return None

"""A measure on a grid of two parameters: a sweep over two axes, as a phase diagram."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft import netcdf
from dmft.analysis.landscape import Landscape, NoMinimum
from dmft.analysis.phase_diagram import STATUSES, OnGrid, PhaseDiagram, count_names
from dmft.analysis.sweeps.named import Named, mixed_labels
from dmft.analysis.sweeps.run_sweep import run_sweep
from dmft.analysis.sweeps.sweep import Points, Sweep
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import VERSION, Status
from dmft.progress import Progress, ProgressOption

Ints = NDArray[np.int64]
Coarse = int | tuple[int, int] | None


@dataclass(frozen=True)
class Kept:
    """Where the points of a diagram are kept: a folder, and what it must agree on."""

    folder: str | Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    def keys(self, quantity: str) -> dict[str, Any]:
        """Keywords of `run_sweep`; the label of a diagram is not part of what a store holds."""
        if self.folder is None:
            return {"identity": {"measure": quantity}, "quantities": (quantity,)}
        return {"store": self.folder, "identity": {**self.identity, "diagram": True}}


# Blocks along an axis of the coarse grid: from this number to twice as many ...
BLOCKS = 16
# ... where the axis has points enough: smaller blocks than this save nothing.
LEAST_COARSE = 4
NOT_COMPUTED = STATUSES.index(Status.INTERRUPTED)
FINE = (STATUSES.index(Status.OK), STATUSES.index(Status.EVENT))


def _refine(
    known: _Known, steps: tuple[int, int], threads: int | None, progress: ProgressOption
) -> Ints:
    """Compute a coarse subgrid, and between its points only where labels differ; the last blocks.

    The label of a point is its status with its value, where the measure returns bools or ints only
    (names have become ints), and else with whether the value lies above `level`. A block of the
    grid all whose computed points, those on its border included, have one label is left: its other
    points take that status and values interpolated linearly between its corners. Any other block is
    split, until nothing changes.

    A region that is a union of squares of `coarse` by `coarse` cells is reproduced at every point:
    such a square holds a corner of each block that it meets. Narrower parts (islands, tips, lanes)
    are seen only where a computed point falls into them. By default `coarse` is a power of two that
    makes 16 to 32 blocks of an axis, or blocks of 4 steps.
    """
    blocks = _coarse_blocks(known.y.size, known.x.size, steps)
    halvings = max(steps).bit_length()
    with Progress(progress, known.quantity) as bar:

        def report(done: int, fraction: float, message: str) -> None:
            bar.update((min(done, halvings) + fraction) / (halvings + 1), message)

        try:
            for number in count():
                missing = known.missing(blocks)
                here = partial(report, number)
                if missing.size and not known.compute(missing, threads, here):
                    break
                mixed = known.mixed(blocks) & _is_divisible(blocks)
                if not mixed.any():
                    break
                blocks = np.concatenate([blocks[~mixed], _split(blocks[mixed])])
        except KeyboardInterrupt:  # between two rounds
            pass
    return blocks


def coarse_steps(coarse: Coarse, sizes: tuple[int, int]) -> tuple[int, int]:
    """Steps of the grid between points of the subgrid, along x and along y."""
    if coarse is None:
        found = [max(LEAST_COARSE, 2 ** (max(n // BLOCKS, 1).bit_length() - 1)) for n in sizes]
        return found[0], found[1]
    given = coarse if isinstance(coarse, tuple | list) else (coarse, coarse)
    whole = [isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in given]
    if len(given) != 2 or not all(whole):
        raise BadParameter(
            f"coarse = {coarse!r} must be a positive int, or one for each axis: the number of "
            "grid steps between points of the coarse grid"
        )
    return int(given[0]), int(given[1])


class _Known:
    """What is known of the points of the grid, and how more of them are computed."""

    def __init__(
        self, measure: Named, axes: Mapping[str, Array], level: float, quantity: str, store: Kept
    ) -> None:
        (self.x_name, self.x), (self.y_name, self.y) = axes.items()
        self.measure, self.level, self.quantity = measure, level, quantity
        self.store = store
        # Numbers of the names in the order in which they came; whether all results are labels.
        self.names: dict[str, int] = {}
        self.plain = True
        shape = (self.y.size, self.x.size)
        self.values, self.horizon = np.full(shape, np.nan), np.full(shape, np.nan)
        self.status = np.full(shape, NOT_COMPUTED, dtype=np.int64)
        self.computed = np.zeros(shape, dtype=bool)
        self.messages: dict[tuple[int, int], str] = {}
        self.provenance: Mapping[str, Any] = {}

    def missing(self, blocks: Ints) -> Ints:
        """Flat numbers of the corners that are not computed."""
        rows, columns = blocks[:, [0, 0, 1, 1]], blocks[:, [2, 3, 2, 3]]
        numbers = np.unique(rows * self.x.size + columns)
        return numbers[~self.computed.ravel()[numbers]]

    def compute(self, numbers: Ints, threads: int | None, progress: ProgressOption) -> bool:
        """Compute points; False when that was interrupted."""
        rows, columns = np.unravel_index(numbers, self.status.shape)
        names = (self.x_name, self.y_name)
        where = Points(names, (numbers.size,), (self.x[columns], self.y[rows]), False)
        keys = self.store.keys(self.quantity)
        found = run_sweep(where, self.measure, workers=threads, progress=progress, **keys)
        values, messages = self.read_labels(found)
        self.values[rows, columns] = values
        self.horizon[rows, columns] = found.horizon
        codes = np.array([STATUSES.index(Status(s)) for s in found.status], dtype=np.int64)
        self.status[rows, columns] = codes
        self.computed[rows, columns] = codes != NOT_COMPUTED
        for n, text in messages.items():
            self.messages[int(rows[n]), int(columns[n])] = text
        self.provenance = found.provenance
        return found.complete

    def read_labels(self, found: Sweep) -> tuple[Array, dict[int, str]]:
        """Values of points, names by their numbers; and the messages that are no labels."""
        (values,) = found.values.values()
        fine = np.isin(found.codes, FINE)
        labels = {n: json.loads(text) for n, text in found.messages.items() if fine[n]}
        self.plain = self.plain and len(labels) == int(fine.sum())
        for n, label in labels.items():
            if isinstance(label, str):
                values[n] = self.names.setdefault(label, len(self.names))
        if self.names and not self.plain:
            raise mixed_labels(next(iter(self.names)))
        return values, {n: text for n, text in found.messages.items() if n not in labels}

    def place_names(self) -> None:
        """Number the names in the order of the alphabet."""
        names = sorted(self.names)
        known = self.computed & np.isfinite(self.values)
        if names:
            place = np.empty(len(names))
            place[[self.names[name] for name in names]] = np.arange(len(names))
            self.values[known] = place[self.values[known].astype(int)]
            self.provenance = {**self.provenance, "labels": names}

    def labels(self) -> Ints:
        """Small whole numbers, the same for the same label; 0 where nothing is computed."""
        labels = np.zeros(self.status.shape, dtype=np.int64)
        values = self.values[self.computed]
        if self.plain:
            ranks = np.unique(values, return_inverse=True)[1]
        else:
            ranks = (values > self.level).astype(np.int64)
        labels[self.computed] = ranks * len(STATUSES) + self.status[self.computed]
        return labels

    def mixed(self, blocks: Ints) -> NDArray[np.bool_]:
        """Blocks whose computed points, those of the border included, have several labels.

        The sum of (label - label of a corner)^2 over the computed points, by sums over rectangles
        that start at the first point, vanishes where there is one label only.
        """
        labels = self.labels()
        sums = [_sums(power) for power in (self.computed.astype(np.int64), labels, labels**2)]
        number, first, second = (_over(s, blocks) for s in sums)
        corner = labels[blocks[:, 0], blocks[:, 2]]
        found: NDArray[np.bool_] = second - 2 * corner * first + corner**2 * number != 0
        return found

    def fill(self, blocks: Ints) -> None:
        """Give the points inside blocks of one label that label; small blocks have the last say."""
        rows, columns = blocks[:, [0, 0, 1, 1]], blocks[:, [2, 3, 2, 3]]
        whole = np.all(self.computed[rows, columns], axis=1) & ~self.mixed(blocks)
        blocks = blocks[whole]
        shapes = np.stack([blocks[:, 1] - blocks[:, 0], blocks[:, 3] - blocks[:, 2]], axis=1)
        for shape in sorted(np.unique(shapes, axis=0).tolist(), key=max, reverse=True):
            self._fill_alike(blocks[np.all(shapes == shape, axis=1)], *shape)

    def _fill_alike(self, blocks: Ints, height: int, width: int) -> None:
        """Interpolate in blocks of one shape."""
        top, bottom, left, right = blocks.T
        i = (top[:, None] + np.arange(height + 1))[:, :, None]
        j = (left[:, None] + np.arange(width + 1))[:, None, :]
        up = (np.arange(height + 1) / max(height, 1))[:, None]
        along = np.arange(width + 1) / max(width, 1)
        open_ = ~self.computed[i, j]
        for grid in (self.values, self.horizon):
            a, b, c, d = (
                grid[r, s][:, None, None]
                for r, s in ((top, left), (top, right), (bottom, left), (bottom, right))
            )
            # This form is exact between equal values.
            low, high = a + (b - a) * along, c + (d - c) * along
            grid[i, j] = np.where(open_, low + (high - low) * up, grid[i, j])
        status = self.status[top, left][:, None, None]
        self.status[i, j] = np.where(open_, status, self.status[i, j])

    def record(self, provenance: Mapping[str, Any]) -> PhaseDiagram:
        """The diagram."""
        names = np.array([str(s) for s in STATUSES])
        return PhaseDiagram(
            self.x_name, self.y_name, self.quantity, self.x, self.y, self.values,
            names[self.status], self.horizon, dict(sorted(self.messages.items())),
            {**self.provenance, **provenance}, self.computed,
        )  # fmt: skip


def _coarse_blocks(rows: int, columns: int, steps: tuple[int, int]) -> Ints:
    """Blocks of the coarse grid, (n, 4): first and last row, first and last column."""
    lines = []
    for size, step in ((rows, steps[1]), (columns, steps[0])):
        cuts = np.append(np.arange(0, size - 1, step), size - 1)
        # One line of points is a block without an extent.
        lines.append(np.stack([cuts[:-1], cuts[1:]], axis=1) if size > 1 else np.zeros((1, 2), int))
    i, j = np.meshgrid(np.arange(len(lines[0])), np.arange(len(lines[1])), indexing="ij")
    return np.concatenate([lines[0][i.ravel()], lines[1][j.ravel()]], axis=1).astype(np.int64)


def _is_divisible(blocks: Ints) -> NDArray[np.bool_]:
    """Blocks with points of the grid between their corners."""
    found: NDArray[np.bool_] = (blocks[:, 1] - blocks[:, 0] > 1) | (blocks[:, 3] - blocks[:, 2] > 1)
    return found


def _split(blocks: Ints) -> Ints:
    """Halves of blocks, both ways where both sides have points between their ends."""
    for side in (0, 2):
        low, high = blocks[:, side], blocks[:, side + 1]
        wide = high - low > 1
        middle = (low + high)[wide] // 2
        first, second = blocks.copy(), blocks[wide].copy()
        first[wide, side + 1], second[:, side] = middle, middle
        blocks = np.concatenate([first, second])
    return blocks


def _sums(grid: Ints) -> Ints:
    """Sums over the rectangles from the first point to each."""
    sums: Ints = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = grid.cumsum(axis=0).cumsum(axis=1)
    return sums


def _over(sums: Ints, blocks: Ints) -> Ints:
    """Sums over closed blocks."""
    i0, i1, j0, j1 = blocks.T
    found: Ints = sums[i1 + 1, j1 + 1] - sums[i0, j1 + 1] - sums[i1 + 1, j0] + sums[i0, j0]
    return found


def read_axis(name: str, values: ArrayLike) -> Array:
    """Values of an axis as numbers."""
    try:
        read = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        read = np.empty(0)
    if read.ndim != 1 or read.size == 0 or not np.all(np.isfinite(read)):
        raise BadParameter(
            f"axis {name!r} must be a non-empty list of finite numbers, got {values!r:.80}"
        )
    return read


def named_diagram(
    measure: Callable[..., Any],
    axes: Mapping[str, ArrayLike],
    *,
    adaptive: bool = False,
    level: float = 0.0,
    coarse: Coarse = None,
    quantity: str = "value",
    threads: int | None = None,
    progress: ProgressOption = None,
    provenance: Mapping[str, Any] | None = None,
    store: Kept | None = None,
) -> PhaseDiagram:
    """Evaluate ``measure(**{x_name: x, y_name: y})`` on the grid of two named axes.

    The horizontal axis comes first. The measure returns a number, an `EscapeTime`, a `Censored`, a
    `Trajectory` (its last risk counts), a pair (number, status) or a name (`PhaseDiagram.labels`).
    It runs in several threads at once; with a method `many`, as for
    `dmft.analysis.sweeps.chunk.Task`, points are computed together. `adaptive`, `level` and
    `coarse` are those of `_refine`, and `store` keeps the points. After Ctrl-C the diagram has the
    points that are done; the others have status interrupted.
    """
    if len(axes) != 2:
        raise BadParameter(f"a phase diagram has two axes, not {len(axes)}: {list(axes)}")
    grid = {name: read_axis(name, values) for name, values in axes.items()}
    if not adaptive and (level != 0.0 or coarse is not None):
        raise BadParameter("level= and coarse= require adaptive=True")
    kept = store or Kept()
    labelled = Named(measure, keeps_all=adaptive or kept.folder is not None)
    known, how = _Known(labelled, grid, level, quantity, kept), dict(provenance or {})
    if adaptive:
        steps = coarse_steps(coarse, (known.x.size, known.y.size))
        blocks = _refine(known, steps, threads, progress)
        how["adaptive"] = {"level": level, "coarse": list(steps)}
    else:
        known.compute(np.arange(known.status.size), threads, progress)
    known.place_names()
    if adaptive:
        known.fill(blocks)
    return known.record(how)


Codes = NDArray[np.int64]
NONE = "no strict minimum"


@dataclass(frozen=True, eq=False)
class RegionDiagram(OnGrid):
    """Minima of a family of risks on a grid; rows correspond to `y`, columns to `x`.

    Attributes
    ----------
    x_name, y_name : str
    x : (nx,)
    y : (ny,)
    codes : (ny, nx) of int
        1 if the global minimum has e > r/2, plus 2 if training starts along e, plus 4 if there is
        more than one minimum; -1 if there is no strict minimum.
    labels : (ny, nx) of int
        Position in `names`.
    names : tuple of str
        Kinds of the minima, the global one first; "no strict minimum" if the risk is constant along
        a line.
    e, m, risk : (ny, nx)
        Alignments and risk of the global minimum; nan if there is none.
    number : (ny, nx) of int
        Number of minima; images under sign changes are counted once.
    provenance : mapping

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> def measure(a, omega):
    ...     return landscape(positional_semantic_risk(a, omega))
    >>> from dmft.analysis.landscape import landscape
    >>> region_diagram(measure, {"a": [0.8, 1.0], "omega": [0.5, 0.9]}).codes.tolist()
    [[0, 0], [6, 3]]
    """

    KIND = "dmft diagram of regions"

    x_name: str
    y_name: str
    x: Array
    y: Array
    codes: Codes
    labels: Codes
    names: tuple[str, ...]
    e: Array
    m: Array
    risk: Array
    number: Codes
    provenance: Mapping[str, Any] = field(default_factory=dict)

    # Curves between the regions are `dmft.boundary`'s; none belong to the record.
    boundaries = None

    def _displayed(self) -> list[netcdf.Variable]:
        names = np.array(self.names)[self.labels]
        return [*super()._displayed(), ("region", (self.y_name, self.x_name), names)]

    def count(self) -> dict[str, int]:
        """Count the points of each region that occurs.

        Returns
        -------
        dict of str to int
            Numbers of points by the name of their region.

        Examples
        --------
        >>> import numpy as np
        >>> from dmft.literature import positional_semantic_diagram
        >>> positional_semantic_diagram(np.array([0.8, 1.0]), np.array([0.5])).count()
        {'semantic': 2}
        """
        return count_names(np.array(self.names)[self.labels])

    def __repr__(self) -> str:
        axes = f"{self.x_name} ({self.x.size}) x {self.y_name} ({self.y.size})"
        return f"{type(self).__name__}({axes}; {self.count()})"


def region_diagram(
    measure: Callable[[float, float], Landscape],
    axes: Mapping[str, ArrayLike],
    *,
    progress: ProgressOption = None,
) -> RegionDiagram:
    """Find the landscape at every point of two named axes."""
    if len(axes) != 2:
        raise BadParameter(f"a diagram of regions has two axes, not {len(axes)}: {list(axes)}")
    grid_axes = {name: read_axis(name, np.atleast_1d(values)) for name, values in axes.items()}
    (x_name, x), (y_name, y) = grid_axes.items()
    rows: list[list[Landscape | None]] = []
    with Progress(progress, "regions") as bar:
        for i, value in enumerate(y):
            rows.append([_found(measure, float(other), float(value)) for other in x])
            bar.update((i + 1) / y.size, f"{i + 1} of {y.size} rows")
    labels = [[found.name if found else NONE for found in row] for row in rows]
    names = tuple(sorted({name for row in labels for name in row}))

    def grid(read: Callable[[Landscape], float], none: float = np.nan) -> NDArray[Any]:
        return np.array([[read(found) if found else none for found in row] for row in rows])

    return RegionDiagram(
        x_name, y_name, x, y, grid(lambda f: f.code, -1),
        np.array([[names.index(name) for name in row] for row in labels]), names,
        grid(lambda f: f.best.e), grid(lambda f: f.best.m), grid(lambda f: f.best.risk),
        grid(lambda f: len(f.minima), 0), {"dmft": VERSION},
    )  # fmt: skip


def _found(measure: Callable[[float, float], Landscape], x: float, y: float) -> Landscape | None:
    """Landscape of one point; None, which counts as a region, if there is no minimum."""
    try:
        return measure(x, y)
    except NoMinimum:
        return None

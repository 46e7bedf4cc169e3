"""Every cell of the matrix against steps on weight vectors, and its page in docs.

A sample of the cells in the fast suite, every cell in the slow one.
"""

import contextlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from dmft.errors import BadParameter, NotClosed

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "matrix.md"


def _load(name):
    spec = importlib.util.spec_from_file_location(f"matrix_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


cells, one_step, two_steps, page = map(_load, ("cells", "one_step", "two_steps", "page"))
optimised, vector_step = map(_load, ("optimised", "vector_step"))
SIGMAS = 5.0
SAMPLES, STEPS_OF_MAPS = 100_000, 40
VECTOR_STEPS = 20_000
SEEDS_OF_DESCENTS, DIM_OF_DESCENTS = 60, 400
# Cells of the fast suite: every so many, which meets all rows, kinds, laws and losses.
STRIDE, STRIDE_OF_DESCENTS, STRIDE_OF_OPTIMISERS = 25, 15, 17
ALL = (cells.ONE_PASS, cells.DESCENT_CELLS, optimised.CELLS)
STRIDES = (STRIDE, STRIDE_OF_DESCENTS, STRIDE_OF_OPTIMISERS)
PARTS = [every[::stride] for every, stride in zip(ALL, STRIDES, strict=True)]
SAMPLE = [cell for part in PARTS for cell in part]


def deviation(cell, seed=0):
    """Largest deviation of rates, and of the covariance of an sde, in standard errors."""
    start, step = cells.ROWS[cell.row].start, one_step.Step(**cell.step)
    equations = cell.derive()
    found, claims = equations.evaluate(start), equations.evaluate_error(start)
    count = STEPS_OF_MAPS if cell.kind == "map" else SAMPLES
    moved = one_step.changes(step, start.Omega, start.p, cell.dim, count, seed)
    blocks = [name for name in moved if name in found]
    assert ("readout" in blocks) == bool(step.readout_rate)
    dt = cell.time_step
    rounding = 1e-15 / dt  # of a change that is the difference of numbers near one
    pairs = [
        (found[name], *one_step.mean(moved[name] / dt), claims[name], rounding) for name in blocks
    ]
    if cell.kind == "sde":
        rows = np.concatenate([moved[name].reshape(count, -1) for name in blocks], axis=1)
        wanted, spread = one_step.covariance(rows / np.sqrt(dt))
        least = 1e-12 * np.abs(wanted).max()
        pairs.append((found["covariance"], wanted, spread, claims["covariance"], least))
    # Claims of averages on nodes are 99 % bounds.
    return max(
        float(np.max(np.abs(value - wanted) / np.hypot(spread + least, claim / 2.6)))
        for value, wanted, spread, claim, least in pairs
    )


def deviation_of_repeated(cell, seed=0):
    """Largest deviation of overlaps after two steps, in standard errors and what is of order 1/d.

    Entries that the start fixes are checked at once.
    """
    found, claims = cell.evaluate()
    descent, start = two_steps.Descent(**cell.step), cell.start
    truth = [
        two_steps.overlaps(descent, start.Omega, start.p, DIM_OF_DESCENTS, 1000 * seed + number)
        for number in range(SEEDS_OF_DESCENTS)
    ]
    worst = 0.0
    for name, value in found.items():
        wanted, spread = one_step.mean(np.stack([one[name] for one in truth]))
        gap, error = np.abs(value - wanted), np.hypot(spread, claims[name])
        fixed = error < 1e-12
        assert np.all(gap[fixed] < 1e-9), (cell, name)
        worst = max(worst, np.max(gap / np.hypot(error, 1 / DIM_OF_DESCENTS), initial=0.0))
    return worst


def deviation_of_optimiser(cell, seed=0):
    """Largest deviation of all rates, in standard errors and what is of order 1/d."""
    equations, start = cell.derive(), cell.start
    found, claims = equations.evaluate(start), equations.evaluate_error(start)
    step = vector_step.VectorStep(**cell.step)
    moved = vector_step.rates(step, cell.rows(), cell.counts, VECTOR_STEPS, seed)
    assert set(found) == set(moved)
    worst = 0.0
    for name, value in found.items():
        # One block, or one output, has no axis of its own.
        wanted, spread = (y.reshape(np.shape(value)) for y in one_step.mean(moved[name]))
        error = np.hypot(np.hypot(spread, claims[name] / 2.6), 0.5 / optimised.DIM)
        worst = max(worst, np.max(np.abs(value - wanted) / error))
    return worst


TRUTHS = {
    cells.Cell: deviation,
    cells.Repeated: deviation_of_repeated,
    optimised.Optimised: deviation_of_optimiser,
}


def judged(cell, outcome):
    """Compare a cell with its truth, and what it does with what the page says of it."""
    truth = TRUTHS[type(cell)]
    if not outcome:
        assert truth(cell) < SIGMAS, cell
        return
    with pytest.raises((BadParameter, NotClosed)) as refusal:
        truth(cell)
    assert cells.sentence(refusal.value) == outcome


@pytest.fixture(scope="module")
def written():
    """What the page says of every cell."""
    return page.read(PAGE.read_text(encoding="utf-8"), cells, optimised)


@pytest.mark.cases(7)
@pytest.mark.parametrize("number", range(len(SAMPLE)))
def test_a_sample_of_the_matrix(number, written):
    cell = SAMPLE[number]
    judged(cell, written[cell])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "kind"), [(r, k) for k in (*cells.KINDS, cells.REPEATED) for r in cells.rows_of(k)]
)
def test_every_cell(row, kind, written):
    for cell in cells.CELLS:
        if (cell.row, cell.kind) == (row, kind):
            judged(cell, written[cell])


@pytest.mark.slow
@pytest.mark.parametrize("row", optimised.ROWS)
def test_every_cell_of_an_optimiser(row, written):
    for cell in optimised.CELLS:
        if cell.row == row:
            judged(cell, written[cell])


# Generated loops keep so many nodes at a time: with more, what is read behind them is lost.
CHUNK = 256
NODES = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024)
WRITTEN = [c for c in (*cells.ONE_PASS, *optimised.CELLS) if c.kind != "sde"]


def nodes_beyond_one_chunk(equations, start):
    """Option of the smallest rule of this kind; none where nothing is averaged on nodes."""
    if not equations.averages:
        return {}
    for nodes in NODES:
        with contextlib.suppress(BadParameter):  # not a power of two
            if equations.rule(start, {"nodes": nodes}).weight.size > CHUNK:
                return {"nodes": nodes}
    raise AssertionError("more nodes are needed")


def code_is_the_reference(cell, read):
    """Rates of the generated text against those of the plain reference, on the same nodes."""
    try:
        equations, start = cell.derive(), cell.start
        given = nodes_beyond_one_chunk(equations, start)
        wanted = equations.evaluate(start, **given)
    except (BadParameter, NotClosed):  # as the page says
        return
    run = read(equations, start, given)
    found = run.problem.unpack(run.rates(0.0, run.y0), run.widths)
    for name, value in wanted.items():
        code = found[name if name in found else f"block_{name}"].reshape(np.shape(value))
        least = 1e-9 * max(1.0, np.abs(value).max())
        np.testing.assert_allclose(code, value, rtol=1e-8, atol=least, err_msg=f"{name} of {cell}")


@pytest.mark.cases(3)
@pytest.mark.parametrize("number", range(9, len(WRITTEN), 90))
def test_code_of_a_sample_is_the_reference(number, read):
    code_is_the_reference(WRITTEN[number], read)


def test_code_of_clusters_by_block_is_the_reference(read):
    """Runs read the fields of the last nodes alone in all clusters but the last."""
    code_is_the_reference(
        optimised.Optimised("SGD", "clusters x blocks", "logistic, flipped labels"), read
    )


@pytest.mark.slow
@pytest.mark.parametrize("row", dict.fromkeys(cell.row for cell in WRITTEN))
def test_code_of_every_cell_is_the_reference(row, read):
    for cell in WRITTEN:
        if cell.row == row:
            code_is_the_reference(cell, read)


def test_the_page_is_that_of_this_table(written):
    """All cells are on it, most of them work, and it is written as `python tests/matrix` does."""
    assert set(written) == {cell for every in ALL for cell in every}
    assert sum(not why for why in written.values()) >= 60
    assert page.write(written, cells, optimised) == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("field", ["row", "kind", "law", "loss"])
def test_the_sample_meets_everything(field):
    for every, sampled in zip(ALL, PARTS, strict=True):
        assert {getattr(c, field) for c in sampled} == {getattr(c, field) for c in every}


def test_a_wrong_term_would_be_seen():
    """The truth is sharp enough to miss each of the terms."""
    cell = cells.Cell("SGD", "ode", "Gaussian", "squared")
    start = cells.ROWS[cell.row].start
    moved = one_step.changes(one_step.Step(**cell.step), start.Omega, 2, cell.dim, SAMPLES)
    wanted, spread = one_step.mean(moved["Q"] / cell.time_step)
    for name in ("sgd_noise", "label_noise", "interaction"):
        found = cell.derive().without(name).evaluate(start)["Q"]
        assert np.max(np.abs(found - wanted) / spread) > 2 * SIGMAS

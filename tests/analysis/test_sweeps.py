"""Sweeps: results in place, stores that survive, executors, refusals."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import dmft
from dmft.analysis.sweeps.run_sweep import run_sweep
from dmft.analysis.sweeps.store import Store, open_store
from dmft.analysis.sweeps.sweep import as_points
from dmft.errors import BadParameter
from tests.analysis.deadly import deadly

GRID = {"a": np.linspace(0.0, 2.0, 7), "b": [1, 2, 3]}


def product(a, b):
    return a * b


def recorded(folder, a, b):
    with (Path(folder) / "calls").open("a") as file:
        file.write(f"{a} {b}\n")
    return a * b


def calls(folder):
    return (Path(folder) / "calls").read_text().splitlines()


def test_points_of_a_product_and_of_a_list_are_the_same_points():
    grid = as_points(GRID)
    rows = as_points([grid.at(n) for n in range(len(grid))])
    numbers = np.arange(21)
    np.testing.assert_array_equal(grid.keys(numbers), rows.keys(numbers))
    swapped = as_points([{"b": 3, "a": 2.0}])
    np.testing.assert_array_equal(swapped.keys(numbers[:1]), grid.keys(numbers[-1:]))
    assert np.unique(grid.keys(numbers)).size == 21
    assert isinstance(grid.at(0)["b"], int)


@pytest.mark.parametrize("workers", [1, 3])
def test_values_stand_at_their_points(workers):
    sweep = run_sweep(GRID, product, workers=workers)
    np.testing.assert_array_equal(sweep.values["value"], np.outer(GRID["a"], GRID["b"]))
    assert sweep.complete
    assert sweep.computed == 21


def test_failures_are_data_and_mistakes_are_raised():
    sweep = run_sweep({"a": [1.0, 0.0]}, lambda a: {"x": 1 / a, "y": a}, quantities=("x", "y"))
    assert sweep.status.tolist() == ["ok", "nonfinite"]
    assert sweep.messages == {1: "ZeroDivisionError: float division by zero"}
    assert sweep.values["x"][0] == 1.0
    with pytest.raises(KeyError) as caught:
        run_sweep({"a": [1.0]}, lambda a: {}[a])
    assert "at the point {'a': 1.0}" in caught.value.__notes__
    with pytest.raises(BadParameter, match=r"returned \['x'\]"):
        run_sweep({"a": [1.0]}, lambda a: {"x": a})
    infinite = run_sweep({"a": [1.0]}, lambda a: float("inf"))
    assert infinite.status.tolist() == ["nonfinite"]


def test_a_store_is_computed_once(tmp_path):
    store = tmp_path / "store"

    def measure(a, b):
        return recorded(tmp_path, a, b)

    half = {"a": GRID["a"][:4], "b": GRID["b"]}
    assert run_sweep(half, measure, store=store, identity={"measure": "product"}).computed == 12
    whole = run_sweep(GRID, measure, store=store, identity={"measure": "product"})
    assert whole.computed == 9
    assert len(calls(tmp_path)) == 21
    np.testing.assert_array_equal(whole.values["value"], np.outer(GRID["a"], GRID["b"]))
    again = run_sweep(GRID, measure, store=store, identity={"measure": "product"})
    assert again.computed == 0
    np.testing.assert_array_equal(again.values["value"], whole.values["value"])


def test_messages_come_back_from_the_store(tmp_path):
    first = run_sweep({"a": [0.0, 1.0]}, lambda a: 1 / a, store=tmp_path / "s")
    second = run_sweep({"a": [0.0, 1.0]}, lambda a: 1 / a, store=tmp_path / "s")
    assert second.computed == 0
    assert second.messages == first.messages == {0: "ZeroDivisionError: float division by zero"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty page"])
def test_damaged_records_are_seen_and_computed_again(tmp_path, damage):
    run_sweep(GRID, product, store=tmp_path / "s")
    (shard,) = (tmp_path / "s").glob("shard-*.bin")
    raw = bytearray(shard.read_bytes())
    if damage == "cut":
        raw = raw[:-5]
    elif damage == "flipped":
        raw[-20] ^= 4
    else:
        raw[-48:] = bytes(48)
    shard.write_bytes(raw)
    again = run_sweep(GRID, product, store=tmp_path / "s")
    assert (again.torn, again.computed) == (1, 1)
    np.testing.assert_array_equal(again.values["value"], np.outer(GRID["a"], GRID["b"]))


def test_stores_that_are_refused(tmp_path):
    run_sweep(GRID, product, store=tmp_path / "s", identity={"model": "one"})
    with pytest.raises(BadParameter, match="another sweep: its model is 'one', here 'two'"):
        run_sweep(GRID, product, store=tmp_path / "s", identity={"model": "two"})
    with pytest.raises(BadParameter, match="another sweep: its quantities"):
        run_sweep(GRID, product, store=tmp_path / "s", identity={"model": "one"}, quantities=("x",))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(BadParameter, match="not a store"):
        run_sweep(GRID, product, store=tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadParameter, match="cannot write the store"):
        run_sweep(GRID, product, store=tmp_path / "file" / "s")
    with pytest.raises(BadParameter, match="is not a store"):
        open_store(tmp_path / "other")


def test_parts_of_one_store(tmp_path):
    store = Store.open(tmp_path / "s", {"measure": "product"}, ("value",))
    with store.driver(), pytest.raises(BadParameter, match="another sweep is running"):
        run_sweep(GRID, product, store=tmp_path / "s", identity={"measure": "product"})
    for part in range(3):
        done = run_sweep(
            GRID, product, store=tmp_path / "s", identity={"measure": "product"}, part=(part, 3)
        )
        assert done.computed == 7
    # A task reads its own shards only, unless there are other numbers of parts.
    identity = {"measure": "product"}
    for part, shards in (((1, 3), 1), ((1, 2), 3), ((0, 1), 3)):
        handle = Store.open(tmp_path / "s", identity, ("value",), part)
        assert handle.read().shards == shards
    whole = run_sweep(GRID, product, store=tmp_path / "s", identity={"measure": "product"})
    assert whole.computed == 0
    assert whole.complete


def test_a_point_that_ends_its_worker_is_recorded(tmp_path):
    points = {"a": np.arange(8.0)}
    sweep = run_sweep(points, deadly, store=tmp_path / "s", executor="processes", workers=1)
    assert sweep.status.tolist() == ["ok"] * 3 + ["not_converged"] + ["ok"] * 4
    assert sweep.messages == {3: "crashed its worker 3 times"}
    with ProcessPoolExecutor(1) as pool, pytest.raises(BadParameter, match="cannot be used again"):
        run_sweep(points, deadly, executor=pool)


# Of a cluster tests/cli/test_sweeps_and_boundaries.py, of workers that end the test above.
@pytest.mark.slow
def test_dask_cluster_with_a_worker_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        killed = []

        def once(fraction, message):
            if fraction > 0.2 and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

        points = {"a": np.arange(300.0)}
        sweep = run_sweep(
            points, lambda a: (time.sleep(0.005), 3 * a)[1], store=tmp_path / "s",
            executor=client, progress=once,
        )  # fmt: skip
    assert killed
    assert sweep.complete
    np.testing.assert_array_equal(sweep.values["value"], 3 * np.arange(300.0))


def test_verb_with_a_built_in_measure(tmp_path):
    import sympy as sp

    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    equations = dmft.derive(dmft.Model(square, square, 0.1), dmft.SGD(0.05, constraint="sphere"))
    start = dmft.Overlaps([[1.0]], [[0.1]])
    points = {"learning_rate": [0.05, 0.1], "label_noise": [0.0, 1.0]}
    how = {"equations": equations, "start": start, "t_max": 50.0}
    sweep = dmft.sweep(points, "escape_time", store=tmp_path / "s", **how)
    diagram = dmft.phase_diagram("escape_time", *points.items(), **how)
    np.testing.assert_array_equal(sweep.values["escape_time"].T, diagram.values)
    again = dmft.sweep(points, "escape_time", store=tmp_path / "s", **how)
    assert again.computed == 0
    with pytest.raises(BadParameter, match="contains another sweep: its t_max is"):
        dmft.sweep(points, "escape_time", store=tmp_path / "s", **{**how, "t_max": 40.0})
    with pytest.raises(BadParameter, match="unknown parameter 'width'"):
        dmft.sweep({"width": [1, 2]}, "escape_time", **how)
    with pytest.raises(BadParameter, match="unknown measure"):
        dmft.sweep(points, "escape", **how)
    loaded = dmft.load(sweep.save(tmp_path / "sweep.nc"))
    np.testing.assert_array_equal(loaded.values["escape_time"], sweep.values["escape_time"])
    assert sweep.to_xarray()["escape_time"].dims == ("learning_rate", "label_noise")


@pytest.mark.slow
def test_built_in_measures_travel_to_other_processes():
    import sympy as sp

    erf = dmft.Committee(sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2)), 2)
    equations = dmft.derive(dmft.Model(erf, erf, 0.1), dmft.SGD(0.5))
    start = dmft.random_overlaps(equations.model, 100, 0)
    points = {"learning_rate": [0.1, 0.2], "label_noise": [0.0, 0.1]}
    how = {"equations": equations, "start": start, "t_max": 5.0, "workers": 2}
    here, there = (
        dmft.sweep(points, "final_risk", executor=name, **how) for name in ("threads", "processes")
    )
    np.testing.assert_array_equal(here.values["final_risk"], there.values["final_risk"])
    assert there.count() == {"ok": 4}


@pytest.mark.parametrize("executor", [3, dict, lambda: 3, "thread"])
def test_what_cannot_take_work_is_no_executor(executor):
    with pytest.raises(dmft.errors.BadParameter, match="or a function that returns one"):
        run_sweep({"a": [1.0]}, lambda a: a, executor=executor)

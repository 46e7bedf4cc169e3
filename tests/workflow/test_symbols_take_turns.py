"""Threads of a sweep share symbols: what SymPy knows of them is asked for by one at a time."""

import sys
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import sympy as sp
from sympy.tensor.indexed import Indexed

import dmft
from dmft import symbolic_lock as lock
from dmft.codegen.linearised import compiled_tangent

z, gamma = sp.Symbol("z", real=True), sp.Symbol("gamma", positive=True)
STEPS = ("gamma", np.linspace(0.1, 0.4, 4))
NOISE = ("label_noise", np.linspace(0.5, 1.0, 2))


@pytest.fixture
def out_of_turn(monkeypatch):
    """Names of the threads that read what is known of an indexed symbol outside their turn."""
    found = []
    plain = Indexed.assumptions0.fget

    def read(symbol):
        if not lock.TURN._is_owned() and threading.current_thread() is not threading.main_thread():
            found.append(threading.current_thread().name)
        return plain(symbol)

    monkeypatch.setattr(Indexed, "assumptions0", property(read))
    return found


def equations():
    square = dmft.Committee(z**2, width=1)
    model = dmft.Model(square, square, label_noise=sp.Symbol("Delta", positive=True))
    return dmft.derive(model, dmft.SGD(gamma, constraint="sphere"))


def fixed_points():
    """A diagram whose points linearise the equations, all at once."""
    compiled_tangent.__wrapped__.cache_clear()
    dmft.phase_diagram(
        "fixed_point",
        equations=equations(),
        start=dmft.Overlaps([[1.0]], [[0.1]]),
        x=STEPS,
        y=NOISE,
        t_max=50.0,
        threads=4,
        progress=False,
    )


def test_diagrams_of_fixed_points_take_turns(out_of_turn):
    fixed_points()
    assert not out_of_turn


def test_measures_that_derive_take_turns(out_of_turn):
    """One of the user's own, which declares, derives and solves at each point."""

    def risk(gamma, label_noise):
        square = dmft.Committee(z**2, width=1)
        model = dmft.Model(square, square, label_noise=label_noise)
        found = dmft.derive(model, dmft.SGD(gamma, constraint="sphere"))
        return dmft.solve(found, dmft.Overlaps([[1.0]], [[0.1]]), t_max=5.0).risk[-1]

    dmft.phase_diagram(risk, x=STEPS, y=NOISE, threads=4, progress=False)
    assert not out_of_turn


def test_without_turns_threads_read_at_once(out_of_turn, monkeypatch):
    """What the tests above watch does happen."""

    class Nobody(nullcontext):
        def _is_owned(self):
            return False

    monkeypatch.setattr(lock, "TURN", Nobody())
    fixed_points()
    assert out_of_turn


def test_one_linearisation_for_all_threads(monkeypatch):
    """Threads that come together wait for the first, and find what it made."""
    made, shared = [], equations()
    plain = sys.modules["dmft.codegen.linearised"].tangent
    monkeypatch.setattr(
        "dmft.codegen.linearised.tangent", lambda *given: made.append(1) or plain(*given)
    )
    compiled_tangent.__wrapped__.cache_clear()
    threads = [threading.Thread(target=compiled_tangent, args=(shared,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]

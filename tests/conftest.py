"""Shared fixtures: the models that most tests run on, and the reference vectors."""

import contextlib
import gc
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from scipy.integrate import solve_ivp
from sympy.core.cache import clear_cache

import dmft
from dmft.compiled.directory import refusal
from dmft.compiled.sealed import Deferred, SealedCache
from dmft.workflow.solving.inputs import run_inputs

Z = sp.Symbol("z", real=True)
ACTIVATIONS = {
    "erf": sp.erf(Z / sp.sqrt(2)),
    "square": Z**2,
    "he2": Z**2 - 1,
    "he3": Z**3 - 3 * Z,
}


# From here on a worker compiles in children, and forgets what SymPy remembers after each file.
MUCH_MEMORY = 450 * 2**20
# Days after which kept machine code of the tests is made anew.
KEPT = 14


@pytest.fixture(scope="session", autouse=True)
def _compiled_code_of_this_session(request, tmp_path_factory):
    """Compile into one cache of all workers, unless a developer names one.

    It is kept for the next session, as what is in it is named by its content; `pytest --cache-clear`
    empties it.
    """
    if "DMFT_CACHE_DIR" in os.environ:
        return
    cache = getattr(request.config, "cache", None)
    folder = None if cache is None else Path(cache.mkdir("compiled"))
    if folder is None or refusal(folder):
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:  # each has its own folder below that of the session
            folder = folder.parent
        folder = folder / "compiled"
    os.environ["DMFT_CACHE_DIR"] = str(folder)
    oldest = time.time() - KEPT * 86400
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another worker was faster
            if file.is_file() and file.stat().st_mtime < oldest:
                file.unlink()


def resident():
    """Bytes of memory of this process; none where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session", autouse=True)
def _compiling_leaves_no_memory():
    """Of each second of compiling LLVM and Numba keep 3 MB for ever, 3 GB of the whole suite: once
    that is much, a child compiles and ends, and its machine code is loaded from disk.
    """
    compile_here, threads = CPUDispatcher.compile, threading.active_count()

    def is_kept(function, signature):
        cache = function._cache
        key = cache._index_key(signature, function.targetctx.codegen())
        return key in cache._cache_file._index()

    def compile_in_child(function, signature):
        with global_compiler_lock:
            apart = (
                isinstance(function._cache, SealedCache)
                and threading.active_count() <= threads  # a lock of another thread would stay locked
                and resident() > MUCH_MEMORY
                and not is_kept(function, signature)
            )
            child = os.fork() if apart else None
            if child == 0:
                try:
                    CPUDispatcher.compile = compile_here
                    compile_here(function, signature)
                finally:
                    os._exit(0)  # whatever went wrong goes wrong below as well
            if child:
                os.waitpid(child, 0)
            return compile_here(function, signature)

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(os, "fork") and "PYTEST_XDIST_WORKER" in os.environ:
            patch.setattr(CPUDispatcher, "compile", compile_in_child)
        yield


@pytest.fixture(scope="module", autouse=True)
def _files_leave_no_memory():
    """What SymPy remembers of a file is of little use to the next one."""
    yield
    if resident() > MUCH_MEMORY:
        clear_cache()
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _few_collections():
    """Numba and SymPy make millions of small objects that live on: a tenth of the time is Python's
    looking through them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(params=["read", pytest.param("compiled", marks=pytest.mark.slow)])
def generated_code(request, monkeypatch):
    """Generated text run by Python itself; compiled by Numba in the slow suite.

    For tests of what the text says: Python runs a right-hand side of a few neurons in milliseconds,
    and compiling it takes 3 to 10 s. `solve` and whatever takes a function pointer compile anyway.
    """
    if request.param == "compiled":
        return
    compiled_call = Deferred.__call__

    def call(function, *args):
        module = function.py_func.__module__
        if not function._wanted or not module.startswith(("dmft_equations_", "dmft_observables_")):
            return compiled_call(function, *args)
        with np.errstate(all="ignore"):
            return function.py_func(*args)

    monkeypatch.setattr(Deferred, "__call__", call, raising=False)


class Read:
    """Generated text of equations at a start, run by Python."""

    def __init__(self, equations, start, parameters):
        given = run_inputs(equations, start, parameters)
        self.problem, self.widths = dmft.build(equations), given["widths"]
        self.y0 = self.problem.pack(given["state"])
        self.sizes = np.array([self.widths[name] for name in self.problem.widths])
        self.par = self.problem.pack_parameters(given["parameters"], given["constants"])

    def rates(self, t, y):
        out = np.empty_like(y)
        with np.errstate(all="ignore"):
            self.problem.rhs.py_func(t, y, self.sizes, self.par, out)
        return out

    def observables(self, t, y):
        out = np.empty(len(self.problem.observables))
        with np.errstate(all="ignore"):
            self.problem.observe.py_func(t, y, self.sizes, self.par, out)
        return dict(zip(self.problem.observables, out, strict=True))

    def blocks(self, t, y):
        return self.problem.unpack(y, self.widths) | self.observables(t, y)

    def solve(self, t_max, save_at=None, rtol=1e-9, atol=1e-11):
        """Steps of a map, all of them; an ode by SciPy, at the times asked for or at both ends."""
        if self.problem.kind == "map":
            times, states = np.arange(t_max + 1.0), [self.y0]
            for t in times[:-1]:
                states.append(states[-1] + self.rates(t, states[-1]))
        else:
            if save_at is None or isinstance(save_at, int):
                save_at = np.linspace(0.0, t_max, save_at or 2)
            times = np.asarray(save_at, dtype=float)
            found = solve_ivp(
                self.rates, (0.0, t_max), self.y0, "DOP853", times, rtol=rtol, atol=atol
            )
            assert found.success, found.message
            states = found.y.T
        rows = [self.blocks(t, np.ascontiguousarray(y)) for t, y in zip(times, states, strict=True)]
        return SimpleNamespace(
            t=times,
            status="ok",
            **{name: np.array([row[name] for row in rows]) for name in rows[0]},
        )


@pytest.fixture(scope="session")
def read():
    """The class that runs generated text by Python."""
    return Read


@pytest.fixture(params=["read", pytest.param("compiled", marks=pytest.mark.slow)])
def solve(request):
    """`dmft.solve`; in the fast suite the generated text, run by Python, under SciPy's integrator.

    For runs that judge equations: compiling a right-hand side, its observables and its domain takes
    5 to 15 s. The solver has tests of its own.
    """
    if request.param == "compiled":
        return dmft.solve

    def run(equations, start, t_max, save_at=None, rtol=1e-9, atol=1e-11, **parameters):
        return Read(equations, start, parameters).solve(t_max, save_at, rtol, atol)

    return run


@pytest.fixture
def ctrl_c():
    """Send Ctrl-C to the main thread, whoever calls.

    Undoes the deafness to SIGINT of a process that a shell started in the background.
    """
    main, before = threading.get_ident(), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(main, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def activations():
    return ACTIVATIONS


@pytest.fixture(scope="session")
def dynamics_vectors():
    path = Path(__file__).parent / "reference" / "one_pass_dynamics.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def committee_model():
    """Return a factory of models by activation names, widths, readouts and label noise."""

    def make(student, teacher, p, k, a=None, a_star=None, noise=0.0):
        return dmft.Model(
            dmft.Committee(ACTIVATIONS[student], p, a),
            dmft.Committee(ACTIVATIONS[teacher], k, a_star),
            noise,
        )

    return make

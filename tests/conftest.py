"""Shared fixtures: the models that most tests run on, and the reference vectors."""

import contextlib
import ctypes
import gc
import json
import mmap
import os
import platform
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import CellType, FunctionType, SimpleNamespace

# Workers share the cores, and so would the threads of their BLAS, which wait by spinning: an
# inverse of 160 rows took 20 times as long. Before NumPy is loaded; processes that tests start have
# it too.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import pytest
import sympy as sp
from hypothesis import settings
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from scipy.integrate import solve_ivp
from sympy.core.cache import clear_cache

import dmft
from dmft.compiled.directory import cache_directory, refusal
from dmft.compiled.sealed import Deferred, SealedCache
from dmft.solvers.pointers import Pointer, entry, pointer
from dmft.workflow.solving.inputs import run_inputs

Z = sp.Symbol("z", real=True)
ACTIVATIONS = {
    "erf": sp.erf(Z / sp.sqrt(2)),
    "square": Z**2,
    "he2": Z**2 - 1,
    "he3": Z**3 - 3 * Z,
}


# From here on a worker compiles in children, and forgets what SymPy remembers after each file.
MUCH_MEMORY = 300 * 2**20
# What may come before all objects are looked through again.
MORE_MEMORY = 50 * 2**20
# Examples of random tests at night for one by day.
MORE_EXAMPLES = 4
# Days after which kept machine code of the tests is made anew.
KEPT = 14


@pytest.fixture(scope="session", autouse=True)
def _compiled_code_of_this_session(request, tmp_path_factory):
    """Compile into one cache of all workers, unless a developer names one.

    It is kept for the next session, as what is in it is named by its content;
    `pytest --cache-clear` empties it.
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


def is_kept(function, signature):
    """Whether the machine code of a function that keeps it is on disk."""
    cache = function._cache
    key = cache._index_key(signature, function.targetctx.codegen())
    return key in cache._cache_file._index()


@pytest.fixture(scope="session", autouse=True)
def _reading_is_remembered(_compiled_code_of_this_session):
    READING.recall()
    yield
    READING.remember()


@pytest.fixture(scope="session", autouse=True)
def _compiling_leaves_no_memory():
    """Of each second of compiling LLVM and Numba keep 3 MB for ever, 3 GB of the whole suite: once
    that is much, a child compiles and ends, and its machine code is loaded from disk.
    """
    compile_here, threads = CPUDispatcher.compile, threading.active_count()

    def compile_in_child(function, signature):
        with global_compiler_lock:
            apart = (
                isinstance(function._cache, SealedCache)
                and threading.active_count()
                <= threads  # a lock of another thread would stay locked
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


@pytest.fixture(scope="session")
def _kept():
    """Bytes of memory that were left at the last collection."""
    return SimpleNamespace(bytes=MUCH_MEMORY)


@pytest.fixture(scope="module", autouse=True)
def _files_leave_no_memory(_kept):
    """What SymPy remembers of a file is of little use to the next one; what was freed goes back to
    the system. Looking through all objects takes .3 s: not behind each file.
    """
    yield
    if resident() > MUCH_MEMORY:
        clear_cache()
    if resident() > _kept.bytes + MORE_MEMORY:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU library
        if trim:
            trim(0)
        _kept.bytes = resident()


@pytest.fixture(scope="session", autouse=True)
def _few_collections():
    """Numba and SymPy make millions of small objects that live on: a tenth of the time is Python's
    looking through them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


# Generated functions, and seconds of CPU for which Python reads one before it is compiled: about
# what compiling takes, so that waiting is at most doubled.
READ = {"rhs": 2.0, "observe": 1.0, "domain": 0.4, "covariance": 0.4, "tangent": 2.0}
READ |= {"scheduled": 2.0, "step": 2.0}
# Of each call, what the clock does not see of the way from machine code to Python.
UNSEEN = 1e-5
# Where they are: generated modules, and closures over them.
READ_IN = ("dmft_", "dmft.workflow.solving.")
# Rooms whose subject is machine code: there, as in tests marked `compiled` or `slow`, none is read.
MACHINE_CODE = {"codegen", "emit", "solvers", "analysis", "benchmarks"}


class Reading:
    """Generated text run by Python until it would have been cheaper to compile it.

    Of the models of the suite most are solved once or twice, and compiling one takes 3 to 10 s. The
    loops of the library are machine code as ever: they call the text by a pointer as they call
    machine code. What Python refuses (roots of negative numbers) is left to the compiled function.
    """

    def __init__(self):
        self.on = False
        self.spent = {}
        self.plain = {}
        self.before = {}
        self.call = Deferred.__call__
        self.point = Pointer.__init__

    def turn(self, on):
        """Put this in place of calls and pointers of compiled functions, or let them be."""
        if on != self.on:
            self.on = on
            pointer.cache_clear()
            entry.cache_clear()  # it holds addresses of what is cleared
            Pointer.__init__ = (lambda p, *args: self.address(p, *args)) if on else self.point
            if on:
                Deferred.__call__ = lambda f, *args: self(f, *args)
            else:
                del Deferred.__call__  # the inherited one

    def takes(self, function):
        """Whether a function is read: generated, and neither compiled nor kept on disk."""
        if not (self.on and isinstance(function, Deferred) and function._wanted):
            return False
        plain = function.py_func
        if not (plain.__module__ or "").startswith(READ_IN) or plain.__name__ not in READ:
            return False
        if function not in self.spent:
            kept = isinstance(function._cache, SealedCache) and is_kept(
                function, function._wanted[0]
            )
            self.spent[function] = np.inf if kept else self.before.get(plain.__module__, 0.0)
            self.plain[function] = self.without_numba(function.py_func)
        return self.spent[function] < READ[plain.__name__]

    def recall(self):
        """Seconds in which sessions before this one read modules that are named by their content:
        what is read a little each time is compiled in the end.
        """
        for file in cache_directory().glob("read_*.json"):
            with contextlib.suppress(OSError, ValueError):
                for name, seconds in json.loads(file.read_text()).items():
                    self.before[name] = max(self.before.get(name, 0.0), seconds)

    def remember(self):
        """Write them down, those of this session included."""
        cache = cache_directory()
        for function, seconds in self.spent.items():
            if seconds < np.inf:
                name = function.py_func.__module__
                self.before[name] = max(self.before.get(name, 0.0), seconds)
        kept = {name: s for name, s in self.before.items() if (cache / f"{name}.py").exists()}
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        (cache / f"read_{worker}.json").write_text(json.dumps(kept))

    def without_numba(self, function):
        """Python's function, which calls those of its own module as Python's functions too."""

        def plain(value):
            own = isinstance(value, CPUDispatcher)
            own = own and value.py_func.__module__ == function.__module__
            return self.without_numba(value.py_func) if own else value

        code, known = function.__code__, function.__globals__
        inside = {name: plain(known[name]) for name in code.co_names if name in known}
        cells = tuple(CellType(plain(cell.cell_contents)) for cell in function.__closure__ or ())
        return FunctionType(code, {**known, **inside}, closure=cells)

    def __call__(self, function, *args, begin=None):
        if not self.takes(function):
            return self.call(function, *args)
        begin = begin or time.thread_time()
        try:
            with np.errstate(all="ignore"):
                return self.plain[function](*args)
        except Exception:
            self.spent[function] = np.inf
            return self.call(function, *args)
        finally:
            self.spent[function] += time.thread_time() - begin + UNSEEN

    def address(self, pointer, function, kind):
        """Give `pointer` an address from which Python is called, later the machine code."""
        if JUMP is None or not self.takes(function):
            self.point(pointer, function, kind)
            return
        signature = kind.signature
        leaves = [leaf for one in signature.args for leaf in LEAVES[str(one)]]
        result = None if signature.return_type == types.none else ctypes.c_double

        kinds = [str(one) for one in signature.args]

        def called(*values):
            begin, values = time.thread_time(), iter(values)
            value = self(function, *[of_c(kind, values) for kind in kinds], begin=begin)
            if not self.takes(function):
                made = object.__new__(Pointer)
                self.point(made, function, kind)
                target.value = made._address
            return value

        # Compiled loops keep the address for millions of calls, so what is there is a jump.
        python, room = ctypes.CFUNCTYPE(result, *leaves)(called), executable()
        room[TARGET - len(JUMP) : TARGET] = JUMP
        target = ctypes.c_uint64.from_buffer(room, TARGET)
        target.value = ctypes.cast(python, ctypes.c_void_p).value
        pointer.function = function, python, room
        pointer._address = ctypes.addressof(target) - len(JUMP)
        pointer._numba_type_ = kind


# Jump to the address that stands behind the instruction; where none is known, text is compiled.
JUMP = {
    "x86_64": b"\xff\x25\x00\x00\x00\x00",
    "aarch64": b"\x50\x00\x00\x58\x00\x02\x1f\xd6",
}.get(platform.machine() if sys.platform == "linux" else "")
TARGET = 8


def executable():
    """A page of memory that may be written and run."""
    rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    return mmap.mmap(-1, mmap.PAGESIZE, prot=rights)


# An argument as compiled code passes it: of an array owner, parent, size, item size, data, lengths
# and strides.
def _leaves_of_array(axes):
    whole, address = ctypes.c_int64, ctypes.c_void_p
    return [address, address, whole, whole, address, *[whole] * (2 * axes)]


ITEMS = {f"array(float64, {axes}d, C)": (ctypes.c_double, axes) for axes in (1, 2)}
ITEMS |= {name.replace("float64", "int64"): (ctypes.c_int64, n) for name, (_, n) in ITEMS.items()}
LEAVES = {"float64": [ctypes.c_double]} | {n: _leaves_of_array(a) for n, (_, a) in ITEMS.items()}


def of_c(kind, values):
    """One argument, from the leaves that are left."""
    if kind == "float64":
        return next(values)
    item, axes = ITEMS[kind]
    _, _, size, _, data, *rest = (next(values) for _ in LEAVES[kind])
    flat = np.frombuffer((item * size).from_address(data), item) if size else np.empty(0, item)
    return flat.reshape(rest[:axes])


READING = Reading()


def pytest_addoption(parser):
    """Nightly and before a release: nothing is read, and random tests have more examples."""
    parser.addoption(
        "--compiled", action="store_true", help="compile all generated text, try more examples"
    )
    parser.addoption("--first-cases", action="store_true", help="one case of each function")


def spread(cases, most):
    """Some of the cases, far from each other in steps of the golden ratio: of a product of
    parameters each value is met.
    """
    golden, kept = (5**0.5 - 1) / 2, set()
    for step in range(4 * len(cases)):
        if len(kept) == min(most, len(cases)):
            break
        kept.add(int((step + 0.5) * golden % 1 * len(cases)))
    return [cases[i] for i in sorted(kept)]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Of functions marked `cases(n)` n cases are fast, of `cases(name, ...)` these.

    With `--first-cases` of each function the first that `-m` and `-k` leave: every road, not every
    number.
    """
    functions = {}
    for item in items:
        if item.get_closest_marker("cases") and not item.get_closest_marker("slow"):
            functions.setdefault(item.nodeid.split("[")[0], []).append(item)
    for cases in functions.values():
        names = cases[0].get_closest_marker("cases").args
        named = [item for item in cases if hasattr(item, "callspec") and item.callspec.id in names]
        fast = named or spread(cases, names[0])
        for item in cases:
            if item not in fast:
                item.add_marker(pytest.mark.slow)
    if config.getoption("compiled"):
        for test in {item.obj for item in items if getattr(item, "obj", None)}:
            fast = getattr(test, "_hypothesis_internal_use_settings", None)
            if fast is not None:
                more = settings(fast, max_examples=MORE_EXAMPLES * fast.max_examples)
                test._hypothesis_internal_use_settings = more
    yield
    if config.getoption("first_cases"):
        first = {item.nodeid.split("[")[0]: item for item in reversed(items)}
        kept = {item.nodeid for item in first.values()}
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in kept])
        items[:] = [item for item in items if item.nodeid in kept]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Text is read, or compiled where that is what a test is about; fixtures of its file too."""
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    marked = item.config.getoption("compiled") or any(
        item.get_closest_marker(name) for name in ("compiled", "slow")
    )
    # Python would take Ctrl-C for an error of the function that it reads.
    about = marked or room in MACHINE_CODE or "ctrl_c" in item.fixturenames
    given = item.callspec.params if hasattr(item, "callspec") else {}
    READING.turn("read" in (given.get("generated_code"), given.get("solve")) or not about)


@pytest.fixture(params=["read", pytest.param("compiled", marks=pytest.mark.slow)])
def generated_code(request):
    """Generated text run by Python itself; compiled by Numba in the slow suite."""
    return request.param


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
    """`dmft.solve`, of text that is read as `Reading` does, or compiled in the slow suite."""
    return dmft.solve


@pytest.fixture
def ctrl_c():
    """Send Ctrl-C to the main thread, whoever calls.

    Undoes the deafness to SIGINT of a process that a shell started in the background.
    """
    main, before = threading.get_ident(), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(main, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def lent():
    """A cache of one's own without records, but with the machine code that this session has.

    `with lent(folder):` what is compiled there meanwhile belongs to the session afterwards.
    """

    def give(source, target):
        for file in [*source.glob("dmft_*"), *source.glob("__pycache__/dmft_*")]:
            to = target / file.relative_to(source)
            to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # it is there, or another worker was faster
                if not to.exists():
                    shutil.copy2(file, to)

    @contextlib.contextmanager
    def cache(folder):
        session = cache_directory()
        give(session, folder)
        yield
        give(folder, session)

    cache.give = give
    return cache


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

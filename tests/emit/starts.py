"""Starts of Python, one fork each, for tests that damage the caches: run as a script.

Each line on standard input is a JSON object; a child answers it as a new process would, and what
became of it (its answer or the signal that killed it) is one JSON line on standard output.
"""

import importlib
import json
import os
import resource
import signal
import sys
import threading
import traceback
import warnings

import numba

sys.path.insert(0, sys.argv[1])  # where the package is
from dmft.emit import load_module

SIGNATURE = "float64(float64)"


def source_of(factor):
    """Text of a generated module: compiled early, late, and one function that calls another."""
    return f'''"""Written by a test."""

from dmft.compiled import njit


@njit("{SIGNATURE}", cache=True)
def early(x):
    return {factor}.0 * x


@njit(cache=True)
def late(x):
    return early(x) + {factor}.0
'''


def answer(task):
    """What a user's program computes: values of a generated module, of a function of `dmft`."""
    if task.get("limit") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
    if task.get("kill_after") is not None:
        threading.Timer(task["kill_after"], os.kill, (os.getpid(), signal.SIGKILL)).start()
    functions, values = [], []
    for factor in task.get("factors", (3,)):
        module = load_module(source_of(factor), "attacked")
        functions += [module.early, module.late]
        values += [module.early(2.0), module.late(2.0)]
    for name, function, arguments in task.get("package", ()):
        compiled = getattr(importlib.import_module(name), function)
        functions.append(compiled)
        values.append(compiled(*arguments))
    new = [f.__name__ for f in functions if not f.stats.cache_hits]
    hits = len(functions) - len(new)
    return {"values": values, "hits": hits, "misses": len(new), "compiled": new}


def child(task, pipe):
    os.environ.pop("NUMBA_CACHE_DIR", None)
    os.environ.update(task["environment"])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = answer(task)
        except BaseException:
            result = {"error": traceback.format_exc()}
    result["warnings"] = [str(w.message) for w in told]
    os.write(pipe, json.dumps(result).encode())


def start(task):
    """Fork, answer, and report; several children at once with "times"."""
    running = []
    for _ in range(task.get("times", 1)):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read)
                child(task, write)
            finally:
                os._exit(0)
        os.close(write)
        running.append((pid, read))
    results = []
    for pid, read in running:
        with os.fdopen(read, "rb") as file:
            text = file.read()
        _, status = os.waitpid(pid, 0)
        killed = f"killed: status {status}"
        results.append(json.loads(text) if text else {"error": killed, "warnings": []})
    return results


if __name__ == "__main__":
    numba.njit(SIGNATURE)(lambda x: x + 1.0)  # the compiler is ready in each child
    for line in sys.stdin:
        print(json.dumps(start(json.loads(line))), flush=True)

"""The compiled signatures through which a problem and an integrator meet, and types of records.

Because the types are first class (`numba.types.FunctionType`), the integrator is compiled once,
cached on disk, and takes any right-hand side without compiling again.
"""

from __future__ import annotations

from typing import Any, get_type_hints

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dmft.solvers.runge_kutta.layout import Batch, Events, Lanes, Task, Work
from dmft.solvers.runge_kutta.tableau import Tableau

VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
INTEGERS = types.int64[::1]

# rhs, observe: (t, y, widths, par, out)
RHS_SIGNATURE = types.void(types.float64, VECTOR, INTEGERS, VECTOR, VECTOR)
# domain: (y, widths, par, shift), negative outside
DOMAIN_SIGNATURE = types.float64(VECTOR, INTEGERS, VECTOR, types.float64)
# jacobian: (t, y, widths, par, out[n, n])
JACOBIAN_SIGNATURE = types.void(types.float64, VECTOR, INTEGERS, VECTOR, MATRIX)

# The right-hand side of several states: y, par and out hold one in each column.
LANES_RHS_SIGNATURE = types.void(types.float64, MATRIX, INTEGERS, MATRIX, MATRIX)

RHS = types.FunctionType(RHS_SIGNATURE)
LANES_RHS = types.FunctionType(LANES_RHS_SIGNATURE)
DOMAIN = types.FunctionType(DOMAIN_SIGNATURE)

# Arrays that hints of records name, as in `dmft.solvers.runge_kutta.layout`.
ARRAYS = {
    "vector": VECTOR,
    "matrix": MATRIX,
    "cube": types.float64[:, :, ::1],
    "integers": INTEGERS,
    "integer matrix": types.int64[:, ::1],
    "words": types.uint64[::1],
}
NUMBERS = {int: types.int64, float: types.float64}


def record(kind: Any) -> types.NamedTuple:
    """Numba's type of a record, by the hints of its fields."""
    hints = get_type_hints(kind, include_extras=True).values()
    found = [NUMBERS.get(hint) or ARRAYS[hint.__metadata__[0]] for hint in hints]
    return types.NamedTuple(tuple(found), kind)


TABLEAU_TYPE, TASK_TYPE, EVENTS_TYPE = record(Tableau), record(Task), record(Events)
WORK_TYPE, BATCH_TYPE, LANES_TYPE = record(Work), record(Batch), record(Lanes)

# All about events (what is asked, observe, task, events, work, y, clock, counts) is handed to the
# loop as a first-class function and compiled at the first run that has events: part of the loop, it
# would double what every first run waits for.
WATCH_SIGNATURE = types.void(
    types.int64, RHS, TASK_TYPE, EVENTS_TYPE, WORK_TYPE, VECTOR, VECTOR, INTEGERS
)
WATCH = types.FunctionType(WATCH_SIGNATURE)

# The loops of flows and of maps: rhs, observe, domain, watch, tableau, task, events, work, y,
# clock, counts, budget. Both are handed to the loop over runs, which is compiled apart from them.
ADVANCE_SIGNATURE = types.int64(
    RHS, RHS, DOMAIN, WATCH, TABLEAU_TYPE, TASK_TYPE, EVENTS_TYPE, WORK_TYPE,
    VECTOR, VECTOR, INTEGERS, types.int64,
)  # fmt: skip
ADVANCE = types.FunctionType(ADVANCE_SIGNATURE)


def function_at(kind: types.FunctionType) -> Any:
    """What makes a function of a first-class type of its address, in compiled code.

    Numba takes such a function from Python by asking an object for its address, twice and with a
    signature that it makes anew each time: 5 us a function and a call. The outermost loops take
    addresses instead, those of the C functions that Numba writes (`dmft.solvers.pointers.entry`).
    """

    @intrinsic
    def at(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            nowhere = cgutils.voidptr_t(None)
            made = cgutils.create_struct_proxy(kind)(context, builder)
            made.c_addr = builder.inttoptr(args[0], cgutils.voidptr_t)
            made.py_addr, made.jit_addr = nowhere, nowhere
            return made._getvalue()

        return kind(types.int64), emit

    return at


rhs_at, lanes_rhs_at, domain_at = function_at(RHS), function_at(LANES_RHS), function_at(DOMAIN)
watch_at, advance_at = function_at(WATCH), function_at(ADVANCE)

"""The two compiled signatures through which a problem and an integrator meet.

Because the types are first class (`numba.types.FunctionType`), the integrator is compiled once,
cached on disk, and takes any right-hand side without compiling again.
"""

from __future__ import annotations

from numba import types

VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
INTEGERS = types.int64[::1]

# rhs, observe: (t, y, widths, par, out)
RHS_SIGNATURE = types.void(types.float64, VECTOR, INTEGERS, VECTOR, VECTOR)
# domain: (y, widths, par, shift), negative outside
DOMAIN_SIGNATURE = types.float64(VECTOR, INTEGERS, VECTOR, types.float64)
# jacobian: (t, y, widths, par, out[n, n])
JACOBIAN_SIGNATURE = types.void(types.float64, VECTOR, INTEGERS, VECTOR, MATRIX)

RHS = types.FunctionType(RHS_SIGNATURE)
DOMAIN = types.FunctionType(DOMAIN_SIGNATURE)

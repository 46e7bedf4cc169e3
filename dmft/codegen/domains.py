"""Texts of the functions that tell whether a state is one of vectors."""

DOMAIN = '''

@njit("float64[:, ::1](float64[::1], int64[::1], float64[::1])", cache=True, nogil=True)
def covariance(y, widths, par):
    """Covariance Omega of all local fields."""
{body}
    return Omega


@njit("float64(float64[::1], int64[::1], float64[::1], float64)", cache=True, nogil=True)
def domain(y, widths, par, shift):
    """Lowest pivot of Omega + shift; not positive outside the domain."""
    return lowest_pivot(covariance(y, widths, par), shift)
'''

# Wide students: Q - M P^+ M^T is diagonal, and what must not be negative are its entries.
WIDE_DOMAIN = '''

@njit("float64[:, ::1](float64[::1], int64[::1], float64[::1])", cache=True, nogil=True)
def covariance(y, widths, par):
    """Covariance Q - M P^+ M^T of the residual fields, a diagonal matrix."""
    Q_perp_at = {start}
    return np.diag(y[Q_perp_at : Q_perp_at + widths[0]])


@njit("float64(float64[::1], int64[::1], float64[::1], float64)", cache=True, nogil=True)
def domain(y, widths, par, shift):
    """Smallest squared length of a residual, plus shift; negative outside the domain."""
    Q_perp_at = {start}
    lowest = y[Q_perp_at]
    for j in range(widths[0]):
        lowest = min(lowest, y[Q_perp_at + j])
    return lowest + shift
'''


# Infinitely wide students: numbers that only grow from zero and above.
ALIGNED_DOMAIN = '''

@njit("float64[:, ::1](float64[::1], int64[::1], float64[::1])", cache=True, nogil=True)
def covariance(y, widths, par):
    """What must not be negative, as a diagonal matrix."""
    return np.diag(y)


@njit("float64(float64[::1], int64[::1], float64[::1], float64)", cache=True, nogil=True)
def domain(y, widths, par, shift):
    """Smallest entry of the state, plus shift; negative outside the domain."""
    return y.min() + shift
'''

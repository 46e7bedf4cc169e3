"""Time to derive Gaussian integrals, against differentiating a moment generating function.

Run: python tests/benchmarks (this and the dynamics)
"""

import time

import sympy as sp

from dmft.gaussian import hermite, parse_factor, product_expectation
from dmft.model import FIELD as z

ENTRIES = {(i, j): sp.Symbol(f"C{i}{j}") for i in range(4) for j in range(i, 4)}


def cov(i, j):
    return ENTRIES[min(i, j), max(i, j)]


def I4_by_generating_function(f):
    """E[f' f' f f] by differentiating exp(t C t / 2): the way that most scripts take."""
    t = sp.symbols("t0:4")
    generator = sp.exp(sum(cov(i, j) * t[i] * t[j] for i in range(4) for j in range(4)) / 2)
    factors = [sp.Poly(g, z) for g in (sp.diff(f, z), sp.diff(f, z), f, f)]

    def apply(expr, i):
        if i == 4:
            return expr.subs(dict.fromkeys(t, 0))
        total, value = 0, expr
        for n, c in enumerate(factors[i].all_coeffs()[::-1]):
            if n:
                value = sp.diff(value, t[i])
            if c:
                total += c * apply(value, i + 1)
        return total

    return sp.expand(apply(generator, 0))


def cold(call):
    sp.core.cache.clear_cache()
    parse_factor.cache_clear()
    start = time.perf_counter()
    value = call()
    return value, 1e3 * (time.perf_counter() - start)


def main():
    sigma = sp.erf(z / sp.sqrt(2))
    rows = [("erf", sigma)] + [(f"He{n}", hermite(n, z)) for n in (2, 3, 4)]
    print(f"{'I4 of':8s} {'cold ms':>9s} {'warm ms':>9s} {'generating ms':>14s} {'ratio':>7s}")
    for name, f in rows:
        slope = sp.diff(f, z)

        def derive(f=f, slope=slope):
            return product_expectation([slope, slope, f, f], [0, 1, 2, 3], cov)

        value, first = cold(derive)
        start = time.perf_counter()
        derive()
        warm = 1e3 * (time.perf_counter() - start)
        if name in ("He2", "He3"):
            slow, other = cold(lambda f=f: I4_by_generating_function(f))
            assert sp.expand(slow - value) == 0
            print(f"{name:8s} {first:9.2f} {warm:9.2f} {other:14.0f} {other / first:7.0f}")
        else:
            print(f"{name:8s} {first:9.2f} {warm:9.2f} {'-':>14s} {'-':>7s}")


if __name__ == "__main__":
    main()

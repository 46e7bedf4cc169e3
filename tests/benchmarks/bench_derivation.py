"""Time to derive Gaussian integrals, against differentiating a moment generating function, and of
`Gaussian.expect` for products of Hermite polynomials at symbolic correlations.

Run: python tests/benchmarks (this and the dynamics)
"""

import time
from itertools import combinations

import sympy as sp

from dmft.gaussian.closed.factor import parse_factor
from dmft.gaussian.closed.law import REMEMBERED
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.wick import diagrams, hermite, power_in_hermite
from dmft.gaussian.expectation import Gaussian
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
    REMEMBERED.clear()
    for cached in (parse_factor, diagrams, power_in_hermite):
        cached.cache_clear()
    start = time.perf_counter()
    value = call()
    return value, 1e3 * (time.perf_counter() - start)


def hermite_products():
    """Rows of (name, integrand, law): n polynomials He_m of n fields, symbolic correlations."""
    for size, order in ((2, 3), (4, 3), (5, 4), (6, 4)):
        fields = sp.symbols(f"x1:{size + 1}", real=True)
        cov = sp.eye(size).as_mutable()
        for i, j in combinations(range(size), 2):
            cov[i, j] = cov[j, i] = sp.Symbol(f"r{i + 1}{j + 1}", real=True)
        product = sp.Mul(*[hermite(order, x) for x in fields])
        law = Gaussian(fields, cov)
        yield f"{size} He{order}", product, law
        yield f"{size} He{order} expanded", sp.expand(product), law


def main():
    times_of_integrals()
    print()
    print(f"{'Gaussian.expect of':20s} {'terms':>6s} {'cold ms':>9s} {'again ms':>9s}")
    for name, integrand, law in hermite_products():
        value, first = cold(lambda law=law, integrand=integrand: law.expect(integrand))
        start = time.perf_counter()
        law.expect(integrand)
        again = 1e3 * (time.perf_counter() - start)
        print(f"{name:20s} {len(sp.Add.make_args(value)):6d} {first:9.2f} {again:9.3f}")


def times_of_integrals():
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

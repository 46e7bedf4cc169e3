"""Ridge regression by gradient flow, written by hand: a witness of what the library derives."""

import sympy as sp

import dmft

t, s, u = sp.symbols("t s u")
C, R, D, K, M, N = sp.symbols("C R D K M N", cls=sp.Function)


def ridge_by_hand(samples_per_dim, ridge, start, label_noise=0):
    """theta = part of w orthogonal to the teacher, e = h - y residual of a sample.

    C, R of theta (R to a force on the weights), D = E e e, K regular part of the response of e to
    its field, N = E e h*.
    """
    alpha, lam, noise = (sp.sympify(y, strict=True) for y in (samples_per_dim, ridge, label_noise))
    q, m, rho = (sp.sympify(y, strict=True) for y in start)
    D, K, M, N = sp.symbols("D K M N", cls=sp.Function)

    def bare(v: sp.Symbol, w: sp.Symbol) -> sp.Expr:
        """Covariance of the residuals without their own pull on the weights."""
        return rho * (M(v) / rho - 1) * (M(w) / rho - 1) + noise + C(v, w)

    decay = -(lam + alpha)
    rate = (
        decay * C(t, s)
        - alpha * sp.Integral(K(t, u) * C(u, s), (u, 0, t))
        + alpha * sp.Integral(D(t, u) * R(s, u), (u, 0, s))
    )
    residual = (
        bare(t, s)
        + sp.Integral(bare(t, u) * K(s, u), (u, 0, s))
        - sp.Integral(R(t, u) * D(u, s), (u, 0, t))
    )
    return dmft.TwoTime(
        rates={
            C(t, s): rate,
            R(t, s): decay * R(t, s) - alpha * sp.Integral(K(t, u) * R(u, s), (u, s, t)),
            C(t, t): 2 * rate.subs(s, t),
            M(t): -lam * M(t) - alpha * N(t),
        },
        values={
            D(t, s): residual,
            D(t, t): residual.subs(s, t),
            K(t, s): -R(t, s) - sp.Integral(R(t, u) * K(u, s), (u, s, t)),
            K(t, t): -1,
            R(t, t): 1,
            N(t): M(t) - rho - sp.Integral(R(t, u) * N(u), (u, 0, t)),
        },
        start={C(0, 0): q - m**2 / rho, M(0): m},
        causal=[R, K],
        name="ridge regression by gradient flow",
        source="",
    )

"""The squared loss in closed form, for any label: only E[y h*] and E[y^2] enter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from dmft.arrays import Array
from dmft.emit.formula import parse_expression
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.channels.declared import Label
from dmft.gaussian.expectation import Gaussian
from dmft.model.inputs.spectrum import Spectrum
from dmft.record import Archived

# Logarithms of kappa are sought within this.
FARTHEST = 700.0
ALPHA, RIDGE, FIRST, SECOND, V = sp.symbols("alpha lambda c_1 y_2 V", positive=True)
LETTERS = {
    name: sp.Symbol(y, real=True) for name, y in (("M", "M"), ("Q", "Q"), ("stability", "Lambda"))
}


@dataclass(frozen=True)
class LabelMoments:
    """E[y h*_r], E[y^2] and E[g h*_r], E[g^2] of the label before noise and flips.

    `error` is that of quadrature, 0 for closed forms.
    """

    first: tuple[sp.Expr, ...]
    second: sp.Expr
    clean_first: tuple[sp.Expr, ...]
    clean_second: sp.Expr
    error: float

    @classmethod
    def of(cls, label: Label) -> LabelMoments:
        """Moments at normal teacher fields, closed where the calculus closes them."""
        label.check_numbers()
        law = Gaussian(list(label.fields), cov=sp.eye(label.width))
        error = 0.0

        def mean(expr: sp.Expr) -> sp.Expr:
            nonlocal error
            try:
                found = law.expect(expr)
                if found.is_number:
                    return found
            except NotClosed:
                pass
            value = law.quad(expr)
            error = max(error, value.error)
            return sp.Float(float(value), 17)

        clean = tuple(mean(label.expr * z) for z in label.fields)
        square = mean(label.expr**2)
        first = tuple((1 - 2 * label.flip) * c for c in clean)
        second = sp.S.One if label.drawn else square + label.noise
        return cls(first, second, clean, square, error)

    @property
    def optimal_ridge(self) -> sp.Expr:
        """(E[y^2] - c_1^2)/c_1^2, infinite where the label has no linear part."""
        linear = sp.Add(*(c**2 for c in self.first))
        if linear == 0 or abs(float(linear)) <= self.error**2:
            return sp.oo
        return sp.simplify((self.second - linear) / linear)


def squared_loss() -> dict[str, sp.Expr]:
    r"""V in closed form; M, Q and what follows from them in V.

    Equation    lambda V^2 + (lambda + alpha - 1) V - 1 = 0, m = alpha c_1 V/(1 + V),
                q = (m^2 + a (E[y^2] - 2 c_1 m))/(1 - a), a = alpha V^2/(1 + V)^2
    Valid for   lambda > 0, a linear student, any label
    Source      theory/static_limits (15)
    """
    found: dict[str, sp.Expr] = {}
    for name, expr in squared_loss_in_overlaps().items():
        found[name] = expr.xreplace({LETTERS[n]: e for n, e in found.items() if n in LETTERS})
    return found


def squared_loss_in_overlaps() -> dict[str, sp.Expr]:
    """The same, each in those before it, as it is printed."""
    b, (m, q, a) = RIDGE + ALPHA - 1, LETTERS.values()
    return {
        "V": (sp.sqrt(b**2 + 4 * RIDGE) - b) / (2 * RIDGE),
        "M": ALPHA * FIRST * V / (1 + V),
        "stability": ALPHA * V**2 / (1 + V) ** 2,
        "Q": (m**2 + a * (SECOND - 2 * FIRST * m)) / (1 - a),
        "test_loss": (SECOND - 2 * FIRST * m + q) / 2,
        "train_loss": (SECOND - 2 * FIRST * m + q) / (2 * (1 + V) ** 2),
    }


@dataclass(frozen=True, eq=False)
class Blocks:
    """Eigenvalues of the inputs' covariance, their shares, and T_e of the whitened teacher.

    The teacher's fields are P^(1/2) z with normal z; `root` is P^(1/2).
    """

    eigenvalues: Array
    fractions: Array
    teacher: Array
    root: Array

    @classmethod
    def of(cls, spectrum: Spectrum | None, width: int) -> Blocks:
        """Blocks of a spectrum; one of isotropic inputs."""
        if spectrum is None:
            return cls(np.ones(1), np.ones(1), np.eye(width)[None], np.eye(width))
        if spectrum.scaled:
            raise BadParameter(
                "the spectrum is that of preconditioned steps (scaled=True), which have the same "
                "minimum: pass the spectrum of the inputs"
            )
        teacher = spectrum.teacher_blocks(width)
        values, vectors = np.linalg.eigh(np.einsum("e,eij->ij", spectrum.eigenvalues, teacher))
        if not values[0] > 0.0:
            raise BadParameter("the teacher's fields are linearly dependent on these inputs")
        root, inverse = ((vectors * values**p) @ vectors.T for p in (0.5, -0.5))
        return cls(spectrum.eigenvalues, spectrum.fractions, inverse @ teacher @ inverse, root)

    def scale(self, alpha: float, ridge: float) -> float:
        """Root kappa of kappa (alpha - df(kappa)) = ridge, df = sum_e phi_e c_e/(kappa + c_e)."""
        if len(self.eigenvalues) == 1:
            c = float(self.eigenvalues[0])
            b = alpha * c - c - ridge
            root = math.hypot(b, 2.0 * math.sqrt(alpha * c) * math.sqrt(ridge))
            return 2.0 * ridge * c / (root + b) if b > 0.0 else 0.5 * (root / alpha - b / alpha)
        if ridge == 0.0 and alpha >= self.fractions[self.eigenvalues > 0.0].sum():
            return 0.0

        def gap(log: float) -> float:
            kappa = math.exp(log)
            shrink = self.eigenvalues / (kappa + self.eigenvalues)
            return float(alpha - self.fractions @ shrink - ridge / kappa)

        return math.exp(brentq(gap, -FARTHEST, FARTHEST, xtol=1e-14))

    def at_numbers(
        self, alpha: float, ridge: float, first: Array, second: float
    ) -> tuple[Array, dict[str, float]]:
        """M of the whitened fields and the other numbers, from E[y z] and E[y^2].

        Equation    V = df/V_hat, V_hat = ridge/kappa, M = sum_e c_e s_e T_e E[y z],
                    s_e = c_e/(kappa + c_e),
                    Q (1 - a) = sum_e c_e s_e^2 E[y z] T_e E[y z] + a (E[y^2] - 2 M E[y z]),
                    a = sum_e phi_e s_e^2/alpha
        Source      theory/static_limits 4.2
        """
        c, kappa = self.eigenvalues, self.scale(alpha, ridge)
        shrink = np.divide(c, kappa + c, out=np.zeros_like(c), where=c > 0.0)
        freedom = float(self.fractions @ shrink)
        pull = ridge / kappa if kappa > 0.0 else alpha - freedom
        M = np.einsum("e,eij,j->i", c * shrink, self.teacher, first)
        a = float(self.fractions @ shrink**2) / alpha
        signal = float(np.einsum("e,i,eij,j->", c * shrink**2, first, self.teacher, first))
        rest = second - 2.0 * float(M @ first)
        Q = (signal + a * rest) / (1.0 - a) if a < 1.0 else math.inf
        test = (rest + Q) / 2.0
        return M, {
            "Q": Q, "V": freedom / pull if pull > 0.0 else math.inf, "stability": a,
            "test_loss": test, "train_loss": test * (pull / alpha) ** 2 if pull > 0.0 else 0.0,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class OptimalRidge(Archived):
    """Ridge with the smallest test loss. `float` returns its value.

    Attributes
    ----------
    value : float
        The ridge; infinite if the label has no linear part, for which the best linear student is
        zero.
    error : float
        0 for closed forms.
    proof : "closed form" or "quadrature"
    formula : str
        The value as a SymPy expression in text form, which `expr` parses.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> dmft.optimal_ridge(model).expr
    -1 + pi/2
    """

    value: float
    error: float
    proof: str
    formula: str

    KIND = "dmft optimal ridge"

    def __float__(self) -> float:
        return self.value

    @property
    def expr(self) -> sp.Expr:
        """The value as a SymPy expression."""
        return sp.oo if math.isinf(self.value) else parse_expression(self.formula, {})

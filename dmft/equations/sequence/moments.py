r"""Averages of a sequence model from which risk and equations of motion are made.

With outputs g_i of the student, J_il = dg_i/dh_l, G = J J^T, and targets g*_i, label noise on each:

    R = 1/2 E|g - g*|^2,      E|J^T (g - g*)|^2 = E g^T G g - 2 E (G g) . g* + E g*^T G g*,
    and label noise adds Delta E tr G to it (theory/sequence A.1, C.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import sympy as sp

from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.tokens import TokenLaw, split_parameters
from dmft.model import SequenceModel, SequenceNetwork

Term = tuple[sp.Expr, sp.Expr, sp.Expr]
ONE = sp.S.One


@dataclass(frozen=True)
class SequenceMoments:
    """Averages of one model, as expressions in e, m and the parameters; computed when asked."""

    model: SequenceModel

    @cached_property
    def law(self) -> TokenLaw:
        """Law of the fields."""
        return TokenLaw.of(self.model)

    @cached_property
    def student(self) -> list[sp.Expr]:
        """Outputs in the token fields, or in z of the mean field of a network."""
        return list(self.model.student.reduced[0])

    @cached_property
    def gram(self) -> list[list[sp.Expr]]:
        """G = J J^T, the inner products of the gradients of the outputs."""
        if isinstance(self.model.student, SequenceNetwork):
            return [[derivative(self.model.student.activation) ** 2]]
        fields = self.model.student.fields
        jacobian = [[sp.diff(g, z) for z in fields] for g in self.student]
        return [
            [sp.Add(*(a * b for a, b in zip(one, two, strict=True))) for two in jacobian]
            for one in jacobian
        ]

    @cached_property
    def target(self) -> list[list[tuple[sp.Expr, sp.Expr]]]:
        """Each g*_i as weights times functions without parameters."""
        fields = self.model.teacher.fields
        return [split_parameters(y, fields) for y in self.model.teacher.outputs]

    # Averages ------------------------------------------------------------------------------

    @cached_property
    def target_square(self) -> sp.Expr:
        """E|g*|^2."""
        return self.law.expect(
            (a * b, f * h, ONE) for y in self.target for (a, f), (b, h) in product(y, y)
        )

    @cached_property
    def own_square(self) -> sp.Expr:
        """E|g|^2."""
        return self.law.expect((ONE, ONE, g**2) for g in self.student)

    @cached_property
    def cross(self) -> sp.Expr:
        """E g . g*."""
        return self.law.expect(
            (a, f, g) for y, g in zip(self.target, self.student, strict=True) for a, f in y
        )

    @cached_property
    def jacobian_square(self) -> sp.Expr:
        """E tr G, what label noise is multiplied with."""
        rows = enumerate(self.gram)
        return self.law.expect((ONE, ONE, row[i]) for i, row in rows)

    @cached_property
    def own_noise(self) -> sp.Expr:
        """E g^T G g."""
        g = self.student
        total = [a * b * self.gram[i][j] for i, a in enumerate(g) for j, b in enumerate(g)]
        return self.law.expect([(ONE, ONE, sp.Add(*total))])

    @cached_property
    def cross_noise(self) -> sp.Expr:
        """E (G g) . g*."""
        pulls = [
            sp.Add(*(c * g for c, g in zip(row, self.student, strict=True))) for row in self.gram
        ]
        return self.law.expect(
            (a, f, pull) for y, pull in zip(self.target, pulls, strict=True) for a, f in y
        )

    @cached_property
    def target_noise(self) -> sp.Expr:
        """E g*^T G g*."""
        terms: list[Term] = []
        size = len(self.target)
        for i in range(size):
            for j in range(i + 1):
                twice = ONE if i == j else 2 * ONE
                for (a, f), (b, h) in product(self.target[i], self.target[j]):
                    terms.append((twice * a * b, f * h, self.gram[i][j]))
        return self.law.expect(terms)

    @cached_property
    def perfect_noise(self) -> sp.Expr:
        """E||J^T J||_F^2 = E||G||_F^2, what the noise grows with around perfect recovery."""
        squares = [entry**2 for row in self.gram for entry in row]
        return self.law.expect([(ONE, ONE, sp.Add(*squares))])

"""`Difference`: what differs between two systems of equations, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy as sp

if TYPE_CHECKING:
    from dmft.equations.changes.changeable import Changeable

Terms = Mapping[str, Mapping[str, sp.Expr]]


@dataclass(frozen=True, repr=False)
class Difference:
    """What leads from one system of equations to another: terms added, dropped and changed.

    False where nothing differs.

    Attributes
    ----------
    before, after : Equations

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    >>> Q, (j, l) = eqs.symbols["Q"], eqs.indices.of("Q")
    >>> other = eqs.without("label_noise").with_term("Q", "decay", -2 * sp.Symbol("zeta") * Q[j, l])
    >>> eqs.diff(other)
    Q  dropped  label_noise: Δ*γ*a[j]*a[l]/p ⟨σ'(h[j]) σ'(h[l])⟩
    Q  added    decay: -2*zeta*Q[j,l]
    >>> bool(eqs.diff(eqs))
    False
    """

    before: Changeable
    after: Changeable

    @cached_property
    def _terms(self) -> tuple[Terms, Terms]:
        return self.before.all_terms, self.after.all_terms

    def _compared(self) -> list[tuple[str, str, sp.Expr | None, sp.Expr | None]]:
        """Block, name, expression before and after, of all terms that differ.

        What only one of the systems defines on the way to its rates is no term of a block.
        """
        if self.before is self.after:
            return []
        old, new = self._terms
        own = {*self.before.terms, *self.after.terms}
        rows = []
        for block in dict.fromkeys([*old, *new]):
            if block not in own and not (block in old and block in new):
                continue
            first, second = old.get(block, {}), new.get(block, {})
            for name in dict.fromkeys([*first, *second]):
                if first.get(name) != second.get(name):
                    rows.append((block, name, first.get(name), second.get(name)))
        return rows

    @cached_property
    def added(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms of `after` alone, by block and name."""
        return _by_block((b, n, new) for b, n, old, new in self._compared() if old is None)

    @cached_property
    def dropped(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms of `before` alone, by block and name."""
        return _by_block((b, n, old) for b, n, old, new in self._compared() if new is None)

    @cached_property
    def changed(self) -> dict[str, dict[str, tuple[sp.Expr, sp.Expr]]]:
        """Terms of both, with their expressions before and after."""
        rows = self._compared()
        return _by_block((b, n, (o, w)) for b, n, o, w in rows if o is not None and w is not None)

    @cached_property
    def others(self) -> dict[str, tuple[str, str]]:
        """What else differs, in words before and after: kind, scaling, model, algorithm ..."""
        pairs = zip(self.before.described.items(), self.after.described.values(), strict=True)
        return {name: (old, new) for (name, old), new in pairs if old != new}

    def __bool__(self) -> bool:
        return bool(self.added or self.dropped or self.changed or self.others)

    @property
    def lines(self) -> list[str]:
        """One line for each term that differs."""
        before, after = self.before.text_of, self.after.text_of
        rows = [f"{name}: {old} -> {new}" for name, (old, new) in self.others.items()]
        width = max((len(block) for block, *_ in self._compared()), default=0)
        for block, name, old, new in self._compared():
            head = f"{block:{width}}  "
            if old is None:
                rows.append(f"{head}added    {name}: {after(new)}")
            elif new is None:
                rows.append(f"{head}dropped  {name}: {before(old)}")
            else:
                rows.append(f"{head}changed  {name}: {before(old)} -> {after(new)}")
        return rows

    def __repr__(self) -> str:
        return "\n".join(self.lines) or "no difference"

    def latex(self) -> str:
        r"""LaTeX of the terms that differ (an amsmath `align*` environment).

        Returns
        -------
        str

        Examples
        --------
        >>> import dmft
        >>> model = dmft.literature.phase_retrieval(1)
        >>> flow, sgd = dmft.derive(model, dmft.GradientFlow()), dmft.derive(model, dmft.SGD(0.1))
        >>> flow.diff(sgd).latex().startswith(r"\begin{align*}")
        True
        """
        before, after = self.before.latex_of, self.after.latex_of
        rows = []
        for block, name, old, new in self._compared():
            label = rf"&& \text{{({_what(old, new)}: {name.replace('_', ' ')})}}"
            whose = self.after if block in self._terms[1] else self.before
            head = f"{whose.block_latex(block)}: \\quad & "
            parts = [text(e) for text, e in ((before, old), (after, new)) if e is not None]
            rows.append(head + r" \;\longrightarrow\; ".join(parts) + " " + label)
        if not rows:
            return ""
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"

    def _repr_latex_(self) -> str:
        return self.latex()


def _what(old: object, new: object) -> str:
    return "added" if old is None else "dropped" if new is None else "changed"


def _by_block(rows: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for block, name, value in rows:
        found.setdefault(block, {})[name] = value
    return found

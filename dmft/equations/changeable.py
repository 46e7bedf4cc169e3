"""What a user does with derived equations: add, drop, replace and compare terms.

A base of `Equations`, `DescentEquations` and `TwoTime`, which say how their terms are stored.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import sympy as sp

from dmft.equations.user_terms import OWN_TERMS, Indices
from dmft.errors import BadParameter
from dmft.names import VERSION
from dmft.record import InLatex, Shown, in_full, is_same, worded
from dmft.validation import shown

if TYPE_CHECKING:
    from dmft.summary import Summary

Terms = Mapping[str, Mapping[str, sp.Expr]]
# Entries of overlaps, as M_11, Q[0, 1] or Q.
_ENTRY = re.compile(r"(Q|M|P|Omega|e|m)(_\d+|\[[\d, ]*\])?")


class Changeable(ABC):
    """Equations whose terms can be changed. Each method returns new equations."""

    family: ClassVar[str] = "overlaps"
    # Fields of the classes: what they were derived from, and under which scaling.
    model: Any
    algorithm: Any
    scaling: str

    # How terms are stored, by the class itself ------------------------------------------------

    @property
    @abstractmethod
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Rates by block and by named term."""

    @property
    @abstractmethod
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """The same with what the rates are computed from."""

    @property
    @abstractmethod
    def described(self) -> dict[str, str]:
        """What else two systems may differ in, in words."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of all that decides the numbers."""

    @property
    @abstractmethod
    def approximation(self) -> str:
        """How averages are computed, in words."""

    @property
    @abstractmethod
    def as_derived(self) -> Self:
        """The equations before any change."""

    @property
    @abstractmethod
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced since the equations were derived."""

    @property
    @abstractmethod
    def symbols(self) -> dict[str, Any]:
        """What a term may be written in, by name."""

    @property
    @abstractmethod
    def indices(self) -> Indices:
        """Running indices by name, and those of each block."""

    @abstractmethod
    def _with_changed(self, block: str, name: str, given: object) -> Self:
        """Set the term of a block to what a user gave, checked; drop it for None."""

    @abstractmethod
    def _without(self, names: tuple[str, ...]) -> Self:
        """Drop terms wherever they stand."""

    @abstractmethod
    def _substituted(self, values: Mapping[Any, object]) -> Self:
        """Put other values in place of parameters."""

    @property
    def _stored_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms that can be changed, by block."""
        return self.terms

    @property
    def _own_names(self) -> frozenset[str]:
        """Names of terms that stand elsewhere than in a block."""
        return frozenset()

    def text_of(self, expr: Any) -> str:
        """An expression in the symbols of these equations, as ``print(equations)`` writes it."""
        return str(expr)

    def latex_of(self, expr: Any) -> str:
        """An expression in the symbols of these equations, in the notation of `latex`."""
        return str(sp.latex(expr))

    def block_latex(self, block: str) -> str:
        """LaTeX of a name in `terms`, with its indices."""
        return block

    # What a user does --------------------------------------------------------------------------

    def with_term(self, block: str, name: str, expr: Any) -> Self:
        r"""Return equations with an additional term in the rate of a block.

        Scaling     per unit t for an ode; per step for a map

        Parameters
        ----------
        block : str
            A block of the state: "Q", "M", "readout", "Q_perp" ...
        name : str
            Name of the term, one word.
        expr : sympy.Expr or number
            Expression in the entries of `symbols` at `indices`: j, l for Q, where it is symmetrised
            to (e_jl + e_lj)/2, and j, r for M. For an alignment of a sequence model it is a scalar
            expression or a column of components. Other symbols become run-time parameters.

        Returns
        -------
        Equations
            New equations; the original ones do not change.

        Raises
        ------
        BadParameter
            For an unknown block, a name that is already used, or an unsupported expression (fields
            of a sample, other arrays or indices, functions without compiled code).

        Notes
        -----
        - Terms of Q and M must follow from the same motion of the rows. Otherwise the overlaps may
          leave the cone of positive matrices.
        - On the sphere the term is added to the unconstrained rate, and the constraint acts on the
          sum (a map divides by the new lengths). The limit "wide-high-dimensional" and the
          equations of sequence models contain only rates on the sphere, to which the term is added
          unchanged.
        - In an sde the term changes the drift, but not the covariance.

        Examples
        --------
        Weight decay, dw/dt = ... - zeta w:

        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> eqs = dmft.derive(dmft.Model(line, line), dmft.GradientFlow())
        >>> Q, M, zeta = eqs.symbols["Q"], eqs.symbols["M"], sp.Symbol("zeta", positive=True)
        >>> j, l, r = (eqs.indices[name] for name in "jlr")
        >>> decaying = eqs.with_term("M", "decay", -zeta * M[j, r])
        >>> decaying = decaying.with_term("Q", "decay", -2 * zeta * Q[j, l])
        >>> start = dmft.Overlaps([[1.0]], [[0.5]])
        >>> decaying.evaluate(start, zeta=0.1)["M"] - eqs.evaluate(start)["M"]
        array([[-0.05]])
        >>> run = dmft.solve(decaying, start, t_max=40, zeta=0.25)   # to M = 1 / (1 + zeta)
        >>> run.M[-1].round(9)
        array([[0.8]])
        """
        self._check_block(block)
        if not (isinstance(name, str) and name.isidentifier()):
            raise BadParameter(f"the name of a term must be one word, got {shown(name)}")
        if name in self._stored_terms[block] or name in OWN_TERMS | self._own_names:
            raise BadParameter(
                f"the equations have a term {name!r} already; {block} has "
                f"{list(self._stored_terms[block])}: choose another name, or use replace"
            )
        return self._with_changed(block, name, expr)

    def replace(
        self, target: str | Mapping[Any, Any], name: str | None = None, expr: Any = None
    ) -> Self:
        r"""Return equations with a different expression for a term, or with values of parameters.

        ``replace(block, name, expr)`` replaces the term `name` of a block by the expression `expr`,
        which has the same form as in `with_term`. ``replace({parameter: value})`` substitutes
        numbers or expressions for parameters in all terms. The unit of time remains that of the
        declared learning rate.

        Parameters
        ----------
        target : str or mapping
            Block, or mapping of parameters (names or symbols) to values.
        name : str, optional
            Name of a term of the block (see `terms`).
        expr : sympy.Expr or number, optional

        Returns
        -------
        Equations
            New equations; the original ones do not change.

        Raises
        ------
        BadParameter
            As in `with_term`; for a term or a parameter that the equations do not contain; and for
            values in an sde, because the covariance would not change.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
        >>> half = eqs.replace("Q", "sgd_noise", eqs.terms["Q"]["sgd_noise"] / 2)
        >>> list(eqs.diff(half).changed["Q"])
        ['sgd_noise']
        >>> tau = sp.Symbol("tau", positive=True)
        >>> sorted(eqs.replace({"label_noise": tau**2}).parameters)
        ['learning_rate', 'tau']
        """
        if isinstance(target, Mapping):
            if name is not None or expr is not None:
                raise BadParameter("replace takes either a mapping, or a block, a name and a term")
            return self._substituted(target)
        self._check_block(target)
        if name not in self._stored_terms[target]:
            raise BadParameter(
                f"{target} has no term {shown(name)}; it has "
                f"{list(self._stored_terms[target])}: see with_term for a new one"
            )
        if expr is None:
            raise BadParameter(f"replace({target!r}, {name!r}, ...) needs the new expression")
        return self._with_changed(target, name, expr)

    def subs(self, values: Mapping[Any, Any]) -> Self:
        """Substitute values for parameters, by name or symbol, like `replace` with a mapping.

        Parameters
        ----------
        values : mapping
            Numbers or expressions by the name or symbol of a parameter.

        Returns
        -------
        Equations
            New equations, without these parameters.

        Raises
        ------
        BadParameter
            As in `replace`; and for overlaps, which are symbols only in `explicit()`.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> eqs = dmft.derive(dmft.Model(square, square, sp.Symbol("noise")), dmft.SGD(0.1))
        >>> sorted(eqs.subs({"label_noise": 0}).parameters)
        ['learning_rate']
        """
        if not isinstance(values, Mapping):
            raise BadParameter(f"subs takes a mapping {{name: value}}, got {shown(values)}")
        overlaps = [str(key) for key in values if _ENTRY.fullmatch(str(key))]
        if overlaps:
            raise BadParameter(
                f"{', '.join(overlaps)}: these equations contain arrays of any width; "
                f"use explicit().subs({{{overlaps[0]!r}: ...}}) for single entries, or "
                "evaluate(start) for all of them"
            )
        return self._substituted(values)

    def without(self, *names: str, block: str | None = None) -> Self:
        """Return equations without the named terms; constraints follow from the remaining terms.

        Parameters
        ----------
        *names : str
            Names of the terms to remove.
        block : str, optional
            Remove the terms from the rate of this block only.

        Returns
        -------
        Equations
            New equations; the original ones do not change.

        Raises
        ------
        BadParameter
            If no term has this name.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
        >>> sorted(eqs.without("learning", block="M").terms["Q"])
        ['interaction', 'label_noise', 'learning', 'sgd_noise']
        """
        if block is None:
            return self._without(names)
        self._check_block(block)
        found = self
        for name in names:
            there = list(found._stored_terms[block])
            if name not in there:
                raise BadParameter(f"no term of {block} is called {name!r}; available: {there}")
            found = found._with_changed(block, name, None)
        return found

    def diff(self, other: Changeable) -> Difference:
        """Compare with other equations: terms added, dropped and changed, by block.

        Parameters
        ----------
        other : equations of the same family
            Other equations, for example of another algorithm or with a term replaced.

        Returns
        -------
        Difference
            Record with `added`, `dropped` and `changed` by block, which can be printed or
            displayed.

        Raises
        ------
        BadParameter
            If `other` does not belong to the same family of equations.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> model = dmft.Model(square, square)
        >>> flow, sgd = dmft.derive(model, dmft.GradientFlow()), dmft.derive(model, dmft.SGD(0.1))
        >>> {block: list(terms) for block, terms in flow.diff(sgd).added.items()}
        {'Q': ['sgd_noise', 'label_noise']}
        """
        if not isinstance(other, Changeable) or other.family != self.family:
            raise BadParameter(
                f"{type(self).__name__} are compared with equations of the same family, got "
                f"{type(other).__name__}"
            )
        return Difference(self, other)

    @property
    def changes(self) -> Difference:
        """Changes since the equations were derived."""
        return self.as_derived.diff(self)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the terms that were removed."""
        if not self.is_changed:
            return ()
        return tuple(dict.fromkeys(n for terms in self.changes.dropped.values() for n in terms))

    @property
    def provenance(self) -> dict[str, Any]:
        """Record for results that are derived from these equations."""
        return {
            "equations": self.fingerprint,
            "scaling": self.scaling,
            "approximation": self.approximation,
            "version": VERSION,
            "dropped_terms": list(self.dropped),
            "changed_terms": self.changed_terms,
            "model": in_full(self.model),
            "algorithm": str(self.algorithm),
        }

    @property
    def changed_terms(self) -> list[str]:
        """Changes since the derivation, as text."""
        return self.changes.lines if self.is_changed else []

    def _check_block(self, block: object) -> None:
        blocks = list(self._stored_terms)
        if block not in blocks:
            raise BadParameter(f"no block is called {shown(block)}; these equations have {blocks}")


@dataclass(frozen=True, repr=False)
class Difference(InLatex, Shown):
    """Difference of two systems of equations: terms added, dropped and changed.

    The record is false if nothing differs.

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
    >>> print(eqs.diff(other))
    Changes of the equations
      block  change   term         expression
      Q      dropped  label_noise  γ Δ a[j] a[l]/p ⟨σ'(h[j]) σ'(h[l])⟩
      Q      added    decay        - 2 ζ Q[j,l]
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
        """Terms only in `after`, by block and name."""
        return _by_block((b, n, new) for b, n, old, new in self._compared() if old is None)

    @cached_property
    def dropped(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms only in `before`, by block and name."""
        return _by_block((b, n, old) for b, n, old, new in self._compared() if new is None)

    @cached_property
    def changed(self) -> dict[str, dict[str, tuple[sp.Expr, sp.Expr]]]:
        """Terms of both, with their expressions before and after."""
        rows = self._compared()
        return _by_block((b, n, (o, w)) for b, n, o, w in rows if o is not None and w is not None)

    @cached_property
    def others(self) -> dict[str, tuple[str, str]]:
        """Other differences, as text before and after: kind, scaling, model, algorithm ..."""
        pairs = zip(self.before.described.items(), self.after.described.values(), strict=True)
        return {name: (old, new) for (name, old), new in pairs if old != new}

    def __bool__(self) -> bool:
        return bool(self.added or self.dropped or self.changed or self.others)

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Block, change, name and text of each term that differs."""
        before, after = self.before.text_of, self.after.text_of
        for block, name, old, new in self._compared():
            texts = [text(e) for text, e in ((before, old), (after, new)) if e is not None]
            yield block, _what(old, new), name, " → ".join(texts)

    @property
    def lines(self) -> list[str]:
        """One line for each term that differs."""
        rows = [f"{name}: {old} → {new}" for name, (old, new) in self.others.items()]
        return rows + [f"{b}  {change:7}  {name}: {text}" for b, change, name, text in self._rows()]

    def _summary(self) -> Summary:
        from dmft.summary import Summary

        rows = [
            (part, "changed", "", f"{a} → {b}")
            for name, old in self.others.items()
            for part, a, b in _parts(name, *(getattr(e, name, y) for e, y in
                                             zip((self.before, self.after), old, strict=True)))
        ]  # fmt: skip
        rows += self._rows()
        if not rows:
            return Summary("no difference", ())
        head = ("block", "change", "term", "expression")
        return Summary("Changes of the equations", tuple(rows), head)

    def latex(self) -> str:
        """Return the terms that differ as LaTeX (an amsmath `align*` environment)."""
        from dmft.typeset.fragment import align

        before, after = self.before.latex_of, self.after.latex_of
        rows = []
        for block, name, old, new in self._compared():
            label = rf"&& \text{{({_what(old, new)}: {name.replace('_', ' ')})}}"
            whose = self.after if block in self._terms[1] else self.before
            head = f"{whose.block_latex(block)}: \\quad & "
            parts = [text(e) for text, e in ((before, old), (after, new)) if e is not None]
            rows.append(head + r" \;\longrightarrow\; ".join(parts) + " " + label)
        return align(rows)


def _parts(name: str, old: Any, new: Any) -> list[tuple[str, str, str]]:
    """Names and texts of the parts of two declarations that differ."""
    if type(old) is type(new) and is_dataclass(old):
        pairs = ((f.name, getattr(old, f.name), getattr(new, f.name)) for f in fields(old))
        return [row for part, a, b in pairs for row in _parts(f"{name}.{part}", a, b)]
    return [] if is_same(old, new) else [(name, worded(old, str), worded(new, str))]


def _what(old: object, new: object) -> str:
    return "added" if old is None else "dropped" if new is None else "changed"


def _by_block(rows: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for block, name, value in rows:
        found.setdefault(block, {})[name] = value
    return found

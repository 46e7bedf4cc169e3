r"""The effective process of a site of a random network, and the averages that close it.

Equation    h(t) = u(t) + mu M(t) + m kappa(t) + eta(t)
                   + gamma sigma^2 int_0^t R(t, s) phi(x(s)) ds,
            E eta(t) eta(s) = sigma^2 C(t, s), M = E phi, C = E phi phi,
            R(t, s) = E d phi(x(t)) / d h(s)
Source      [sompolinsky_1988], [eissfeller_opper_1992]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.precedence import PRECEDENCE

from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, define, mapped
from dmft.equations.two_time.changes import (
    IndicesInTime,
    Named,
    TwoTimeEquations,
    as_expression,
    whole_numbers,
)
from dmft.equations.two_time.descent_process import PathSlope
from dmft.equations.user_terms import Indices
from dmft.equations.views.latex import EquationPrinter
from dmft.errors import BadParameter
from dmft.model.random_network import C, R, RandomNetwork, S, T
from dmft.record import Short, in_full
from dmft.typeset.fragment import align
from dmft.typeset.plain import plain_text

# White noise of unit strength, and the field's Gaussian part.
WHITE, COUPLED, COVARIANCE = "xi", "eta", "Sigma"
# Symbol that stands for the multiplier's value at a time.
NU = sp.Function("nu", real=True)


@dataclass(frozen=True)
class Functions:
    """Functions of time of one population, and what stands for its output."""

    state: Any
    field: Any
    eta: Any
    sigma: Any
    mean: Any
    corr: Any
    resp: Any
    white: Any
    output: sp.Expr


@dataclass(frozen=True, repr=False)
class NetworkEquations(Short, TwoTimeEquations):
    """Equations of one site of a random network and of the averages over its process.

    Terms can be dropped, added and replaced (`without`, `with_term`, `replace`); the blocks are
    the state, its field, the covariance ``Sigma`` of the field's Gaussian part, and the averages
    ``M``, ``C`` and ``R``. Names end in the number of the population where there are several.

    Attributes
    ----------
    model : RandomNetwork
    definitions : tuple of Definition
    derived : tuple of Definition
        The definitions before any change.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=1.5, symmetry=0.5)
    >>> eqs = dmft.derive(network)
    >>> sorted(eqs.terms["h"]), eqs.without("memory").is_changed
    (['couplings', 'memory'], True)
    """

    family: ClassVar[str] = "network"
    stepper: ClassVar[str] = "network"
    kind: ClassVar[str] = "two-time"
    scaling = "random couplings, N to infinity"
    algorithm = ""
    approximation = "averages over one site's process"

    model: RandomNetwork
    definitions: tuple[Definition, ...]
    derived: tuple[Definition, ...] = ()

    def _in_words(self) -> str:
        return f"{self.model.kind}; " + ", ".join(str(d.target) for d in self.definitions)

    @property
    def _signature(self) -> str:
        return repr(self.model._in_full())

    @property
    def stored(self) -> tuple[Definition, ...]:
        """All definitions."""
        return self.definitions

    def _block_of(self, definition: Definition) -> str:
        return str(definition.target.func)

    @property
    def described(self) -> dict[str, str]:
        """The network."""
        return {"network": in_full(self.model)}

    @property
    def as_derived(self) -> Self:
        """The equations before any change."""
        return replace(self, definitions=self.derived or self.definitions, derived=())

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced."""
        return bool(self.derived) and self.derived != self.definitions

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """Symbols that `dmft.solve` is given values for."""
        site = {*self.model.site_symbols, T, S}
        held = set().union(*(e.free_symbols for d in self.definitions for _, e in d.terms))
        return tuple(sorted(held - site, key=str))

    @property
    def symbols(self) -> dict[str, Any]:
        """Functions of time and parameters by name."""
        found = {str(f.func): f.func for d in self.definitions for f in d.expr.atoms(AppliedUndef)}
        found |= {self._block_of(d): d.target.func for d in self.definitions}
        return {**found, **self._scalars, **{y.name: y for y in self.model.site_symbols}}

    @property
    def indices(self) -> Indices:
        """Times t and s."""
        blocks = {self._block_of(d): tuple(d.target.args) for d in self.definitions}
        rows = ", ".join(str(d.target) for d in self.definitions)
        return IndicesInTime(blocks, (T, S), f"0 <= s <= t (times)\n{rows}")

    def _value(self, name: str, given: object) -> sp.Expr:
        return as_expression(f"the parameter {name}", given)

    def _checked(self, block: str, given: object) -> sp.Expr:
        expr = as_expression(f"a term of {block}", given)
        known = self.symbols
        swap: dict[sp.Basic, sp.Basic] = {
            y: {"t": T, "s": S}[y.name] for y in expr.free_symbols if y.name in ("t", "s")
        }
        for f in expr.atoms(AppliedUndef):
            if str(f.func) not in known:
                raise BadParameter(
                    f"{f} in a term of {block} has no equation; available: {sorted(known)}"
                )
            swap[f] = known[str(f.func)](*(y.xreplace(swap) for y in f.args))
        return self._refuse_free(block, expr.xreplace(swap), (T, S), ("time", "integrate"))

    def _rebuilt(self, named: Named, swap: Mapping[sp.Basic, sp.Basic]) -> Self:
        changed = tuple(
            replace(d, terms=tuple(named[self._block_of(d)].items())) for d in self.definitions
        )
        return replace(self, definitions=changed, derived=self.derived or self.definitions)

    # Reading ------------------------------------------------------------------------------------

    def functions(self, population: int) -> Functions:
        """Functions of one population."""
        return functions_of(self.model, population)

    def block(self, function: Any) -> sp.Expr:
        """Right-hand side of the definition of a function; zero where all terms were dropped."""
        return next(d.expr for d in self.definitions if d.target.func == function)

    def _latex(self) -> str:
        """The network, the equations of one site, a line for each named term, and their letters."""
        lines: list[str] = []
        held = {f.func for d in self.definitions for f in d.expr.atoms(AppliedUndef)}
        sites = [*map(self.functions, range(self.model.populations))]
        noises = {f.sigma: f.eta for f in sites}
        # A field that is its Gaussian part alone has no equation.
        plain = {d.target: d.expr for d in self.definitions if d.expr in [f.eta(T) for f in sites]}
        for d in (mapped(y, plain) for y in self.definitions if y.target not in plain):
            if d.terms[0][0] == "average" and d.target.func not in held:
                continue
            if d.target.func in noises:
                two = " ".join(self._printer.doprint(noises[d.target.func](y)) for y in (T, S))
                lines.append(rf"\langle {two} \rangle &= {self._printer.doprint(d.expr)}")
            elif d.role != "rate":
                lines += self._lines(d)
            elif self.model.kind == "map":
                lines += self._lines(replace(d, target=d.target.xreplace({T: T + 1})))
            else:  # all at one time
                held_at = [f for f in d.expr.atoms(AppliedUndef) if f.name not in (WHITE, NU.name)]
                now = {f: sp.Symbol(f.name) for f in (d.target, *held_at)}
                terms = tuple((name, expr.xreplace(now)) for name, expr in d.terms)
                first, *more = self._lines(replace(d, target=now[d.target], terms=terms))
                moving, _, rate = first.partition(" &= ")
                lines += [rf"\frac{{d {moving}}}{{d t}} &= {rate}", *more]
        if self.model.multiplier is not None:
            _, held, value = self.model.multiplier
            inside = (held.xreplace({self.model.state: f.state(T)}) for f in sites)
            mean = sum(s * Expectation(y) for s, y in zip(self.model.shares, inside, strict=True))
            lines.append(f"{self._printer.doprint(mean)} &= {self._printer.doprint(value)}")
        body = " \\\\\n".join(lines)
        equations = f"\\begin{{align*}}\n{body}\n\\end{{align*}}"
        equations = equations.replace(r"\int\limits", r"\int")
        return f"{self._declared()}{equations}{self._meanings(body)}"

    def _declared(self) -> str:
        """The network of N units; nothing where the limit itself is declared."""
        m, several = self.model, self.model.populations > 1
        if m.covariance is not None or m.memory is not None:
            return ""

        def printed(expr: sp.Expr, unit: str = "i") -> str:
            own = {y: sp.Symbol(f"{y.name}_{unit}") for y in (m.state, m.field, *m.site_symbols)}
            own |= {m.multiplier[0]: NU(T)} if m.multiplier else {}
            return self._printer.doprint(whole_numbers(expr).xreplace(own))

        rows = []
        for a in range(m.populations):
            rate = f"{printed(m.rate[a])}"
            if m.noise[a] != 0:
                rate += rf" + {printed(sp.sqrt(2 * m.noise[a]))} \xi_i(t)"
            rows.append(rate + (rf" && (a = {a + 1})" if len(set(m.rate)) > 1 else ""))
        x, one = printed(m.state), printed(m.output[0], "j")
        output = r"\phi_b(x_j)".replace("x_j", printed(m.state, "j")) if several else one
        field = rf"\sum_{{j=1}}^{{N}} J_{{ij}} {output}"
        for left, right in m.low_rank:
            front = "" if left == 1 else printed(left)
            inside = printed(right * m.output[0], "j") if not several else (
                rf"{printed(right, 'j')} {output}"
            )  # fmt: skip
            field += rf" + {front} \frac{{1}}{{N}} \sum_{{j=1}}^{{N}} {inside}"
        field += " + u_i(t)" if any(m.input) else ""
        moving = f"{x}(t + 1)" if m.kind == "map" else rf"\frac{{d {x}}}{{d t}}"
        rows = [f"{moving} &= {rate}" for rate in dict.fromkeys(rows)]
        if len(rows) > 1:
            rows.append(f"{printed(m.field)} &= {field}")
        else:
            rows[0] += rf",\quad {printed(m.field)} = {field}"
        held = {
            "mean {}/N": m.mean,
            "variance {}/N": tuple(tuple(y**2 for y in row) for row in m.std),
            "correlation {} with $J_{{ji}}$": m.symmetry,
        }
        law = [
            name.format(f"${printed(sp.Matrix(table) if several else table[0][0])}$")
            for name, table in held.items()
            if any(y for row in table for y in row) or table is m.mean
        ]
        *others, last = (y.replace("$/N", "/N$").replace("$0/N$", "zero") for y in law)
        law_text = f"{', '.join(others)} and {last}" if others else last
        kind = "" if any(y for row in m.symmetry for y in row) else "independent "
        drawn = ", drawn anew in each step" if m.redrawn else ""
        who, form, bounded = "states", "", x + (r" \ge 0" if m.positive else "")
        rest = [sp.expand(r - m.state * (m.field - m.state)) for r in m.rate]
        if m.positive and not m.multiplier and m.output == (m.state,) and all(
            r.is_polynomial(m.state) and sp.degree(r, m.state) < 2 and not r.has(m.field)
            for r in rest
        ):  # fmt: skip
            who, form = "abundances", " the generalised Lotka-Volterra equations"
        units = f"The {who} ${bounded}$ of $N$ {'species' if form else 'units'}"
        if several:
            shares = ", ".join(f"{y:g}" for y in m.shares)
            outputs = ", ".join(
                rf"$\phi_{n}({m.state.name}) = {self._printer.doprint(y)}$"
                for n, y in enumerate(m.output, 1)
            )
            units += f" in {m.populations} populations of fractions {shares} with outputs {outputs}"
        between = " from population $b$ to $a$ (rows $a$)" if several else ""
        return (
            f"{units} obey{form}\n{align(rows)}\nwith {kind}couplings $J_{{ij}}${between} of "
            f"{law_text}{drawn}. As $N \\to \\infty$, each {'species' if form else 'unit'} is "
            "an independent copy of the process\n"
        )

    def _meanings(self, body: str) -> str:
        """What random functions are, of which the equations hold averages alone."""
        one = "_a" if self.model.populations > 1 else ""
        probe = self._printer.probe
        told = {
            r"\eta": rf"$\eta{one}$ is a Gaussian process with mean zero",
            r"\xi": rf"$\xi{one}$ is white noise of unit strength",
            r"\nu(": r"$\nu$ is the multiplier that keeps the last average",
            r"\delta": rf"$R{one}$ is the response to a small field ${probe}{one}$ "
            rf"that is added to ${self.model.field.name}{one}$",
            r"\langle": r"$\langle \cdot \rangle$ is the average over the process and its initial "
            "states",
        }
        found = [text for mark, text in told.items() if mark in body]
        for symbols, law in self.model.parameters:
            found.append(f"${sp.latex(sp.Tuple(*symbols))}$ of a unit is drawn from {law}")
        *others, last = found or [""]
        text = f"{', '.join(others)}, and {last}" if others else last
        return f"\nHere {text}." if found else ""

    @property
    def _printer(self) -> NetworkPrinter:
        taken = {y.name for y in (self.model.state, *self.model.scalars, *self.model.site_symbols)}
        probe = r"\zeta" if "b" in taken else "b"
        return NetworkPrinter(self.model.state.name, self.model.field.name, probe)

    def __str__(self) -> str:
        return plain_text(self.latex())


class NetworkPrinter(EquationPrinter):
    """Functions of time by their names, averages in angle brackets, later times first.

    Responses are to a `probe` that is added to the field.
    """

    def __init__(self, state: str, field: str, probe: str) -> None:
        super().__init__({})
        self.state, self.field, self.probe = state, field, probe

    def _print_Add(self, expr: sp.Add, order: str | None = None) -> str:
        # The decay of the state comes first, whatever its sign.
        terms = self.in_order(self._as_ordered_terms(expr, order=order))
        if not terms[0].could_extract_minus_sign() or terms[0].is_number:
            return str(super()._print_Add(expr, order))
        first, *others = map(self._print, terms)
        return " ".join([first, *(y if y.startswith("-") else f"+ {y}" for y in others)])

    def in_order(self, terms: Sequence[sp.Expr]) -> list[sp.Expr]:
        """Constants, what holds the state, the rest."""

        def place(term: sp.Expr) -> int:
            names = {y.name for y in term.atoms(sp.Symbol, AppliedUndef)}
            moving = any(y.partition("_")[0] == self.state for y in names)
            return 1 if moving else 2 * bool(term.atoms(AppliedUndef) or not term.is_number)

        found = sorted(terms, key=place)
        return found if any(map(place, terms)) and T not in terms else list(terms)

    def _print_Expectation(self, expr: Expectation) -> str:
        inside = expr.integrand
        text = self._print(inside)
        if inside.is_Mul and inside.has(S) and inside.as_coeff_Mul()[0] == 1:
            factors = sorted(inside.as_ordered_factors(), key=lambda y: y.has(S))
            text = " ".join(self.parenthesize(y, PRECEDENCE["Mul"]) for y in factors)
        # A functional derivative: of paths by the field along them.
        text = text.replace(r"\partial", r"\delta")
        text = text.replace(
            rf"\delta {self._print(sp.Symbol(self.field))}", rf"\delta {self.probe}"
        )
        return rf"\left\langle {text} \right\rangle"

    def _print_Function(self, expr: sp.Function, exp: str | None = None) -> str:
        if not isinstance(expr, AppliedUndef):
            return str(super()._print_Function(expr, exp))
        text = f"{self._print(sp.Symbol(expr.name))}({', '.join(map(self._print, expr.args))})"
        return text if exp is None else f"{text}^{{{exp}}}"


def functions_of(network: RandomNetwork, population: int) -> Functions:
    """Functions of time of one population."""
    end = f"_{population + 1}" if network.populations > 1 else ""

    def named(name: str) -> Any:
        return sp.Function(f"{name}{end}", real=True)

    state = named(network.state.name)
    output = network.output[population].xreplace({network.state: state(T)})
    return Functions(
        state, named(network.field.name), named(COUPLED), named(COVARIANCE), named("M"),
        named("C") if end else C, named("R") if end else R, named(WHITE), output,
    )  # fmt: skip


def derive_network(network: Any) -> NetworkEquations:
    """Equations of a site of a random network, with the terms that the declared case has."""
    if not isinstance(network, RandomNetwork):
        raise BadParameter(
            f"derive needs an algorithm for {network!r}: dmft.SGD, dmft.GradientFlow or another"
        )
    found: list[Definition] = []
    for a in range(network.populations):
        found += _site(network, a)
    found += _loadings(network)
    return NetworkEquations(network, tuple(found))


def _site(network: RandomNetwork, a: int) -> list[Definition]:
    """State, field, covariance and averages of one population."""
    f = functions_of(network, a)
    every = [functions_of(network, b) for b in range(network.populations)]
    swap = {network.state: f.state(T), network.field: f.field(T)}
    if network.multiplier is not None:
        swap[network.multiplier[0]] = NU(T)
    noise = sp.sqrt(2 * network.noise[a])
    output, earlier = f.output, f.output.xreplace({T: S})
    return [
        define(
            f.state(T),
            {"rate": network.rate[a].xreplace(swap), "noise": noise.xreplace(swap) * f.white(T)},
            "rate",
        ),
        define(f.field(T), _field(network, a, f, every, earlier), "sample"),
        define(f.sigma(T, S), _covariance(network, a, every), "intermediate"),
        define(f.mean(T), {"average": Expectation(output)}, "intermediate"),
        define(f.corr(T, S), {"average": Expectation(output * earlier)}, "intermediate"),
        define(
            f.resp(T, S), {"average": Expectation(PathSlope(output, f.field(S)))}, "intermediate"
        ),
    ]


def _field(
    network: RandomNetwork, a: int, f: Functions, every: list[Functions], earlier: sp.Expr
) -> dict[str, sp.Expr]:
    mean = sp.Add(
        *(share * network.mean[a][b] * every[b].mean(T) for b, share in enumerate(_shares(network)))
    )
    low_rank = sp.Add(*(m * _loading(r)(T) for r, (m, _) in enumerate(network.low_rank)))
    memory = sp.S.Zero
    if network.has_memory:
        kernel = network.memory
        if kernel is None:
            kernel = sp.Add(*(
                share * network.symmetry[a][b] * network.std[a][b] * network.std[b][a]
                * every[b].resp(T, S)
                for b, share in enumerate(_shares(network))
            ))  # fmt: skip
        memory = sp.Integral(kernel * earlier, (S, 0, T))
        if network.kind == "map":
            memory = sp.Sum(kernel * earlier, (S, 0, T - 1))
    return {
        "input": network.drive[a],
        "mean": mean,
        "low_rank": low_rank,
        "couplings": f.eta(T),
        "memory": memory,
    }


def _covariance(network: RandomNetwork, a: int, every: list[Functions]) -> dict[str, sp.Expr]:
    coupled = network.covariance
    if coupled is None:
        coupled = sp.Add(
            *(
                share * network.std[a][b] ** 2 * every[b].corr(T, S)
                for b, share in enumerate(_shares(network))
            )
        )
    if network.redrawn:
        coupled = coupled * sp.KroneckerDelta(T, S)
    return {"couplings": coupled, "input": network.input_covariance[a]}


def _loadings(network: RandomNetwork) -> list[Definition]:
    """Overlaps of the outputs with the low-rank part."""
    found = []
    for r, (_, n) in enumerate(network.low_rank):
        total = sp.Add(
            *(
                share * Expectation(n * functions_of(network, b).output)
                for b, share in enumerate(_shares(network))
            )
        )
        found.append(define(_loading(r)(T), {"average": total}, "intermediate"))
    return found


def _loading(number: int) -> Any:
    return sp.Function(f"kappa_{number + 1}", real=True)


def _shares(network: RandomNetwork) -> tuple[sp.Expr, ...]:
    return tuple(sp.nsimplify(y) if y != 1 else sp.S.One for y in network.shares)

"""Declaration of random networks: N sites that are coupled by a random matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import sympy as sp

from dmft.errors import BadParameter
from dmft.laws import JointNormal, Law, Normal
from dmft.record import Shown
from dmft.validation import as_positive, checked, is_expression, is_number, shown

# The time of the sites, and the earlier time of functions of two times.
t, s = T, S = sp.symbols("t s", real=True)
# Correlation and response of the outputs, in `covariance` and `memory`.
C, R = sp.Function("C", real=True), sp.Function("R", real=True)
Matrix = tuple[tuple[sp.Expr, ...], ...]
# Largest start: states beyond have diverged. Most steps of a run.
LARGEST_START, MOST_STEPS = 1e12, 10**9


@dataclass(frozen=True, init=False, repr=False)
class GaussianInput(Shown):
    """Gaussian input of the sites, independent of the couplings.

    Parameters
    ----------
    covariance : sympy.Expr
        Covariance K(t, s) = E u(t) u(s), a symmetric expression in symbols named ``t`` and ``s``.

    Raises
    ------
    BadParameter
        If the covariance is not symmetric.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> t, s = sp.symbols("t s", real=True)
    >>> dmft.GaussianInput(sp.cos(t - s) / 2)
    GaussianInput(covariance=cos(s - t)/2)
    """

    covariance: sp.Expr

    def __init__(self, covariance: Any) -> None:
        expr = in_times(_expression("covariance", covariance))
        other = expr.xreplace({T: S, S: T})
        if sp.simplify(expr - other) != 0:
            raise BadParameter(f"covariance {expr} of an input must be symmetric in t and s")
        object.__setattr__(self, "covariance", expr)


@checked
@dataclass(frozen=True, init=False, repr=False)
class RandomNetwork(Shown):
    r"""Network of N sites coupled by a dense random matrix, in the limit N -> infinity.

    Equation    dx_i = rate(x_i, h_i) dt + sqrt(2 noise) dW_i
                (a map: x_i(t+1) = rate(x_i, h_i) + sqrt(2 noise) xi_i),
                h_i = u_i + sum_j J_ij output(x_j) + sum_r m_i^r (1/N) sum_j n_j^r output(x_j)
    Scaling     J_ij has mean `mean`/N, variance `std`^2/N, and correlation `symmetry` with J_ji;
                t is the time of the sites (steps of a map)
    Valid for   dense couplings of finite variance; times of order one as N -> infinity
    Source      [sompolinsky_1988], [eissfeller_opper_1992], [roy_2019]

    Parameters
    ----------
    rate : sympy.Expr
        Rate f(x, h) of the state, or the next state of a map. It may contain ``dmft.t``, the
        symbols of `parameters`, and symbols whose values are passed to `dmft.solve` by name.
    state, field : sympy.Symbol
        Symbols x (state) and h (field) in the expressions.
    output : sympy.Expr, optional
        Output phi(x) of a site, which enters the fields of other sites; by default the state.
    mean, std, symmetry : number or sympy.Expr
        Statistics of the couplings. With P populations also (P, P) nested lists, whose rows are the
        receiving populations.
    noise : number or sympy.Expr
        Half the variance of white noise per unit of time (of a map per step); it may depend on the
        state (Ito).
    input : sympy.Expr or GaussianInput
        Input u(t), an expression in ``dmft.t`` and `parameters`, or a Gaussian process.
    parameters : mapping
        Symbols that take a random value for each site, with their laws (`dmft.laws`). Tuples of
        symbols may have a joint law (`dmft.laws.JointNormal`).
    fractions : sequence of float, optional
        Fraction of sites in each population; `rate`, `output`, `noise` and `input` may then be
        lists.
    low_rank : sequence of (m, n)
        Pairs of expressions in `parameters`, which add m n^T / N to the couplings.
    multiplier : (nu, expression, value), optional
        Symbol nu in `rate`, whose value nu(t) keeps the mean of the expression at the given value.
    positive : bool
        Keep states positive: for a rate x rho(x, h) + lambda, one step is
        x -> x exp(rho dt) + lambda dt.
    kind : {"ode", "map"}
        Whether sites follow a differential equation, or a map in discrete time.
    redrawn : bool
        Whether a map has new couplings at each step, as in the layers of a network.
    covariance, memory : sympy.Expr, optional
        Covariance of the effective noise and memory kernel of a site. By default std^2 C(t, s) and
        symmetry std^2 R(t, s), with the correlation C and the response R of the output. Other
        expressions in ``C(t, s)``, ``R(t, s)``, t and s describe couplings that change in time or
        couple more than two sites.

    Raises
    ------
    BadParameter
        For contradictory arguments, such as |symmetry| > 1, different symmetries for the two orders
        of a pair of populations, or fractions that do not add up to one.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=1.5, symmetry=0.5)
    >>> network.populations, network.kind
    (1, 'ode')
    """

    family: ClassVar[str] = "network"

    rate: tuple[sp.Expr, ...]
    state: sp.Symbol
    field: sp.Symbol
    output: tuple[sp.Expr, ...]
    mean: Matrix
    std: Matrix
    symmetry: Matrix
    noise: tuple[sp.Expr, ...]
    input: tuple[sp.Expr | GaussianInput, ...]
    parameters: tuple[tuple[tuple[sp.Symbol, ...], Law | JointNormal], ...]
    fractions: tuple[float, ...] | None
    low_rank: tuple[tuple[sp.Expr, sp.Expr], ...]
    multiplier: tuple[sp.Symbol, sp.Expr, sp.Expr] | None
    positive: bool
    kind: Literal["ode", "map"]
    redrawn: bool
    covariance: sp.Expr | None
    memory: sp.Expr | None

    def __init__(
        self,
        rate: Any,
        state: sp.Symbol,
        field: sp.Symbol,
        *,
        output: Any = None,
        mean: Any = 0,
        std: Any = 1,
        symmetry: Any = 0,
        noise: Any = 0,
        input: Any = 0,
        parameters: Mapping[Any, Law | JointNormal] | None = None,
        fractions: Sequence[float] | None = None,
        low_rank: Sequence[tuple[Any, Any]] = (),
        multiplier: tuple[sp.Symbol, Any, Any] | None = None,
        positive: bool = False,
        kind: Literal["ode", "map"] = "ode",
        redrawn: bool = False,
        covariance: Any = None,
        memory: Any = None,
    ) -> None:
        if state == field:
            raise BadParameter(f"state and field are both {state}: use two symbols")
        shares = None if fractions is None else _shares(fractions)
        size = 1 if shares is None else len(shares)
        held = {
            "state": state, "field": field, "fractions": shares,
            "rate": _each("rate", rate, size), "noise": _each("noise", noise, size),
            "output": _each("output", state if output is None else output, size),
            "input": _inputs(input, size),
            "parameters": _laws(parameters or {}),
            "low_rank": _pairs(low_rank),
            "multiplier": _multiplier(multiplier),
            "positive": positive, "kind": kind, "redrawn": redrawn,
            "covariance": None if covariance is None
            else of_kernels(_expression("covariance", covariance)),
            "memory": None if memory is None else of_kernels(_expression("memory", memory)),
        }  # fmt: skip
        for name, given in (("mean", mean), ("std", std), ("symmetry", symmetry)):
            held[name] = _matrix(name, given, size)
        for name, value in held.items():
            object.__setattr__(self, name, value)
        self._check()

    def __str__(self) -> str:
        """Rate, output, couplings and further arguments that are not zero."""
        moving = f"{self.state}(t + 1)" if self.kind == "map" else f"d{self.state}/dt"
        matrices = {"mean": self.mean, "std": self.std, "symmetry": self.symmetry}
        rows: dict[str, Any] = {moving: self.rate, "output": self.output}
        rows |= {name: table if len(table) > 1 else table[0] for name, table in matrices.items()}
        rows |= {"noise": self.noise, "input": self.input}
        rows = {name: value if self.populations > 1 else value[0] for name, value in rows.items()}
        others = "parameters", "fractions", "low_rank", "multiplier", "covariance", "memory"
        rows |= {name: getattr(self, name) for name in others}
        shown = {name: y for name, y in rows.items() if not (y is None or y in (0, ()))}
        return "\n".join(f"{name:10} {sp.sstr(y, full_prec=False)}" for name, y in shown.items())

    @property
    def populations(self) -> int:
        """Number of populations."""
        return len(self.rate)

    @property
    def shares(self) -> tuple[float, ...]:
        """Fraction of each population; (1,) if none are declared."""
        return self.fractions or (1.0,)

    @property
    def site_symbols(self) -> tuple[sp.Symbol, ...]:
        """Symbols that take one value for each site, in the order of `parameters`."""
        return tuple(symbol for symbols, _ in self.parameters for symbol in symbols)

    @property
    def drive(self) -> tuple[sp.Expr, ...]:
        """Deterministic input of each population; 0 if it is random."""
        return tuple(sp.S.Zero if isinstance(u, GaussianInput) else u for u in self.input)

    @property
    def input_covariance(self) -> tuple[sp.Expr, ...]:
        """Covariance of the random input of each population; 0 if it is deterministic."""
        return tuple(
            u.covariance if isinstance(u, GaussianInput) else sp.S.Zero for u in self.input
        )

    @property
    def scalars(self) -> tuple[sp.Symbol, ...]:
        """Symbols without a value, whose values are passed to `dmft.solve`, sorted by name."""
        known = {self.state, self.field, T, S, *self.site_symbols}
        if self.multiplier is not None:
            known.add(self.multiplier[0])
        return tuple(sorted(self._free - known, key=str))

    @property
    def _free(self) -> set[sp.Symbol]:
        matrices = (y for m in (self.mean, self.std, self.symmetry) for row in m for y in row)
        inputs = (*self.drive, *self.input_covariance)
        low_rank = (y for pair in self.low_rank for y in pair)
        kernels = (y for y in (self.covariance, self.memory) if y is not None)
        held = () if self.multiplier is None else self.multiplier[1:]
        every = (*self.rate, *self.output, *self.noise, *matrices, *inputs, *low_rank,
                 *kernels, *held)  # fmt: skip
        return set().union(*(y.free_symbols for y in every))

    @property
    def has_memory(self) -> bool:
        """Whether the past of a site affects it through the couplings."""
        if self.redrawn:
            return False
        if self.memory is not None:
            return bool(self.memory != 0)
        return any(y != 0 for row in self.symmetry for y in row)

    def _check(self) -> None:
        for row in range(self.populations):
            for column in range(self.populations):
                self._check_pair(row, column)
        if self.redrawn and self.kind != "map":
            raise BadParameter('redrawn couplings need steps: declare kind="map"')
        if self.redrawn and any(y != 0 for row in self.symmetry for y in row):
            raise BadParameter("redrawn couplings have no symmetry: each step has its own matrix")
        if self.redrawn and (self.memory is not None or self.covariance is not None):
            raise BadParameter("redrawn couplings have no memory and no covariance of two times")
        if (self.covariance is None) != (self.memory is None):
            raise BadParameter(
                "pass covariance= and memory= together: one without the other is another model"
            )
        if self.covariance is not None and self.populations > 1:
            raise BadParameter("covariance= and memory= are for one population")
        if self.positive and self.kind == "map":
            raise BadParameter("positive= applies to the steps of an ode; a map declares its own")
        for number, (rate, output, noise) in enumerate(
            zip(self.rate, self.output, self.noise, strict=True)
        ):
            where = f" of population {number}" if self.populations > 1 else ""
            if not rate.has(self.state) and self.kind == "ode":
                raise BadParameter(f"rate{where} = {rate} does not contain the state {self.state}")
            if output.has(self.field):
                raise BadParameter(f"output{where} = {output} contains the field: it is phi(x)")
            if noise.is_negative:
                raise BadParameter(f"noise{where} = {noise} must not be negative")
            if self.has_memory:
                refuse_jumps(output, rate, where, "couplings with symmetry other than 0 need")
            if self.positive:
                self._check_positive(rate, noise)
        if self.multiplier is not None and not any(y.has(self.multiplier[0]) for y in self.rate):
            raise BadParameter(f"the multiplier {self.multiplier[0]} is not in the rate")

    def _check_pair(self, row: int, column: int) -> None:
        std, gamma = self.std[row][column], self.symmetry[row][column]
        if std.is_number and not std >= 0:
            raise BadParameter(f"std = {std} must not be negative")
        if gamma.is_number and not -1 <= gamma <= 1:
            raise BadParameter(f"symmetry = {gamma} is a correlation: from -1 to 1")
        if gamma != self.symmetry[column][row]:
            raise BadParameter(
                f"symmetry[{row}][{column}] = {gamma} and symmetry[{column}][{row}] = "
                f"{self.symmetry[column][row]} are the correlation of the same pairs: make them "
                "equal"
            )

    def _check_positive(self, rate: sp.Expr, noise: sp.Expr) -> None:
        if noise != 0:
            raise BadParameter("positive= and noise= together are not supported: use log x")
        inflow = rate.subs(self.state, 0)
        if inflow.has(self.field):
            raise BadParameter(
                f"positive states need a rate x rho(x, h) + lambda; {rate} is {inflow} at "
                f"{self.state} = 0"
            )


def valued(
    symbols: Sequence[sp.Symbol], given: Mapping[str, Any], options: Sequence[str] = ()
) -> dict[sp.Symbol, float]:
    """Values of the symbols of a network by name; names of options are for the refusal."""
    known = {y.name: y for y in symbols}
    for name, value in given.items():
        if name not in known:
            raise BadParameter(
                f"unknown option or parameter {name!r}; parameters are {sorted(known)}"
                + (f", options {sorted(options)}" if options else "")
            )
        if not is_number(value) or not math.isfinite(float(value)):
            raise BadParameter(f"{name} must be a finite number, got {shown(value)}")
    missing = [name for name in known if name not in given]
    if missing:
        raise BadParameter(f"no value for {missing[0]}; pass {missing[0]}=...")
    return {symbol: float(given[name]) for name, symbol in known.items()}


def step_of(network: RandomNetwork, t_max: Any, dt: Any) -> tuple[float, int]:
    """The step of a run to `t_max`, 0.1 of an ode by default, and their number."""
    if network.kind == "map" and dt not in (None, 1, 1.0):
        raise BadParameter("the steps of a map have length one: leave dt= out")
    if dt is None:
        dt = 1.0 if network.kind == "map" else 0.1
    dt, t_max = as_positive(dt, "dt"), as_positive(t_max, "t_max")
    if not 0.5 <= t_max / dt <= MOST_STEPS:
        raise BadParameter(
            f"t_max = {t_max:g} is {t_max / dt:.3g} steps of dt = {dt:g}: there must be from "
            f"one to {MOST_STEPS:.0e}"
        )
    return dt, max(1, round(t_max / dt))


def starts_of(network: RandomNetwork, start: Any) -> list[Law]:
    """Law of the initial states of each population."""
    many = list(start) if isinstance(start, list | tuple) else [start] * network.populations
    if len(many) != network.populations:
        raise BadParameter(
            f"{len(many)} starts for {network.populations} populations: pass one, or one for each"
        )
    laws = [Normal(float(y), 0.0) if is_number(y) and abs(y) < LARGEST_START else y for y in many]
    wrong = [y for y in laws if not isinstance(y, Law)]
    if wrong:
        raise BadParameter(
            f"the start of a network is a number below {LARGEST_START:.0e} or a law such as "
            f"dmft.laws.Normal(), got {shown(wrong[0])}"
        )
    return laws


def in_times(expr: sp.Expr) -> sp.Expr:
    """Symbols named t and s as those of the library, whatever their assumptions."""
    swap = {y: {"t": T, "s": S}[y.name] for y in expr.free_symbols if y.name in ("t", "s")}
    return expr.xreplace(swap)


def of_kernels(expr: sp.Expr) -> sp.Expr:
    """Functions named C and R of two times as those of the library."""
    expr = in_times(expr)
    swap = {}
    for f in expr.atoms(sp.core.function.AppliedUndef):
        name = str(f.func)
        if name not in ("C", "R") or set(f.args) - {T, S} or len(f.args) != 2:
            raise BadParameter(f"{f} is neither C(t, s) nor R(t, s)")
        swap[f] = {"C": C, "R": R}[name](T, S) if f.args == (T, S) or name == "C" else f
    return expr.xreplace(swap)


def _expression(name: str, given: Any) -> sp.Expr:
    if not is_expression(given) or getattr(given, "is_extended_real", None) is False:
        raise BadParameter(f"{name} = {shown(given)} must be a real SymPy expression or a number")
    return exact_zero(sp.sympify(given, strict=True))


def exact_zero(expr: sp.Expr) -> sp.Expr:
    """The expression, or the exact zero for 0.0, which SymPy does not count as equal to 0."""
    return sp.S.Zero if expr.is_Float and not expr else expr


def _shares(fractions: Sequence[Any]) -> tuple[float, ...]:
    given = list(fractions)
    shares = tuple(float(y) for y in given if is_number(y))
    if not shares or len(shares) < len(given) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise BadParameter(
            f"fractions {shown(given)} must be positive and add up to 1, "
            f"they add up to {sum(shares):g}"
        )
    return shares


def _each(name: str, given: Any, size: int) -> tuple[sp.Expr, ...]:
    many = list(given) if isinstance(given, list | tuple) else [given] * size
    if len(many) != size:
        raise BadParameter(
            f"{name} has {len(many)} entries and the network {size} "
            f"population{'s' if size > 1 else ''}: pass fractions= and one entry for each"
        )
    return tuple(in_times(_expression(name, y)) for y in many)


def _matrix(name: str, given: Any, size: int) -> Matrix:
    if not isinstance(given, list | tuple):
        given = [[given] * size for _ in range(size)]
    if len(given) != size or any(
        not isinstance(row, list | tuple) or len(row) != size for row in given
    ):
        raise BadParameter(f"{name} must be a number or {size} rows of {size}, got {shown(given)}")
    return tuple(tuple(_expression(name, y) for y in row) for row in given)


def _inputs(given: Any, size: int) -> tuple[sp.Expr | GaussianInput, ...]:
    many = list(given) if isinstance(given, list | tuple) else [given] * size
    plain = [0 if isinstance(y, GaussianInput) else y for y in many]
    checked = _each("input", plain, size)
    return tuple(
        y if isinstance(y, GaussianInput) else expr for y, expr in zip(many, checked, strict=True)
    )


def _laws(given: Mapping[Any, Any]) -> tuple[tuple[tuple[sp.Symbol, ...], Any], ...]:
    found = []
    for key, law in given.items():
        symbols = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(y, sp.Symbol) for y in symbols):
            raise BadParameter(f"parameters has the key {shown(key)}: keys are SymPy symbols")
        wanted = JointNormal if isinstance(key, tuple) else Law
        if not isinstance(law, wanted):
            raise BadParameter(
                f"the parameter {key} has {shown(law)}: pass a law of dmft.laws"
                + (" (JointNormal for several symbols)" if isinstance(key, tuple) else "")
            )
        if isinstance(law, JointNormal) and len(law.mean) != len(symbols):
            raise BadParameter(f"{key} are {len(symbols)} symbols, their law has {len(law.mean)}")
        found.append((symbols, law))
    return tuple(found)


def _pairs(given: Sequence[tuple[Any, Any]]) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
    found = []
    for pair in given:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadParameter(f"low_rank takes pairs (m, n) of expressions, got {shown(pair)}")
        found.append((_expression("low_rank", pair[0]), _expression("low_rank", pair[1])))
    return tuple(found)


def _multiplier(given: Any) -> tuple[sp.Symbol, sp.Expr, sp.Expr] | None:
    if given is None:
        return None
    if not isinstance(given, tuple) or len(given) != 3 or not isinstance(given[0], sp.Symbol):
        raise BadParameter(f"multiplier is (symbol, expression, value), got {shown(given)}")
    return given[0], _expression("multiplier", given[1]), _expression("multiplier", given[2])


def refuse_jumps(
    output: sp.Expr, rate: sp.Expr, where: str = "", need: str = "the linear response needs"
) -> None:
    """Functions with jumps, whose response is not the mean of a derivative."""
    for name, expr in (("output", output), ("rate", rate)):
        jump = next(iter(expr.atoms(sp.sign, sp.Heaviside)), None)
        if jump is not None:
            raise BadParameter(
                f"{name}{where} has the jump {jump}, and {need} its derivative: use a steep smooth "
                "function such as erf"
            )

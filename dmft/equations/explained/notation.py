r"""How statements of a derivation are printed, and sentences on the meaning of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, base_name
from dmft.equations.explained.printed import Printed
from dmft.equations.symbols import ONLY
from dmft.equations.update.law import clusters_of, target
from dmft.equations.views.closed import ClosedPrinter, ClosedSystem, Entry
from dmft.equations.views.collected import PI, collected
from dmft.equations.views.latex import definition_latex
from dmft.equations.views.printer import EquationPrinter, KernelPrinter, sums_over_students
from dmft.equations.views.text import model_names
from dmft.explanation.average import Average, FieldHermite
from dmft.explanation.paragraphs import Meaning, Step
from dmft.explanation.print_forms import rewritten, written
from dmft.gaussian.closed.orthant import FourSigns
from dmft.model import FIELD, Model
from dmft.typeset.fragment import align

# Overlaps of single units, as symbols.
OVERLAPPING = {sp.Symbol(name, positive=True) for name in "QP"} | {sp.Symbol("M", real=True)}
VARIANCES = (x.Q, x.P)
# Operations of a closed form of an average that is collected, and of one in more symbols.
MOST_COLLECTED, MOST_SYMBOLS, SHORT = 120, 3, 40


class StatementPrinter(KernelPrinter):
    """Closed forms printed like kernels; averages, integrals and functions of fields come last."""

    def doprint(self, expr: sp.Expr) -> str:
        """LaTeX, coefficients of averages with one root and without fractions in fractions."""
        return str(super().doprint(_simplified(expr, self.shortened)))

    def shortened(self, expr: sp.Expr) -> sp.Expr:
        """A closed form as it is printed."""
        return shortened(expr)

    def in_order(self, terms: Sequence[sp.Expr]) -> list[sp.Expr]:
        """Terms of a sum: those of teachers, those of students, noise of labels."""

        def place(term: sp.Expr) -> tuple[bool, int]:
            return term.has(x.xi), sums_over_students(term)

        return sorted(super().in_order(terms), key=place)

    def factors(self, number: int, pairs: Sequence[tuple[sp.Expr, sp.Expr]]) -> str:
        """Product of powers; the noise of labels after its deviation."""
        noise = [self.power(*pair, True) for pair in pairs if pair[0] == x.xi]
        rest = [pair for pair in pairs if pair[0] != x.xi]
        return r"\,".join(y for y in (super().factors(number, rest), *noise) if y)

    def _print_Derivative(self, expr: sp.Derivative) -> str:
        return rf"\frac{{d {self._print(expr.expr)}}}{{d{self._print(expr.variables[0])}}}"

    def stands_behind(self, factor: sp.Expr) -> bool:
        """Whether a factor comes after the coefficients."""
        return factor.has(At, Average, FieldHermite, sp.Integral) or super().stands_behind(factor)


def shortened(expr: sp.Expr) -> sp.Expr:
    """A closed form in covariances as kernels are printed, where it is short.

    Polynomials of many covariances have factors that take SymPy minutes in some orders.
    """
    short = SHORT if len(expr.free_symbols) > MOST_SYMBOLS else MOST_COLLECTED
    if sp.count_ops(expr) <= short:
        return rewritten(expr)
    own = expr.is_Add or expr.is_Mul or expr.is_Pow
    return expr.func(*map(shortened, expr.args)) if own else expr


def _simplified(expr: sp.Expr, shortened: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
    """A statement with its short closed forms rewritten for print."""
    if isinstance(expr, sp.Integral):
        return sp.Integral(_simplified(expr.function, shortened), *expr.limits)
    if any(e.law == "x" for e in expr.atoms(Average)):
        return expr
    kept: dict[sp.Expr, sp.Expr] = {
        e: sp.Dummy(real=True) for e in expr.atoms(Average, sp.Integral, FieldHermite)
    }
    if not expr.has(sp.Sum):
        kept |= {e: sp.Dummy(real=True) for e in expr.atoms(Expectation)}
    plain = expr.xreplace(kept)
    single = {e for e in plain.atoms(sp.Indexed) if set(e.indices) <= set(ONLY)}
    own = {e: sp.Dummy(positive=True) if e.base in VARIANCES else sp.Dummy() for e in single}
    plain = plain.xreplace(own)
    powers = (e for e in plain.atoms(sp.Pow) if not e.exp.is_nonnegative)
    if plain.has(Expectation, sp.Sum, sp.Indexed, At) or (not any(powers) and kept):
        return expr
    back = {
        d: _simplified(e, shortened) if isinstance(e, sp.Integral) else e for e, d in kept.items()
    }
    found = written(shortened(plain)) if own else shortened(plain)
    return found.xreplace(back | {d: e for e, d in own.items()})


class SinglePrinter(StatementPrinter, ClosedPrinter):
    """Statements about single units, whose fields and overlaps are symbols."""

    SINGLE = frozenset({"h", "h_star", "Q", "M", "P"})

    def __init__(self, names: Mapping[sp.Expr, str], closed: ClosedSystem) -> None:
        super().__init__(names)
        self.rows = {closed[base_name(target)]: expr for target, expr, _ in closed.rows}

    def shortened(self, expr: sp.Expr) -> sp.Expr:
        """A closed form in overlaps as equations are printed."""
        if expr in self.rows:
            return self.rows[expr]
        if sp.count_ops(expr) > MOST_COLLECTED:
            return expr
        entries = {s: Entry(sp.IndexedBase(s.name)[ONLY]) for s in expr.free_symbols & OVERLAPPING}
        return collected(expr.xreplace({**entries, sp.pi: PI}))

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a symbol is printed before overlaps."""
        return str(symbol) not in self.SINGLE and super().is_parameter(symbol)


class Marked(sp.Expr):
    """An expression with a mark in print."""

    is_commutative = True
    is_real = True
    form = "{}"

    def _latex(self, printer: Any) -> str:
        return self.form.format(printer.doprint(self.args[0]))


class OnNodes(Marked):
    """Sum over nodes that replaces an average without a closed form."""

    form = r"{}_{{\mathrm{{nodes}}}}"


class FromTable(Marked):
    """Value of an average that is interpolated from a table."""

    form = r"{}_{{\mathrm{{table}}}}"


class Increment(Marked):
    """What a step adds to an entry."""

    form = r"\Delta {}"


STUDENTS = Meaning(
    ("p", "j", "l", "u", "v"),
    r"Students are numbered by $j, l, u, v = 1, \ldots, p$",
    declared=True,
)
TEACHERS = Meaning(
    ("k", "r", "s"), r"Teachers are numbered by $r, s = 1, \ldots, k$", declared=True
)
WEIGHTS = Meaning(
    ("h", "h_star", "x", "W"),
    r"$h_j = w_j \cdot x/\sqrt{d}$ and $h^*_r = w^*_r \cdot x/\sqrt{d}$ are the local fields of an "
    r"input $x \sim \mathcal{N}(0, I_d)$",
    declared=True,
)
CENTRED = Meaning(
    WEIGHTS.names,
    r"$h_j = w_j \cdot x/\sqrt{d}$ and $h^*_r = w^*_r \cdot x/\sqrt{d}$ are the local fields of an "
    r"input $x \sim \mathcal{N}(0, I_d)$, to which each cluster adds its means",
    declared=True,
)
STRETCHED = Meaning(
    WEIGHTS.names,
    r"$h_j = w_j \cdot x/\sqrt{d}$ and $h^*_r = w^*_r \cdot x/\sqrt{d}$ are the local fields of an "
    r"input $x \sim \mathcal{N}(0, \Sigma)$",
    declared=True,
)
ALL_FIELDS = Meaning(
    ("lambda", "c", "m", "n"),
    r"$\lambda = (h, h^*)$ are all fields, $m, n = 1, \ldots, p + k$, and "
    r"$\tilde{a} = (-a/p, a^*/k)$ their coefficients in $f_* - f$",
)
OVERLAPS = Meaning(
    ("Omega", "Q", "M", "P", "Q_11", "M_11", "P_11"),
    r"$\Omega = \begin{pmatrix} Q & M \\ M^\top & P \end{pmatrix}$ is the covariance of the fields,"
    r" $Q = WW^\top/d$, $M = WW^{*\top}/d$, $P = W^*W^{*\top}/d$",
)
TOTALS = Meaning(
    OVERLAPS.names,
    r"$\Omega = \begin{pmatrix} Q & M \\ M^\top & P \end{pmatrix}$ is the covariance of the fields,"
    r" $Q = W \Sigma W^\top/d$, $M = W \Sigma W^{*\top}/d$, $P = W^* \Sigma W^{*\top}/d$: sums "
    "over the blocks of the spectrum, each with its eigenvalue",
)
AVERAGES = Meaning(
    (), r"$\langle \cdot \rangle$ is an average over the fields, $\mathbb{E}_x$ over inputs"
)
PAIRS = Meaning(
    tuple(f"C_{i}{j}" for i in range(1, 5) for j in range(i, 5))
    + tuple(f"x_{i}" for i in range(1, 5)),
    r"$x_1, x_2, \ldots$ are the fields of one average, centred and with the covariances $C_{ij}$",
)
UPDATE = Meaning(("psi",), r"$\psi_j x/\sqrt{d}$ is the direction of a step of the row $w_j$")
SINGLE_UPDATE = Meaning(("psi",), r"$\psi x/\sqrt{d}$ is the direction of a step of $W$")
PARTS = Meaning(
    ("b_learning", "b_interaction"),
    r"$b^L_{ji}$ and $b^I_{ji}$ are the averages of $\lambda_i$ times the parts of $\psi_j$ that "
    "come from the target and from the students",
)
PARTS_IN_BLOCKS = Meaning(
    PARTS.names,
    r"$b^L_{jie}$ and $b^I_{jie}$, times $c_e$, are the averages of $h_{e,i}$ (or "
    r"$h^*_{e,r}$) times the parts of $\psi_j$ that come from the target and from the students",
)
IN_BLOCKS = Meaning(
    ("block", "Gram", "eigenvalue", "noise_factor", "block_h", "block_h_star", "block_Q",
     "block_M", "block_P"),
    r"$e$ numbers the blocks of the spectrum: $c_e$ is the eigenvalue, $\nu_e$ the share in "
    r"$|x|^2/d$, $Q_e$, $M_e$, $P_e$ are the overlaps of the rows in a "
    r"block, $G_{\cdot\cdot e}$ all of them, $h_{e,j}$ and $h^*_{e,r}$ the parts "
    r"of the fields that come from its inputs",
)  # fmt: skip
WHOLE = Meaning(
    ("b", "gradient_gram"),
    r"$b_{ji}$ is the average of $\lambda_i \psi_j$, and $b\,\Omega^{+}b^\top$ are the inner "
    r"products of the mean updates $\mathbb{E}_x[\psi_j x]$",
)
PHI = Meaning(("Phi",), r"$\Phi$ is the rate of $Q$ without constraint")
SHARED = Meaning(
    ("tau", "tau_1", "0"),
    r"$\mathbb{E}_\tau$ is the average under the law with covariances between fields multiplied by"
    r" $\tau$, $0 \le \tau \le 1$",
)
TILTED = Meaning(
    ("T_1", "T_2", "T_3", "T_4"),
    r"$\mathbb{E}_{T_1}, \mathbb{E}_{T_2}, \ldots$ are under the laws given at their steps",
)
COPIES = Meaning(
    tuple(f"u_{i}" for i in range(1, 5)),
    r"$u_1, u_2, \ldots$ are the arguments of the error functions, with their noise",
)
NUMBERS = (
    Meaning(("learning_rate",), r"$\gamma$ is the learning rate", True),
    Meaning(
        ("label_noise", "xi"),
        r"$\Delta$ is the variance of the noise $\sqrt{\Delta}\,\xi$ of labels",
        True,
    ),
    Meaning(("readout_rate",), r"$\rho_a$ is the rate of the readouts"),
    Meaning(
        ("dim", "batch_size"),
        r"$d$ is the dimension of the inputs, $n_b$ the number of samples of a step",
    ),
    Meaning(("t",), r"$t$ is the time of the equations", True),
    Meaning(("e",), r"$e = y - f$ is the residual of a sample"),
    Meaning(
        ("g", "samples_per_dim", "M^1"),
        r"$g_j$ is the derivative of a sample's loss with respect to $h_j$, $\alpha$ the number "
        r"of samples per dimension, $\eta$ the learning rate, $M^1$ the overlap after one step",
    ),
)


# Parameters that have a sentence.
KNOWN = {name for meaning in NUMBERS for name in meaning.names}
FUNCTIONS = (
    Meaning(("Heaviside",), r"$\Theta$ is the step function"),
    Meaning(
        ("FourSigns",),
        r"$S_4(C_{11}, C_{12}, \ldots, C_{44})$ is the average of four signs of centred fields",
    ),
    Meaning(
        ("FromTable", "OnNodes"),
        "Averages marked table or nodes have no closed form: they are interpolated or computed by "
        "quadrature",
    ),
)
# Of escape formulas.
ESCAPE = (
    Meaning(
        ("mu", "m", "u", "u_0", "u_1"),
        r"$\mu$ (or $m$) is one overlap with the target, all others vanish; "
        r"$u = \sum_{jr} M_{jr}^2/p$ goes from $u_0$ to $u_1$",
    ),
    Meaning(("q",), "$q$ is the squared length of students"),
    Meaning(("p", "k"), "$p$ and $k$ are the widths of student and target"),
    *NUMBERS,
)


def chosen(known: Sequence[Meaning], steps: Sequence[Step]) -> tuple[Meaning, ...]:
    """Those sentences that say something about the names in the steps."""
    used = names_of(steps)
    return tuple(meaning for meaning in known if used.intersection(meaning.names))


def sample_latex(definitions: Sequence[Definition], model: Model) -> str:
    """Alignment of what an algorithm computes of a sample."""
    printer = EquationPrinter(model_names(model))
    return align([row for d in definitions for row in definition_latex(d, printer)])


def _of_a_sample(model: Model, definitions: Sequence[Definition]) -> Iterator[Meaning]:
    """What the algorithm computes of a sample; LaTeX has it in an alignment."""
    if any(d.expr.has(x.rho) for d in definitions):
        words = "times the first update displaces the fields"
        yield Meaning(("rho",), rf"$\rho$ {words}")
    if definitions:
        yield Meaning(
            tuple(d.name for d in definitions),
            r"$\psi_j$ is computed from one sample; its fields, label, outputs, errors and updates "
            "are",
        )


def notation_of(
    model: Model,
    steps: Sequence[Step],
    of_a_sample: Sequence[Definition] = (),
    printed: Printed | None = None,
) -> tuple[Meaning, ...]:
    """Sentences about all names that the steps print."""
    used = names_of(steps)
    if printed is not None and printed.closed is not None:
        return (*_of_single_units(model, steps, printed), *_parameters(model, used))
    centred = WEIGHTS if model.clusters is None else CENTRED
    overlaps = OVERLAPS
    if model.spectrum is not None:
        centred, overlaps = STRETCHED, TOTALS
    parts = PARTS_IN_BLOCKS if used & {"Gram", "block_h", "block_h_star"} else PARTS
    known = (
        STUDENTS, TEACHERS, *_networks(model), centred, *_clusters(model), ALL_FIELDS, overlaps,
        IN_BLOCKS, PAIRS, UPDATE, WHOLE, parts, PHI, SHARED, TILTED, COPIES, *NUMBERS, *FUNCTIONS,
    )  # fmt: skip
    found = (*chosen(known, steps), *_parameters(model, used), AVERAGES)
    return (*found, *_of_a_sample(model, of_a_sample))


def _parameters(model: Model, used: set[str]) -> Iterator[Meaning]:
    """The declared parameters in statements."""
    parameters = sorted(used & {s.name for s in model.parameters} - KNOWN)
    if parameters:
        shown = ", ".join(f"${sp.latex(sp.Symbol(y))}$" for y in parameters)
        yield Meaning(tuple(parameters), f"{shown}: as declared")


def _of_single_units(model: Model, steps: Sequence[Step], printed: Printed) -> Iterator[Meaning]:
    """Names of one student and one teacher."""
    yield from _functions(model)
    law = printed.law()
    lengths = {"Q": "Q = |W|^2/d", "M": r"M = W \cdot W^*/d", "P": "P = |W^*|^2/d"}
    kept = [lengths[name] for name, e in law.items() if not e.is_number]
    told = ", ".join(f"${y}$" for y in kept)
    fixed = " = ".join(name for name, e in law.items() if e.is_number)
    also = f", ${fixed} = 1$" if fixed else ""
    yield Meaning(
        ("h", "h_star", "x", "W", "Q", "M", "P"),
        r"$h = W \cdot x/\sqrt{d}$ and $h^* = W^* \cdot x/\sqrt{d}$ are the local fields of an "
        rf"input $x \sim \mathcal{{N}}(0, I_d)$, with the covariances {told}{also}",
        True,
    )
    yield from chosen((SINGLE_UPDATE, PHI, SHARED, TILTED, COPIES, *NUMBERS, *FUNCTIONS), steps)
    cosine = printed.closed.angle if printed.closed is not None else None
    if cosine is not None:
        yield Meaning((), rf"$\theta = \arccos({sp.latex(cosine)})$")
    yield AVERAGES


def names_of(steps: Sequence[Step]) -> set[str]:
    """Names of symbols and arrays in the statements of steps, averages' own fields included."""
    found: set[str] = set()
    for step in steps:
        sides = [step.before, step.after, step.bound, *(e for pair in step.where for e in pair)]
        for expr in sides:
            found |= {s.name for s in expr.atoms(sp.Symbol) if s != FIELD}
            found |= {str(e.base.label) for e in expr.atoms(sp.Indexed)}
            found |= {type(e).__name__ for e in expr.atoms(sp.Heaviside, FourSigns, Marked)}
    return found - {"", *(index.name for index in x.ONLY)}


def _clusters(model: Model) -> Iterator[Meaning]:
    """Means, weights and labels of the clusters."""
    latex = EquationPrinter({})
    for cluster in clusters_of(model) if model.clusters is not None else ():
        own = cluster.definitions()
        told = [f"${latex.doprint(d.target)} = {latex.doprint(d.expr)}$" for d in own]
        more = [("weight", cluster.weight), ("variance", cluster.scale), ("label", cluster.label)]
        for word, value in more:
            if value is not None and (word, value) != ("variance", 1):
                told.append(f"{word} ${latex.doprint(value)}$")
        names = tuple(d.name for d in own) or ("f",)
        yield Meaning(names, f"Cluster {cluster.number} has {', '.join(told)}")


def _networks(model: Model) -> Iterator[Meaning]:
    """The student, the target, and their activations."""
    teacher = model.teacher
    star = r"\sigma" if model.matched else r"\sigma_*"
    if model.label_clusters is not None:
        told = "the label of the cluster that the input is from"
    elif teacher.activation is not None:
        told = rf"$f_* = \frac{{1}}{{k}} \sum_r a^*_r\,{star}(h^*_r)$"
    else:
        told = f"$f_* = {EquationPrinter({}).doprint(target(model))}$"
    yield Meaning(
        ("f", "f_*", "readout", "teacher_readout"),
        rf"The student is $f = \frac{{1}}{{p}} \sum_j a_j\,\sigma(h_j)$, the target {told}",
        True,
    )
    yield from _functions(model)


def _functions(model: Model) -> Iterator[Meaning]:
    """Activations."""
    teacher, z = model.teacher, sp.Symbol("z", real=True)
    functions = [(r"\sigma", model.student.activation)]
    if teacher.activation is not None and not model.matched:
        functions.append((r"\sigma_*", teacher.activation))
    for name, f in functions:
        own = f.xreplace({FIELD: z})
        # Everything that is printed holds an activation.
        yield Meaning(
            ("h", "h_star", "lambda"), f"${name}(z) = {KernelPrinter({}).doprint(own)}$", True
        )

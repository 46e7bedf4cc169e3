"""`build`: from equations to a compiled problem, kept on disk by fingerprint."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from dmft.codegen.packing import Layout, layout, layout_of_alignments, layout_of_rule
from dmft.compiled.directory import cache_directory, keep, read_own
from dmft.emit import load_module
from dmft.equations.equations import Equations
from dmft.errors import BadParameter, NotClosed
from dmft.names import VERSION
from dmft.progress import stage
from dmft.solvers.problem import Problem
from dmft.symbolic_lock import in_turn
from dmft.validation import checked

if TYPE_CHECKING:
    from dmft.equations.rules.space import RuleSpace
    from dmft.equations.two_time.descent import DescentEquations
    from dmft.equations.two_time.problem import TwoTime
    from dmft.solvers.two_time.descent_process import DescentProblem
    from dmft.solvers.two_time.thinned import VolterraProblem

# How a function that takes several states side by side begins, and its types for one and several.
ORDERED_RHS = "@njit(RHS, **ORDERED)\ndef rhs("
WIDE_RHS = "\n@njit(RHS, **OPTIONS)\ndef rhs_wide("
ONE_STATE = 'RHS = "void(float64, float64[::1], int64[::1], float64[::1], float64[::1])"'
SEVERAL_STATES = ONE_STATE.replace("float64[::1]", "float64[:, ::1]")
# Between the modules in the text of a problem.
DIVIDER = "\n\n# A module of its own.\n"


@overload
def build(equations: Equations) -> Problem: ...
@overload
def build(equations: DescentEquations) -> DescentProblem: ...
@overload
def build(equations: TwoTime) -> VolterraProblem: ...
@checked
@in_turn
@stage("building the problem: averages and tables")
def build(
    equations: Equations | DescentEquations | TwoTime,
) -> Problem | DescentProblem | VolterraProblem:
    """Compile equations of motion; widths and parameters remain run-time values.

    The generated source is a readable file in the cache directory. Later processes load its machine
    code without generating the source again.

    Parameters
    ----------
    equations : Equations, DescentEquations or TwoTime

    Returns
    -------
    Problem, or DescentProblem and VolterraProblem for equations in two times
        Compiled equations, which `dmft.solve` accepts. `.source` contains the generated source and
        `.rhs` (equations in one time) the compiled right-hand side.

    Raises
    ------
    NotClosed
        If averages have no closed form, table or quadrature rule; the message lists them.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> problem = dmft.build(dmft.derive(dmft.Model(square, square), dmft.GradientFlow()))
    >>> problem.parameters, "def rhs" in problem.source
    ((), True)
    """
    if "two-time" in (getattr(equations, name, None) for name in ("kind", "family")):
        return build_two_time(cast(Any, equations))
    if not isinstance(equations, Equations):
        raise BadParameter(f"build takes dmft.Equations, got {type(equations).__name__}")
    source = stored_source(equations)
    try:
        module, observables, domain = _modules(source)
    except FileNotFoundError:  # a table of the source is gone: make it again
        generate(equations)
        module, observables, domain = _modules(source)
    functions = {
        "rhs": module.drift if equations.noise else module.rhs,
        "observe": observables.observe,
        "domain": domain.domain,
        "covariance": domain.covariance,
        "diffusion": module.diffusion if equations.noise else None,
    }
    return problem_of_functions(equations, source, functions, parallel_band(source))


def problem_of_functions(
    equations: Equations, source: str, functions: Mapping[str, Any], parallel_band: float
) -> Problem:
    """The problem of a system whose text is compiled."""
    here = layout_of(equations)
    return Problem(
        kind=equations.kind,
        state=here.state,
        widths=here.widths,
        parameters=tuple(equations.parameters),
        constants=here.constants,
        observables=tuple(d.name for d in equations.definitions if d.role == "observable"),
        parallel_band=parallel_band,
        lanes=LanesCode.of(source) if not equations.noise else None,
        source=source,
        time_unit=equations.time_unit,
        provenance=equations.provenance,
        origin=equations,
        **functions,
    )


@dataclass(frozen=True)
class LanesCode:
    """Right-hand side of several states side by side: compiled when it is asked for."""

    text: str
    most: int | None

    @classmethod
    def of(cls, source: str) -> LanesCode | None:
        """Code of the first module of a source, None where that takes one state only."""
        text = source.split(DIVIDER)[0]
        head, found, rest = text.partition(ORDERED_RHS)
        if not found or "@njit" in head:
            return None
        own, wide, _ = rest.partition(WIDE_RHS)
        if not wide:
            return cls(text, None)
        from dmft.codegen.blocks import GUARD, MOST_IN_ORDER

        guard = "".join(f"    {line}\n" for line in GUARD.splitlines())
        return cls(head + found + own.replace(guard, ""), MOST_IN_ORDER)

    def takes(self, widths: Sequence[int]) -> bool:
        """Whether states of these widths p, k, ... may stand side by side."""
        return self.most is None or sum(widths[:2]) <= self.most

    @property
    def is_kept(self) -> bool:
        """Whether its machine code is on disk, so that it costs nothing to use."""
        return bool(getattr(self.function, "is_kept", True))

    @property
    def function(self) -> Any:
        """Compiled function of signature `LANES_RHS`."""
        text = self.text.replace(ONE_STATE, SEVERAL_STATES).replace("def rhs(", "def rhs_in_lanes(")
        return load_module(text, "dmft_lanes").rhs_in_lanes


def _modules(source: str) -> tuple[Any, ...]:
    """Modules of the rates, of the observables and of the domain.

    A function that models share is compiled once for all of them: algorithms change the rates, not
    the risk.
    """
    stems = ("dmft_equations", "dmft_observables", "dmft_domain")
    return tuple(
        load_module(text, stem) for text, stem in zip(source.split(DIVIDER), stems, strict=True)
    )


def build_two_time(equations: DescentEquations | TwoTime) -> DescentProblem | VolterraProblem:
    """Compile equations in two times; of a flow, the descent that steps through it."""
    given = cast(Any, equations)
    if given.family == "two-time":
        from dmft.codegen.two_time_volterra import build_volterra

        return build_volterra(given)
    from dmft.codegen.two_time_process import build_descent

    return build_descent(given.equations)


def parallel_band(source: str) -> float:
    """How far beyond Cauchy-Schwarz the code takes overlaps, 0 where it has no pair functions."""
    if "from dmft.special.orthant import" not in source:
        return 0.0
    from dmft.special.orthant import BAND

    return BAND


def stored_source(equations: Equations) -> str:
    """Source text of a system, from the index by fingerprint or generated now."""
    key = f"{equations.fingerprint}_{generator_hash()}"
    path = cache_directory() / f"source_{key}.txt"
    try:
        digest, text = read_own(path).decode().split("\n", 1)
    except (OSError, ValueError):
        digest, text = "", ""
    if digest == _digest(text):
        return text
    text = generate(equations)
    keep(path, f"{_digest(text)}\n{text}".encode())
    return text


def generate(equations: Equations) -> str:
    """Generate the texts of the modules of a closed system: rates, observables, domain."""
    if equations.open_kernels:
        listing = "\n  ".join(equations.open_kernels)
        raise NotClosed(f"the equations are not closed; open expectations:\n  {listing}")
    from dmft.codegen.assemble import code_names, domain_text, module_text, system_parts
    from dmft.codegen.functions import PointFunctions

    parameters, here = list(equations.parameters), layout_of(equations)
    functions, seen = (PointFunctions(code_names(parameters)) for _ in range(2))
    rates, observables = system_parts(equations.on_nodes, parameters, (functions, seen), here)
    parts = [rates]
    if equations.space.gram is not None:
        from dmft.codegen.functions import gram_domain

        first = str(len(parameters))
        places = {n: re.sub(r"(block_)?P_at", first, place) for n, place in here.places.items()}
        domain = gram_domain(equations.space.gram, places, VERSION)
    else:
        domain = domain_text(equations.on_nodes, parameters, here, VERSION)
    if equations.noise:
        from dmft.codegen.diffusion import noise_parts

        parts += noise_parts(equations.noise, parameters, functions, here)
    return DIVIDER.join(
        [
            module_text(functions, parts, VERSION, description(equations)),
            module_text(seen, [observables], VERSION, activations(equations)),
            domain,
        ]
    )


def activations(equations: Equations) -> str:
    """What a module says of itself; nothing of widths and numbers, which are run-time values."""
    return equations.space.networks


def description(equations: Equations) -> str:
    """Activations, and what time is."""
    return f"{activations(equations)}\n{equations.time_unit}"


def layout_of(equations: Equations) -> Layout:
    """Where the arrays of a system live."""
    blocks, found = equations.space.blocks, equations.on_nodes
    if equations.family == "rule":
        space = cast("RuleSpace", equations.space)
        here = layout_of_rule(found, blocks, space.axes, space.fixed_entries)
    else:
        here = layout_of_alignments(found, blocks) if blocks else layout(found)
    if equations.noise:
        from dmft.codegen.diffusion import noise_layout

        return noise_layout(equations.noise, here)
    return here


@cache
def generator_hash() -> str:
    """Hash of the code that turns equations into source, so that an upgrade regenerates."""
    digest = hashlib.blake2b(digest_size=6)
    for room in ("codegen", "emit", "gaussian", "equations", "special", "compiled"):
        spec = importlib.util.find_spec(f"dmft.{room}")
        assert spec is not None
        assert spec.origin is not None
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

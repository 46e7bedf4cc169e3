"""A JAX file: right-hand side that is jitted and differentiated, and its Jacobian."""

from __future__ import annotations

from dmft.codegen.export import jax, python
from dmft.codegen.export.library import PLAIN, library, special, unknown
from dmft.codegen.export.program import Program
from dmft.codegen.export.syntax import INDENT
from dmft.codegen.export.system import System, header

IMPORTS = """
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc

jax.config.update("jax_enable_x64", True)

"""

JACOBIAN = '''

def packed(rates):
    """Blocks as one vector, row by row."""
    return jnp.concatenate([jnp.ravel(rates[name]) for name in ({names})])


def jacobian({signature}):
    """Derivatives of the packed rates by the packed state {state}, row by row.

    Q_jl and Q_lj are two entries of the state, as `rhs` reads them.
    """
    blocks = {{{blocks}}}
    shapes = [jnp.shape(block) for block in blocks.values()]
    ends = [int(n) for n in np.cumsum([np.prod(shape, dtype=int) for shape in shapes])]
    state = jnp.concatenate([jnp.ravel(block) for block in blocks.values()])

    def of_packed(vector):
        parts = jnp.split(vector, ends[:-1])
        given = {{
            name: part.reshape(shape)
            for name, part, shape in zip(blocks, parts, shapes, strict=True)
        }}
        return packed(rhs(t, **given{passed}))

    return jax.jacfwd(of_packed)(state)
'''


def jax_text(system: System) -> str:
    """Text of the file."""
    calls = special(system.calls())
    unknown(calls, PLAIN, "JAX")
    lines = ['"""' + "\n".join(python.escaped(header(system))).strip(), '"""', IMPORTS]
    lines += jax.functions(library(calls - {"asin"}))
    lines += core("_rates", "Rates.", system, system.rates)
    lines += core("_observe", "Observables.", system, system.observables)
    text = "\n".join(lines).rstrip() + "\n"
    text += python.NUMBERS.format(parameters=python.table(system.defaults))
    text += python.wrappers(system, "jnp", called)
    return text + jacobian(system) + python.checks(system)


def core(name: str, summary: str, system: System, program: Program) -> list[str]:
    """A program as a function that returns its outputs."""
    arguments = ", ".join([*system.widths, *system.arrays, *system.names.values()])
    static = ", static_argnums=(0, 1)" * bool(system.widths)
    lines = ["", f"@partial(jax.jit{static})", f"def {name}({arguments}):"]
    lines.append(f'{INDENT}"""{summary}"""')
    if program.needs_all_fields:
        lines.append(f"{INDENT}N = p + k")
    lines += [INDENT + line if line else "" for line in jax.Vectoriser(program).lines()]
    found = f"{', '.join(program.outputs)}," if program.outputs else "()"
    return [*lines, f"{INDENT}return {found}", ""]


def called(system: System, name: str, program: Program) -> list[str]:
    """Line that computes the outputs."""
    names = [*system.widths, *system.arrays, *(["*par"] if system.names else [])]
    front = f"{', '.join(program.outputs)}, = " if program.outputs else ""
    return [f"{front}{name}({', '.join(names)})"]


def jacobian(system: System) -> str:
    """The function `jacobian`."""
    signature = python.signature(system, time=True)
    state = [b.name for b in system.state]
    others = [b.name for b in system.constants]
    blocks = ", ".join(f'"{n}": jnp.asarray({n}, dtype=float)' for n in state)
    passed = "".join(f", {n}={n}" for n in others) + (", **parameters" * bool(system.names))
    if "readout" in state:  # a state that has to be given
        signature = signature.replace("readout=None, t", "readout, t")
    return JACOBIAN.format(
        names="".join(f'"{n}", ' for n in state).strip(), signature=signature,
        state=", ".join(state), blocks=blocks, passed=passed,
    )  # fmt: skip

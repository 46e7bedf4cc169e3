"""`export`: equations of motion as a file that needs no `dmft`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from dmft.codegen.export.system import System
from dmft.equations.equations import Equations
from dmft.equations.two_time.descent import DescentEquations
from dmft.errors import BadParameter
from dmft.validation import checked_or

# File of this folder and function for each kind, by how a name ends; the first end counts.
KINDS = {
    "_jax.py": ("jax_file", "jax_text"),
    ".py": ("python", "python_text"),
    ".ipynb": ("notebook", "notebook_text"),
    ".c": ("c_file", "c_text"),
    ".js": ("javascript_file", "javascript_text"),
}


@checked_or(equations="random networks and other equations in two times are not exported")
def export(equations: Equations | DescentEquations, path: str | Path, **parameters: float) -> Path:
    """Write equations of motion as a self-contained file, in the language of its suffix.

    The file contains the lowered equations that `build` compiles and the special functions that
    they need. Its header states the declaration, version, fingerprint, time unit, sources and
    layout of arrays. The file also contains values of the NumPy reference at random states; run as
    a script, it compares its results with them and returns 0 or 1.

    ============  ==============================================================================
    ``.py``       ``rhs(t, Q, M, P, **parameters) -> dict``, ``observables``, ``check``; NumPy,
                  and Numba where it is installed
    ``.ipynb``    a notebook: equations, this code, a solution by SciPy, a plot
    ``.c``        C99: ``rhs``, ``observables``, and ``tangent`` and ``jacobian`` from the symbolic
                  derivative; with ``-DDMFT_TEST`` a ``main`` that compares
    ``.js``       ES module (browsers, Node): ``rhs(t, Q, M, P, readout, teacher_readout,
                  parameters)``, ``observables``, ``check``; ``rates`` on packed vectors
    ``_jax.py``   JAX in double precision: ``rhs`` to jit and to differentiate, ``jacobian``
    ============  ==============================================================================

    Sequence models have ``rhs(t, e, m, **parameters)``. Widths are read from the arrays. Parameters
    of a file are those of `dmft.solve`: the symbols in the declarations, and declared numbers by
    name, whose declared values are the defaults. Readouts are written as numbers.

    Parameters
    ----------
    equations : Equations
        Ordinary differential equations and maps with averages in closed form or in tables.
    path : str or Path
        File to write; an existing file is replaced.
    **parameters
        Values of symbols, or other values of declared parameters: the defaults of the file.

    Returns
    -------
    Path

    Raises
    ------
    NotClosed
        For averages on nodes, fluctuations, two-time equations, and functions that are not
        available in a language (averages of four signs and tables of pairs in C and JAX); the
        message names them.
    BadParameter
        For an unknown suffix, an unknown parameter, or a symbol in a readout without a value.

    Examples
    --------
    >>> import tempfile
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=2)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(learning_rate=0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = dmft.export(eqs, f"{folder}/squares.js").read_text()
    >>> [line for line in text.splitlines() if line.startswith("export function rhs")]
    ['export function rhs(t, Q, M, P, readout = null, teacher_readout = null, parameters = {}) {']
    """
    if not isinstance(path, str | os.PathLike):
        raise BadParameter(f"export writes a file: path must be its name, got {path!r}")
    path = Path(path)
    kind = next((end for end in KINDS if path.name.endswith(end)), None)
    if kind is None:
        raise BadParameter(f"export writes {', '.join(KINDS)}; got {path.name!r}")
    stem, name = KINDS[kind]
    system = System(equations, parameters)
    text = getattr(importlib.import_module(f"dmft.codegen.export.{stem}"), name)(system)
    path.write_text(text, encoding="utf-8")
    return path

"""Functions of the library that code compiled from text calls, and the tables that it reads.

Numba compiles such a function once for the types of its arguments, for all generated modules.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llvmlite import ir

from dmft.compiled.known_functions import BYTES, FLOAT, INT, Array, Instructions
from dmft.compiled.machine_code import Code, Unknown

# Where generated modules import functions from, and what reads their tables.
PREFIX, READER = "dmft.special.", "load_array"
# Left to Numba, which writes them where they are called: ReLU networks are a fifth slower with
# calls.
LEFT = ("four_signs_table",)


@dataclass
class Library:
    """What a generated module imports."""

    # Modules of functions, and keys of tables, by name.
    modules: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    # Functions that are called, by symbol.
    called: dict[str, Code] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.Module) -> Library:
        """What the lines of a module import and load."""
        found = cls()
        for line in tree.body:
            match line:
                case ast.ImportFrom(module=str(module), names=names):
                    found.modules |= {one.name: module for one in names}
                case ast.Assign(
                    targets=[ast.Name(id=name)],
                    value=ast.Call(
                        func=ast.Name(id="load_array"), args=[ast.Constant(value=str(key))]
                    ),
                ):
                    found.tables[name] = key
        return found

    @cached_property
    def _reader(self) -> Any:
        return getattr(importlib.import_module(self.modules[READER]), READER)

    def table(self, writer: Instructions, name: str) -> Array:
        """The numbers of a table, in the module that is written."""
        return held(writer, name, self._reader(self.tables[name]))

    def call(self, writer: Instructions, name: str, values: Sequence[Any]) -> Any:
        """Call a function with numbers and arrays of one state."""
        if not self.modules[name].startswith(PREFIX) or name in LEFT:
            raise Unknown(name)
        if any(isinstance(getattr(v, "type", None), ir.VectorType) for v in values):
            raise Unknown(f"{name} of several states")
        leaves = tuple(
            f"f8[{len(v.shape)}]" if isinstance(v, Array) else "i8" if v.type == INT else "f8"
            for v in values
        )
        symbol, result = self._symbol(name, leaves)
        given = [writer.passed(v) if isinstance(v, Array) else v for v in values]
        function = writer.outside(symbol, ir.FunctionType(result, [v.type for v in given]))
        made = writer.builder.call(function, given)
        return made if result == FLOAT else None

    def _symbol(self, name: str, leaves: tuple[str, ...]) -> tuple[str, Any]:
        """Symbol of a function for these arguments, and the type of its result."""
        from dmft.compiled.object_files import library_code

        code = library_code(self.modules[name], name, leaves)
        digest = hashlib.blake2b(code.content, digest_size=12).hexdigest()
        symbol = f"dmft_library_{digest}_{name}"
        self.called[symbol] = code
        if code.result not in ("", "f8"):
            raise Unknown(f"{name} returns {code.result}")
        return symbol, FLOAT if code.result else BYTES


def held(writer: Instructions, name: str, values: Any) -> Array:
    """The numbers of an array, in the module that is written."""
    kind = ir.ArrayType(ir.IntType(8), values.nbytes)
    module = writer.builder.module
    kept = module.globals.get(name)
    if kept is None:
        kept = ir.GlobalVariable(module, kind, name)
        kept.linkage, kept.global_constant = "internal", True
        kept.align = values.itemsize
        # As bytes: LLVM's words for so many floats take half a second.
        kept.initializer = ir.Constant(kind, bytearray(values.tobytes()))
    shape = tuple(ir.Constant(INT, n) for n in values.shape)
    return Array(kept.bitcast(FLOAT.as_pointer()), shape)

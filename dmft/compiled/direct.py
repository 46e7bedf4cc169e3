"""Machine code of generated functions straight from their text, without Numba.

Numba takes seconds for a right-hand side, most of them for finding types that the generator knows.
Right-hand sides of closed forms use little of Python: loops over ranges, numbers, arrays, and what
`dmft.compiled.vectors` defines. Here each operation becomes the instruction of LLVM that Numba
writes for it. Where sums stand in a written order, nothing is reordered, and the bits are those of
Numba's code, for one state and for several side by side (`tests/codegen/test_direct_code.py`).

What is not known here is refused (`Unknown`): the caller asks Numba.
"""

from __future__ import annotations

import ast
import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import ir

from dmft.compiled.directory import cache_directory
from dmft.compiled.instructions import Writer
from dmft.compiled.known_functions import ALWAYS, BYTES, FLOAT, HALF, INT, fastmath
from dmft.compiled.library import Library
from dmft.compiled.machine_code import (
    Code,
    Native,
    Unknown,
    keep_code,
    link,
    read_code,
    symbols,
    target_machine,
)
from dmft.progress import stage

# Lines of LLVM's text above which a module has few of its passes.
LONG = 2000
# In the text of functions that sum over nodes, whose loops need all passes however long they are.
NODES = "all_nodes"
# Array of floats or integers with one axis or two, as Numba passes it: owner, parent, size, size of
# an item, data, lengths, strides.
LEAVES = {"float64": ("f8", FLOAT), "int64": ("i8", INT)}
RESULTS = {"void": ir.VoidType(), "float64": FLOAT}
# What this process has linked, by the record that keeps it.
_NATIVE: dict[str, Native] = {}
_LOCK = threading.RLock()


def native(text: str, name: str) -> Native:
    """The function `name` of a generated module, linked; compiled if no record keeps it.

    Raises
    ------
    Unknown
        As `code_from_text`, and where code cannot be linked.
    """
    file = record(text, name)
    with _LOCK:
        if file not in _NATIVE:
            code = read_code(file)
            if code is None:
                with stage("compiling these equations"):
                    code = code_from_text(text, name)
                keep_code(file, code)
            _NATIVE.update(link({file: code}))
        return _NATIVE[file]


def is_kept(text: str, name: str) -> bool:
    """Whether the code of a function seems to be there already."""
    file = record(text, name)
    return file in _NATIVE or (cache_directory() / file).is_file()


def record(text: str, name: str) -> str:
    """Name of the record that keeps the code of a function."""
    parts = f"{_version()}\0{name}\0{text}"
    return f"direct_{hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()}.bin"


def code_from_text(text: str, name: str) -> Code:
    """Object code of the function `name` of a generated module.

    Raises
    ------
    Unknown
        For text that is not of the kind described above, or cannot be compiled here.
    """
    try:
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        symbol = f"dmft_{digest}_{name}"  # all that a process links has names of its own
        tree = ast.parse(text)
        library = Library.of(tree)
        module, arguments, result = _module(tree, name, symbol, library)
        content = _optimised(str(module), over_nodes=NODES in text)
    except (
        LookupError,
        AssertionError,
        TypeError,
        ValueError,
        AttributeError,
        ImportError,
        RuntimeError,
    ) as error:
        raise Unknown(f"not compiled directly: {error}") from error
    _, needs = symbols(content)
    called = {name: code for name, code in library.called.items() if name in needs}
    return Code(content, f"{symbol}_entry", symbol, arguments, result, tuple(needs), called)


def _optimised(text: str, over_nodes: bool) -> bytes:
    """Object file of a module, for this processor.

    Short modules, and those with loops over nodes, are compiled at the level of Numba, as loops
    over samples need its vectorisation. Of other long ones the generator has shared and hoisted
    what there is; LLVM's level 3 takes ten times as long for code that is no faster (z^4 at widths
    4 and 2: 7.1 s for 12.2 us, .7 s for 11.7 us).
    """
    import llvmlite.binding as llvm

    is_long = text.count("\n") > LONG and not over_nodes
    machine = target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2 if is_long else 3,
    )
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = llvm.get_process_triple(), str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    if is_long:
        passes = llvm.create_new_module_pass_manager()
        passes.add_always_inliner_pass()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
    passes.run(module, builder)
    return bytes(machine.emit_object(module))


def _module(
    tree: ast.Module, name: str, symbol: str, library: Library
) -> tuple[ir.Module, tuple[str, ...], str]:
    """The function, as compiled code calls it, and its entry for `machine_code`."""
    texts, orders = _strings(tree), _orders(tree)
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    near = {n: f for n, f in functions.items() if ALWAYS in ast.unparse(f.decorator_list[0])}
    module = ir.Module(name=symbol)

    def written(name: str, symbol: str) -> tuple[ir.Function, tuple[str, ...]]:
        """A function, and before it those of the same signature that it calls."""
        function = functions[name]
        (decorator,) = function.decorator_list
        signature, flags = _options(decorator, orders)
        result, kinds = _kinds(texts[signature])
        calls = {n.func.id for n in ast.walk(function) if _calls_one_of(n, functions)} - {*near}  # type: ignore[attr-defined]
        others = {call: written(call, f"{symbol}_{call}")[0] for call in calls}
        for other in others.values():
            other.linkage = "internal"
        own = ir.Function(module, ir.FunctionType(result, [k for _, k in kinds]), symbol)
        own.attributes.add("nounwind")
        _write(own, function, others, near, flags, library)
        return own, tuple(leaf for leaf, _ in kinds)

    own, arguments = written(name, symbol)
    _write_entry(module, own)
    return module, arguments, "f8" if own.function_type.return_type == FLOAT else ""


def _calls_one_of(node: ast.AST, names: Mapping[str, Any]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _strings(tree: ast.Module) -> dict[str, str]:
    """Names of the module that are texts: signatures."""
    found = {}
    for line in tree.body:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def _options(
    decorator: ast.expr, orders: Mapping[str, tuple[str, ...]]
) -> tuple[str, tuple[str, ...]]:
    """Name of the signature of a function, and what may be done with the order of its sums."""
    assert isinstance(decorator, ast.Call)
    (signature,) = decorator.args
    names = [ast.unparse(word.value) for word in decorator.keywords if word.arg is None]
    return ast.unparse(signature), orders.get(names[0], ()) if names else fastmath(decorator)


def _orders(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """What instructions may do with the order of sums, by the options of a function."""
    found = {}
    for line in tree.body:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="dict"))):
                found[name] = fastmath(line.value)
    return found


def _kinds(signature: str) -> tuple[Any, list[tuple[str, Any]]]:
    """Type in LLVM of the result in a signature of Numba; name and type of each argument."""
    result, _, rest = signature.partition("(")
    found: list[tuple[str, Any]] = []
    for word in rest.rstrip(")").replace(":, ", ":;").split(", "):
        number, bracket, axes = word.partition("[")
        leaf, kind = LEAVES[number]
        if not bracket:
            found.append((leaf, kind))
            continue
        count = axes.count(":;") + 1
        lengths = ir.ArrayType(INT, count)
        found.append(
            (
                f"{leaf}[{count}]",
                ir.LiteralStructType([BYTES, BYTES, INT, INT, kind.as_pointer(), lengths, lengths]),
            )
        )
    return RESULTS[result], found


def _write_entry(module: ir.Module, own: ir.Function) -> None:
    """Write what `machine_code.Native` calls: status(result, error, leaves)."""
    leaves: list[Any] = []
    for kind in own.function_type.args:
        leaves += _flat(kind)
    shape = ir.FunctionType(HALF, [BYTES, BYTES, *leaves])
    entry = ir.Function(module, shape, f"{own.name}_entry")
    builder = ir.IRBuilder(entry.append_basic_block())
    given = iter(entry.args[2:])
    made = builder.call(own, [_gathered(builder, kind, given) for kind in own.function_type.args])
    if made.type == FLOAT:
        builder.store(made, builder.bitcast(entry.args[0], FLOAT.as_pointer()))
    builder.ret(ir.Constant(HALF, 0))


def _inner(kind: Any) -> Sequence[Any]:
    """Types of the parts of a type."""
    if isinstance(kind, ir.ArrayType):
        return [kind.element] * kind.count
    return kind.elements if isinstance(kind, ir.LiteralStructType) else ()


def _flat(kind: Any) -> list[Any]:
    return [leaf for inner in _inner(kind) for leaf in _flat(inner)] or [kind]


def _gathered(builder: Any, kind: Any, given: Any) -> Any:
    if not _inner(kind):
        return next(given)
    whole = ir.Constant(kind, ir.Undefined)
    for n, inner in enumerate(_inner(kind)):
        whole = builder.insert_value(whole, _gathered(builder, inner, given), n)
    return whole


def _write(
    own: ir.Function,
    function: ast.FunctionDef,
    others: Mapping[str, Any],
    near: Mapping[str, ast.FunctionDef],
    flags: tuple[str, ...],
    library: Library,
) -> None:
    first, body = own.append_basic_block("variables"), own.append_basic_block("body")
    writer = Writer(ir.IRBuilder(body), ir.IRBuilder(first), flags)
    writer.has_result = own.function_type.return_type == FLOAT
    writer.others, writer.near, writer.library = others, near, library
    for argument, value in zip(function.args.args, own.args, strict=True):
        writer.names[argument.arg] = writer.argument(value)
    writer.lines(function.body)
    writer.end()
    writer.variables.branch(body)


def _sources() -> list[Path]:
    """Files whose text is in a record: what writes it, and the functions that it may call."""
    here = Path(__file__).parent
    names = ("direct", "instructions", "known_functions", "library", "machine_code")
    return [
        *(here / f"{name}.py" for name in names),
        here.parent / "record.py",
        *sorted((here.parent / "special").glob("*.py")),
    ]


@cache
def _version() -> str:
    """What code depends on beside its text: what writes it, LLVM, the processor."""
    import llvmlite
    import llvmlite.binding as llvm

    digest = hashlib.blake2b(digest_size=16)
    for path in _sources():
        digest.update(path.read_bytes())
    for part in (llvmlite.__version__, llvm.get_process_triple(), llvm.get_host_cpu_name()):
        digest.update(f"{part}\0".encode())
    digest.update(llvm.get_host_cpu_features().flatten().encode())
    return digest.hexdigest()

"""Machine code of single functions: records on disk, and the names in object files of Linux."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from dmft.compiled import records
from dmft.compiled.machine_code import Code, Unknown

# Of the format ELF: a table of symbols, its entries, and "defined in another file".
ELF, SYMBOL_TABLE, ENTRY_SIZE, ELSEWHERE = b"\x7fELF\x02\x01", 2, 24, 0


def parts(code: Code) -> tuple[dict[str, Any], records.Arrays]:
    """Values and arrays of the record of a function."""
    values, arrays = _parts(code)
    for number, (name, function) in enumerate(code.library.items()):
        values["library"][name], inner = _parts(function)
        arrays[f"library_{number}"] = inner["content"]
    return values, arrays


def _parts(code: Code) -> tuple[dict[str, Any], records.Arrays]:
    values = asdict(code) | {"library": {}}
    arrays = {"content": np.frombuffer(values.pop("content"), dtype=np.uint8)}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}, arrays


def read(file: str) -> Code | None:
    """The function that a record holds; None where there is none, or a damaged one."""
    found = records.load(file)
    if found is None:
        return None
    values, arrays = found
    library = {
        name: _whole(inner, arrays[f"library_{number}"], {})
        for number, (name, inner) in enumerate(values.get("library", {}).items())
    }
    return _whole(values, arrays["content"], library)


def _whole(values: Mapping[str, Any], content: Any, library: Mapping[str, Code]) -> Code:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return Code(content.tobytes(), **fields | {"library": library})


def keep(file: str, code: Code) -> bool:
    """Write the record of a function; whether it was written."""
    return records.store(file, *parts(code))


def symbols(content: bytes) -> tuple[set[str], list[str]]:
    """Names that an object file defines, and those that it needs.

    Raises
    ------
    Unknown
        For what is not in the format ELF of 64 bits (Linux): others are not read.
    """
    if not content.startswith(ELF):
        raise Unknown("object files of this system are not read")
    defined: set[str] = set()
    needs: list[str] = []
    (start,), (size, count) = (
        struct.unpack_from("<Q", content, 40),
        struct.unpack_from("<HH", content, 58),
    )
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start + i * size) for i in range(count)]
    for section in sections:
        if section[1] != SYMBOL_TABLE:
            continue
        names = sections[section[6]][4]
        for place in range(section[4], section[4] + section[5], ENTRY_SIZE):
            first, _, _, where = struct.unpack_from("<IBBH", content, place)
            end = content.index(b"\0", names + first)
            name = content[names + first : end].decode()
            if name and where == ELSEWHERE:
                needs.append(name)
            elif name:
                defined.add(name)
    return defined, needs

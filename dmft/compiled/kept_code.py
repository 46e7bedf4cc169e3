"""Machine code of single functions: records on disk, and the names in object files of Linux."""

from __future__ import annotations

import struct
from typing import Any

from dmft.compiled import records
from dmft.compiled.machine_code import Code, Unknown
from dmft.record import decoded, encoded

# Of the format ELF: a table of symbols, its entries, and "defined in another file".
ELF, SYMBOL_TABLE, ENTRY_SIZE, ELSEWHERE = b"\x7fELF\x02\x01", 2, 24, 0


def parts(code: Code) -> tuple[Any, records.Arrays]:
    """Plain values and arrays of code and of the library that it calls."""
    return encoded(code, (Code,))


def read(file: str) -> Code | None:
    """Code of a record; None where there is none, or one of another version."""
    found = records.load(file)
    try:
        code = None if found is None else decoded(*found, (Code,))
    except Exception:  # other fields, other arrays: compiled once more
        return None
    return code if isinstance(code, Code) else None


def keep(file: str, code: Code) -> bool:
    """Write a record of code; whether that could be done."""
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

"""What an object file of Linux defines, and what it needs."""

from __future__ import annotations

import struct

from dmft.compiled.machine_code import Unknown

# Of the format ELF: a table of symbols, its entries, and "defined in another file".
ELF, SYMBOL_TABLE, ENTRY_SIZE, ELSEWHERE = b"\x7fELF\x02\x01", 2, 24, 0


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

"""Records of a store: results of points in words of 8 bytes, each record with a checksum."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.names import Status

# Odd multipliers of the checksum, fixed for ever; one for each 8-byte word of a record.
WORDS = np.array([2 * (0x9E3779B97F4A7C15 * (n + 1) % 2**63) + 1 for n in range(64)], dtype="<u8")
# Records that are read at once: the memory of a reader does not grow with a shard.
BLOCK = 1 << 17

Key = tuple[int, int]
# Bit of the word of the status: the point has a message, in the text file beside the shard.
SAID = np.uint64(1 << 32)
# From this number on there is no status.
STATUS_COUNT = len(Status)


def record_type(quantities: Sequence[str]) -> np.dtype[Any]:
    """Layout of a record: key, values, horizon, status, checksum; all words of 8 bytes."""
    return np.dtype(
        [
            ("high", "<u8"), ("low", "<u8"), ("values", "<f8", (len(quantities),)),
            ("horizon", "<f8"), ("status", "<u8"), ("check", "<u8"),
        ]
    )  # fmt: skip


def checksums(records: NDArray[Any]) -> NDArray[np.uint64]:
    """Checksum of each record without its last word: a linear hash of its words."""
    words = records.view("<u8").reshape(records.size, -1)[:, :-1]
    if words.shape[1] > WORDS.size:
        raise BadParameter(f"a record holds at most {WORDS.size - 4} quantities")
    # A record of zeros, as of an unwritten page, is no record.
    total = np.ones(records.size, dtype="<u8")
    with np.errstate(over="ignore"):
        for n in range(words.shape[1]):
            word = words[:, n]
            total += (word ^ (word >> np.uint64(29))) * WORDS[n]
    return total


def read_records(
    path: Path, kind: np.dtype[Any], messages: Mapping[Key, str]
) -> Iterator[tuple[NDArray[Any], int]]:
    """Whole records of a shard, block by block, each with the number of damaged ones left out.

    A record whose message is lost is one of these: its point is computed again.
    """
    with path.open("rb") as file:
        cut = os.fstat(file.fileno()).st_size % kind.itemsize > 0
        while (records := np.fromfile(file, dtype=kind, count=BLOCK)).size:
            good = checksums(records) == records["check"]
            said = good & (records["status"] & SAID != 0)
            for n in np.flatnonzero(said):
                good[n] = (int(records["high"][n]), int(records["low"][n])) in messages
            records["status"] &= ~SAID
            good &= records["status"] < STATUS_COUNT
            yield (records if good.all() else records[good]), int(np.count_nonzero(~good))
    if cut:
        yield np.empty(0, dtype=kind), 1


def texts_of(shard: Path) -> tuple[dict[Key, str], int]:
    """Messages beside a shard, and how many lines of them were cut off or damaged."""
    lines = list(read_messages(shard.with_suffix(".txt")))
    return dict(line for line in lines if line is not None), lines.count(None)


def write_message(key: Key, text: str) -> bytes:
    """Line of a text file: checksum, then key and message as JSON."""
    line = json.dumps([*key, text]).encode()
    return b"%08x %s\n" % (zlib.crc32(line), line)


def read_messages(path: Path) -> Iterator[tuple[Key, str] | None]:
    """Messages of a text file by key; None for a line that was cut off or damaged."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            check, _, body = line.rstrip(b"\n").partition(b" ")
            try:
                fine = int(check, 16) == zlib.crc32(body)
                high, low, text = json.loads(body) if fine else (0, 0, "")
            except ValueError:
                fine, high, low, text = False, 0, 0, ""
            yield ((high, low), text) if fine else None

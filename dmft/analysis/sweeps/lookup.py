"""Which points a store holds: shard after shard, in memory that does not grow with the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.sweeps.points import KEY, Points
from dmft.analysis.sweeps.records import read_records, texts_of
from dmft.analysis.sweeps.store import Store

Place = Callable[[NDArray[np.int64], NDArray[Any]], None]


class Index:
    """Keys in order, to find the places of many others among them."""

    def __init__(self, keys: NDArray[Any]) -> None:
        order = np.argsort(keys["high"])
        high = keys["high"][order]
        if np.any(high[1:] == high[:-1]):  # the same point twice, or one chance in many
            order = np.lexsort((keys["low"], keys["high"]))
            high = keys["high"][order]
        self.order, self.high, self.low = order, high, keys["low"][order]

    def find(self, keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (place here, place in `keys`) of equal keys, all of them.

        Pairs with the same place here follow one another, in the order of `keys`.
        """
        among = np.argsort(keys["high"])  # in order: neighbours in memory are asked for together
        high = keys["high"][among]
        if np.any(high[1:] == high[:-1]):
            among = np.argsort(keys["high"], kind="stable")
        low = keys["low"][among]
        here = np.searchsorted(self.high, high)
        places, others = [], []
        while among.size:
            inside = here < self.high.size
            inside[inside] = self.high[here[inside]] == high[inside]
            here, high, low, among = here[inside], high[inside], low[inside], among[inside]
            same = self.low[here] == low
            places.append(self.order[here[same]])
            others.append(among[same])
            here = here + 1
        empty = np.empty(0, dtype=np.int64)
        return np.concatenate([empty, *places]), np.concatenate([empty, *others])


@dataclass
class Lookup:
    """What was found of some points (`have`, messages by position), and what was left out.

    `torn` counts damaged records or lines, `repeated` records of points that were found already.
    """

    have: NDArray[np.bool_]
    messages: dict[int, str] = field(default_factory=dict)
    torn: int = 0
    repeated: int = 0


def look_up(store: Store, points: Points, numbers: NDArray[np.int64], place: Place) -> Lookup:
    """Hand each record of these points to `place(places among numbers, records)`, once.

    Shards of part i of n are first compared with each n-th number from the i-th on: the keys of few
    points are in memory at a time. What is not among these is compared with all that is missing.
    """
    found = Lookup(np.zeros(numbers.size, dtype=bool))
    strangers: list[Path] = []
    for (index, count), shards in store.shards_by_part().items():
        # A handle for a part was given the points of this part alone.
        whole = count == 1 or store.part != (0, 1)
        places = np.arange(0 if whole else index, numbers.size, 1 if whole else count)
        wanted = Index(points.keys(numbers[places]))
        for shard in shards:
            known = _compare(shard, store, wanted, places, found, place)
            if not known and not whole:
                strangers.append(shard)
    missing = np.flatnonzero(~found.have)
    if strangers and missing.size:
        wanted, torn, repeated = Index(points.keys(numbers[missing])), found.torn, found.repeated
        for shard in strangers:
            _compare(shard, store, wanted, missing, found, place)
        found.torn, found.repeated = torn, repeated
    return found


def _compare(
    shard: Path, store: Store, wanted: Index, places: NDArray[np.int64], found: Lookup, place: Place
) -> bool:
    """Find the records of a shard; whether all of them are wanted."""
    known = True
    texts, lost = texts_of(shard)
    found.torn += lost
    for records, torn in read_records(shard, store.kind, texts):
        found.torn += torn
        here, there = wanted.find(records)
        asked = np.zeros(records.size, dtype=bool)
        asked[there] = True
        known = known and bool(asked.all())
        here = places[here]
        fresh = ~found.have[here]
        fresh[1:] &= here[1:] != here[:-1]
        found.repeated += int(here.size - np.count_nonzero(fresh))
        found.have[here[fresh]] = True
        place(here[fresh], records[there[fresh]])
    if texts:
        keys = np.array(list(texts), dtype="<u8").view(KEY).reshape(-1)
        words = list(texts.values())
        for at, n in zip(*wanted.find(keys), strict=True):
            found.messages[int(places[at])] = words[n]
    return known

"""What runs of sequence models are watched for: quantities of the alignments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy as sp

from dmft.emit.quantities import entry_name
from dmft.emit.vector import vector_function
from dmft.errors import BadParameter
from dmft.simulation.passage import FirstPassage
from dmft.simulation.sequences.experiment import SequenceExperiment
from dmft.simulation.watched import RISK, Watch, one_event, watched_expression
from dmft.solvers.events import TIME, Event

OVERLAP = "overlap"


def watch_of_alignments(
    e: SequenceExperiment,
    first_passage: FirstPassage | None,
    events: Event | Sequence[Event],
) -> tuple[Watch | None, bool]:
    """What runs are watched for, a function of all alignments and the risk; whether it reads that.

    The names are those of `dmft.solve`: ``e`` and ``m`` (``m[0]`` untied), ``overlap`` for the
    largest |m|, ``risk``.

    Raises
    ------
    BadParameter
        For several events, and for quantities that no step knows.
    """
    event, every = one_event(events), 1
    if first_passage is not None:
        if first_passage.observable != OVERLAP:
            raise BadParameter(
                'first_passage= of sequence models is an "overlap", the largest |m|; the risk is '
                f'watched by events=dmft.Event("risk", {first_passage.level:g}, -1)'
            )
        event = Event(OVERLAP, first_passage.level, 1, first_passage.stop)
        every = first_passage.every
    if event is None or event.quantity == TIME:
        return None if event is None else Watch(event, None), False
    shapes = alignment_shapes(e)
    expr = watched_expression(event, shapes, (RISK, OVERLAP))
    order = [
        sp.Symbol(entry_name(n, i), real=True)
        for n, shape in shapes.items()
        for i in np.ndindex(shape)
    ]
    largest = sp.Max(*(sp.Abs(s) for s in order if s.name[0] == "m"))
    expr = expr.xreplace({sp.Symbol(OVERLAP, real=True): largest})
    risk = sp.Symbol(RISK, real=True)
    value = vector_function([expr], [*order, risk])
    return Watch(event, value, every), risk in expr.free_symbols


def alignment_shapes(e: SequenceExperiment) -> dict[str, tuple[int, ...]]:
    """Shapes of the alignments that a model has, numbers where there is one of them."""
    rank = e.model.encoding.rank
    shapes: dict[str, tuple[int, ...]] = {"e": () if rank == 1 else (rank,)} if rank else {}
    return shapes | {"m": () if e.model.tied else (e.model.length,)}

"""Averages of four signs as arrays over four fields, filled once for each right-hand side.

A quadratic term meets each set {j, l, m, n} of fields in many of its terms; the one integral that
is not elementary is evaluated once for each set (`dmft.special.orthant`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dmft.codegen.nodes import Graph, Index, Node

# Whether the array holds moments: an argument of the function that fills it.
MOMENTS = {"four_signs": False, "four_signs_moments": True}
ARRAYS = {"FourSigns": "four_signs", "FourSignsMoment": "four_signs_moments"}
COVARIANCE = "Omega"
# The arrays begin with two indices of students, whose axis this is.
STUDENTS = "p"
# Positions in the upper triangle of a (4, 4) covariance, row by row.
ROWS = [(i, j) for i in range(4) for j in range(i, 4)]
Place = tuple[Index, str]


def quadruple(graph: Graph, name: str, args: Sequence[Node]) -> Node | None:
    """Entry that holds an average of four signs, None where the covariances are not of fields."""
    if name not in ARRAYS or not all(a.kind == "ref" and a.data[0] == COVARIANCE for a in args):
        return None
    entries = dict(zip(ROWS, (a.data[1] for a in args), strict=True))
    places: list[Place] = [entries[i, i][0] for i in range(4)]
    upper = [graph.ref(COVARIANCE, [places[i], places[j]]) for i, j in ROWS]
    if upper != list(args):
        return None
    if name == "FourSigns":  # symmetric in all four fields
        places.sort(key=lambda place: not _is_student(place))
    if not (_is_student(places[0]) and _is_student(places[1])):
        return None
    return graph.ref(ARRAYS[name], places)


def _is_student(place: Place) -> bool:
    (_, axis), offset = place
    return axis == STUDENTS and not offset


def filling(array: str) -> str:
    """Statement that fills one of the arrays."""
    return f"{array} = four_signs_table({COVARIANCE}, {STUDENTS}, {MOMENTS[array]})"

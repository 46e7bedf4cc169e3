"""The page of the matrix: written from outcomes of cells, and read back."""

import re

HEAD = """# What works with what

Written by `python tests/matrix` from the table in `tests/matrix/cells.py`; do not edit. Each cell
is derived and evaluated by the library. `tests/matrix/test_matrix.py` compares the rates (and the
covariance of an sde) with the mean change of one step on weight vectors, drawn and averaged in
NumPy, and descents on repeated data with two steps of gradient descent in R^400: within five
standard errors. **{works} of {all} cells work**; the others are refused, each number for one
sentence at the end.

Kinds: the `ode` of batches of order one, the `map` of batches of order d (`derive(..., dim=)`) and
the `sde` (`fluctuations=True`), all in one pass; the `two-time` equations of `GradientDescent`,
with rows of their own. Inputs: `Gaussian` x ~ N(0, I), `clusters` a `GaussianMixture` of two
clusters of different variance (`two-time`: of the same one). Losses beside the named ones:
polynomial (f - y)^3/6 + (f - y)^2/2, logistic log(1 + exp(-f y)), hinge max(0, 1 - f y), Huber with
the bound 1. Students are erf committees of two units, with hinge and Huber linear ones; labels are
those of an erf unit, with Huber of a linear one. Labels "on signs" and of the hinge are those of a
sign unit, in clusters the classes of the clusters themselves. "own rule" is
psi = -(sigma'(h) + h/2) dl/df as a `dmft.UpdateField`.
"""
YES = "✓"


def numbered(outcomes, cells):
    """Number of each sentence, in the order of the page."""
    found = {}
    for cell in cells.CELLS:
        if outcomes[cell]:
            found.setdefault(outcomes[cell], len(found) + 1)
    return found


def write(outcomes, cells):
    """The page in Markdown."""
    numbers = numbered(outcomes, cells)
    works = sum(not why for why in outcomes.values())
    lines = [HEAD.format(works=works, all=len(outcomes))]
    for kind in (*cells.KINDS, cells.REPEATED):
        for law in cells.LAWS:
            lines += [f"## {kind}, {law}", ""]
            lines += ["| | " + " | ".join(cells.LOSSES) + " |"]
            lines += ["|---|" + ":-:|" * len(cells.LOSSES)]
            for row in cells.rows_of(kind):
                shown = [
                    str(numbers.get(outcomes[cells.cell(row, kind, law, loss)], YES))
                    for loss in cells.LOSSES
                ]
                lines.append(f"| {row} | " + " | ".join(shown) + " |")
            lines.append("")
    lines += ["## Refused", ""]
    lines += [f"{number}. {why}" for why, number in numbers.items()]
    return "\n".join(lines) + "\n"


def read(text, cells):
    """What a page says of every cell: empty, or why it is refused."""
    body, refused = text.split("## Refused")
    sentences = dict(re.findall(r"^(\d+)\. (.*)$", refused, flags=re.M))
    found = {}
    for part in body.split("\n## ")[1:]:
        title, *lines = part.splitlines()
        kind, law = title.split(", ")
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
        for row, *shown in rows[2:]:
            for loss, mark in zip(cells.LOSSES, shown, strict=True):
                why = "" if mark == YES else sentences[mark]
                found[cells.cell(row, kind, law, loss)] = why
    return found

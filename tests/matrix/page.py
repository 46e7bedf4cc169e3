"""The page of the matrix: written from outcomes of cells, and read back."""

import re

HEAD = """# Supported combinations

This page is written by `python tests/matrix` from the table in `tests/matrix/cells.py`; do not
edit it. The library derives and evaluates the equations of each cell. `tests/matrix/test_matrix.py`
simulates one step of the weight vectors in NumPy and compares the mean change of the overlaps with
the rates, and its covariance with that of an sde. Equations of descents on repeated data are
compared with two steps of gradient descent in R^400. All differences are within five standard
errors. **{works} of {all} cells are supported**. The others raise an error; the number in
such a cell refers to the list of messages at the end.

| kind | equations |
|---|---|
| `ode` | one pass, batches of order one |
| `map` | one pass, batches of order d: `derive(..., dim=)` |
| `sde` | one pass, `derive(..., dim=, fluctuations=True)` |
| `two-time` | `GradientDescent` on repeated data |
| `optimisers` | odes of one pass with optimisers and structured inputs, in the last tables |

Inputs: `Gaussian` is x ~ N(0, I). `clusters` is a `GaussianMixture` of two clusters with different
variances (equal variances for `two-time`). `spectrum` has two eigenvalues. `clusters x blocks` has
a separate variance for each cluster and block.

Losses: the polynomial is (f - y)^3/6 + (f - y)^2/2, logistic log(1 + exp(-f y)), hinge
max(0, 1 - f y), and the threshold of the Huber loss
is 1. Students are erf committees of two units, or
linear for the hinge and Huber losses. Labels are the output of an erf unit, or of a linear one for
the Huber loss. In the columns "on signs" and for the hinge loss, labels are the output of a sign
unit, or the classes of the clusters. "own rule" is the `dmft.UpdateField`
psi = -(sigma'(h) + h/2) dl/df.

For `optimisers` the rates are compared with the mean change in one step of weights and inputs in
R^500, including the additional rows and the accumulators of the optimiser. The Huber, logistic and
hinge losses are combined with linear students. "flipped labels" are signs that are wrong with
probability 0.15. Students with "two outputs" have erf units; the class is the cluster, or the
larger output of a teacher.
"""
YES = "✓"


def numbered(outcomes):
    """Number of each sentence, in the order of the page."""
    found = {}
    for why in outcomes.values():
        if why:
            found.setdefault(why, len(found) + 1)
    return found


def tables(cells, optimised):
    """Title, rows, columns and cell of each table."""
    for kind in (*cells.KINDS, cells.REPEATED):
        for law in cells.LAWS:
            yield (
                f"{kind}, {law}", cells.rows_of(kind), cells.LOSSES,
                lambda row, loss, kind=kind, law=law: cells.cell(row, kind, law, loss),
            )  # fmt: skip
    for law in optimised.LAWS:
        yield (
            f"{optimised.KIND}, {law}", optimised.ROWS, optimised.LOSSES,
            lambda row, loss, law=law: optimised.Optimised(row, law, loss),
        )  # fmt: skip


def write(outcomes, cells, optimised):
    """The page in Markdown."""
    numbers = numbered({c: outcomes[c] for c in (*cells.CELLS, *optimised.CELLS)})
    works = sum(not why for why in outcomes.values())
    lines = [HEAD.format(works=works, all=len(outcomes))]
    for title, rows, losses, cell in tables(cells, optimised):
        lines += [f"## {title}", "", "| | " + " | ".join(losses) + " |"]
        lines += ["|---|" + ":-:|" * len(losses)]
        for row in rows:
            shown = [str(numbers.get(outcomes[cell(row, loss)], YES)) for loss in losses]
            lines.append(f"| {row} | " + " | ".join(shown) + " |")
        lines.append("")
    lines += ["## Error messages", ""]
    lines += [f"{number}. {why}" for why, number in numbers.items()]
    return "\n".join(lines) + "\n"


def read(text, cells, optimised):
    """What a page says of every cell: empty, or why it is refused."""
    body, refused = text.split("## Error messages")
    sentences = dict(re.findall(r"^(\d+)\. (.*)$", refused, flags=re.M))
    found, known = {}, {title: parts for title, *parts in tables(cells, optimised)}
    for part in body.split("\n## ")[1:]:
        title, *lines = part.splitlines()
        _, losses, cell = known[title]
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
        for row, *shown in rows[2:]:
            for loss, mark in zip(losses, shown, strict=True):
                found[cell(row, loss)] = "" if mark == YES else sentences[mark]
    return found

"""Sums over neurons, for all widths: each once, over what depends on it; sums over clusters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import permutations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, free_indices
from dmft.equations.definitions import (
    Definition,
    base_name,
    live,
    mapped,
    sorted_entries,
)
from dmft.equations.symbols import ONLY
from dmft.equations.update.law import clusters_of
from dmft.equations.views.collected import summed
from dmft.equations.views.text import in_own_units, model_factors
from dmft.model import GaussianMixture, Model


def over_neurons(expr: sp.Expr) -> sp.Expr:
    """A polynomial with sums over neurons: each sum over what depends on its index, once."""
    parts = (
        _canonical(number * term, indices)
        for number, body, indices in _summands(sp.expand(expr))
        for term in sp.Add.make_args(sp.expand(body))
    )
    groups = summed(((front, kept), product) for front, product, kept in parts)
    by_rate: dict[sp.Expr, list[sp.Expr]] = {}
    for (front, kept), body in groups.items():
        limits = [(s, 1, x.AXES[s]) for s in kept]
        content, whole = body.primitive()
        if all(y.could_extract_minus_sign() for y in sp.Add.make_args(whole)):
            content, whole = -content, -whole
        widths, rate = front.as_independent(*(front.free_symbols - {x.p, x.k}), as_Add=False)
        inner = sp.Sum(whole, *limits) if kept else whole
        by_rate.setdefault(rate, []).append(content * widths * inner)
    return sp.Add(*(_with_front(rate, terms) for rate, terms in by_rate.items()))


def _with_front(rate: sp.Expr, terms: Sequence[sp.Expr]) -> sp.Expr:
    """Parameters times a sum over neurons, with what its terms have in common in front."""
    total = sp.Add(*terms)
    if rate == 1 or len(terms) == 1:
        return sp.Add(*(rate * y for y in terms))
    parts = [y.as_independent(sp.Sum, sp.Indexed, as_Add=False) for y in sp.Add.make_args(total)]
    number = reduce(sp.gcd, (f.as_coeff_Mul()[0] for f, _ in parts))
    widths = _common([f for f, _ in parts])
    inside = sp.Add(*(f / (number * widths) * y for f, y in parts))
    return sp.Mul(number * widths * rate, inside, evaluate=False)


def _common(fronts: Sequence[sp.Expr]) -> sp.Expr:
    """Symbols that factors have in common; widths stay below, as in 1/p^2."""
    powers = [f.as_powers_dict() for f in fronts]
    pick = {x.p: max, x.k: max}
    own = {x.p, x.k, *(b for b in powers[0] if b.is_Symbol)}
    return sp.Mul(*(b ** pick.get(b, min)(y.get(b, sp.S.Zero) for y in powers) for b in own))


def _summands(expr: sp.Expr) -> Iterable[tuple[sp.Expr, sp.Expr, tuple[sp.Symbol, ...]]]:
    """Terms as a factor, a summand and the indices that it is summed over."""
    for term in sp.Add.make_args(expr):
        sums = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.Sum)]
        if len(sums) != 1:
            yield sp.S.One, term, ()
            continue
        (total,) = sums
        rest = sp.Mul(*(f for f in sp.Mul.make_args(term) if f is not total))
        for number, body, inner in _summands(sp.expand(total.function)):
            yield rest * number, body, (*(limit[0] for limit in total.limits), *inner)


def _canonical(
    term: sp.Expr, indices: tuple[sp.Symbol, ...]
) -> tuple[sp.Expr, sp.Expr, tuple[sp.Symbol, ...]]:
    """A summand without indices that it does not depend on, the others in one order."""
    term, indices = without_deltas(term, indices)
    used = [s for s in indices if s in free_indices(term)]
    for index in set(indices) - set(used):
        term *= x.AXES[index]
    bound = {
        axis: [s for s in _letters(axis) if s not in free_indices(term) or s in used]
        for axis in (x.p, x.k)
    }
    choices = []
    for order in permutations(used):
        left = {axis: list(letters) for axis, letters in bound.items()}
        fresh = {s: left[x.AXES[s]].pop(0) for s in order}
        choices.append((sorted_entries(term.xreplace(fresh)), tuple(fresh.values())))
    best, kept = min(choices, key=lambda y: str(y[0]))
    front = [f for f in sp.Mul.make_args(best) if not (f.has(sp.Indexed) or f.is_Rational)]
    product = sp.Mul(*(f for f in sp.Mul.make_args(best) if f not in front))
    return sp.Mul(*front), product, tuple(sorted(kept, key=str))


def _letters(axis: sp.Symbol) -> tuple[sp.Symbol, ...]:
    return (x.u, x.v, x.l) if axis == x.p else (x.r, x.s, *x.powers)


def without_deltas(
    term: sp.Expr, indices: tuple[sp.Symbol, ...]
) -> tuple[sp.Expr, tuple[sp.Symbol, ...]]:
    """A summand whose Kronecker deltas have used up an index each."""
    for delta in sorted(term.atoms(sp.KroneckerDelta), key=sp.default_sort_key):
        own = next((s for s in reversed(indices) if s in delta.args), None)
        if own is None:
            continue
        other = next(y for y in delta.args if y != own)
        return without_deltas(
            term.xreplace({delta: sp.S.One}).xreplace({own: other}),
            tuple(s for s in indices if s != own),
        )
    return term, indices


# Clusters -------------------------------------------------------------------------------------

# A field and its mean in a cluster.
SHIFTED = re.compile(r"h((?:_\{\w\})?) \+ m\1\^\{\[c\]\}")
TEACHER = re.compile(r"h\^(?:\{\*\}|\*) \+ m\^\{\*\[c\]\}")
SHIFTED_ALONE = re.compile(r"(?<![A-Za-z}])\\left\((h(?:_\{\w\})?\^\{\[c\]\})\\right\)(?!\^)")
# Terms of clusters are in the ratio of their weights to this part.
AGREES = 1e-12


def with_scaled_fields(definitions: Sequence[Definition], model: Model) -> tuple[Definition, ...]:
    """Definitions in fields that have the variance of their cluster, for print.

    Runs read sigma(sqrt(s_c) h + m^[c]) with h ~ N(0, Omega); papers print sigma(h + m^[c]) with
    h ~ N(0, s_c Omega). Unchanged where a cluster has no mean, which would not tell its number.
    """
    laws, factors = clusters_of(model), list(model_factors(model))
    if all(y.scale == 1 for y in laws) or any(y.is_centred or y.shape for y in laws):
        return tuple(definitions)

    def moved(expr: sp.Expr) -> sp.Expr:
        number, _ = _renumbered(expr)
        if isinstance(expr, Expectation) and number:
            parts = [in_own_units(y, factors, laws[number - 1]) for y in expr.parts]
            numbers = [_number(y) for y in parts]
            inside = (y / n for y, n in zip(parts, numbers, strict=True))
            return sp.Mul(*numbers) * Expectation(*inside, expr.law)
        if not expr.args or not expr.has(Expectation):
            return expr
        expr = expr.func(*map(moved, expr.args))
        if not isinstance(expr, sp.Sum):
            return sp.expand_mul(expr, deep=False)
        number = _number(sp.Add.make_args(expr.function)[0])
        return number * sp.Sum(sp.expand_mul(expr.function / number, deep=False), *expr.limits)

    def own(d: Definition) -> Definition:
        number, _ = _renumbered(d.target)
        if d.role != "sample" or not number:
            return mapped(d, moved)
        return mapped(d, partial(in_own_units, factors=factors, law=laws[number - 1]))

    return tuple(map(own, definitions))


def _number(term: sp.Expr) -> sp.Expr:
    """Numbers of a product."""
    return sp.Mul(*(f for f in sp.Mul.make_args(term) if f.is_number))


def over_clusters(
    definitions: Sequence[Definition], mixture: GaussianMixture
) -> tuple[Definition, ...]:
    """Definitions with one sum over clusters where these have equal terms, for print.

    Clusters differ in arrays that have their number, in their weights and in their labels.
    """
    labels = [sp.sympify(y, strict=True) for y in mixture.labels or ()]
    if mixture.fractions is not None or not all(y.is_number for y in labels):
        return tuple(definitions)
    ones, scales = [1.0] * len(mixture.weights), [*map(float, mixture.scales)]
    powers = [[float(y) ** n for y in labels] for n in range(3)] if labels else [ones]
    factors = {
        (x.cluster_label[x.cluster] ** n, x.cluster_variance[x.cluster] ** m): [
            w * y * s**m for w, y, s in zip(mixture.weights, some, scales, strict=True)
        ]
        for n, some in enumerate(powers)
        for m in (range(3) if len({*scales}) > 1 else (0,))
    }
    whole = partial(_in_clusters, shares=factors)
    found = [d if d.role in ("block", "sample") else mapped(d, whole) for d in definitions]
    found = _in_any(found, labels)
    if found == list(definitions):
        return tuple(definitions)
    i, r, k = x.i, x.r, mixture.means.shape[1]
    single = not any(d.expr.has(x.p) for d in definitions if x.is_mean(_base(d.target)))
    first = sp.S.One if single else x.p
    mean = x.cluster_mean[x.cluster, r] * x.Omega[i, first + r]
    mean = sp.Sum(mean, (r, 1, k)) if k > 1 else x.cluster_mean[x.cluster] * x.Omega[i, first + 1]
    kept = live(found, lambda d: d.role != "block" or d.name == "Omega")
    return (*kept, Definition(x.mean_in(0)[i], (("mean", mean),), "block"))


def in_all_clusters(
    definitions: Sequence[Definition], mixture: GaussianMixture
) -> tuple[Definition, ...]:
    """Definitions as they are printed: sums over clusters.

    Means of one teacher are put in: mu_c M_j of students and mu_c P of the teacher.
    """
    definitions = over_clusters(definitions, mixture)
    if mixture.means.shape[1] != 1:
        return tuple(definitions)
    means = [d for d in definitions if x.is_mean(_base(d.target))]
    single = not any(d.expr.has(x.p) for d in means)
    student, place = (ONLY[0], 2) if single else (x.j, x.p + 1)
    table: dict[sp.Expr, sp.Expr] = {x.Omega[x.i, place]: x.M[student, ONLY[1]]}
    entries = {e for d in definitions for e in d.expr.atoms(sp.Indexed) if x.is_mean(e.base)}
    for entry in entries:
        (index,) = entry.indices
        row = ONLY[1] if index in (place, x.p + 1) else student if index == 1 else index
        table[entry] = entry.base[row]
    of_teacher = {x.Omega[x.i, place]: x.P[ONLY[1], ONLY[1]]}
    found = list[Definition]()
    for d in definitions:
        base = _base(d.target)
        rows = [(base[student] if d in means else d.target, table)]
        if d in means and {base[y] for y in (place, x.p + 1)} & entries:
            rows.append((base[ONLY[1]], of_teacher))
        found += [replace(mapped(d, put), target=target) for target, put in rows]
    return tuple(found)


def in_fields_of_clusters(text: str) -> str:
    """Rows with h_j^[c] for h_j + m_j^[c], where a row says what m_j^[c] is."""
    head = re.search(r"& m(_\{\w\})?\^\{\[c\]\} =", text)
    if not head:
        return text
    index = head.group(1) or ""
    shown = rf"& h{index}^{{[c]}} = h{index} + m{index}^{{[c]}},\quad {head.group()[2:]}"
    one, two = (SHIFTED.sub(r"h\1^{[c]}", y) for y in text.split(head.group(), 1))
    one, two = (SHIFTED_ALONE.sub(r"\1", y) for y in (one, two))
    (one, teachers), (two, more) = (TEACHER.subn("h^{*[c]}", y) for y in (one, two))
    own = r"m^{*[c]} ="
    two = (
        two.replace(own, rf"h^{{*[c]}} = h^* + m^{{*[c]}},\quad {own}") if teachers + more else two
    )
    return one + shown + two


def _base(target: sp.Expr) -> sp.Basic:
    return target.base if isinstance(target, sp.Indexed) else target


def _in_any(definitions: Sequence[Definition], labels: Sequence[sp.Expr]) -> list[Definition]:
    """Fields of a sample, and means, defined once for all clusters; labels as y_c."""
    groups: dict[sp.Expr, list[Definition]] = {}
    for d in definitions:
        number, target = _renumbered(d.target)
        if number and d.role != "block":
            one = mapped(d, lambda e: _renumbered(e)[1])
            groups.setdefault(target, []).append(replace(one, target=target))
    groups = {t: _of_class(some, labels) for t, some in groups.items()}
    y = x.symbol_in(x.label, 0)
    alike = {t for t, some in groups.items() if all(d.expr == some[0].expr for d in some)}
    told = y in groups and [d.expr for d in groups[y]] == list(labels)
    if set(groups) - alike - ({y} if told else set()):
        return list(definitions)
    put = {y: x.cluster_label[x.cluster]} if told else {}
    found, shown = list[Definition](), {y} if told else set[sp.Expr]()
    for d in definitions:
        number, target = _renumbered(d.target)
        if number and d.role != "block":
            if target in shown:
                continue
            shown.add(target)
            d = groups[target][0]
        found.append(mapped(d, put))
    return found


def _of_class(some: list[Definition], labels: Sequence[sp.Expr]) -> list[Definition]:
    """Definitions of all clusters, those of one class larger by 1: with a Kronecker delta."""
    ones = [d.expr.as_independent(*d.expr.free_symbols, as_Add=True)[0] for d in some]
    classes = {y for one, y in zip(ones, labels, strict=False) if one == 1}
    if len(ones) != len(labels) or len(classes) != 1:
        return some
    delta = sp.KroneckerDelta(x.cluster_label[x.cluster], *classes)
    if ones != [sp.Integer(y in classes) for y in labels]:
        return some
    return [
        replace(d, terms=(("class", d.expr - one + delta),))
        for d, one in zip(some, ones, strict=True)
    ]


def _in_clusters(
    expr: sp.Expr, shares: Mapping[tuple[sp.Expr, sp.Expr], Sequence[float]]
) -> sp.Expr:
    """The same as a sum over clusters; terms that differ otherwise stay as they are."""
    groups: dict[sp.Expr, list[sp.Expr]] = {}
    others = []
    count = len(shares[sp.S.One, sp.S.One])
    for term in sp.Add.make_args(sp.expand_mul(expr, deep=False)):
        number = _number(term)
        rest = term / number
        cluster, key = _renumbered(rest)
        if cluster:
            groups.setdefault(key, [sp.S.Zero] * count)[cluster - 1] += number
        else:
            others.append(term)
    parts = []
    for rest, numbers in groups.items():
        known = next(filter(None, (_share(numbers, *y) for y in shares.items())), None)
        if known is None:
            return expr
        power, ratio = known
        front, inside, limits = _parts(sp.nsimplify(ratio, rational=True) * rest)
        parts.append(((power, front, limits), inside))
    sums = summed(parts)
    if not sums:
        return expr
    common = _common([front for _, front, _ in sums])
    if all(front.could_extract_minus_sign() for _, front, _ in sums):
        common = -common
    by_power: dict[sp.Expr, dict[sp.Expr, list[sp.Expr]]] = {}
    for ((label, scale), front, limits), inside in sums.items():
        term = front / common * (sp.Sum(inside, *limits) if limits else inside)
        by_power.setdefault(label, {}).setdefault(scale, []).append(term)
    terms = (
        label * sp.Add(*(scale * sp.Add(*y) for scale, y in parts.items()))
        for label, parts in by_power.items()
    )
    body = sp.Mul(x.cluster_weight[x.cluster], sp.Add(*terms), evaluate=False)
    return sp.Add(*others, common * sp.Sum(body, (x.cluster, 1, count)))


def _share(
    numbers: Sequence[sp.Expr], power: tuple[sp.Expr, sp.Expr], share: Sequence[float]
) -> tuple[tuple[sp.Expr, sp.Expr], float] | None:
    """The power that numbers of clusters are in the ratio of, and what multiplies it."""
    pairs = [*zip(map(float, numbers), share, strict=True)]
    ratio = next(n / y if y else 0.0 for n, y in pairs if n)
    return (power, ratio) if all(abs(n - ratio * y) < AGREES for n, y in pairs) else None


def _renumbered(expr: sp.Expr) -> tuple[int, sp.Expr]:
    """Number of the only cluster that an expression is of, else 0; itself without that number."""
    table, numbers = dict[sp.Expr, sp.Expr](), set[int]()
    for one in expr.atoms(sp.Indexed, sp.Symbol):
        name = base_name(one) if isinstance(one, sp.Indexed) else one.name
        stem, _, number = name.rpartition("_")
        if not number.isdigit() or number == "0":
            continue
        if stem not in x.CLUSTERED and not stem.endswith(x.IN_CLUSTER.rstrip("_")):
            continue
        numbers.add(int(number))
        if isinstance(one, sp.Indexed):
            real = {"real": True} if stem in x.CLUSTERED else {}
            table[one] = sp.IndexedBase(f"{stem}_0", **real)[one.indices]
        else:
            table[one] = sp.Symbol(f"{stem}_0", real=True)
    return (numbers.pop(), expr.xreplace(table)) if len(numbers) == 1 else (0, expr)


def _parts(term: sp.Expr) -> tuple[sp.Expr, sp.Expr, tuple[sp.Basic, ...]]:
    """Number and parameters of a term; its other factors, in the sum that is one; its limits."""
    front, rest = term.as_independent(sp.Indexed, sp.Sum, as_Add=False)
    sums = [f for f in sp.Mul.make_args(rest) if isinstance(f, sp.Sum)]
    if len(sums) != 1:
        return front, rest, ()
    body = sp.expand_mul(rest / sums[0] * sums[0].function, deep=False)
    return front, body, tuple(sums[0].limits)

"""Formulas of docstrings, which are plain text for `help`, as mathematics between words."""

import re
from itertools import groupby

GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu",
    "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Gamma", "Delta",
    "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega",
}  # fmt: skip
OPERATORS = {
    "sum": r"\sum", "prod": r"\prod", "int": r"\int", "infinity": r"\infty", "grad": r"\nabla",
    "asin": r"\arcsin", "acos": r"\arccos", "arctan": r"\arctan", "exp": r"\exp", "log": r"\log",
    "cos": r"\cos", "sin": r"\sin", "tanh": r"\tanh", "min": r"\min", "max": r"\max",
}  # fmt: skip
NAMED = {"prox", "erf", "erfc", "erfcx", "tr", "softmax", "sigmoid", "std", "Var", "Cov", "He"}
# Words that are letters next to a sign.
QUANTITIES = {
    "ridge", "fraction", "risk", "ratio", "drift", "noise", "momentum", "temperature", "rest",
    "gain", "pattern", "size", "steps", "samples", "const", "diag", "out", "cov",
}  # fmt: skip
SIGNS = {
    "->": r"\to ", "<-": r"\leftarrow ", "<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ",
    "~": r"\sim ", "||": r"\|", "...": r"\ldots ", "+-": r"\pm ",
}  # fmt: skip
TOKEN = re.compile(
    r"`[^`]*`|chi-squared|theory/\w+(?:,? [A-J]?\.?\d+(?:\.\d+)?)*|\\[a-z]+|\d+(?:\.\d+)?"
    r"|[a-z]{3,}_[a-z_]{3,}|[A-Za-z]+\*?"
    r"|\.\.\.|->|<-|<=|>=|!=|\+-|\|\||\s+|.",
    re.DOTALL,
)
WORD = re.compile(r"[A-Za-z][a-z]+(?:-[a-z]+)?$")
BESIDE = {"=", "+", "-", "*", "/", "^", "_", "(", ")", "<=", ">=", "<", ">", "~", "->", "|"}
OPEN, CLOSE = "([{", ")]}"


def typeset(text, escaped):
    """A line of a docstring with its formulas in math roles; `escaped` writes the words."""
    tokens = TOKEN.findall(text)
    kinds = _kinds(tokens)
    parts = []
    for kind, run in groupby(zip(kinds, tokens, strict=True), key=lambda y: y[0]):
        plain = "".join(token for _, token in run)
        piece = _formula(plain, escaped) if kind == "math" else [escaped(plain)]
        # A role begins after a space, or after an escaped one.
        if len(piece) > 1 and not piece[0] + piece[1] and re.search(r"\w$", "".join(parts)):
            parts.append("\\ ")
        parts += piece
    # Punctuation stays with a formula that fills a line.
    return re.sub(r"`\\ ([,;]+|\.(?=\s|$))", r"\1`\\ ", "".join(parts))


def _kinds(tokens):
    """Whether tokens belong to words or formulas; what is between two of a kind is of it."""
    kinds = [_kind(token) for token in tokens]
    for n, token in enumerate(tokens):
        before = tokens[n - 1] if n else ""
        if token.isalpha() and (before in ("_", "^") or (before in ("{", "|") and len(token) < 3)):
            kinds[n] = "math"
        if token in QUANTITIES:
            around = [y for y in (*tokens[:n][::-1], "a") if not y.isspace()][:1]
            around += [y for y in (*tokens[n + 1 :], "a") if not y.isspace()][:1]
            kinds[n] = "math" if set(around) & BESIDE else "word"
        if token == "'" and n and kinds[n - 1] == "word":  # a genitive
            kinds[n] = "word"
            if tokens[n + 1 : n + 2] == ["s"]:
                kinds[n + 1] = "word"
        if token in ("a", "A", "I"):  # articles
            after = next((k for k in kinds[n + 1 :] if k != "space"), "word")
            before = next((k for k in kinds[:n][::-1] if k != "space"), "word")
            kinds[n] = "word" if after == "word" and before != "math" else "math"
    depth = 0
    for n, kind in enumerate(kinds):
        depth += (tokens[n] in OPEN) - (tokens[n] in CLOSE)
        if kind not in ("space", "mark"):
            continue
        after = next((k for k in kinds[n:] if k not in ("space", "mark")), "word")
        before = next((k for k in kinds[:n][::-1] if k not in ("space", "mark")), "word")
        between = before == after == "math"
        joined = (
            kind == "space"
            or depth > 0
            or (tokens[n] == "." and n + 1 < len(tokens) and (not tokens[n + 1].isspace()))
        )
        kinds[n] = "math" if between and joined else "word"
    # Spaces after a mark that belongs to words.
    for n in range(1, len(tokens)):
        if tokens[n].isspace() and tokens[n - 1] in ",;:." and kinds[n - 1] == "word":
            kinds[n] = "word"
    return kinds


def _kind(token):
    if token.isspace():
        return "space"
    if token in ",;:.":
        return "mark"
    stem = token.rstrip("*")
    if token.startswith("`"):
        return "word"
    if WORD.match(token) and stem not in GREEK | set(OPERATORS) | NAMED | {"sqrt"}:
        differential = re.fullmatch(r"d[A-Za-z]", token) and token != "do"
        return "math" if differential or (token[0] == "d" and token[1:] in GREEK) else "word"
    return "word" if token.startswith(("theory/", "chi-")) else "math"


def _formula(plain, escaped):
    """A formula in a role; brackets that enclose words stay with them."""
    left = re.match(r"\s*", plain).group()
    right = re.search(r"\s*$", plain).group()
    core = plain.strip()
    before = after = ""
    while core and _depth(core) > 0 and core[0] in OPEN:
        before, core = before + core[0], core[1:].lstrip()
    while core and core[-1] in OPEN:
        end = re.search(r"\s*.$", core).start()
        after, core = core[end:] + after, core[:end]
    while core and core[0] in CLOSE:
        before, core = before + core[0], core[1:].lstrip()
    while core and _depth(core) < 0 and core[-1] in CLOSE:
        after, core = core[-1] + after, core[:-1].rstrip()
    if not re.search(r"[A-Za-z0-9]", core) or _depth(core) != 0:
        return [escaped(plain)]
    role = f":math:`{latex(core)}`"
    # A role ends before a sign or a space.
    return [left, escaped(before), "\\ " if before else "", role, "\\ ", escaped(after), right]


def _depth(text):
    return sum(text.count(y) for y in OPEN) - sum(text.count(y) for y in CLOSE)


def latex(text):
    """Plain mathematics as LaTeX."""
    text = re.sub(r"sqrt\s+(\w)", r"sqrt(\1)", text)
    text = re.sub(r"\b([A-Za-z])\^(?=[\s,;)\]]|$)", r"\\hat{\1}", text)
    tokens = [y for y in TOKEN.findall(text) if y]
    found, n = [], 0
    while n < len(tokens):
        piece, n = _piece(tokens, n)
        found.append(piece)
    return re.sub(r"\s+", " ", "".join(found)).strip()


def _piece(tokens, n):
    """LaTeX of the token at n with its indices, and the place after it."""
    token = tokens[n]
    if token == "sqrt" and n + 1 < len(tokens) and tokens[n + 1] == "(":
        end = _closing(tokens, n + 1)
        return rf"\sqrt{{{latex(''.join(tokens[n + 2 : end]))}}}", end + 1
    if token in "_^" and n + 1 < len(tokens):
        minus = tokens[n + 1] == "-" and n + 2 < len(tokens) and tokens[n + 2] in OPEN
        if tokens[n + 1] in OPEN or minus:
            end = _closing(tokens, n + 1 + minus)
            inside = latex("".join(tokens[n + 2 + minus : end]))
            inside = f"-({inside})" if minus else inside
            inside = f"({inside})" if tokens[n + 1] == "(" and token == "_" else inside
            return f"{token}{{{inside}}}", end + 1
        sign = tokens[n + 1] in "+-" and n + 2 < len(tokens) and re.match(r"\w", tokens[n + 2])
        last = n + 2 if sign else n + 1
        index = tokens[last]
        front = tokens[n + 1] if sign else ""
        stem = index.rstrip("*") or index
        star = stem != index
        shown = _name(stem).strip() if len(stem) > 3 or stem in GREEK | set(OPERATORS) else stem
        power = r"^\top" if token == "^" and shown == "T" else f"{token}{{{front}{shown}}}"
        return power + ("^*" if star else ""), last + 1
    if token.startswith("\\") and n + 1 < len(tokens) and tokens[n + 1] == "{":
        end = _closing(tokens, n + 1)
        return f"{token}{{{latex(''.join(tokens[n + 2 : end]))}}}", end + 1
    if token in SIGNS:
        return SIGNS[token], n + 1
    if token in "{}":
        return f"\\{token}", n + 1
    if token == ".":
        return r"\cdot ", n + 1
    if token == "*":
        return r"\cdot ", n + 1
    if token == "E" and (n + 1 == len(tokens) or re.match(r"_?\d| =", "".join(tokens[n + 1 :]))):
        return "E", n + 1  # a residual, an energy
    if token.isalpha() or token.rstrip("*").replace("_", "").isalpha():
        power = n + 1 < len(tokens) and tokens[n + 1] == "^"
        return f"{{{_name(token)}}}" if token.endswith("*") and power else _name(token), n + 1
    return token, n + 1


def _closing(tokens, n):
    """Place of the bracket that closes the one at n."""
    depth = 0
    for place in range(n, len(tokens)):
        depth += (tokens[place] in OPEN) - (tokens[place] in CLOSE)
        if depth == 0:
            return place
    return len(tokens)


def _name(token):
    """A letter, a function, or the name of a parameter."""
    star = "^*" if token.endswith("*") else ""
    stem = token.rstrip("*")
    if stem == "E":
        return rf"\mathbb{{E}}{star}"
    if stem in OPERATORS:
        return f"{OPERATORS[stem]} "
    if stem in GREEK:
        return f"\\{stem}{star} "
    if re.fullmatch(r"d[A-Z]|[a-z]{2}", stem) or len(stem) == 1:
        return stem + star
    if stem[0] == "d" and stem[1:] in GREEK:
        return rf"d\{stem[1:]} "
    name, _, index = stem.partition("_")
    if name in GREEK and index.isalnum():
        shown = index if len(index) <= 2 else rf"\mathrm{{{index}}}"
        return rf"\{name}_{{{shown}}}{star}"
    if len(name) == 1 and index and "_" not in index and len(index) <= 4:
        return f"{name}{star}_{{{index}}}"
    inside = stem.replace("_", r"\_")
    return rf"\mathrm{{{inside}}}{star}" + (r"\," if "_" in stem else "")

"""The mutations: small faults in Python, found by its syntax tree, and in the SQL of string literals."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple


class Edit(NamedTuple):
    """A mutation of a source: the characters from `start` to `end` become `new`."""

    start: int
    end: int
    new: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.new + source[self.end :]


SWAPS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
UNCHANGED = ("annotation", "returns", "decorator_list")  # fields that no test can see
DECIDED = (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Constant)  # mutated by themselves

SQL = re.compile(r"\b(SELECT|INSERT|DELETE|UPDATE|WHERE|ALTER|SET|AND|OR|IN|IS|ORDER BY|JOIN)\b")
OPAQUE = re.compile(r"(?<!\{)\{[^{}]+\}(?!\})|'[^']*'|--[^\n]*")  # interpolation, literal, comment
JOINT = re.compile(r'"\s*\n\s*[rf]*"')  # between the parts of one string
REPLACED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\bAND\b", "OR"),
        (r"\bOR\b", "AND"),
        (r"<=", "<"),
        (r">=", ">"),
        (r"<>", "="),
        (r"(?<![<>=-])<(?![=>@])", "<="),
        (r"(?<![<>=-])>(?![=>])", ">="),
        (r"\bIS NULL\b", "IS NOT NULL"),
        (r"\bIS NOT NULL\b", "IS NULL"),
        (r"\bNOT (?!NULL|VALID)", ""),
        (r" DESC\b", ""),
        (r"(?<=ORDER BY )[\w.]+(?! DESC)\b(?! DESC|\()", r"\g<0> DESC"),
        (r"\bDISTINCT (?!FROM|ON)", ""),
        (r"\bUNION ALL\b", "UNION"),
        (r"\bLEFT JOIN\b", "JOIN"),
        (r"\bEXCEPT\b", "UNION"),
        (r"\b(least|min)(?=\()", "greatest|max"),
        (r"\b(greatest|max)(?=\()", "least|min"),
        (r"\btrue\b", "false"),
        (r"\bfalse\b", "true"),
        (r"\bANY\b", "ALL"),
        (r"\bALL(?= \()", "ANY"),
        (r"(?<= )\+(?= )", "-"),
        (r"(?<= )-(?= )", "+"),
        (r" FOR UPDATE( SKIP LOCKED)?", ""),
        (r"(?<![\w.'$:\\{])\d+\b(?!\})", "+1"),
        (r"\bnow\(\)", "(now() + interval '1 hour')"),
        (r"\bnow\(\)", "(now() - interval '1 hour')"),
        (r"\bDO UPDATE\s+SET\b(?!\s*\()[^()]*?(?= RETURNING|\s*$)", "DO NOTHING"),
    )
)
PAIRS = {"least": "greatest", "greatest": "least", "min": "max", "max": "min"}
# A condition begins after one of these, and ends before one of those.
BEGINS = re.compile(
    r"\b(WHERE|AND|OR|WHEN)\b\s*|\bON\b\s*(?=[\w.]+ (?:=|<|>))|\((?!SELECT|VALUES|PARTITION)|\A\s*(?=\w)"
)
ENDS = re.compile(
    r"\b(AND|OR|GROUP|ORDER|LIMIT|OFFSET|RETURNING|UNION|EXCEPT|FOR|THEN|ELSE|END|WHERE|LEFT|CROSS|JOIN)\b"
    r"|\bON\b|(?<!DISTINCT )\bFROM\b"
)


def edits(source: str) -> list[Edit]:
    """Return all mutations of a module, in the order of its lines."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = source.splitlines()

    def at(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    def swap(left: ast.expr, operator: ast.AST, right: ast.expr) -> Iterator[Edit]:
        if type(operator) not in SWAPS or any(_is_text(each) for each in (left, right)):
            return
        old, new = SWAPS[type(operator)]
        start = span(left)[1]
        gap = source[start : span(right)[0]]
        found = re.search(rf"\b{old}\b" if old.isalpha() else re.escape(old).replace(r"\ ", r"\s+"), gap)
        assert found, (gap, old)
        yield Edit(start + found.start(), start + found.end(), new)

    def python(node: ast.AST) -> Iterator[Edit]:
        match node:
            case ast.Compare(left, operators, rights):
                for (first, second), operator in zip(pairwise([left, *rights]), operators, strict=True):
                    yield from swap(first, operator, second)
            case ast.BoolOp(operator, values):
                for first, second in pairwise(values):
                    yield from swap(first, operator, second)
            case ast.BinOp(left, operator, right):
                yield from swap(left, operator, right)
            case ast.UnaryOp(ast.Not(), operand):
                yield Edit(*span(node), source[slice(*span(operand))])
            case ast.Constant(bool(value)):
                yield Edit(*span(node), str(not value))
            case ast.Constant(int(value)):
                yield Edit(*span(node), str(value + 1))
            case (
                ast.Expr(ast.Call() | ast.Yield())
                | ast.AugAssign()
                | ast.Raise()
                | ast.Break()
                | ast.Continue()
            ):
                if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call):
                    yield Edit(*span(node), "pass")
            case ast.ExceptHandler(ast.Tuple(elements)):
                for element in elements:
                    yield Edit(*span(element), "()")
            case ast.comprehension(ifs=tests):
                for test in tests:
                    yield Edit(*span(test), "True")
        if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, DECIDED):
            yield Edit(*span(node.test), f"(not ({source[slice(*span(node.test))]}))")

    def walk(node: ast.AST) -> Iterator[Edit]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        ):
            start, end = span(node)  # not deeper: Python 3.11 gives wrong positions inside an f-string
            yield from (Edit(start + a, start + b, new) for a, b, new in sql(source[start:end]))
            return
        yield from python(node)
        for name, field in ast.iter_fields(node):
            if name not in UNCHANGED:
                for child in field if isinstance(field, list) else [field]:
                    if isinstance(child, ast.AST):
                        yield from walk(child)

    return sorted({edit for edit in walk(tree) if edit.apply(source) != source})


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def sql(literal: str) -> Iterator[Edit]:
    """Yield the mutations of a string literal, with its quotes, if it is SQL."""
    text = OPAQUE.sub(lambda part: "x" * len(part[0]), JOINT.sub(lambda joint: " " * len(joint[0]), literal))
    first = len(text) - len(text.lstrip('rf"'))
    text = " " * first + text[first:].rstrip('"')
    if not SQL.search(text):
        return
    for pattern, new in REPLACED:
        for found in pattern.finditer(text):
            plus_one = str(int(found[0]) + 1) if new == "+1" else ""
            yield Edit(*found.span(), plus_one or PAIRS.get(found[0]) or found.expand(new))
    for begin in BEGINS.finditer(text):
        end, stop = _end(text, begin.end())
        named = begin[1] or begin[0].startswith("ON")
        if stop not in ("AND", "OR") and not named:
            continue
        yield Edit(begin.end(), end, "FALSE" if "OR" in (begin[1], stop) else "TRUE")
        if begin[1] == "WHEN":
            yield Edit(begin.end(), end, "FALSE")
        for equal in re.finditer(r"(?<![<>=:!])=(?![>=])", text[begin.end() : end]):
            yield Edit(begin.end() + equal.start(), begin.end() + equal.end(), "<>")
    for begin in re.finditer(r"\bSET\s+(?=\w+ = )", text):
        bounds = [begin.end()]
        while (end := _end(text, bounds[-1], ",")[0]) < len(text) and text[end] == ",":
            bounds.append(end + 1)
        for start, after in pairwise([*bounds, end + 1] if len(bounds) > 1 else ()):
            last = after == end + 1
            yield Edit(start - last, after - last, "")
    for call in re.finditer(r"\b(coalesce|nullif)\(", text):
        end = _end(text, call.end(), ",")[0]
        yield Edit(call.start(), _end(text, call.end(), "")[0] + 1, literal[call.end() : end])


def _end(text: str, start: int, stops: str = ",;") -> tuple[int, str]:
    """Return where the expression that begins at `start` ends, and the keyword or the character there.

    `stops` are the characters that end it outside of parentheses; without any, only its parenthesis does.
    """
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([") - (text[index] in ")]")
        if depth < 0 or (depth == 0 and text[index] in stops):
            return index, text[index]
        keyword = ENDS.match(text, index) if depth == 0 and stops else None
        if keyword and not text[index - 1].isalnum():
            return len(text[:index].rstrip()), keyword[0]
    return len(text.rstrip()), ""

"""Every message that Dropcap can print, collected from its source: what varies is shown as an ellipsis.

Decoding this {kind} picture needs {need} MB ...   ->   Decoding this … picture needs … MB ...
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TypeGuard

from tests.support.app import ROOT

# Without the stand-ins, whose messages are for programs, and the measuring tools, which are for developers.
SOURCES = (
    "functions/**/*.py",
    "infra/local/**/*.py",
    "infra/cloud/**/*.py",
    "infra/*.py",
    "model_export/**/*.py",
    "tests/memory/limit.py",
    "tests/support/browser/chromium.py",
    "tests/support/browser/screenshots.py",
)
SILENT = ("infra/local/storage/preconditions.py", "infra/local/gemini/errors.py")
SCRIPT = ROOT / "infra" / "environment.sh"
VARIES = "…"
LINE = r"logger\.(debug|info|warning|error|exception|critical|log)"
LOGS = {"logger.warning": 0, "logger.error": 0, "logger.critical": 0, "logger.log": 1, "logs.once": 2}


@dataclass(frozen=True, slots=True)
class Message:
    """One message, its `code` where it has one, and where it is written."""

    text: str
    code: str
    path: str


@cache
def collect() -> tuple[Message, ...]:
    """Return all messages, each once, in the order of the files."""
    found = [message for path in _files() for message in _of_module(path)]
    found += [Message(_clean(text), "", SCRIPT.name) for text in _of_script()]
    return tuple({(each.text, each.code): each for each in found}.values())


@cache
def _files() -> tuple[Path, ...]:
    paths = {path for pattern in SOURCES for path in ROOT.glob(pattern)}
    return tuple(sorted(paths - {ROOT / name for name in SILENT}))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _errors() -> frozenset[str]:
    """Return the names of all error classes of our own."""
    classes = [node for path in _files() for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)]
    names = {"Exception"}
    while True:
        more = {each.name for each in classes if names & {ast.unparse(base) for base in each.bases}}
        if more <= names:
            return frozenset(names - {"Exception"})
        names |= more


@cache
def _constants() -> Mapping[str, ast.expr]:
    """Return the string constants in capitals of all files; omit names that have two values."""
    found: dict[str, dict[str, ast.expr]] = {}
    for path in _files():
        for name, value in _assigned(_tree(path).body).items():
            if name.isupper() and isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.setdefault(name, {})[value.value] = value
    return {name: next(iter(values.values())) for name, values in found.items() if len(values) == 1}


def log_events() -> dict[str, str]:
    """Return the event ids of the functions' log lines, each with its place; "" for a line without one."""
    found = {}
    for path in {*(ROOT / "functions").rglob("*.py")} - {ROOT / "functions" / "dropcap" / "logs.py"}:
        for function in ast.walk(_tree(path)):
            if isinstance(function, ast.FunctionDef):
                names = _assigned(list(ast.walk(function)))
                for call in filter(_logs, ast.walk(function)):
                    for event in _events(call, names):
                        found[event] = f"{path.name}:{call.lineno}"
    return found


def _logs(node: ast.AST) -> TypeGuard[ast.Call]:
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return called == "logs.once" or bool(re.fullmatch(LINE, called))


def _events(call: ast.Call, names: Mapping[str, ast.expr]) -> list[str]:
    """Return the event ids that this call may log."""
    extra = next((each.value for each in call.keywords if each.arg == "extra"), None)
    if ast.unparse(call.func) == "logs.once":
        return _texts(call.args[3], names)
    if isinstance(extra, ast.Name):
        extra = names.get(extra.id)
    if isinstance(extra, ast.Dict):
        for key, value in zip(extra.keys, extra.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "event":
                return _texts(value, names)
    return [""]


def _of_script() -> Iterator[str]:
    script = re.sub(r"\$\([^)]*\)|\$\w+", VARIES, SCRIPT.read_text())
    for arguments in re.findall(r'\bfail ("[^"]*"(?: *(?:\\\n *)?"[^"]*")*)', script):
        yield " ".join(re.findall(r'"(.*?)"', arguments))


def _of_module(path: Path) -> Iterator[Message]:
    tree = _tree(path)
    inside = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    visited: set[int] = set()
    for function in reversed(inside):  # the innermost first
        names = {**_constants(), **_assigned(list(ast.walk(function)))}
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and id(node) not in visited:
                visited.add(id(node))
                for code, text in _of_call(node, names):
                    if re.search(r"[A-Za-z]{2}", text):
                        yield Message(_clean(text), code, str(path.relative_to(ROOT)))


def _of_call(call: ast.Call, names: Mapping[str, ast.expr]) -> Iterator[tuple[str, str]]:
    """Yield code and text of each message that this call may produce."""
    called = ast.unparse(call.func)
    arguments = call.args
    if called == "Rejected":
        [code] = _texts(arguments[0], names)
        yield from ((code, text) for text in _texts(arguments[1], names))
    elif called == "render":  # over HTTP, without a Rejected
        yield from ((code, text) for code in _texts(arguments[1], {}) for text in _texts(arguments[2], {}))
    elif called == "_bad_json":
        yield from (("bad_json", text) for text in _texts(arguments[0], names))
    elif called.removeprefix("schema.") == "Difference":
        parts = [_texts(argument, names) for argument in arguments[:3]]
        yield from (("", f"{where} {found}; it should {wanted}") for where, found, wanted in product(*parts))
    elif called in LOGS:
        yield from (("", text) for text in _texts(arguments[LOGS[called]], names))
    elif called == "failed.append":  # to the problem of a NotDescribed
        yield from (("", VARIES + text) for text in _texts(arguments[0], {}))
    elif arguments and (called in _errors() or _complains(call)):
        yield from (("", text) for text in _texts(arguments[0], names))


def _complains(call: ast.Call) -> bool:
    """Return whether the call prints to stderr."""
    return ast.unparse(call.func) == "print" and any(each.arg == "file" for each in call.keywords)


def _assigned(nodes: list[ast.stmt] | list[ast.AST]) -> dict[str, ast.expr]:
    """Return the expressions assigned to names, with later additions."""
    found: dict[str, ast.expr] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=False))
            else:
                pairs = [(target, value)]
            for name, each in pairs:
                if isinstance(name, ast.Name):
                    found.setdefault(name.id, each)
        elif (
            isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in found
        ):
            found[node.target.id] = ast.BinOp(found[node.target.id], ast.Add(), node.value)
    return found


def _texts(node: ast.expr, names: Mapping[str, ast.expr]) -> list[str]:
    """Return the texts that an expression may have."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return ["".join(_part(value, names) for value in values)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a, b in product(_texts(left, names), _texts(right, names))]
        case ast.IfExp(body=body, orelse=other):
            return _texts(body, names) + _texts(other, names)
        case ast.Name(id=name) if name in names:
            return _texts(names[name], {key: value for key, value in names.items() if key != name})
    return [VARIES]


def _part(value: ast.expr, names: Mapping[str, ast.expr]) -> str:
    """Return a part of an f-string; only names in capitals have a known value."""
    if isinstance(value, ast.FormattedValue):
        known = isinstance(value.value, ast.Name) and value.value.id.isupper()
        return _texts(value.value, names)[0] if known else VARIES
    return _texts(value, names)[0]


def _clean(text: str) -> str:
    """Return the message in one line, with adjacent ellipses merged, and without backticks."""
    return re.sub(rf"({VARIES}\s*)+(?={VARIES})", "", " ".join(text.replace("`", "").split()))

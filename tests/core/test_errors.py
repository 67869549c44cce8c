"""All errors of the functions are one tree, which errors.py draws."""

import ast
import builtins
import re

from dropcap import errors
from dropcap.describing.response import NotDescribed
from dropcap.errors import DropcapError, Rejected, SchemaError, SettingsError, TransientError
from tests.support.app import ROOT

LEAF = re.compile(r"[├└]── (\w+)")


def error_classes() -> dict[str, set[str]]:
    """Return the base classes of each exception class in functions/, by its name."""
    classes = {
        node.name: {ast.unparse(base) for base in node.bases}
        for path in (ROOT / "functions" / "dropcap").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    found = {name for name, value in vars(builtins).items() if isinstance(value, type(Exception))}
    found = {name for name in found if issubclass(getattr(builtins, name), BaseException)}
    while more := {name for name, bases in classes.items() if bases & found} - found:
        found |= more
    return {name: classes[name] for name in found & set(classes)}


def test_every_error_is_a_dropcap_error_and_is_drawn() -> None:
    bases = error_classes()
    below = {"DropcapError"}
    while more := {name for name in bases if bases[name] & below} - below:
        below |= more
    assert below == set(bases)
    permanent, _, transient = (errors.__doc__ or "").partition("── TransientError")
    drawn = {"DropcapError": LEAF.findall(permanent), "TransientError": LEAF.findall(transient)}
    defined = {base: sorted(name for name in bases if base in bases[name]) for base in drawn}
    defined["DropcapError"].remove("TransientError")
    assert {base: sorted(names) for base, names in drawn.items()} == defined


def test_an_error_says_whether_a_retry_may_succeed() -> None:
    permanent = (DropcapError, Rejected, SettingsError, SchemaError)
    assert [kind.retryable for kind in (*permanent, TransientError)] == [False] * 4 + [True]


def test_a_picture_that_gemini_blocks_is_not_retried() -> None:
    assert NotDescribed("no answer").retryable
    assert not NotDescribed("blocked", retryable=False).retryable

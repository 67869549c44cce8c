"""The mutations of `python -m tests.mutation`: faults in Python and in SQL, each of which is still Python."""

import ast

import pytest

from infra import ROOT
from tests.mutation.__main__ import TESTS
from tests.mutation.operators import edits


@pytest.mark.parametrize("module", TESTS)
def test_every_mutant_of_a_module_compiles_and_differs_and_its_tests_exist(module: str) -> None:
    source = (ROOT / f"functions/dropcap/{module}.py").read_text()
    mutants = [edit.apply(source) for edit in edits(source)]
    assert len(mutants) > 20
    assert len({source, *mutants}) == len(mutants) + 1
    for mutant in mutants:
        ast.parse(mutant)
    assert all((ROOT / test).is_file() for test in TESTS[module])


@pytest.mark.parametrize(
    ("code", "mutants"),
    [
        ("a < b and not c", ["a <= b and not c", "a < b or not c", "a < b and c"]),
        ("x = [n for n in m if n]", ["x = [n for n in m if True]"]),
        ('"WHERE a = :a OR b IS NULL"', ['"WHERE FALSE OR b IS NULL"', '"WHERE a = :a OR FALSE"']),
        ('"SELECT x WHERE y <= now()"', ['"SELECT x WHERE y < now()"', '"SELECT x WHERE TRUE"']),
        ('"SELECT max(x) ORDER BY y DESC LIMIT 1"', ['"SELECT max(x) ORDER BY y LIMIT 1"']),
        ('"UPDATE t SET a = 1, b = 2 WHERE c"', ['"UPDATE t SET  b = 2 WHERE c"']),
        ('"INSERT ON CONFLICT (a) DO UPDATE SET b = 1"', ['"INSERT ON CONFLICT (a) DO NOTHING"']),
        ('"SELECT coalesce((SELECT a), 0)"', ['"SELECT (SELECT a)"']),
        ("f\"WHERE {a} AND b = 'x AND y'\"", ["f\"WHERE TRUE AND b = 'x AND y'\"", 'f"WHERE {a} AND TRUE"']),
    ],
)
def test_conditions_bounds_orders_and_defaults_are_mutated(code: str, mutants: list[str]) -> None:
    source = f"value = {code}\n" if "=" not in code.partition('"')[0] else f"{code}\n"
    made = {edit.apply(source) for edit in edits(source)}
    expected = {source.replace(code, mutant) for mutant in mutants}
    assert expected <= made, sorted(made)


def test_plain_text_is_not_mutated() -> None:
    assert edits('"""Docstring: a or b."""\nx = "and now 3 < 4"\n') == []

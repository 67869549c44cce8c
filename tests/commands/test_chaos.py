# ruff: noqa: S608  the SQL is made of this file's own words
"""Short runs of `make chaos` and `make soak`; the checks find violations, and the proxy injects faults."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest
import requests

from dropcap.database.connection import connect
from dropcap.describing import moderation
from infra.local.gemini.server import GeminiStandIn
from tests.chaos import __main__ as chaos
from tests.chaos import foreign_tables, schemas, soak
from tests.chaos.invariants import Violation, tally, violations
from tests.chaos.machine import rules
from tests.chaos.proxy import Fault, Proxy
from tests.chaos.soak import Rest, grown
from tests.chaos.world import LEASE_S, Function, Sent, World

SHORT = (
    *("--points", "2", "--kills", "2", "--uploads", "8", "--faults", "1", "--seed", "7"),
    *("--restarted", "20", "--pause", "0.3", "1"),
)


SCENARIOS = (
    "killed, archived",
    "killed, copies",
    "killed, held",
    "killed, at random",
    "delivered often",
    "taken over, picture",
    "taken over, unsafe",
    "overwritten, copies",
    "faults of PostgreSQL",
    "faults of Gemini",
    "faults towards Cloud Storage",
    "PostgreSQL restarted",
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_invariants_hold(tmp_path: Path, scenario: str) -> None:
    kept(scenario, tmp_path)


def test_the_state_machine_finds_no_violation(tmp_path: Path) -> None:
    words = ["--only", "state machine", "--steps", "100", "--seed", "7", "--build", str(tmp_path)]
    assert chaos.main(words) == 0
    [scene] = json.loads((tmp_path / "chaos.json").read_text())["scenarios"]
    assert scene["steps"] >= 100
    assert scene["deliveries"] > scene["uploads"] > 0


def test_a_violation_is_reported_with_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def violated(machine: rules.Machine, at_rest: bool = False) -> None:
        raise AssertionError("a violation")

    monkeypatch.setattr(rules.Machine, "_check", violated)
    assert chaos.main(["--only", "state machine", "--steps", "50", "--build", str(tmp_path)]) == 1
    [reason] = json.loads((tmp_path / "chaos.json").read_text())["reasons"]
    assert "a violation" in reason
    assert "state = Machine()" in reason


def kept(scenario: str, folder: Path) -> dict[str, Any]:
    """Return the report of a scenario, in a short run without violations."""
    assert chaos.main([*SHORT, "--only", scenario, "--build", str(folder)]) == 0
    report = json.loads((folder / "chaos.json").read_text())
    assert (report["kept"], report["reasons"], report["asked"]["seed"]) == (True, [], 7)
    [scene] = report["scenarios"]
    assert scene["looks"] > 0
    assert scene["deliveries"] >= scene["uploads"] > 0
    assert scene["kills"] == (2 if scenario.startswith("killed") else 0)
    return dict(scene)


SCHEMAS = [("schema damaged", "30"), ("schema, foreign", "5"), ("schema, cold starts", "6")]


@pytest.mark.parametrize(("scenario", "number"), SCHEMAS)
def test_schemas_are_repaired_or_refused_foreign_tables_untouched_and_ddl_runs_once(
    tmp_path: Path, scenario: str, number: str
) -> None:
    words = ["--damages", number, "--foreign", number, "--starts", number, "--seed", "7"]
    assert chaos.main(["--only", scenario, *words, "--build", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "chaos.json").read_text())["scenarios"][0]
    assert scenario != "schema damaged" or (report["repaired"] > 10 and report["refused"] > 10)
    assert scenario != "schema, foreign" or report["databases"] == 5


TOUCHES = {
    "a row": "UPDATE app.documents SET body = body",
    "emptied": "TRUNCATE app.documents",
    "a constraint": "ALTER TABLE app.documents ALTER body DROP NOT NULL",
    "a table": "CREATE TABLE app.uploads (n integer)",
    "a right": "GRANT SELECT ON app.documents TO PUBLIC",
    "a comment": "COMMENT ON TABLE app.documents IS 'x'",
    "a sequence": "SELECT nextval('app.documents_id_seq')",
    "another file": "CLUSTER app.documents USING documents_pkey",
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_every_change_of_a_foreign_table_is_found(empty_database: str, touch: str) -> None:
    with closing(connect(empty_database)) as outside:
        outside.run(
            "CREATE SCHEMA app; CREATE TABLE app.documents (id serial PRIMARY KEY, body text NOT NULL)"
        )
        outside.run("INSERT INTO app.documents (body) VALUES ('x')")
        before = foreign_tables.snapshot(outside)
        outside.run("SELECT * FROM app.documents; ANALYZE app.documents; CREATE SCHEMA dropcap")
        assert foreign_tables.changed(before, foreign_tables.snapshot(outside)) == []
        outside.run(touch)
        assert foreign_tables.changed(before, foreign_tables.snapshot(outside))


def test_lost_rows_and_unclear_refusals_are_found() -> None:
    rows = {"a": [{"n": 1, "word": "x"}]}
    assert not schemas._lost(rows, {"a": [{"n": "1", "word": "x", "more": 2}]})
    assert "lost" in schemas._lost(rows, {"a": [{"n": 2, "word": "x"}]})
    assert "0" in schemas._lost(rows, {"a": []})
    assert "changed" in schemas._lost(rows, {"a": [{"n": 1}]}, exactly=True)
    assert schemas._unclear("Something is wrong.")
    assert not schemas._unclear("Column public.uploads.id is missing; it should be there: id uuid.")


def test_invariants_hold_and_a_seed_repeats_the_run(tmp_path: Path) -> None:
    points = [kept("killed, no picture", tmp_path / run)["points"] for run in ("first", "again")]
    assert points[0] == points[1]
    assert len(points[0]) == 2


def test_a_soak_finds_no_growth(tmp_path: Path) -> None:
    soak.main(["--uploads", "24", "--largest", "0.2", "--build", str(tmp_path)])
    report = json.loads((tmp_path / "soak.json").read_text())
    [scene] = report["scenarios"]
    assert (scene["uploads"], scene["connections"], len(scene["rests"])) == (24, 1, 24)
    assert 50 < scene["rests"][-1]["rss_mb"] < 400
    # What so few cost depends on what else the machine does: `make soak` judges that, over 2,000.
    noisy = ("soak: resident set", "soak: seconds")
    assert not [reason for reason in report["reasons"] if not reason.startswith(noisy)]


def test_what_grows_is_named() -> None:
    flat = [Rest(0.1, 150.0, 5, 20, 0)] * 300
    assert grown(flat, 100) == []
    last = flat[:200]
    for changed, word in (
        ({"rss_mb": 154.0}, "resident set"),
        ({"seconds": 0.16}, "seconds"),
        ({"threads": 7}, "threads"),
        ({"files": 21}, "open files"),
        ({"left": 1}, "temporary folder"),
    ):
        [reason] = grown(last + [replace(flat[0], **changed)] * 100, 100)
        assert word in reason


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("chaos"), 0, {"LAYOUT": "beside"}) as made:
        yield made


@pytest.fixture(scope="module")
def function(world: World) -> Iterator[Function]:
    with world.function("function") as instance:
        yield instance


@pytest.fixture
def sent(world: World, function: Function) -> Sent:
    """An upload that is done, the only one there is."""
    world.sent.clear()
    run(world, "TRUNCATE uploads, analyses, achievements, progress_totals")
    for blob in world.client.list_blobs(world.buckets[1]):
        blob.delete()
    upload = world.upload()
    assert world.deliver(function, upload) == "answered"
    assert violations(world, at_rest=True) == []
    return upload


def run(world: World, sql: str) -> None:
    with world.connected() as connection:
        connection.run(sql)


def put(world: World, bucket: int, name: str, data: bytes = b"x") -> None:
    world.client.bucket(world.buckets[bucket]).blob(name).upload_from_string(data)


def delete(world: World, bucket: int, name: str) -> None:
    world.client.bucket(world.buckets[bucket]).blob(name).delete()


def copied(columns: str) -> str:
    names = "user_id, analyzed_at, caption, result"
    return f"INSERT INTO analyses (id, {names}) SELECT gen_random_uuid(), {columns or names} FROM analyses"


def copy_of(sent: Sent) -> str:
    return f"{sent.upload.name.removesuffix('.png')}_48.webp"


Harm = Callable[[World, Sent], None]
HARM: dict[str, tuple[str, Harm]] = {
    "its result is deleted": ("lost", lambda w, s: run(w, "DELETE FROM analyses")),
    "a picture is deleted": ("lost", lambda w, s: delete(w, 1, f"{s.id}/48.webp")),
    "a picture is overwritten": ("lost", lambda w, s: put(w, 1, f"{s.id}/48.webp")),
    "a copy is deleted": ("lost", lambda w, s: delete(w, 1, copy_of(s))),
    "a copy is overwritten": ("wrong one", lambda w, s: put(w, 1, copy_of(s))),
    "a copy of nothing": ("twice", lambda w, s: put(w, 1, "ana/other_48.webp")),
    "a second analysis": ("twice", lambda w, s: run(w, copied(""))),
    "an analysis of nothing": (
        "twice",
        lambda w, s: run(w, copied("user_id, now(), '', '{}'")),
    ),
    "an achievement that was not earned": (
        "twice",
        lambda w, s: run(w, "INSERT INTO achievements VALUES ('ana', 'ten_pictures')"),
    ),
    "a picture too many": ("twice", lambda w, s: put(w, 1, f"{s.id}/49.webp")),
    "credited with another picture": (
        "wrong one",
        lambda w, s: run(w, "UPDATE analyses SET result = jsonb_set(result, '{picture,width}', '1')"),
    ),
    "other bytes in quarantine": ("wrong one", lambda w, s: put(w, 2, f"{s.id}/{s.upload.name}")),
    "taken for gone": ("wrong one", lambda w, s: run(w, "UPDATE uploads SET reason_code = 'gone'")),
    "an outcome without its event": ("lost", lambda w, s: run(w, "DELETE FROM events")),
    "a rejection without its event": (
        "lost",
        lambda w, s: run(w, f"UPDATE uploads SET reason_code = '{moderation.UNSAFE}'"),
    ),
    "an event of another outcome": (
        "twice",
        lambda w, s: run(w, "INSERT INTO events SELECT upload_id, 'rejected', id FROM events"),
    ),
    "a receipt that was not completed": (
        "not healed",
        lambda w, s: run(w, "UPDATE receipts SET source_fate = ''"),
    ),
    "never finished": ("not healed", lambda w, s: run(w, "UPDATE uploads SET state = 'recorded'")),
    "never recorded": ("not healed", lambda w, s: run(w, "DELETE FROM uploads")),
}


@pytest.mark.parametrize(("invariant", "harm"), HARM.values(), ids=HARM)
def test_a_violated_invariant_is_found(world: World, sent: Sent, invariant: str, harm: Harm) -> None:
    harm(world, sent)
    assert tally(violations(world, at_rest=True))[invariant] > 0


def test_what_is_published_of_a_rejected_upload_is_not_healed(
    world: World, function: Function, sent: Sent
) -> None:
    text = world.upload(bad=True)
    assert world.deliver(function, text) == "answered"
    assert violations(world, at_rest=True) == []
    put(world, 1, f"{text.id}/48.webp")
    assert [each.invariant for each in violations(world, at_rest=True)] == ["not healed"]


def test_a_source_deleted_by_hand_is_lost(world: World, sent: Sent) -> None:
    other = world.upload()
    assert violations(world) == []
    delete(world, 0, other.upload.name)
    assert [each.invariant for each in violations(world)] == ["lost"]


def test_a_newer_upload_that_is_deleted_is_lost_and_a_source_that_stays_is_not_healed(
    world: World, function: Function, sent: Sent
) -> None:
    newer = world.upload(over=sent)
    assert violations(world) == []
    assert [each.invariant for each in violations(world, at_rest=True)] == ["not healed"]
    delete(world, 0, newer.upload.name)
    assert Violation("lost", str(newer), violations(world)[0].why) in violations(world)


def test_the_picture_of_another_upload_of_the_name_is_the_wrong_one(
    world: World, function: Function, sent: Sent
) -> None:
    newer = world.upload(over=sent)
    assert world.deliver(function, newer) == "answered"
    assert violations(world, at_rest=True) == []
    newer.colour = sent.colour
    assert [each.invariant for each in violations(world, at_rest=True)] == ["wrong one"]


def test_a_point_at_which_it_should_die_is_reached_once(world: World, function: Function, sent: Sent) -> None:
    function.order(9, "record > Analyses.record > COMMIT, before")
    upload = world.upload()
    assert world.deliver(function, upload) == "broken off"
    assert function.called_off()
    assert world.deliver(function, upload) == "busy"
    world.later(LEASE_S)
    assert world.deliver(function, upload) == "answered"
    assert violations(world, at_rest=True) == []


class Echo(StreamRequestHandler):
    """Says each line again, in capitals."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    ThreadingTCPServer.daemon_threads = True
    with ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with Proxy(server.server_address[1]) as running:
            yield running
        server.shutdown()


def ask(talk: socket.socket, line: bytes = b"hello\n") -> bytes:
    talk.sendall(line)
    answer = b""
    while not answer.endswith(b"\n") and (more := talk.recv(100)):
        answer += more
    return answer


@pytest.fixture
def talk(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as connection:
        yield connection


def test_without_a_fault_the_proxy_passes_everything_and_counts_turns(
    proxy: Proxy, talk: socket.socket
) -> None:
    assert [ask(talk), ask(talk)] == [b"HELLO\n", b"HELLO\n"]
    assert proxy.turns == 2


@pytest.mark.parametrize("kind", ["refuse", "lose"])
def test_a_reset_strikes_the_turn_it_is_meant_for(proxy: Proxy, talk: socket.socket, kind: str) -> None:
    proxy.set(Fault(kind, first=1, times=1))
    assert ask(talk) == b"HELLO\n"
    with pytest.raises(ConnectionResetError):
        ask(talk)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as another:
        assert ask(another) == b"HELLO\n"


def test_half_open_is_silence(proxy: Proxy, talk: socket.socket) -> None:
    proxy.set(Fault("half-open"))
    with pytest.raises(TimeoutError):
        ask(talk)


def test_a_cut_ends_within_the_answer(proxy: Proxy, talk: socket.socket) -> None:
    proxy.set(Fault("cut"))
    assert ask(talk) == b"HEL"


@pytest.mark.parametrize("fault", [Fault("latency", seconds=0.1), Fault("drip", seconds=0.02)])
def test_slow_is_slow_and_nothing_else(proxy: Proxy, talk: socket.socket, fault: Fault) -> None:
    proxy.set(fault)
    began = time.monotonic()
    assert ask(talk) == b"HELLO\n"
    assert time.monotonic() - began >= 0.1


def test_a_status_answers_in_place_of_the_server() -> None:
    with GeminiStandIn() as gemini, Proxy(int(gemini.url.rpartition(":")[2])) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/_calls"
        proxy.set(Fault("status", times=1, status=429))
        assert requests.post(url, data=b"x" * 100_000, timeout=5).status_code == 429
        assert requests.get(url, timeout=5).status_code == 200

"""Each log line that comes of a request says of which, and of which upload, in any thread, by any package."""

import json
import logging
import re
import warnings
from concurrent.futures import Future
from typing import Any

import pytest

from dropcap import errors, logs
from dropcap.runtime import timeouts
from dropcap.storage.buckets import Buckets
from tests.support.app import EVENT, ROOT, Start, event_of, rows, small_png
from tests.support.describing import redescribe
from tests.support.messages import log_events

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "projects/dropcap/traces/0af7651916cd43dd8448eb211c80319c"
LOGGER = logging.getLogger("dropcap.test")
RETRIED = {"SIZES": "200", "GEMINI_ATTEMPTS": "2", "GEMINI_MODEL": "fault-empty"}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_every_line_of_a_delivery_has_its_trace_and_upload(
    start: Start, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.captureWarnings(False)  # as in a new process: pytest has undone what an earlier test's start did
    app = start(**RETRIED)
    upload = app.upload("ana/a.png", small_png())
    publish = Buckets.publish

    def with_a_package_that_warns(self: Buckets, *arguments: Any) -> Any:
        self.ask(lambda **_: logging.getLogger("urllib3").warning("Retrying https://a/?key=%s", "secret"))
        self.ask(lambda **_: warnings.warn("Odd tags", UserWarning, stacklevel=1))
        return publish(self, *arguments)

    monkeypatch.setattr(Buckets, "publish", with_a_package_that_warns)
    capfd.readouterr()
    answer = app.on_upload.post("/", data=event_of(upload), headers=EVENT | {"traceparent": PARENT})
    assert answer.status_code == 200
    written = lines(capfd.readouterr().out)
    assert {line.get("logging.googleapis.com/trace") for line in written} == {TRACE}
    assert {line.get("upload") for line in written} == {str(upload.id)}
    messages = [line["message"] for line in written]
    assert "Gemini's answer is empty" in messages  # the first try
    assert "not described by Gemini" in messages
    [sources] = [line["sources"] for line in written if line["message"] == "analyzed"]
    assert (sources["blip"]["answered"], sources["gemini"]["answered"]) == (True, False)
    assert sources["blip"].keys() >= {"model", "version"}
    assert "Gemini" in sources["gemini"]["problem"]
    [odd] = [line for line in written if line.get("logger") == "py.warnings"]
    assert "UserWarning: Odd tags" in odd["message"]
    [warned] = [line for line in written if line.get("logger") == "urllib3"]
    assert (warned["severity"], warned["message"]) == ("WARNING", "Retrying https://a/?...")

    capfd.readouterr()
    app = app.restarted(GEMINI_MODEL="fault-503")
    redescribe(app, mark=True)
    capfd.readouterr()
    app.sweep.post("/", headers={"traceparent": PARENT})
    written = lines(capfd.readouterr().out)
    assert {line.get("logging.googleapis.com/trace") for line in written} == {TRACE}
    assert [line["upload"] for line in written if "attempt" in line] == [str(upload.id)]
    assert "upload" not in written[-1]  # the sweep's own
    assert rows("SELECT count(*) FROM analyses") == [[1]]


def test_what_a_function_raises_is_one_structured_line_with_its_trace(
    start: Start, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**RETRIED)
    upload = app.upload("ana/a.png", small_png())

    def broken(*_: object) -> None:
        raise OSError("a disk that is full at https://a/?key=secret")

    monkeypatch.setattr(Buckets, "publish", broken)
    capfd.readouterr()
    answer = app.on_upload.post("/", data=event_of(upload), headers=EVENT | {"traceparent": PARENT})
    assert answer.status_code == 500
    printed = capfd.readouterr()
    [raised] = [line for line in lines(printed.out) if line["severity"] == "ERROR"]
    assert raised["logging.googleapis.com/trace"] == TRACE
    assert "OSError: a disk that is full at https://a/?..." in raised["stack_trace"]
    assert "Traceback" not in printed.err


def test_a_thread_has_a_copy_of_the_context_and_none_of_the_next_request(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logs.bind_upload("first"):
        begun: Future[None] = timeouts.submit(lambda: LOGGER.info("one"), "test")
        begun.result()
        timeouts.run_with_timeout(5, lambda: LOGGER.info("two"))
    LOGGER.info("three")
    assert [line.get("upload") for line in lines(capfd.readouterr().out)] == ["first", "first", None]


def test_no_other_module_starts_threads() -> None:
    starts = re.compile(r"\b(Thread|Timer|ThreadPoolExecutor|start_new_thread|to_thread)\(")
    found = {path.name for path in (ROOT / "functions").rglob("*.py") if starts.search(path.read_text())}
    assert found == {"timeouts.py"}


def test_a_cause_that_an_error_was_raised_without_is_in_no_log() -> None:
    def raised() -> None:
        try:
            try:
                raise RuntimeError("key=secret")
            except RuntimeError:
                raise LookupError("refused") from None
        except LookupError as refused:
            raise ValueError("wrong") from refused

    with pytest.raises(ValueError, match="wrong") as wrong:
        raised()
    assert errors.cause(wrong.value) == "LookupError: refused"


def test_every_log_line_has_an_event_id_in_snake_case() -> None:
    found = log_events()
    assert {"picture_analyzed", "memory_above_warning", "event_type_ignored"} <= set(found)
    assert [where for event, where in found.items() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", event)] == []


FOUND = {"found": [1]}


def test_the_fields_of_a_line_and_which_win(capsys: pytest.CaptureFixture[str]) -> None:
    logs.bind_trace("")
    with logs.bind_upload("bound"):
        LOGGER.warning("100 %", extra={"event": "test_event", "upload": "own", **FOUND})
        logging.getLogger("package").warning("its own", extra={"upload": "a package's"})
    ours, theirs = lines(capsys.readouterr().out)
    own = {"event": "test_event", "message": "100 %", "upload": "own", **FOUND}
    assert ours == {"severity": "WARNING", **own}
    assert theirs == {"severity": "WARNING", "message": "its own", "upload": "bound", "logger": "package"}

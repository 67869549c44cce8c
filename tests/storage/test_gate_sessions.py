"""Resumable uploads through the gate work as with Cloud Storage, also from a browser."""

import os
import socket
from collections.abc import Callable
from urllib.parse import quote, urlsplit

import pytest
import requests
from google.api_core.exceptions import PreconditionFailed
from google.cloud.storage import Blob, Client

from infra.local.storage.preconditions import Expected, Refused
from infra.local.storage.server import Storage
from infra.local.storage.sessions import MOST, QUANTUM, Session, Sessions
from tests.support.events import WAIT_S, WATCHED, Functions, client_of

PAGE = "http://localhost:8080"
DATA = os.urandom(3 * QUANTUM + 5)


@pytest.fixture(scope="module")
def client(watched_storage: Storage) -> Client:
    return client_of(watched_storage)


@pytest.fixture
def blob(client: Client, request: pytest.FixtureRequest) -> Blob:
    """An object that does not exist yet."""
    return client.bucket(WATCHED).blob(f"{request.node.name}/é picture.jpg")


@pytest.fixture
def session(blob: Blob) -> str:
    """The address of a session for all of DATA, started by the real client for pages of PAGE."""
    return begin(blob)


def begin(blob: Blob, size: int | None = len(DATA)) -> str:
    blob.metadata = {"tz": "Europe/Madrid"}
    return str(blob.create_resumable_upload_session("image/jpeg", size, PAGE, if_generation_match=0))


def put(session: str, data: bytes = b"", range_: str = "", origin: str = PAGE) -> requests.Response:
    """Send data as a page of this origin does."""
    headers = {"Origin": origin} | ({"Content-Range": f"bytes {range_}"} if range_ else {})
    return requests.put(session, data, headers=headers, timeout=WAIT_S)


def kept(answer: requests.Response) -> str:
    assert answer.status_code == 308
    return answer.headers.get("Range", "")


def test_one_request_makes_one_object_and_event(blob: Blob, session: str, functions: Functions) -> None:
    answer = put(session, DATA)
    [(_, event)] = functions.events(blob.name)
    blob.reload()
    assert (answer.status_code, answer.json()["generation"]) == (200, str(blob.generation))
    assert (event["generation"], event["contentType"]) == (str(blob.generation), "image/jpeg")
    assert event["metadata"] == {"tz": "Europe/Madrid"}
    assert blob.download_as_bytes() == DATA


def test_parts_make_one_object_and_one_event(blob: Blob, session: str, functions: Functions) -> None:
    for at in range(0, len(DATA), QUANTUM):
        assert not blob.exists()
        part = DATA[at : at + QUANTUM]
        answer = put(session, part, f"{at}-{at + len(part) - 1}/{len(DATA)}")
    assert answer.status_code == 200
    assert blob.download_as_bytes() == DATA
    functions.events(blob.name)
    assert (
        put(session, b"", f"*/{len(DATA)}").json() == answer.json()
    )  # if the answer was lost, it can be asked for again
    other = f"{blob.name} afterwards"
    put(begin(blob.bucket.blob(other)), DATA)
    functions.events(other)
    assert len(functions.events(blob.name)) == 1


def test_a_status_request_returns_the_bytes_received_and_ends_nothing(blob: Blob, session: str) -> None:
    assert kept(put(session, b"", f"*/{len(DATA)}")) == ""
    assert kept(put(session, DATA[:QUANTUM], f"0-{QUANTUM - 1}/{len(DATA)}")) == f"bytes=0-{QUANTUM - 1}"
    assert kept(put(session, b"", f"*/{len(DATA)}")) == f"bytes=0-{QUANTUM - 1}"
    assert kept(put(session, b"", "*/*")) == f"bytes=0-{QUANTUM - 1}"
    assert not blob.exists()


def test_an_upload_continues_after_a_broken_connection(blob: Blob, session: str) -> None:
    address = urlsplit(session)
    with socket.create_connection((str(address.hostname), address.port or 80)) as connection:
        head = f"PUT {address.path}?{address.query} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        head += f"Content-Length: {len(DATA)}\r\n\r\n"
        connection.sendall(head.encode() + DATA[: QUANTUM + 100])
    assert kept(put(session, b"", f"*/{len(DATA)}")) == f"bytes=0-{QUANTUM - 1}"
    rest = put(session, DATA[QUANTUM:], f"{QUANTUM}-{len(DATA) - 1}/{len(DATA)}")
    assert rest.status_code == 200
    assert blob.download_as_bytes() == DATA


def test_bytes_that_were_received_already_are_ignored(blob: Blob, session: str) -> None:
    put(session, DATA[:QUANTUM], f"0-{QUANTUM - 1}/{len(DATA)}")
    assert put(session, DATA).status_code == 200
    assert blob.download_as_bytes() == DATA


def test_the_size_may_be_sent_with_the_last_part(blob: Blob) -> None:
    session = begin(blob, None)
    assert kept(put(session, DATA[:QUANTUM], f"0-{QUANTUM - 1}/*")) == f"bytes=0-{QUANTUM - 1}"
    assert put(session, b"", f"*/{QUANTUM}").status_code == 200
    assert blob.download_as_bytes() == DATA[:QUANTUM]


@pytest.mark.parametrize(
    ("data", "range_"),
    [
        (DATA + b"x", ""),
        (DATA[:-1], ""),
        (DATA + b"x", f"0-{len(DATA)}/{len(DATA) + 1}"),
        (DATA + b"x", f"0-{len(DATA) - 1}/{len(DATA)}"),
        (DATA[QUANTUM:], f"{QUANTUM}-{len(DATA) - 1}/{len(DATA)}"),
        (b"", f"*/{len(DATA) - 1}"),
        (DATA, "0-5"),
    ],
)
def test_data_that_does_not_match_the_announced_size_is_refused_without_effect(
    blob: Blob, session: str, data: bytes, range_: str
) -> None:
    assert put(session, data, range_).status_code == 400
    assert not blob.exists()
    assert put(session, DATA).status_code == 200
    assert blob.download_as_bytes() == DATA


def test_a_cancelled_upload_leaves_nothing_and_can_not_continue(blob: Blob, session: str) -> None:
    put(session, DATA[:QUANTUM], f"0-{QUANTUM - 1}/{len(DATA)}")
    answer = requests.delete(session, headers={"Origin": PAGE}, timeout=WAIT_S)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (499, PAGE)
    assert put(session, DATA).status_code == 404
    assert not blob.exists()


def test_preconditions_are_checked_again_at_the_end(blob: Blob, session: str) -> None:
    put(begin(blob), DATA)
    assert put(session, DATA).status_code == 412
    with pytest.raises(PreconditionFailed):
        begin(blob)


def ask(session: str) -> requests.Response:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}
    return requests.options(session, headers=headers, timeout=WAIT_S)


@pytest.mark.parametrize(
    "send", [ask, put, lambda session: put(session, b"", "*/*"), lambda session: put(session, DATA)]
)
def test_the_page_that_started_the_session_may_continue_it(
    session: str, send: Callable[[str], requests.Response]
) -> None:
    headers = send(session).headers
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert "Range" in headers["Access-Control-Expose-Headers"].split(", ")


def test_a_preflight_allows_what_a_page_needs(session: str) -> None:
    answer = ask(session)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Methods"] == "PUT, DELETE"
    assert answer.headers["Access-Control-Allow-Headers"] == "Content-Range, Content-Type"


def test_no_page_of_another_origin_may_read_an_answer(session: str) -> None:
    answer = put(session, DATA, origin="http://elsewhere.example")
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE


def test_a_session_started_without_an_origin_is_for_no_page(blob: Blob) -> None:
    session = blob.create_resumable_upload_session("image/jpeg", len(DATA))
    assert "Access-Control-Allow-Origin" not in put(session, DATA).headers


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_objects_have_no_cors_headers_because_no_bucket_has_a_cors_configuration(
    client: Client, blob: Blob, method: str
) -> None:
    blob.upload_from_string(b"1")
    resource = f"storage/v1{blob.path}"
    for path in (resource, f"{resource}?alt=media", f"{WATCHED}/{quote(blob.name)}"):
        url = f"{client.api_endpoint}/{path}"
        answer = requests.request(method, url, headers={"Origin": PAGE}, timeout=WAIT_S)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_above_the_limit_the_oldest_sessions_are_deleted() -> None:
    sessions = Sessions()
    for number in range(MOST + 1):
        sessions.add(str(number), Session(Expected(WATCHED, "a"), PAGE, 1))
    with pytest.raises(Refused):
        sessions.find("0")
    assert sessions.find("1")

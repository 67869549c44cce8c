"""Uploads from a real browser to the bucket: interruptions, cancellations, refusals and polling."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Route, expect

from tests.support.browser.browser import Guest
from tests.support.browser.dropping import (
    SESSIONS,
    SHARED,
    UPLOADS,
    Held,
    cards,
    choose,
    file,
    objects,
    picture,
    ranges,
    requests_of,
    row,
)

MIB = 1024 * 1024
CHUNK = 8 * MIB  # of transfer.js
RETRYING = re.compile(r"Too many requests: retrying at \d\d:\d\d:\d\d")  # of 24 hours, as on the wall


def test_a_cancelled_one_leaves_nothing_behind(visitor: Guest) -> None:
    page = visitor.open()
    held = Held(page)
    choose(page, file("one.png"), file("two.png"), file("three.png"), file("four.png"))
    cancel = row(page, "one.png").get_by_role("button", name="Cancel one.png")
    expect(row(page, "one.png")).to_have_attribute("data-state", "sending")
    row(page, "four.png").get_by_role("button", name="Cancel four.png").click()  # it was waiting
    with page.expect_response(lambda each: each.request.method == "DELETE") as ended:
        cancel.click()
    assert ended.value.status == 499
    visitor.expected.append("499|Failed to load resource")
    expect(page.locator("#uploads li.upload")).to_have_count(2)
    held.go()
    expect(cards(page)).to_have_count(2)
    assert objects(visitor) == []


def test_a_failed_one_is_tried_again_when_asked_to_in_a_session_of_its_own(visitor: Guest) -> None:
    page = visitor.open()
    visitor.expected += ["status of 400", "status of 499"]
    page.route(SESSIONS, lambda route: route.fulfill(status=400, headers=SHARED), times=1)
    begun = requests_of(page, "POST", "/gallery/uploads")
    choose(page, file())
    expect(row(page, "one.png").locator(".state")).to_have_text(
        "Cloud Storage rejected the upload (400). Try again."
    )
    row(page, "one.png").get_by_role("button", name="Try again one.png").click()
    expect(cards(page)).to_have_count(1)
    assert len(begun) == 2


def test_a_session_that_expired_is_begun_anew(visitor: Guest) -> None:
    page = visitor.open()
    visitor.expected.append("status of 410")
    page.route(SESSIONS, lambda route: route.fulfill(status=410, headers=SHARED), times=1)
    choose(page, file())
    expect(cards(page)).to_have_count(1)


def test_a_broken_connection_goes_on_where_it_was_and_sends_no_byte_twice(
    visitor: Guest, tmp_path: Path
) -> None:
    page = visitor.open()
    visitor.expected.append("net::ERR_FAILED")
    size = CHUNK + MIB
    once = [f"bytes {CHUNK}-{size - 1}/{size}"]  # the second chunk, the first time

    def break_once(route: Route) -> None:
        if route.request.headers.get("content-range") in once:
            once.clear()
            route.abort()
        else:
            route.continue_()

    page.route(SESSIONS, break_once)
    puts = requests_of(page, "PUT", "upload_id=")
    (tmp_path / "large.png").write_bytes(picture().ljust(size, b"\0"))
    choose(page, tmp_path / "large.png")
    expect(cards(page)).to_have_count(1)
    second = f"bytes {CHUNK}-{size - 1}/{size}"
    assert ranges(puts) == [f"bytes 0-{CHUNK - 1}/{size}", second, f"bytes */{size}", second]


def test_where_a_page_may_not_read_how_far_it_is_all_is_sent_in_one(visitor: Guest, tmp_path: Path) -> None:
    page = visitor.open()
    size = CHUNK + MIB

    def hide(route: Route) -> None:
        answer = route.fetch(max_redirects=0)
        headers = {name: value for name, value in answer.headers.items() if name != "range"}
        route.fulfill(response=answer, headers=headers)

    page.route(SESSIONS, hide)
    puts = requests_of(page, "PUT", "upload_id=")
    (tmp_path / "large.png").write_bytes(picture().ljust(size, b"\0"))
    choose(page, tmp_path / "large.png")
    expect(cards(page)).to_have_count(1)
    assert ranges(puts)[-1] == f"bytes 0-{size - 1}/{size}"


def test_whoever_sends_too_many_waits_as_long_as_is_asked(visitor: Guest) -> None:
    page = visitor.open()
    visitor.expected.append("status of 429")
    page.clock.install()
    page.route(UPLOADS, lambda route: route.fulfill(status=429, headers={"Retry-After": "600"}), times=1)
    choose(page, file())
    expect(row(page, "one.png").locator(".state")).to_have_text(RETRYING)
    page.clock.fast_forward(599_000)
    expect(row(page, "one.png").locator(".state")).to_have_text(RETRYING)
    page.clock.fast_forward(2_000)
    expect(cards(page)).to_have_count(1)


def test_an_answer_that_breaks_off_is_asked_for_again(visitor: Guest) -> None:
    page = visitor.open()
    page.route(UPLOADS, lambda route: route.fulfill(status=201, body='{"object": "a'), times=1)
    choose(page, file())
    expect(cards(page)).to_have_count(1)


def test_nothing_is_asked_for_when_nothing_is_open(visitor: Guest) -> None:
    page = visitor.page
    page.clock.install()
    visitor.open()
    asked = requests_of(page, "GET", "/gallery/status")
    page.clock.fast_forward(60_000)
    assert not asked
    choose(page, file())
    expect(cards(page)).to_have_count(1)
    page.clock.fast_forward(60_000)
    expect(page.locator("#uploads")).to_be_hidden()
    before = len(asked)
    assert before
    page.clock.fast_forward(60_000)
    page.evaluate("fetch('/gallery/static/icon.svg')")  # what was asked for before is known by now
    assert len(asked) == before


def test_a_page_that_nobody_sees_asks_nothing_and_others_ask_for_all_at_once(visitor: Guest) -> None:
    page = visitor.page
    page.clock.install()
    visitor.open()
    asked = requests_of(page, "GET", "/gallery/status")
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    choose(page, file("one.png"), file("two.png"))
    expect(page.locator("#uploads-sum")).to_have_text("2 processing")
    page.clock.fast_forward(60_000)
    page.evaluate("fetch('/gallery/static/icon.svg')")
    assert not asked
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(cards(page)).to_have_count(2)
    assert asked[0].url.count("upload=") == 2


def test_no_address_gets_longer_than_a_server_takes_and_all_uploads_get_their_turn(visitor: Guest) -> None:
    page = visitor.open()
    page.route(SESSIONS, lambda route: route.fulfill(json={"generation": "1"}, headers=SHARED))  # no object
    asked = requests_of(page, "GET", "/gallery/status")
    choose(page, *(file(f"{number}{'ä' * 75}.png") for number in range(9)))
    expect(page.locator("#uploads-sum")).to_have_text("9 processing")
    requested: set[str] = set()
    while len(requested) < 9:
        with page.expect_request("**/gallery/status?*"):
            pass
        requested |= {name for each in asked for name in parse_qs(urlsplit(each.url).query)["upload"]}
    assert max(len(each.url) for each in asked) < 3500  # gunicorn takes 4,094


def test_who_is_signed_out_finds_the_queue_as_it_was(visitor: Guest) -> None:
    page = visitor.open()
    visitor.expected.append("status of 401")
    page.route(UPLOADS, lambda route: route.fulfill(status=401), times=1)
    choose(page, file())
    expect(page.get_by_role("alert")).to_contain_text("You are signed out")
    expect(page.get_by_role("link", name="Sign in")).to_have_attribute("target", "_blank")
    expect(row(page, "one.png").locator(".state")).to_have_text("Waiting")
    page.evaluate("window.dispatchEvent(new Event('focus'))")  # back from the page that signs in
    expect(cards(page)).to_have_count(1)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_browser_warns_who_leaves_while_pictures_are_sent_and_only_then(visitor: Guest) -> None:
    page = visitor.open()
    held = Held(page)
    choose(page, file())
    expect(row(page, "one.png")).to_have_attribute("data-state", "sending")
    warned = page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    held.go()
    expect(cards(page)).to_have_count(1)
    assert warned
    assert not page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")

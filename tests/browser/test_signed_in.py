"""The gallery behind sign-in, in real browsers, which decide which cookies and headers they send."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from werkzeug.serving import make_server

from dropcap.domain.upload import Upload
from dropcap.gallery.session import ASSERTION, COOKIE
from tests.support.app import App, Start, small_png
from tests.support.browser.axe import check_with_axe
from tests.support.browser.browser import looping
from tests.support.issuer import Issuer


@pytest.fixture
def app(start: Start, issuer: Issuer) -> App:
    return start(**issuer.settings)


@contextmanager
def serving(app: App) -> Iterator[str]:
    """The address of the gallery on a port."""
    server = make_server("127.0.0.1", 0, app.gallery.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def address(app: App, issuer: Issuer) -> Iterator[str]:
    """The gallery on a port, at another site than the sign-in page."""
    with serving(app) as address:
        issuer.redirects = (f"{address}/gallery/sign-in",)
        yield address


def test_a_real_browser_signs_in_and_out_and_does_nothing_for_another_site(
    chromium: Browser, address: str
) -> None:
    with looping(chromium), closing(chromium.new_context(ignore_https_errors=True)) as context:
        page = context.new_page()
        page.goto(f"{address}/gallery/")
        page.get_by_role("link", name="Sign in").click()
        page.get_by_role("button", name="Continue").click()  # at the other site
        page.wait_for_url(f"{address}/gallery/")
        assert page.get_by_role("button", name="Sign out").is_visible()
        assert page.evaluate("document.cookie") == ""
        assert {kept["name"] for kept in context.cookies()} == {COOKIE}

        form = f'<form method="post" action="{address}/gallery/sign-out"><button>Win</button></form>'
        context.route(
            "http://evil.example/", lambda route: route.fulfill(body=form, content_type="text/html")
        )
        page.goto("http://evil.example/")
        page.get_by_role("button", name="Win").click()
        page.get_by_text("This change was not requested by a page of the gallery").wait_for()

        page.goto(f"{address}/gallery/")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("link", name="Sign in").wait_for()
        assert context.cookies() == []


@contextmanager
def signed_in(chromium: Browser, address: str, issuer: Issuer, person: str) -> Iterator[Page]:
    """A person at a browser of their own, who looks at the wall."""
    issuer.person = person
    with closing(chromium.new_context(ignore_https_errors=True)) as context:
        page = context.new_page()
        page.goto(f"{address}/gallery/")
        check_with_axe(page)
        page.get_by_role("link", name="Sign in").click()
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url(f"{address}/gallery/")
        yield page


def test_two_people_drop_pictures_and_see_each_their_own(
    chromium: Browser, address: str, app: App, issuer: Issuer
) -> None:
    with (
        looping(chromium),
        signed_in(chromium, address, issuer, "ana") as ana,
        signed_in(chromium, address, issuer, "bob") as bob,
    ):
        picture = {"name": "mine.png", "mimeType": "image/png", "buffer": small_png()}
        ana.set_input_files("#files", [picture])  # type: ignore[arg-type]
        expect(ana.locator(".upload")).to_contain_text("waiting to be processed")
        [blob] = app.objects(app.uploads).values()
        assert blob.name.startswith("ana/")
        assert app.deliver(Upload(app.uploads, blob.name, int(blob.generation), int(blob.size))) == 200
        expect(ana.locator("#wall .hung img")).to_have_count(1)
        check_with_axe(ana)
        link = ana.locator("#wall .caption a").get_attribute("href")

        bob.reload()
        expect(bob.locator("#wall .hung")).to_have_count(0)
        bob.goto(f"{address}{link}")
        expect(bob.get_by_text("There is no such picture")).to_be_visible()
        ana.goto(f"{address}{link}")
        expect(ana.get_by_role("heading", level=1)).to_be_visible()


class Proxy:
    """A stand-in for Identity-Aware Proxy, which is out of reach, between a browser and the gallery.

    Somebody who has no session is sent to where they sign in, but a script gets 401
    (docs.cloud.google.com/iap/docs/sessions-howto, 2026-11). CLEAR_LOGIN_COOKIE ends the session and goes
    back to the page (query-parameters-and-headers-howto, 2026-11).
    """

    def __init__(self, issuer: Issuer) -> None:
        self.issuer, self.session = issuer, True

    def __call__(self, route: Route) -> None:
        request = route.request
        if "gcp-iap-mode=CLEAR_LOGIN_COOKIE" in request.url:
            self.session = False
        if self.session:
            named = {ASSERTION: self.issuer.assertion("accounts.google.com:1234")}
            route.continue_(headers=request.headers | named)
        elif request.headers.get("x-requested-with") == "XMLHttpRequest":
            route.fulfill(status=401, headers={"X-Goog-IAP-Generated-Response": "true"})
        else:
            route.fulfill(body="Sign in - Google Accounts", content_type="text/html")


def test_behind_identity_aware_proxy_a_picture_is_dropped_and_a_session_that_ended_is_told(
    chromium: Browser, start: Start, issuer: Issuer
) -> None:
    app, proxy = start(**issuer.proxied), Proxy(issuer)
    with serving(app) as address, looping(chromium), closing(chromium.new_context()) as context:
        context.route(f"{address}/**", proxy)
        page = context.new_page()
        page.goto(f"{address}/gallery/")
        check_with_axe(page)
        picture = {"name": "mine.png", "mimeType": "image/png", "buffer": small_png()}
        page.set_input_files("#files", [picture])  # type: ignore[arg-type]
        expect(page.locator(".upload")).to_contain_text("waiting to be processed")
        [blob] = app.objects(app.uploads).values()
        assert blob.name.startswith("1234/")

        proxy.session = False
        page.set_input_files("#files", [picture | {"name": "later.png"}])  # type: ignore[arg-type]
        expect(page.get_by_role("alert")).to_contain_text("You are signed out, so the uploads wait")
        with page.expect_popup() as popup:
            page.get_by_role("link", name="Sign in").click()
        expect(popup.value.get_by_text("Google Accounts")).to_be_visible()
        proxy.session = True
        popup.value.close()
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        expect(page.locator(".upload").nth(1)).to_contain_text("waiting to be processed")
        assert len(app.objects(app.uploads)) == 2
        page.get_by_role("link", name="Sign out").click()
        expect(page.get_by_text("Google Accounts")).to_be_visible()
        assert context.cookies() == []

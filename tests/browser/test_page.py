"""The gallery's pages in a real browser: viewing, searching, copying and editing."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from playwright.sync_api import expect

from dropcap.domain.analysis import NO_KEY, Source
from tests.support.browser.axe import check_with_axe
from tests.support.browser.browser import Guest
from tests.support.browser.wall import acquire, captions, demonstration, hang, numbered, reject

Start = Callable[..., Guest]

# What has moved that nobody touched, from where to where.
SHIFTS = """
shifts = [];
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput, sources } of list.getEntries()) {
    const moved = sources.map((each) => [each.node?.className, each.previousRect, each.currentRect]);
    if (!hadRecentInput) shifts.push([value, ...moved]);
  }
}).observe({ type: "layout-shift", buffered: true });
"""
SLOW = {"offline": False, "latency": 0, "downloadThroughput": 30_000, "uploadThroughput": -1}  # bytes in 1 s
HOSTILE = '"><script>alert(1)</script>](javascript:alert(1)) & `x` *y* <img src=x onerror=alert(1)>'


def test_the_wall_has_the_newest_first_and_goes_on_where_one_scrolls(visitor: Guest) -> None:
    hang(visitor, *numbered(60), published=False)
    page = visitor.open()
    assert captions(page)[:3] == ["picture 0", "picture 1", "picture 2"]
    while page.locator("#wall .hung").count() < 60:
        page.keyboard.press("End")  # again, as a busy browser may end a scroll where the end was before
        page.wait_for_timeout(100)
    assert captions(page) == [f"picture {each}" for each in range(60)]
    expect(page.locator("#next")).to_have_count(0)


def test_older_pictures_that_cant_be_had_just_now_wait_behind_their_link(visitor: Guest) -> None:
    hang(visitor, *numbered(30), published=False)
    visitor.page.route("**/gallery/?*after=*", lambda route: route.fulfill(status=503), times=1)
    visitor.expected.append("status of 503")
    with visitor.page.expect_response(lambda answer: answer.status == 503):
        page = visitor.open()
        page.keyboard.press("End")
    older = page.get_by_role("link", name="Older pictures")
    expect(older).not_to_have_attribute("aria-disabled", "true")
    older.click()
    expect(page.locator("#wall .hung")).to_have_count(30)
    assert page.url == visitor.address()


def test_nothing_on_the_page_moves_while_it_arrives_bit_by_bit_and_while_one_scrolls(visitor: Guest) -> None:
    hang(visitor, *numbered(12))
    page = visitor.open("/progress")  # its stylesheet is the wall's: a part of that could be shown at once
    page.add_init_script(SHIFTS)
    line = page.context.new_cdp_session(page)
    line.send("Network.emulateNetworkConditions", SLOW)
    visitor.open()
    page.wait_for_load_state("networkidle")
    line.send("Network.emulateNetworkConditions", SLOW | {"downloadThroughput": -1})
    image = page.locator("#wall img").first
    assert re.search(r"/image/[0-9a-f-]{36}/(600|200)\?", image.evaluate("each => each.currentSrc"))
    srcset = image.get_attribute("srcset") or ""
    assert [part.split()[1] for part in srcset.split(", ")] == ["600w", "200w"]
    for _ in range(8):
        page.mouse.wheel(0, 300)
    expect(page.locator("#wall img").last).to_be_in_viewport()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("new Promise((tell) => setTimeout(() => tell(shifts), 100))") == []


def test_words_tag_and_day_choose_pictures_and_the_page_says_so(visitor: Guest) -> None:
    hang(
        visitor,
        {"caption": "a butterfly on a white background", "tags": ["insect"]},
        {"caption": "a house on a pink background", "tags": ["building"]},
    )
    page = visitor.open()
    page.get_by_role("link", name="insect").first.click()
    assert captions(page) == ["a butterfly on a white background"]
    page.get_by_role("combobox", name="Tag").select_option("")
    page.get_by_role("searchbox").fill("pinc hous")
    page.get_by_role("button", name="Search").click()
    assert captions(page) == ["a house on a pink background"]
    expect(page.get_by_text("showing results for pink")).to_be_visible()
    page.get_by_text("Filters").click()
    page.get_by_label("To", exact=True).fill("2001-01-01")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No picture matches")).to_be_visible()
    page.get_by_role("link", name="Show all pictures").click()
    assert len(captions(page)) == 2


def test_hostile_words_are_shown_as_they_are(visitor: Guest) -> None:
    [id] = hang(
        visitor,
        {
            "caption": HOSTILE,
            "description": HOSTILE,
            "alt_text": HOSTILE,
            "tags": [HOSTILE],
            "text": HOSTILE,
            "name": HOSTILE.replace("/", ""),
        },
    )
    reject(visitor, HOSTILE.replace("/", ""))
    dialogs: list[str] = []
    visitor.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    for path in ("/", f"/picture/{id}"):
        page = visitor.open(path)
        expect(page.locator(".caption")).to_have_text(HOSTILE)
        assert page.locator("main img").get_attribute("alt") == HOSTILE
        assert not page.locator("[onerror], main script, a[href^='javascript']").count()
    page.locator(".tags a").click()
    assert captions(page) == [HOSTILE]
    assert not dialogs


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_alt_text_markdown_and_html_are_copied_ready_for_another_page(guest: Start) -> None:
    visitor = guest(permissions=["clipboard-read", "clipboard-write"])
    hang(visitor, {"caption": "a cat", "alt_text": HOSTILE})
    page = visitor.open()
    page.get_by_text("More").click()

    def copied(name: str, what: str) -> str:
        page.get_by_role("button", name=name).click()
        expect(page.locator("#announcement")).to_have_text(f"{what} copied.")
        return str(page.evaluate("navigator.clipboard.readText()"))

    assert copied("Copy alt text", "Alt text") == HOSTILE
    [(tag, image)] = _Tags(copied("HTML", "HTML")).found
    base = f"{visitor.site.storage_url}/dropcap-pictures/{visitor.user}"
    assert (tag, image["alt"]) == ("img", HOSTILE)
    assert image["srcset"] == f"{base}/600.webp 600w, {base}/200.webp 200w"
    assert (image["width"], image["height"]) == ("600", "400")
    rendered = _Tags(MarkdownIt().render(copied("Markdown", "Markdown"))).found
    assert rendered == [("p", {}), ("img", {"src": f"{base}/600.webp", "alt": HOSTILE})]


def test_a_demonstration_says_that_it_is_one_beside_each_of_its_captions(visitor: Guest) -> None:
    [_, id] = hang(visitor, {"caption": "a cat"}, demonstration("a dog"))
    page = visitor.open()
    expect(page.locator("#demonstration")).to_have_text("demonstration: make model helps")
    expect(page.locator("#demonstration code")).to_have_text("make model")
    expect(page.locator(".demo")).to_have_count(1)
    expect(page.locator(f"#p-{id} .demo")).to_have_text("Demonstration caption")
    page = visitor.open(f"/picture/{id}")
    expect(page.locator("#demonstration")).to_be_visible()
    expect(page.locator(".sheet")).to_be_hidden()
    page.get_by_text("Details").click()
    expect(page.locator(".sheet")).to_contain_text("scenes 1, confidence \N{MINUS SIGN}0.25")
    page.get_by_role("link", name="write your own").click()  # it opens the form
    page.get_by_label("Alt text").fill("A dog on a beach")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".snippet pre").first).to_have_text("A dog on a beach")


def test_without_a_key_one_banner_says_so_and_nothing_else_does(visitor: Guest) -> None:
    unconnected = {"result": {"sources": {"gemini": asdict(Source(False, "gemini", problem=NO_KEY))}}}
    [_, id, _] = hang(
        visitor, demonstration("a dog"), {"caption": "a cat"} | unconnected, {"caption": "a cow"}
    )
    page = visitor.open()
    expect(page.locator("#unconnected")).to_have_count(0)  # it is connected now
    hang(visitor, {"caption": "a fox", "ago": -1} | unconnected)
    page = visitor.open()
    expect(page.locator(".setup")).to_have_count(1)
    expect(page.locator(".setup")).to_contain_text("Gemini is not connected")
    expect(page.locator(".setup")).to_contain_text("demonstration: make model helps")
    expect(page.locator(".hung .description")).to_have_count(0)
    check_with_axe(page)
    page = visitor.open(f"/picture/{id}")
    expect(page.get_by_text("agree")).to_have_count(0)
    expect(page.locator("main .description")).to_have_count(0)


def test_what_was_in_work_when_the_page_was_opened_becomes_a_card_on_it(visitor: Guest) -> None:
    hang(visitor, {"caption": "an older one"})
    upload = acquire(visitor, "b.jpg", "resize")
    page = visitor.open()
    expect(page.locator(".working")).to_contain_text("resize since")
    acquire(visitor, "b.jpg", "publish", upload)
    expect(page.locator(".working")).to_contain_text("publish since")
    hang(visitor, {"id": upload, "caption": "a later one"})
    expect(page.locator("#wall .hung")).to_have_count(2)
    assert captions(page) == ["a later one", "an older one"]
    expect(page.locator(".waiting")).to_have_count(0)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url == page.url else None)
    page.wait_for_timeout(1500)  # more than a first wait: nothing is left to ask after
    assert asked == []


def test_a_rejected_upload_says_why_and_what_to_do_and_can_be_deleted(visitor: Guest) -> None:
    reject(visitor, "notes.pdf")
    page = visitor.open()
    expect(page.locator(".rejected")).to_contain_text("not supported. Save it as JPEG.")
    page.get_by_role("link", name="notes.pdf").click()
    page.get_by_text("Delete this upload").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator(".rejected")).to_have_count(0)


def test_progress_shows_the_year_what_is_earned_and_what_is_next(visitor: Guest) -> None:
    hang(visitor, *numbered(12), published=False)
    page = visitor.open("/progress")
    expect(page.get_by_role("heading", name="12 pictures on 1 day of the last year")).to_be_visible()
    assert page.locator(".calendar rect:not(.l0)").count() == 1
    page.get_by_text("List the days").click()
    expect(page.locator(".days li")).to_have_text(re.compile(r"\d{4}: 12"))
    expect(page.locator(".medals li").filter(has_text="Ten pictures")).to_be_visible()
    assert page.get_by_label("Hundred pictures").get_attribute("value") == "12"
    expect(page.get_by_role("region", name="Memory of your latest pictures")).to_contain_text("411")

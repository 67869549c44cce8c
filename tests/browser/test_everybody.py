"""The gallery works without a mouse, without JavaScript, on a phone, and with a screen reader."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.support.browser.axe import check_with_axe
from tests.support.browser.browser import Guest
from tests.support.browser.wall import captions, demonstration, hang, numbered, reject

Start = Callable[..., Guest]

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_all_but_dropping_works_without_javascript(guest: Start) -> None:
    visitor = guest(java_script_enabled=False)
    hang(visitor, *numbered(30), published=False)
    page = visitor.open()
    expect(page.locator(".drop .note")).to_contain_text("Dropping needs JavaScript")
    expect(page.get_by_text("Choose pictures")).to_be_hidden()
    page.get_by_role("link", name="Older pictures").click()
    assert captions(page) == [f"picture {each}" for each in range(24, 30)]
    page.get_by_role("link", name="picture 29").click()
    page.get_by_text("Edit the words").click()
    page.get_by_label("Caption", exact=True).fill("butterflies")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("link", name="Pictures", exact=True).click()
    page.get_by_role("searchbox").fill("butterflies")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="butterflies").click()
    page.get_by_text("Delete this picture").click()
    page.get_by_role("button", name="Delete for good").click()
    page.get_by_role("link", name="Progress").click()
    expect(page.locator(".sums div").first).to_contain_text("29")


def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(visitor: Guest) -> None:
    hang(visitor, {"caption": "a cat", "tags": ["animal"]}, {"caption": "a dog"})
    page = visitor.open()
    where = """() => {
      const at = document.activeElement;
      if (at === document.body) return null;
      const shown = at.closest(".button, .card") ?? at;
      const rings = [at, shown].map((each) => getComputedStyle(each));
      const { width, height } = shown.getBoundingClientRect();
      const ring = rings.some((each) => each.outlineStyle !== "none" && parseFloat(each.outlineWidth) > 1);
      const name = at.ariaLabel ?? at.labels?.[0]?.textContent ?? at.textContent;
      return [name.trim(), ring && width > 20 && height > 15];
    }"""
    page.keyboard.press("Tab")
    focused: list[tuple[str, bool]] = []
    while (at := page.evaluate(where)) and len(focused) < 40:
        focused.append(tuple(at))
        page.keyboard.press("Tab")
    names = [name for name, _ in focused]
    assert [name for name, visible in focused if not visible] == []
    assert names[:3] == ["Skip to the content", "Dropcap", "Pictures"]
    for name in (
        "Choose pictures",
        "Choose a folder",
        "Search",
        "Filters",
        "a cat",
        "animal",
        "a dog",
        "CSV",
    ):
        assert name in names
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("cat")
    page.keyboard.press("Enter")
    expect(page.locator(".hung")).to_have_count(1)
    page.locator(".hung a").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("a cat")


def test_arrows_go_from_picture_to_picture_and_keys_can_be_switched_off(visitor: Guest) -> None:
    hang(visitor, *numbered(3))
    page = visitor.open()
    page.locator(".hung a").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("link", name="picture 1")).to_be_focused()
    page.get_by_role("checkbox").uncheck()
    page.reload()
    expect(page.get_by_role("checkbox")).not_to_be_checked()
    page.locator(".hung a").first.focus()
    page.keyboard.press("/")
    expect(page.locator(".hung a").first).to_be_focused()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(guest: Start) -> None:
    visitor = guest(**PHONE)
    [id] = hang(visitor, {"caption": "Donaudampfschifffahrtsgesellschaftskapitän" * 3, "tags": ["x" * 60]})
    reject(visitor, f"{'n' * 90}.pdf")
    for path in ("/", f"/picture/{id}", "/progress"):
        page = visitor.open(path)
        wide = "all => all.filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.outerHTML)"
        assert page.eval_on_selector_all("body *", wide) == []
        small = page.eval_on_selector_all(
            "button, .button, select, summary, input:not([type=file], [type=checkbox])",
            "all => all.filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44)"
            ".map((e) => e.outerHTML)",
        )
        assert small == []
        expect(page.locator(".keys")).to_be_hidden()
    page = visitor.open()
    expect(page.get_by_text("Take a picture")).to_be_visible()
    expect(page.get_by_text("goes to the search")).to_be_hidden()


def test_a_drop_cap_leaves_room_for_words_beside_it(visitor: Guest) -> None:
    hang(visitor, {"caption": "a cat"})
    page = visitor.open()
    floats = {}
    for width in (300, 190):
        page.eval_on_selector(".hung", f"card => {{ card.style.flex = '0 0 {width}px'; }}")
        floats[width] = page.eval_on_selector(
            ".caption", "caption => getComputedStyle(caption, '::first-letter').float"
        )
    assert floats == {300: "left", 190: "none"}


@pytest.mark.parametrize(
    "path",
    ["/", "/picture/{id}", "/progress", "/?q=nothing", "/picture/{rejected}", "/picture/{demo}", "/nowhere"],
)
def test_no_page_has_a_barrier_that_axe_knows_of(visitor: Guest, path: str) -> None:
    picture = {
        "caption": "a cat",
        "description": "A cat sits.",
        "alt_text": "A cat",
        "tags": ["cat"],
        "text": "MIAOW",
    }
    [id, demo] = hang(visitor, picture, demonstration("a dog"))
    rejected = reject(visitor, "notes.pdf")
    visitor.expected.append("404")
    path, _, query = path.format(id=id, rejected=rejected, demo=demo).partition("?")
    visitor.page.goto(visitor.address(path, **dict([query.split("=")] if query else [])))
    check_with_axe(visitor.page)


def test_an_empty_gallery_invites_to_drop_and_has_no_barrier(visitor: Guest) -> None:
    page = visitor.open()
    expect(page.get_by_role("heading", name="Drop pictures anywhere")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_count(0)
    check_with_axe(page)


def test_the_page_that_asks_whose_pictures_are_meant_has_no_barrier(visitor: Guest) -> None:
    hang(visitor, {"caption": "a cat"})
    visitor.open().get_by_role("link", name="Change user").click()
    expect(visitor.page.get_by_role("heading", name="Whose pictures?")).to_be_visible()
    check_with_axe(visitor.page)

"""The page of one picture in a real browser: neighbours, full size, words, deletion, and the way back."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Dialog, expect

from tests.support.browser.axe import check_with_axe
from tests.support.browser.browser import Guest
from tests.support.browser.wall import MEMORY, captions, hang, numbered

Start = Callable[..., Guest]

SWIPE = """([from, to]) => {
  const large = document.querySelector("#large");
  const at = (clientX) => [new Touch({ identifier: 1, target: large, clientX, clientY: 9 })];
  large.dispatchEvent(new TouchEvent("touchstart", { touches: at(from), changedTouches: at(from) }));
  large.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: at(to) }));
}"""
COUNTED = """() => {
  const write = navigator.clipboard.writeText.bind(navigator.clipboard);
  window.copies = 0;
  navigator.clipboard.writeText = async text => { await write(text); window.copies += 1; };
}"""


@pytest.mark.parametrize("context", [{}, {"viewport": {"width": 390, "height": 844}}])
def test_back_from_a_picture_leads_to_the_place_that_one_left(guest: Start, context: dict[str, Any]) -> None:
    visitor = guest(**context)
    hang(visitor, *numbered(140))
    page = visitor.open()
    card = page.locator("#wall .hung").filter(has_text=re.compile(r"picture 119\b"))
    while not card.count():
        if (older := page.get_by_role("link", name="Older pictures")).is_visible():
            older.click()
        page.keyboard.press("End")
        page.wait_for_timeout(50)
    card.scroll_into_view_if_needed()
    top = "each => [scrollY, each.getBoundingClientRect().top].map(Math.round)"
    left = card.evaluate(top)
    card.locator("h2 a").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("picture 119")
    page.go_back()
    expect(card.locator("h2 a")).to_be_focused()
    assert card.evaluate(top) == left
    page.reload()
    expect(card.locator("h2 a")).to_be_focused()
    assert card.evaluate(top) == left


def test_a_button_that_is_pressed_twice_has_its_own_words_again(guest: Start) -> None:
    visitor = guest(permissions=["clipboard-write"])
    [id] = hang(visitor, {"caption": "a cat", "alt_text": "A cat"}, published=False)
    visitor.page.clock.install()
    copy = visitor.open(f"/picture/{id}").locator("[data-copy]")
    visitor.page.evaluate(COUNTED)
    copy.dblclick()
    visitor.page.wait_for_function("copies === 2")  # else the second may come when the time has passed
    expect(copy).to_have_text("Copied")
    visitor.page.clock.fast_forward(2000)
    assert copy.inner_html() == 'Copy<span class="hidden"> Alt text</span>'


def test_own_words_stand_beside_the_models_and_give_way_to_them_again(visitor: Guest) -> None:
    [id] = hang(visitor, {"caption": "a cat", "alt_text": "a cat that sits"})
    page = visitor.open(f"/picture/{id}")
    page.get_by_text("Edit the words").click()
    page.get_by_label("Caption", exact=True).fill("our Mimi")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("our Mimi")
    expect(page.locator("#announcement")).to_have_text("Your words are saved.")
    expect(page.locator("#done")).to_be_visible()
    assert page.url == visitor.address(f"/picture/{id}")
    page.get_by_text("Edit the words").click()
    expect(page.get_by_text("s: a cat")).to_be_visible()
    assert page.get_by_label("Alt text:").input_value() == "a cat that sits"
    page.get_by_role("button", name="Restore the model").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("a cat")


def test_a_picture_is_deleted_when_one_says_so_twice(visitor: Guest) -> None:
    [id, _] = hang(visitor, {"caption": "a cat"}, {"caption": "a dog"})
    page = visitor.open(f"/picture/{id}")
    page.get_by_text("Delete this picture").click()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_text("Delete this picture").click()
    page.get_by_role("button", name="Delete for good").click()
    page.wait_for_url(visitor.address())
    assert captions(page) == ["a dog"]
    expect(page.locator("#announcement")).to_have_text("The picture is deleted.")


def test_leaving_with_words_that_are_not_saved_asks(visitor: Guest) -> None:
    [_, id] = hang(visitor, {"caption": "a cow"}, {"caption": "a cat"})
    dialogs: list[str] = []

    def stay(dialog: Dialog) -> None:
        dialogs.append(dialog.type)
        dialog.dismiss()

    visitor.page.on("dialog", stay)
    page = visitor.open(f"/picture/{id}")
    page.get_by_text("Edit the words").click()
    page.get_by_label("Caption", exact=True).press_sequentially("!")
    page.get_by_role("link", name="Newer").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("a cat")
    page.wait_for_timeout(200)
    assert dialogs == ["beforeunload"]
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("!a cat")
    assert dialogs == ["beforeunload"]


def test_from_a_picture_one_goes_on_in_the_same_search_and_back_to_it(visitor: Guest) -> None:
    hang(visitor, *({"caption": f"a {what} {each}"} for each in range(40) for what in ("cat", "dog")))

    def arrived(caption: str) -> None:
        expect(page.get_by_role("heading", level=1)).to_have_text(caption)
        page.wait_for_load_state()  # its script listens now

    page = visitor.open(q="cat")
    card = page.locator("#wall .hung").filter(has_text="a cat 9")
    card.scroll_into_view_if_needed()
    left = card.evaluate("each => Math.round(each.getBoundingClientRect().top)")
    page.get_by_role("link", name="a cat 9", exact=True).click()
    page.get_by_role("link", name="Older").click()
    arrived("a cat 10")
    page.keyboard.press("ArrowRight")
    arrived("a cat 11")
    page.keyboard.press("ArrowLeft")
    arrived("a cat 10")
    page.evaluate(SWIPE, [300, 100])
    arrived("a cat 11")
    page.evaluate(SWIPE, [100, 300])
    arrived("a cat 10")
    page.get_by_role("link", name="Back to the results").click()
    expect(page.get_by_role("searchbox")).to_have_value("cat")
    expect(card.locator("h2 a")).to_be_focused()
    assert card.evaluate("each => Math.round(each.getBoundingClientRect().top)") == left
    page.get_by_role("link", name="a cat 0", exact=True).click()
    expect(page.get_by_role("link", name="Newer")).to_have_count(0)


def test_without_javascript_the_way_back_leads_to_the_part_of_the_wall_with_the_picture(guest: Start) -> None:
    visitor = guest(java_script_enabled=False, viewport={"width": 320, "height": 640})
    ids = hang(visitor, *numbered(60), published=False)
    page = visitor.open(f"/picture/{ids[40]}")
    page.get_by_role("link", name="Older").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.get_by_role("link", name="All pictures").click()
    assert captions(page)[0] == "picture 41"


def test_the_full_size_fills_the_window_and_can_be_zoomed(visitor: Guest) -> None:
    [id] = hang(visitor, {"caption": "a cat"})
    page = visitor.open(f"/picture/{id}")
    page.locator("#large a").click()
    view = page.get_by_role("dialog", name="The picture in full size")
    image = view.locator("img")
    expect(image).to_have_js_property("complete", True)
    page.wait_for_function("document.querySelector('.pan img').width > 700")
    fit = image.evaluate("each => each.width")
    check_with_axe(page)
    view.get_by_role("button", name="Larger").click()
    assert image.evaluate("each => each.width") == pytest.approx(fit * 1.5, abs=2)
    view.get_by_role("button", name="Fit").click()
    image.click(position={"x": 10, "y": 10})
    assert image.evaluate("each => each.width") == pytest.approx(fit * 2, abs=2)
    assert image.evaluate("each => each.width / each.height") == pytest.approx(1.5, abs=0.01)
    assert page.locator(".pan").evaluate("each => [each.scrollLeft, each.scrollTop]") == [0, 0]
    page.keyboard.press("ArrowRight")  # scrolls, and does not leave
    page.keyboard.press("Escape")
    expect(view).to_be_hidden()
    expect(page.locator("#large a")).to_be_focused()


def test_each_size_is_downloaded_with_the_name_of_the_picture(visitor: Guest) -> None:
    [id] = hang(visitor, {"caption": "a cat", "name": "Mimi.jpg"})
    page = visitor.open(f"/picture/{id}")
    for index, name in enumerate(("Mimi-600.webp", "Mimi-200.webp")):
        with page.expect_download() as download:
            page.locator(".sizes a").nth(index).click()
        assert download.value.suggested_filename == name


def test_the_memory_panel_draws_each_stage_below_the_limit_and_says_the_same(visitor: Guest) -> None:
    [id] = hang(visitor, {"caption": "a cat"})
    page = visitor.open(f"/picture/{id}")
    page.get_by_text("Details").click()
    panel = page.get_by_role("region", name="Memory")
    expect(panel).to_contain_text("at most 411 MB were resident, 76 % of the instance")
    rows = [row.split("\t") for row in panel.locator("tr").all_inner_texts()]
    assert rows[0][1:] == list(MEMORY)
    assert rows[1][1:] == ["101", "102", "150", "411", "180"]
    tops = [bar.bounding_box()["y"] for bar in panel.locator("rect.most").all()]  # type: ignore[index]
    limit = panel.locator("line.limit").bounding_box()
    assert limit
    assert sorted(range(5), key=lambda index: tops[index]) == [3, 4, 2, 1, 0]
    assert limit["y"] < min(tops)
    assert panel.locator("rect.warned").count() == 1

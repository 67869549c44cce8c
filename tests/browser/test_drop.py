"""Drop pictures on the gallery in a real browser, and see what becomes of each."""

import json
import re
from pathlib import Path

from playwright.sync_api import expect

from tests.support.browser.browser import Guest
from tests.support.browser.dropping import Held, cards, choose, drag, file, objects, picture, requests_of, row
from tests.support.images.pictures import encoded, png, quadrants

MIB = 1024 * 1024


def test_a_picture_dropped_anywhere_shows_its_way_and_ends_as_a_card(visitor: Guest, tmp_path: Path) -> None:
    dropped = tmp_path / "four colours.png"
    dropped.write_bytes(picture())
    visitor.page.clock.install()
    page = visitor.open()
    page.evaluate("addEventListener('drop', event => { window.kept = event.defaultPrevented; })")
    drag(page, dropped, drop=False)
    expect(page.locator("#drop-target")).to_be_visible()
    drag(page, dropped)
    expect(page.locator("#drop-target")).to_be_hidden()
    upload = row(page, "four colours.png")
    upload.hover()  # so that its way stays to be looked at
    way = upload.locator("ol li")
    expect(way.last).to_have_attribute("data-is", "done")
    measured = r" [\d.]+ m?s, \d+ MB "
    stages = ("started", "read", "opened", "resized", "encoded", "captioned", "described", "published")
    shown = " ".join(" ".join(way.all_inner_texts()).split())
    assert re.fullmatch(measured.join(stages) + measured + "recorded done source deleted done", shown)
    expect(upload.locator("meter")).to_have_attribute("max", "536.9")  # MB: the 512 MiB of its instance
    expect(cards(page)).to_have_count(1)
    caption = cards(page).locator(".caption").text_content() or ""
    assert caption
    expect(page.locator("#demonstration")).to_contain_text("knows 60 drawn objects")  # the model that ships
    expect(upload.locator(".state")).to_have_text(caption)
    assert page.evaluate("window.kept")  # the page does not leave for the file
    assert objects(visitor) == []
    page.mouse.move(0, 0)
    page.clock.fast_forward(10_000)
    expect(page.locator("#uploads")).to_be_hidden()
    expect(page.locator("#announcement")).to_contain_text(f"four colours.png: {caption}")


def test_a_folder_is_dropped_with_all_that_is_in_it_but_what_is_hidden(
    visitor: Guest, tmp_path: Path
) -> None:
    folder = tmp_path / "holidays" / "spain"
    folder.mkdir(parents=True)
    for path in (folder / "beach.png", folder.parent / "home.png", folder / ".hidden.png"):
        path.write_bytes(picture())
    page = visitor.open()
    begun = requests_of(page, "POST", "/gallery/uploads")
    drag(page, folder.parent)
    expect(cards(page)).to_have_count(2)
    assert sorted(json.loads(each.post_data or "")["name"] for each in begun) == ["beach.png", "home.png"]


def test_a_folder_is_chosen(visitor: Guest, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(picture())
    (tmp_path / "notes.txt").write_text("no picture")
    page = visitor.open()
    page.set_input_files("#folder", tmp_path)
    expect(row(page, "notes.txt").locator(".state")).to_contain_text(
        "The file is not a picture that can be processed."
    )
    expect(cards(page)).to_have_count(1)


def test_a_picture_is_pasted(visitor: Guest) -> None:
    page = visitor.open()
    page.evaluate(
        """data => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(data)], "image.png", {type: "image/png"}));
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
        }""",
        list(picture()),
    )
    expect(cards(page)).to_have_count(1)


def test_many_are_sent_three_at_once_and_hang_on_the_wall_newest_first(visitor: Guest) -> None:
    page = visitor.open()
    held = Held(page)
    choose(page, *(file(f"{number}.png", picture(40 + number)) for number in range(5)))
    expect(page.locator("#uploads-sum")).to_have_text("3 uploading, 2 waiting")
    page.wait_for_function("document.querySelectorAll('#uploads progress:not([hidden])').length === 3")
    held.go()
    expect(cards(page)).to_have_count(5)
    expect(page.locator("#uploads-sum")).to_have_text("")
    shown = page.locator("#wall > li").evaluate_all("cards => cards.map(card => card.id)")
    page.reload()
    assert page.locator("#wall > li").evaluate_all("cards => cards.map(card => card.id)") == shown


def test_what_will_not_be_taken_is_refused_before_it_is_sent(visitor: Guest) -> None:
    page = visitor.open()
    limit = visitor.site.settings.max_mb
    asked, sent = requests_of(page, "POST", "/gallery/uploads"), requests_of(page, "PUT", "")
    page.evaluate(
        """size => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(size)], "large.png", {type: "image/png"}));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
        }""",
        limit * MIB + 1,
    )
    choose(page, file("empty.png", b""), file("a.txt", b"text", "text/plain"), file("b.png", b"no picture"))
    no_picture = (
        "The file is not a picture that can be processed. Send JPEG, PNG, WebP, GIF, TIFF, BMP, HEIF or AVIF."
    )
    too_large = f"The picture has {limit}.0 MiB; the limit is {limit} MiB. Send a smaller file."
    for name, reason in {
        "large.png": too_large,
        "empty.png": "The file is empty. Choose another copy.",
        "a.txt": no_picture,
        "b.png": no_picture,
    }.items():
        expect(row(page, name).locator(".state")).to_have_text(reason)
    assert not asked
    visitor.expected.append("status of 413")
    choose(page, file("huge.png", png(60_000, 60_000, 8, 2, b"")))  # what its header says, the function knows
    expect(row(page, "huge.png").locator(".state")).to_contain_text("60,000 px")
    assert len(asked) == 1
    assert not sent


def test_one_that_the_pipeline_rejects_shows_why_until_it_is_dismissed(visitor: Guest) -> None:
    page = visitor.open()
    data = encoded(quadrants(300, 200))
    with page.expect_file_chooser() as chooser:
        page.locator("#files").press("Enter")  # all of it by keyboard
    chooser.value.set_files(file("broken.png", data[: len(data) // 2]))
    upload = row(page, "broken.png")
    expect(upload).to_have_attribute("data-state", "refused")
    expect(upload.locator(".state")).to_contain_text(re.compile(r"\w+\. \w+.*\."))  # problem and remedy
    expect(upload.locator("ol")).to_have_count(0)  # no step of a way that it did not go
    expect(page.locator("#announcement")).to_contain_text("broken.png: ")
    upload.get_by_role("button", name="Dismiss broken.png").press("Enter")
    expect(page.locator("#uploads")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "files"  # where a keyboard goes on
    assert objects(visitor) == []

"""Caption now, better later: what Gemini could not describe, a sweep does; and anew only what asks for it."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http import HTTPStatus
from typing import Any

import pytest

from dropcap import erasure
from dropcap.database.transactions import Database
from dropcap.deferred.worker import MAX_FAILURES, MAX_TRIES, describe_pending
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import Upload
from dropcap.services import Services
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored
from tests.support.app import App, Start, problem, rows, small_png

DOWN, UP = "fault-503", "gemini-3.5-flash-lite"
ONCE = {"SIZES": "200", "GEMINI_ATTEMPTS": "1"}
DONE = {"complete": True}


def result(app: App, id: uuid.UUID) -> dict[str, Any]:
    return dict(app.services.analyses.result(id) or {})


def not_described(start: Start, **settings: str) -> tuple[App, Upload]:
    """An upload that came while Gemini was down: it has BLIP's caption alone."""
    app = start(**ONCE, GEMINI_MODEL=DOWN, **settings)
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == HTTPStatus.OK
    return app, upload


def its_time_comes() -> None:
    rows("UPDATE analyses SET describe_after = now() WHERE describe_after IS NOT NULL")


def redescribe(app: App, **chosen: object) -> dict[str, Any]:
    answer = app.sweeper.post("/", json={"redescribe": chosen})
    assert answer.status_code == HTTPStatus.OK, answer.text
    return dict(answer.get_json())


def in_gallery(app: App, path: str, **form: str) -> None:
    headers = {"Sec-Fetch-Site": "same-origin"}
    answer = app.gallery.post(f"/gallery/picture/{path}?user=ana", data=form, headers=headers)
    assert answer.status_code == HTTPStatus.SEE_OTHER


def test_while_gemini_is_down_blips_caption_is_there_at_once_and_the_rest_comes_by_a_sweep(
    start: Start,
) -> None:
    app, upload = not_described(start)
    now = result(app, upload.id)
    assert now["describe_later"]
    assert now["description"] == ""
    assert now["alt_text"] == now["caption"] != ""
    assert now["provenance"]["blip"]["texts"] == ["caption", "alt_text"]
    in_gallery(app, f"{upload.id}/edit", alt_text="Mine")
    search = "/gallery/?user=ana&q=stand-in"
    assert str(upload.id) not in app.gallery.get(search).text
    assert app.sweep() == DONE | {"not_described": 1}
    assert app.sweep() == DONE  # its next try is later
    its_time_comes()
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.sweep() == DONE | {"described": 1}
    assert app.sweep() == DONE

    then = result(app, upload.id)
    assert "not Gemini. It received a JPEG picture of 60 x 40 px, mainly red" in then["description"]
    assert then["sources"]["gemini"]["answered"]
    assert not then["describe_later"]
    assert (now["usage"]["calls"], then["usage"]["calls"]) == (1, 3)
    assert then["agreement"] is not None
    blip, gemini = (then["provenance"][who] for who in ("blip", "gemini"))
    assert blip == now["provenance"]["blip"] | {"texts": ["caption"]}
    assert gemini["texts"] == ["description", "alt_text", "tags", "text"]
    assert (gemini["model"], gemini["version"]) == (UP, "dropcap-stand-in")
    assert gemini["prompt"] == app.services.describer.prompt
    assert gemini["at"] > now["analyzed_at"] == blip["at"]
    columns = "description, alt_text, tags, picture_text, own_alt_text"
    stored = rows(f"SELECT {columns} FROM analyses")  # noqa: S608
    assert stored == [[*(then[name] for name in ("description", "alt_text", "tags", "text")), "Mine"]]
    assert str(upload.id) in app.gallery.get(search).text


def test_it_is_tried_ever_more_rarely_and_given_up_after_a_week(start: Start) -> None:
    app, upload = not_described(start)
    waited = []
    for _ in range(MAX_TRIES):
        its_time_comes()
        assert app.sweep() == DONE | {"not_described": 1}
        waited += rows("SELECT extract(epoch FROM describe_after - now())::int FROM analyses")
    assert [round(seconds, -2) for [seconds] in waited[:3]] == [300, 600, 1200]
    assert waited[-1] == [None]
    assert 6 < sum(seconds for [seconds] in waited[:-1]) / 86_400 < 8
    assert not result(app, upload.id)["describe_later"]
    assert "HTTP 503" in result(app, upload.id)["sources"]["gemini"]["problem"]


def test_a_picture_that_gemini_blocks_is_not_asked_for_again(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL="fault-blocked")
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    assert not result(app, upload.id)["describe_later"]
    assert app.sweep() == DONE


def test_a_picture_that_is_deleted_meanwhile_stays_deleted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, upload = not_described(start, DAILY_CALLS="100")
    app = app.restarted(GEMINI_MODEL=UP)
    read = Buckets.read_published

    def deleted(buckets: Buckets, published: Rendition) -> bytes:
        data = read(buckets, published)
        in_gallery(app, f"{upload.id}/delete")
        return data

    monkeypatch.setattr(Buckets, "read_published", deleted)
    assert app.sweep() == DONE
    assert rows("SELECT count(*) FROM analyses") == rows("SELECT count(*) FROM answers") == [[0]]


def test_two_sweeps_at_once_describe_no_picture_twice(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    for number in range(4):
        app.deliver(app.upload(f"ana/{number}.png", small_png()))
    app = app.restarted(GEMINI_MODEL=UP, GEMINI_API_KEY=f"key-{uuid.uuid4().hex}")
    settings = app.services.settings
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        sweeps = [Services(settings, stack.enter_context(closing(Database(settings)))) for _ in range(2)]
        done = list(pool.map(lambda each: describe_pending(each, float("inf")), sweeps))
    assert sum(each["described"] for each in done) == 4
    assert rows("SELECT (result->'usage'->>'calls')::int FROM analyses") == [[2]] * 4  # one had failed


def test_only_what_another_prompt_or_model_described_is_described_anew_when_it_is_asked_for(
    start: Start,
) -> None:
    app = start(**ONCE, GEMINI_MODEL="gemini-3.5-pro")
    older, other = app.upload("ana/a.png", small_png()), app.upload("bob/a.png", small_png())
    for upload in (older, other):
        app.deliver(upload)
    app = app.restarted(GEMINI_MODEL=UP)
    app.deliver(app.upload("ana/b.png", small_png()))
    assert redescribe(app) == {"pictures": 2, "marked": False, "after": None}
    assert redescribe(app, all=True)["pictures"] == 3
    assert redescribe(app, since="2999-01-01T00:00Z")["pictures"] == 0
    assert app.sweep() == DONE  # to count marks nothing
    assert redescribe(app, owner="ana", mark=True) == {"pictures": 1, "marked": True, "after": None}
    assert app.sweep() == DONE | {"described": 1}
    models = [result(app, each.id)["provenance"]["gemini"]["model"] for each in (older, other)]
    assert models == [UP, "gemini-3.5-pro"]
    assert redescribe(app)["pictures"] == 1


def test_it_is_described_in_the_language_that_the_upload_named(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = app.upload("ana/a.png", small_png(), language="de")
    app.deliver(upload)
    assert result(app, upload.id)["language"] == "en"  # BLIP's
    app = app.restarted(GEMINI_MODEL=UP)
    its_time_comes()
    assert app.sweep() == DONE | {"described": 1}
    then = result(app, upload.id)
    assert then["language"] == then["named_language"] == "de"
    assert then["caption"] == then["captions"]["gemini"]  # BLIP's is in English
    assert rows("SELECT caption FROM analyses") == [[then["caption"]]]
    assert redescribe(app)["pictures"] == 0
    assert redescribe(app.restarted(GEMINI_MODEL=UP, LANGUAGE="fr"))["pictures"] == 0
    assert "caption" in then["provenance"]["gemini"]["texts"]


@pytest.mark.parametrize("model", ["fault-unsafe-high", "fault-blocked"])
def test_what_a_later_verdict_finds_unsafe_is_published_no_longer_and_its_largest_picture_quarantined(
    start: Start, model: str
) -> None:
    app = start(**ONCE | {"SIZES": "20,40"}, LAYOUT="beside")
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    published = app.objects(app.pictures)
    assert len(published) == 4
    app = app.restarted(GEMINI_MODEL=model, SAFETY="low")
    assert redescribe(app, mark=True)["pictures"] == 1
    assert app.sweep() == DONE | {"not_described": 1}
    assert app.objects(app.pictures) == {}
    then = result(app, upload.id)
    assert (then["pictures"], then["safety"]["level"]) == ([], "high")
    assert not then["describe_later"]
    assert app.sweep() == DONE
    [(name, copy)] = app.objects(app.quarantine).items()
    assert (name, copy.md5_hash) == (f"{upload.id}/40.webp", published[name].md5_hash)
    assert copy.metadata["dropcap-reason"] == "held_unsafe"
    assert "its safety level is high" in copy.metadata["dropcap-problem"]
    assert copy.metadata["dropcap-source"] == f"gs://{app.uploads}/ana/a.png"
    in_gallery(app, f"{upload.id}/delete")
    assert app.objects(app.quarantine) == {}


def broken(*_: object) -> None:
    raise NotStored("The bucket is away.")


def test_what_is_unsafe_is_taken_back_whatever_breaks_off_and_however_often(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**ONCE)
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SAFETY="low")
    assert redescribe(app, mark=True)["pictures"] == 1
    parts: list[tuple[Any, str, int]] = [
        (Buckets, "quarantine_published", 1),
        (erasure, "unpublish", 0),
        (erasure, "unpublish", 0),
    ]
    for owner, part, shown in parts:
        rows(f"UPDATE analyses SET describe_after = now(), describe_tries = {MAX_TRIES}")  # noqa: S608
        with monkeypatch.context() as breaking:
            breaking.setattr(owner, part, broken)
            assert app.sweep() == DONE | {"not_described": 1}
        assert len(result(app, upload.id)["pictures"]) == shown
        assert len(app.objects(app.pictures)) == 1
        assert rows("SELECT count(*) FROM analyses WHERE describe_after > now()") == [[1]]
    app = app.restarted(SAFETY="off", GEMINI_MODEL=DOWN)  # nobody is asked any more
    its_time_comes()
    assert app.sweep() == DONE
    assert app.objects(app.pictures) == {}
    assert list(app.objects(app.quarantine)) == [f"{upload.id}/200.webp"]
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[1]]
    assert result(app, upload.id)["safety"]["level"] == "high"


def test_nothing_is_kept_of_an_unsafe_picture_that_its_user_deletes_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, upload = not_described(start)
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SAFETY="low")
    copy = Buckets.quarantine_published

    def beside_a_deletion(buckets: Buckets, *what: Any) -> None:
        copy(buckets, *what)
        left = app.storage.bucket(app.quarantine).blob(f"{upload.id}/200.webp")
        data = left.download_as_bytes()
        in_gallery(app, f"{upload.id}/delete")
        left.upload_from_string(data)  # it came when the deletion had looked

    monkeypatch.setattr(Buckets, "quarantine_published", beside_a_deletion)
    assert app.sweep() == DONE | {"not_described": 1}
    assert app.objects(app.quarantine) == {}


def test_nothing_is_taken_back_before_the_upload_is_done(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as breaking:
        breaking.setattr(Buckets, "dispose", broken)
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert rows("SELECT state FROM uploads") == [["recorded"]]
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SAFETY="low")
    assert app.sweep() == DONE
    assert app.deliver(upload) == HTTPStatus.OK
    assert app.sweep() == DONE | {"not_described": 1}
    assert app.objects(app.pictures) == {}


def test_a_sweep_stops_where_gemini_fails_and_goes_on_where_the_pictures_do(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    for number in range(MAX_FAILURES + 1):
        app.deliver(app.upload(f"ana/{number}.png", small_png()))
    assert app.sweep() == DONE | {"not_described": MAX_FAILURES}
    for settings in ({"GEMINI_MODEL": "fault-malformed"}, {"GEMINI_MODEL": "fault-blocked", "SAFETY": "low"}):
        app = app.restarted(**settings)
        assert redescribe(app, all=True, mark=True)["pictures"] == MAX_FAILURES + 1
        assert app.sweep() == DONE | {"not_described": MAX_FAILURES + 1}


def test_an_answer_is_kept_where_the_picture_is_and_only_its_turn_has_passed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, upload = not_described(start, DAILY_CALLS="100")
    app = app.restarted(GEMINI_MODEL=UP)
    read = Buckets.read_published

    def marked(buckets: Buckets, published: Rendition) -> bytes:
        monkeypatch.setattr(Buckets, "read_published", read)
        redescribe(app, mark=True)
        return read(buckets, published)

    monkeypatch.setattr(Buckets, "read_published", marked)
    assert app.sweep() == DONE | {"described": 1}
    assert rows("SELECT calls FROM spending") == [[2]]  # one had failed
    assert result(app, upload.id)["usage"]["reused"]


def test_a_wrong_wish_is_a_problem_with_a_remedy_and_changes_nothing(start: Start) -> None:
    app = start(**ONCE)
    app.deliver(app.upload("ana/a.png", small_png()))
    wishes: tuple[Any, ...] = (
        None,
        [],
        {"owner": 7},
        {"since": "now"},
        {"bob": "x"},
        {"after": "1"},
        {"all": 1, "mark": True},
    )
    for wrong in (*wishes, {"all": True, "mark": True, "owner": None}):
        body = json.dumps({"redescribe": wrong})
        answer = app.sweeper.post("/", data=body, content_type="application/json")
        assert problem(answer, 400)["code"] == "bad_redescribe"
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[1]]
    assert redescribe(app, all=True, mark=True)["pictures"] == 1  # and would be marked, by another wish

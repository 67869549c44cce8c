"""Deferred descriptions: reconcile describes pictures that Gemini could not, and those that are marked."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http import HTTPStatus
from typing import Any

import pytest

from dropcap import erasure
from dropcap.database.transactions import Database
from dropcap.deferred.pictures import MAX_FAILURES, MAX_TRIES
from dropcap.deferred.worker import describe_pending
from dropcap.domain.upload import Upload
from dropcap.services import Services
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored
from tests.support.app import OWN, App, Start, at_next_call, problem, rows, small_png
from tests.support.describing import DONE, DOWN, ONCE, UP, make_due, new_key, redescribe, result


def upload_without_description(start: Start, **settings: str) -> tuple[App, Upload]:
    """Return an upload from an outage of Gemini, which has BLIP's caption only."""
    app = start(**ONCE, GEMINI_MODEL=DOWN, **settings)
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == HTTPStatus.OK
    return app, upload


def delete(app: App, upload: Upload) -> None:
    assert app.delete(upload.id).status_code == HTTPStatus.SEE_OTHER


def test_while_gemini_is_down_blips_caption_is_recorded_and_described_later(start: Start) -> None:
    app, upload = upload_without_description(start)
    now = result(app, upload.id)
    assert now["describe_later"]
    assert now["description"] == ""
    assert now["alt_text"] == now["caption"] != ""
    assert now["provenance"]["blip"]["texts"] == ["caption", "alt_text"]
    edit = f"/gallery/picture/{upload.id}/edit?user=ana"
    assert app.gallery.post(edit, data={"alt_text": "Mine"}, headers=OWN).status_code == HTTPStatus.SEE_OTHER
    search = "/gallery/?user=ana&q=stand-in"
    assert str(upload.id) not in app.gallery.get(search).text
    assert app.reconcile() == DONE | {"not_described": 1}
    assert app.reconcile() == DONE  # the next try is not due
    make_due()
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.reconcile() == DONE | {"described": 1}
    assert app.reconcile() == DONE

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


def test_retries_back_off_exponentially_and_end_after_a_week(start: Start) -> None:
    app, upload = upload_without_description(start)
    waited = []
    for _ in range(MAX_TRIES):
        make_due()
        assert app.reconcile() == DONE | {"not_described": 1}
        waited += rows("SELECT extract(epoch FROM describe_after - now())::int FROM analyses")
    assert [round(seconds, -2) for [seconds] in waited[:3]] == [300, 600, 1200]
    assert waited[-1] == [None]
    assert 6 < sum(seconds for [seconds] in waited[:-1]) / 86_400 < 8
    assert not result(app, upload.id)["describe_later"]
    assert "HTTP 503" in result(app, upload.id)["sources"]["gemini"]["problem"]


def test_a_picture_that_gemini_blocks_is_not_retried(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL="fault-blocked")
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    assert not result(app, upload.id)["describe_later"]
    assert app.reconcile() == DONE


def test_a_picture_deleted_meanwhile_stays_deleted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    app, upload = upload_without_description(start, DAILY_CALLS="100")
    app = app.restarted(GEMINI_MODEL=UP)
    at_next_call(monkeypatch, Buckets, "read_published", lambda: delete(app, upload), after=True)
    assert app.reconcile() == DONE
    assert rows("SELECT count(*) FROM analyses") == rows("SELECT count(*) FROM answers") == [[0]]


def test_concurrent_workers_never_describe_a_picture_twice(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    for number in range(4):
        app.deliver(app.upload(f"ana/{number}.png", small_png()))
    app = app.restarted(GEMINI_MODEL=UP, GEMINI_API_KEY=new_key())
    settings = app.services.settings
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        workers = [Services(settings, stack.enter_context(closing(Database(settings)))) for _ in range(2)]
        done = list(pool.map(lambda each: describe_pending(each, float("inf")), workers))
    assert sum(each["described"] for each in done) == 4
    assert rows("SELECT (result->'usage'->>'calls')::int FROM analyses") == [[2]] * 4  # the first one failed


def test_redescribe_selects_by_prompt_or_model_and_changes_only_marked_pictures(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL="gemini-3.5-pro")
    older, other = app.upload("ana/a.png", small_png()), app.upload("bob/a.png", small_png())
    for upload in (older, other):
        app.deliver(upload)
    app = app.restarted(GEMINI_MODEL=UP)
    app.deliver(app.upload("ana/b.png", small_png()))
    assert redescribe(app) == {"pictures": 2, "marked": False, "after": None, "batch": 10}
    assert redescribe(app, all=True)["pictures"] == 3
    assert redescribe(app, since="2999-01-01T00:00Z")["pictures"] == 0
    assert app.reconcile() == DONE  # counting marks nothing
    assert redescribe(app, owner="ana", mark=True) == {
        "pictures": 1,
        "marked": True,
        "after": None,
        "batch": 10,
    }
    assert app.reconcile() == DONE | {"described": 1}
    models = [result(app, each.id)["provenance"]["gemini"]["model"] for each in (older, other)]
    assert models == [UP, "gemini-3.5-pro"]
    assert redescribe(app)["pictures"] == 1


def test_a_deferred_description_is_in_the_language_of_the_upload(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = app.upload("ana/a.png", small_png(), language="de")
    app.deliver(upload)
    assert result(app, upload.id)["language"] == "en"  # BLIP's
    app = app.restarted(GEMINI_MODEL=UP)
    make_due()
    assert app.reconcile() == DONE | {"described": 1}
    then = result(app, upload.id)
    assert then["language"] == then["named_language"] == "de"
    assert then["caption"] == then["captions"]["gemini"]  # BLIP's is in English
    assert rows("SELECT caption FROM analyses") == [[then["caption"]]]
    assert redescribe(app)["pictures"] == 0
    assert redescribe(app.restarted(GEMINI_MODEL=UP, LANGUAGE="fr"))["pictures"] == 0
    assert "caption" in then["provenance"]["gemini"]["texts"]


@pytest.mark.parametrize("model", ["fault-unsafe-high", "fault-blocked"])
def test_a_later_unsafe_verdict_unpublishes_the_picture_and_quarantines_its_largest_rendition(
    start: Start, model: str
) -> None:
    app = start(**ONCE | {"SIZES": "20,40"}, LAYOUT="beside")
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    published = app.objects(app.pictures)
    assert len(published) == 4
    app = app.restarted(GEMINI_MODEL=model, SAFETY="low")
    assert redescribe(app, mark=True)["pictures"] == 1
    assert app.reconcile() == DONE | {"not_described": 1}
    assert app.objects(app.pictures) == {}
    then = result(app, upload.id)
    assert (then["pictures"], then["safety"]["level"]) == ([], "high")
    assert not then["describe_later"]
    assert app.reconcile() == DONE
    [(name, copy)] = app.objects(app.quarantine).items()
    assert (name, copy.md5_hash) == (f"{upload.id}/40.webp", published[name].md5_hash)
    assert copy.metadata["dropcap-reason"] == "held_unsafe"
    assert "its safety level is high" in copy.metadata["dropcap-problem"]
    assert copy.metadata["dropcap-source"] == f"gs://{app.uploads}/ana/a.png"
    delete(app, upload)
    assert app.objects(app.quarantine) == {}


def broken(*_: object) -> None:
    raise NotStored("The bucket is away.")


def test_unpublishing_an_unsafe_picture_is_retried_after_every_failure(
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
            assert app.reconcile() == DONE | {"not_described": 1}
        assert len(result(app, upload.id)["pictures"]) == shown
        assert len(app.objects(app.pictures)) == 1
        assert rows("SELECT count(*) FROM analyses WHERE describe_after > now()") == [[1]]
    app = app.restarted(SAFETY="off", GEMINI_MODEL=DOWN)  # no more requests to Gemini
    make_due()
    assert app.reconcile() == DONE
    assert app.objects(app.pictures) == {}
    assert list(app.objects(app.quarantine)) == [f"{upload.id}/200.webp"]
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[1]]
    assert result(app, upload.id)["safety"]["level"] == "high"


def test_no_quarantined_copy_is_left_if_the_user_deletes_the_picture_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, upload = upload_without_description(start)
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SAFETY="low")

    def delete_meanwhile() -> None:
        left = app.storage.bucket(app.quarantine).blob(f"{upload.id}/200.webp")
        data = left.download_as_bytes()
        delete(app, upload)
        left.upload_from_string(data)  # the copy arrives after the deletion listed the objects

    at_next_call(monkeypatch, Buckets, "quarantine_published", delete_meanwhile, after=True)
    assert app.reconcile() == DONE | {"not_described": 1}
    assert app.objects(app.quarantine) == {}


def test_an_unsafe_picture_is_unpublished_only_after_its_upload_is_done(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as breaking:
        breaking.setattr(Buckets, "dispose", broken)
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert rows("SELECT state FROM uploads") == [["recorded"]]
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SAFETY="low")
    assert app.reconcile() == DONE
    assert app.deliver(upload) == HTTPStatus.OK
    assert app.reconcile() == DONE | {"not_described": 1}
    assert app.objects(app.pictures) == {}


def test_a_run_ends_after_failures_of_gemini_but_not_after_failures_of_pictures(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    for number in range(MAX_FAILURES + 1):
        app.deliver(app.upload(f"ana/{number}.png", small_png()))
    assert app.reconcile() == DONE | {"not_described": MAX_FAILURES}
    for settings in ({"GEMINI_MODEL": "fault-malformed"}, {"GEMINI_MODEL": "fault-blocked", "SAFETY": "low"}):
        app = app.restarted(**settings)
        assert redescribe(app, all=True, mark=True)["pictures"] == MAX_FAILURES + 1
        assert app.reconcile() == DONE | {"not_described": MAX_FAILURES + 1}


def test_the_response_stays_cached_if_the_row_is_marked_again_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, upload = upload_without_description(start, DAILY_CALLS="100")
    app = app.restarted(GEMINI_MODEL=UP)
    at_next_call(monkeypatch, Buckets, "read_published", lambda: redescribe(app, mark=True))
    assert app.reconcile() == DONE | {"described": 1}
    assert rows("SELECT calls FROM spending") == [[2]]  # the first one failed
    assert result(app, upload.id)["usage"]["reused"]


def test_an_invalid_redescribe_request_is_refused_and_changes_nothing(start: Start) -> None:
    app = start(**ONCE)
    app.deliver(app.upload("ana/a.png", small_png()))
    invalid: tuple[Any, ...] = (None, [], {"owner": 7}, {"since": "now"}, {"bob": "x"}, {"after": "1"})
    for wrong in (*invalid, {"all": 1, "mark": True}, {"all": True, "mark": True, "owner": None}):
        body = json.dumps({"redescribe": wrong})
        answer = app.sweep.post("/", data=body, content_type="application/json")
        assert problem(answer, 400)["code"] == "bad_redescribe"
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[1]]
    assert redescribe(app, all=True, mark=True)["pictures"] == 1  # a valid request would mark it

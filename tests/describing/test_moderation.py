"""Moderation fails closed: pictures above SAFETY or without a verdict are not published."""

from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropcap.describing import moderation
from dropcap.domain.analysis import Verdict
from dropcap.errors import Rejected, SettingsError
from dropcap.settings import Settings
from dropcap.storage.buckets import Buckets
from tests.support.app import App, Start, at_next_call, expire_leases, problem, rows, small_png

UNAVAILABLE = {"GEMINI_MODEL": "fault-404"}  # not retried
ANSWERS = {"GEMINI_MODEL": "gemini-3.5-flash-lite"}
ROW = "SELECT state, reason_code, attempts, deaths FROM uploads"


def field(level: str, *categories: str) -> dict[str, Any]:
    return {"level": level, "categories": list(categories), "reason": "Two people fight."}


def rated(*probabilities: str) -> list[tuple[str, str]]:
    return [("HARM_CATEGORY_DANGEROUS_CONTENT", each) for each in probabilities]


def refusal(verdict: Verdict | None, **settings: str) -> str:
    """Return the code of the rejection; empty if the picture may be published."""
    try:
        moderation.check(verdict, Settings(**({"safety": "low"} | settings)))  # type: ignore[arg-type]
    except Rejected as rejected:
        return rejected.code
    return ""


def test_the_stricter_of_the_models_verdict_and_googles_ratings_applies() -> None:
    assert moderation.read(field("low"), rated("NEGLIGIBLE"), "STOP").level == "low"
    assert moderation.read(field("none"), rated("LOW", "HIGH", "MEDIUM"), "STOP").level == "high"
    assert moderation.read(field("high", "violence"), rated("LOW"), "STOP") == Verdict(
        "high", ("violence",), "Two people fight.", "low"
    )
    assert moderation.read(field("none"), [], "STOP").rated == ""


@pytest.mark.parametrize("why", ["SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "IMAGE_SAFETY"])
def test_a_blocked_picture_has_a_verdict_and_no_setting_publishes_it(why: str) -> None:
    verdict = moderation.read(None, [], why)
    assert (verdict.level, verdict.blocked) == ("high", True)
    assert refusal(verdict, safety="high", safety_unknown="publish") == "held_unsafe"


@pytest.mark.parametrize(
    "wrong", [None, "none", 0, [], {}, {"level": "None"}, {"level": ["none"]}, {"level": ""}]
)
def test_a_malformed_verdict_is_unknown_even_with_good_ratings(wrong: Any) -> None:
    for ratings in ([], rated("NEGLIGIBLE")):
        assert refusal(moderation.read(wrong, ratings, "STOP"), safety="high") == "held_no_verdict"
    assert refusal(moderation.read(wrong, rated("HIGH"), "STOP"), safety_unknown="publish") == "held_unsafe"
    assert refusal(None) == "held_no_verdict"
    assert refusal(None, safety_unknown="publish") == ""


def test_each_level_allows_itself_and_the_levels_below() -> None:
    passed = {
        limit: [level for level in moderation.LEVELS if not refusal(Verdict(level), safety=limit)]
        for limit in ("low", "medium", "high")
    }
    assert passed == {
        "low": ["none", "low"],
        "medium": ["none", "low", "medium"],
        "high": ["none", "low", "medium", "high"],
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(deadline=None, database=None, max_examples=50)
@given(
    JSON
    | st.fixed_dictionaries(
        {"level": JSON | st.sampled_from(moderation.LEVELS), "categories": JSON, "reason": JSON}
    )
)
def test_any_safety_field_gives_a_bounded_verdict_that_is_never_below_the_ratings(found: Any) -> None:
    verdict = moderation.read(found, rated("MEDIUM"), "STOP")
    assert verdict.level in ("medium", "high", "unknown")
    assert set(verdict.categories) <= set(moderation.CATEGORIES)
    assert verdict.reason.isprintable()
    assert len(verdict.reason) <= 200
    assert refusal(verdict, safety_unknown="publish") == "held_unsafe"


def test_safety_without_a_key_refuses_to_start() -> None:
    with pytest.raises(SettingsError, match=r"SAFETY='low' .* Set the key, or SAFETY_UNKNOWN=publish"):
        Settings.read({"SAFETY": "low"}).check_start()
    for more in ({"GEMINI_API_KEY": "k"}, {"SAFETY_UNKNOWN": "publish"}, {"SAFETY": "off"}):
        Settings.read({"SAFETY": "low"} | more).check_start()


def nothing_public(app: App) -> None:
    assert app.objects(app.pictures) == {}
    assert rows("SELECT count(*) FROM analyses") == [[0]]


def test_a_picture_above_the_level_is_quarantined_with_the_reason_and_never_published(start: Start) -> None:
    app = start(SAFETY="low", GEMINI_MODEL="fault-unsafe-medium")
    upload = app.upload("ana/a.png", small_png())
    left = app.storage.bucket(app.pictures).blob(f"{upload.id}/200.webp")
    left.upload_from_string(b"of a delivery with another verdict that crashed before it could record it")
    assert app.deliver(upload) == 200
    nothing_public(app)
    assert rows(ROW) == [["done", "held_unsafe", 1, []]]
    [copy] = app.objects(app.quarantine).values()
    assert copy.metadata["dropcap-reason"] == "held_unsafe"
    assert copy.metadata["dropcap-problem"] == (
        "The picture is held: its safety level is medium (violence), and low at most is published "
        "(Two people fight)."
    )
    assert app.objects(app.uploads) == {}
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
    assert problem(answer, 422)["code"] == "held_unsafe"
    nothing_public(app)

    app = app.restarted(GEMINI_MODEL="fault-blocked")
    assert app.deliver(app.upload("ana/b.png", small_png())) == 200
    nothing_public(app)
    [[reason]] = rows("SELECT reason FROM uploads WHERE name LIKE '%b.png'")
    assert "Gemini blocked the picture (SAFETY)" in reason

    app = app.restarted(SAFETY="medium", GEMINI_MODEL="fault-unsafe-medium")
    assert app.deliver(app.upload("ana/c.png", small_png())) == 200
    [[verdict]] = rows("SELECT result->'safety' FROM analyses")
    assert (verdict["level"], verdict["categories"]) == ("medium", ["violence"])
    assert len(app.objects(app.pictures)) == 3


def test_a_picture_without_a_verdict_is_held_until_reconcile_gets_one(start: Start) -> None:
    app = start(SAFETY="low", **UNAVAILABLE)
    upload = app.upload("ana/a.png", small_png(), language="de")
    assert [app.deliver(upload), app.deliver(upload)] == [200, 200]  # acknowledged: the state is safe
    assert rows(ROW) == [["held", "held_no_verdict", 1, []]]
    assert list(app.objects(app.uploads)) == ["ana/a.png"]
    assert app.objects(app.quarantine) == {}
    nothing_public(app)
    answer = app.http.post("/", json={"bucket": app.uploads, "name": "ana/a.png", "keep": True})
    assert problem(answer, 503)["code"] == "held_no_verdict"
    page = app.gallery.get("/gallery/", query_string={"user": "ana"}).text
    assert "there is no verdict on its safety. An upload is tried again every hour" in page
    query = {"user": "ana", "upload": f"{upload.generation}:{upload.name}"}
    [status] = app.gallery.get("/gallery/status", query_string=query).get_json()["uploads"]
    assert (status["state"], status["code"], status["finished"]) == ("rejected", "held_no_verdict", False)

    assert app.reconcile() == {"complete": True}  # the hour is not over
    expire_leases()
    assert app.reconcile() == {"found": 1, "left": 1, "complete": True}
    assert rows(ROW) == [["held", "held_no_verdict", 2, []]]

    app = app.restarted(**ANSWERS)
    expire_leases()
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert rows(ROW) == [["done", "", 3, []]]
    [[result]] = rows("SELECT result FROM analyses")
    assert (result["safety"]["level"], result["language"]) == ("none", "de")
    assert app.objects(app.uploads) == {}


def test_a_picture_without_a_verdict_is_quarantined_after_three_days(start: Start) -> None:
    app = start(SAFETY="low", **UNAVAILABLE)
    app.deliver(app.upload("ana/a.png", small_png()))
    rows("UPDATE uploads SET created_at = now() - interval '3 days'")
    expire_leases()
    assert app.reconcile() == {"found": 1, "quarantined": 1, "complete": True}
    assert rows(ROW) == [["done", "held_no_verdict", 2, []]]
    [copy] = app.objects(app.quarantine).values()
    assert copy.metadata["dropcap-reason"] == "held_no_verdict"
    nothing_public(app)


def test_days_of_other_failures_do_not_count_towards_the_three_days(start: Start) -> None:
    app = start(SAFETY="low", **UNAVAILABLE)
    upload = app.upload("ana/a.png", small_png())
    failed = app.services.leases.acquire(upload)
    app.services.leases.release(upload, failed.token)
    rows("UPDATE uploads SET created_at = now() - interval '3 days'")
    assert app.deliver(upload) == 200
    assert rows(ROW) == [["held", "held_no_verdict", 2, []]]
    expire_leases()
    once_more = app.services.leases.acquire(upload)  # another failure now does not change that it was held
    app.services.leases.release(upload, once_more.token)
    assert app.reconcile() == {"found": 1, "quarantined": 1, "complete": True}


def test_a_user_can_delete_a_held_upload(start: Start) -> None:
    app = start(SAFETY="low", **UNAVAILABLE)
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    assert app.delete(upload.id).status_code == 303
    assert app.objects(app.uploads) == {}
    assert rows("SELECT state, user_id, name FROM uploads") == [["done", "", ""]]


def test_a_posted_picture_without_a_verdict_is_refused_with_retry_after_and_not_kept(start: Start) -> None:
    app = start(SAFETY="low", **UNAVAILABLE)
    for query in ({}, {"keep": "true", "user": "ana"}):
        answer = app.analyze(data=small_png(), query_string=query)
        assert problem(answer, 503)["code"] == "held_no_verdict"
        assert answer.headers["Retry-After"] == "3600"
        nothing_public(app)
    app = app.restarted(**ANSWERS)
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
    assert answer.get_json()["safety"]["level"] == "none"


def test_a_picture_published_without_a_verdict_is_recorded_as_unknown(start: Start) -> None:
    app = start(SAFETY="low", SAFETY_UNKNOWN="publish", GEMINI_MODEL="fault-missing-safety")
    answer = app.analyze(data=small_png()).get_json()
    unknown = {"level": "unknown", "categories": [], "reason": "", "rated": "", "blocked": False}
    assert answer["safety"] == unknown
    app = app.restarted(SAFETY="off")
    assert app.analyze(data=small_png()).get_json()["safety"] is None


@pytest.mark.parametrize("found", ["fault-unsafe-high", "fault-missing-safety"])
def test_a_delivery_that_lost_its_lease_to_an_unsafe_verdict_leaves_nothing_published(
    start: Start, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    app = start(SAFETY="low", SIZES="200,100", LAYOUT="beside", **ANSWERS)
    upload = app.upload("ana/a.png", small_png())

    def deliver_to_another_worker() -> None:
        expire_leases()
        assert app.restarted(GEMINI_MODEL=found).deliver(upload) == 200

    at_next_call(monkeypatch, Buckets, "publish", deliver_to_another_worker)
    assert app.deliver(upload) == 503
    nothing_public(app)

"""`get_progress_stats` over HTTP; test_progress.py checks the numbers."""

import json
import os
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropcap.domain.upload import is_user
from infra.local.functions import application
from tests.support.app import MAIN, Start, problem, small_png


def test_a_users_uploads_streak_and_achievements_are_returned(start: Start) -> None:
    app = start()
    app.deliver(app.upload("ana/a.png", small_png(), tz="Pacific/Auckland"))
    app.deliver(app.upload("bob/b.png", small_png()))
    stats = app.stats("ana")
    assert set(stats) == {
        "user", "pictures_analyzed", "this_week", "current_streak", "longest_streak", "last_upload_at",
        "achievements",
    }  # fmt: skip
    assert (stats["user"], stats["pictures_analyzed"], stats["current_streak"]) == ("ana", 1, 1)
    assert all(set(each) == {"achievement_name", "earned_at"} for each in stats["achievements"])
    # Other achievements depend on the user's local hour.
    assert "first_picture" in {each["achievement_name"] for each in stats["achievements"]}
    assert app.stats("bob")["pictures_analyzed"] == 1


def test_an_unknown_user_has_zeros(start: Start) -> None:
    counts = dict.fromkeys(("pictures_analyzed", "this_week", "current_streak", "longest_streak"), 0)
    assert start().stats("nobody") == {"user": "nobody", **counts, "last_upload_at": None, "achievements": []}


@pytest.mark.parametrize("query", [{}, {"user": ""}, {"user": "a\x00b"}, {"user": "x" * 129}])
def test_a_missing_or_impossible_user_is_a_problem_with_a_remedy(start: Start, query: dict[str, str]) -> None:
    assert problem(start().progress.get("/", query_string=query), 400)["code"] == "no_user"


def test_every_user_name_is_either_accepted_or_refused(start: Start) -> None:
    app = start()

    @hypothesis.settings(deadline=None, database=None, max_examples=60)
    @given(st.sampled_from(["'; DROP TABLE analyses; --", "..", "%s", ":user", "ana/x"]) | st.text())
    def ask(user: str) -> None:
        answer = app.progress.get("/", query_string={"user": user})
        assert answer.status_code == (200 if is_user(user) else 400), answer.text
        assert answer.status_code == 400 or answer.get_json()["user"] == user

    ask()


def test_locally_the_functions_answer_at_their_bare_names(start: Start) -> None:
    app = start()
    client = application().test_client()
    assert client.get("/get_progress_stats?user=ana").get_json() == app.stats("ana")
    assert client.post("/analyze", data=small_png()).status_code == 200


@pytest.mark.parametrize(
    ("auth", "status", "more"), [("iam", 200, ("cryptography", "requests")), ("token", 401, ())]
)
def test_it_loads_no_model_no_pillow_and_with_iam_nothing_that_checks_tokens(
    database_url: str, auth: str, status: int, more: tuple[str, ...]
) -> None:
    script = f"""
import json, sys
from functions_framework import create_app
answer = create_app("get_progress_stats", {MAIN!r}, "http").test_client().get("/?user=ana")
print(json.dumps([answer.status_code, [m for m in sys.modules if m.split(".")[0] in
    {("PIL", "onnxruntime", "numpy", "grpc", "pillow_heif", *more)}
    or m.startswith(("google.generativeai", "google.genai", "google.cloud.storage"))]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"DATABASE_URL": database_url, "AUTH": auth, "AUTH_AUDIENCE": "dropcap-demo"},
        cwd=os.path.dirname(MAIN),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [status, []]

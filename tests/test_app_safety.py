"""Who may ask, and what a stranger's words and files can do: nothing but be shown."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from compared import EVIL, PROMPTS, app, setup
from gradio_client import Client
from PIL import Image

from visalign import cli
from visalign.apps import answers, compare, safety
from visalign.apps.safety import Policy, Refused
from visalign.data import store
from visalign.images import ImageError
from visalign.records import DataError

TRAVERSALS = (
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd", "/gradio_api/file%3D/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/upload_progress?upload_id=a", "/gradio_api/runs",
    "/static/../../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd", "/svelte/../../app.py", "/monitoring",
    "/look/../compare.py", "/look/..%2fcompare.py", "/look/compare.py", "/look/%2e%2e/safety.py",
    "/desk/picture/..%2f..%2f..%2fetc%2fpasswd", "/desk/picture/....", "/desk/blind/..%2f..%2fetc%2fpasswd",
    "/desk/sheet?name=base&file=../../../etc/passwd", "/desk/sheet?name=../..&file=step-000001.png",
    "/desk/answers/0/..%2f..%2fetc%2fpasswd", "/desk/export/../../etc/passwd", "/desk/export/passwd",
    "/docs", "/openapi.json", "/gradio_api/mcp/", "/file=/etc/passwd",
)  # fmt: skip


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a hundred kilobytes that unpacks to side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * ((side // 8 + 1) * side), 9)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[compare.Served]:
    folder = tmp_path_factory.mktemp("safety")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "page.png").write_text(EVIL)
    Image.new("RGB", (8, 8), "red").save(folder / "<img src=x onerror=alert(1)>.png")
    images = ("bomb.png", "page.png", "../../../../etc/passwd", "gone.png", "<img src=x onerror=alert(1)>.png")
    rows = [{"image": name, "question": "What?", "answers": {"m": "a"}} for name in images]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = setup(folder / "session", prompts=PROMPTS[:2], answers=folder / "answers.jsonl")
    with app(given, key="the key", open_votes=True) as made:
        yield made


@pytest.fixture
def web(served: compare.Served) -> Iterator[httpx.Client]:
    """A client that is one of the app's own pages."""
    with httpx.Client(base_url=served.url, headers={"x-visalign-key": "the key"}) as client:
        yield client


def trial(web: httpx.Client, rater: str = "ada") -> dict[str, Any]:
    found: dict[str, Any] = web.post("/desk/trial", json={"rater": rater}).json()["trial"]
    return found


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:7860", "127.0.0.1.evil.test", "", "[::1", "10.0.0.7", "localhost@evil"]
)
def test_a_foreign_host_is_refused(host: str, web: httpx.Client) -> None:
    for path in ("/", "/desk/about", "/gradio_api/info", "/config"):
        answer = web.get(path, headers={"host": host})
        assert answer.status_code in (400, 403), (host, path)
        assert "base" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:7860"])
def test_our_own_hosts_are_answered(host: str, web: httpx.Client) -> None:
    assert web.get("/desk/about", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://127.0.0.1:1", "http://localhost.evil.test"])
def test_a_foreign_page_may_not_ask(origin: str, web: httpx.Client) -> None:
    headers = {"origin": origin}
    assert web.get("/desk/about", headers=headers).status_code == 403
    assert web.post("/desk/trial", json={"rater": "eve"}, headers=headers).status_code == 403
    assert web.post("/gradio_api/call/models", json={"data": []}, headers=headers).status_code == 403
    files = {"files": ("a.png", b"x")}
    assert web.post("/gradio_api/upload", files=files, headers=headers).status_code == 403


def test_a_picture_embedded_in_a_foreign_page_is_refused_and_a_link_is_not(web: httpx.Client) -> None:
    embedded = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert web.get("/desk/about", headers=embedded).status_code == 403
    assert web.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200


def test_what_changes_anything_needs_the_page_s_key(served: compare.Served) -> None:
    for key in ({}, {"x-visalign-key": "another"}):
        for name in ("trial", "vote", "skip", "undo", "draw", "recipe", "admit"):
            answer = httpx.post(f"{served.url}/desk/{name}", json={"rater": "eve"}, headers=key)
            assert (answer.status_code, "own pages" in answer.text) == (403, True)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_to_a_file_of_the_machine(path: str, web: httpx.Client) -> None:
    answer = web.get(path)
    assert answer.status_code in (400, 403, 404, 405, 422), answer.status_code
    assert "root:" not in answer.text and "import " not in answer.text


def test_nothing_can_be_uploaded_and_nothing_long_be_said(web: httpx.Client) -> None:
    for name in ("x.png", "../../x", "a.html"):
        assert web.post("/gradio_api/upload", files={"files": (name, b"x")}).status_code == 404
    assert web.post("/desk/draw", json={"prompt": "a" * 2001}).json() == {
        "error": "a prompt has 2001 characters, at most 2000"
    }
    assert web.post("/desk/draw", content=b" " * (safety.MAX_BODY + 1)).status_code == 413
    assert web.post("/desk/draw", content=iter([b" "] * 3)).status_code == 411
    assert web.post("/gradio_api/call/models", content=b" " * (safety.MAX_BODY + 1)).status_code == 413


def test_a_body_that_lies_about_its_length_is_cut_off(served: compare.Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as plug:
        head = b"POST /desk/draw HTTP/1.1\r\nHost: localhost\r\nx-visalign-key: the key\r\nContent-Length: 2\r\n"
        kind = b"Content-Type: application/json\r\nConnection: close\r\n\r\n"
        plug.sendall(head + kind + b"{}" + b"x" * 100_000)
        assert b" 422 " in plug.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [({"prompt": ""}, "write a prompt first"), ({"prompt": " \u202e\u200b\x00 "}, "write a prompt first"),
     ({"prompt": "a", "seeds": 17}, "1 to 16 seeds"), ({"prompt": "a", "seeds": 0}, "1 to 16 seeds")],
)  # fmt: skip
def test_prompts_that_are_none_are_refused(words: dict[str, Any], says: str, web: httpx.Client) -> None:
    answer = web.post("/desk/draw", json=words)
    assert (answer.status_code, says in answer.json()["error"]) == (400, True)


def test_a_name_loses_what_hides_or_turns_letters() -> None:
    assert safety.said("  a\u202egnp\x00\x1b[31m \n b\u200b ", "a name", 64) == "agnp[31m b"
    with pytest.raises(Refused, match="must be a text"):
        safety.said(["a"], "a name", 64)


@pytest.mark.parametrize(
    ("number", "says"), [(0, "too many pixels"), (1, "not a PNG"), (2, "leads out of"), (3, "no such file")]
)
def test_pictures_that_cannot_be_shown_say_why(number: int, says: str, web: httpx.Client) -> None:
    answer = web.get(f"/desk/answers/{number}/image")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert says in answer.json()["error"]


def test_a_picture_is_made_anew_before_it_is_shown(tmp_path: Path) -> None:
    """Words behind the pixels, and the place where it was taken, stay here; a large one becomes small."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    Image.new("RGB", (3000, 20)).save(tmp_path / "a.jpg", exif=exif)
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"<script>SECRET</script>")
    (tmp_path / "a.jsonl").write_text('{"image": "a.jpg", "question": "?", "answers": {"m": "a"}}\n')
    shown = answers.Answers(tmp_path / "a.jsonl").picture(0)
    assert b"SECRET" not in shown and shown.startswith(b"\x89PNG")
    assert Image.open(io.BytesIO(shown)).size == (answers.SIDE, 7)


def test_every_answer_says_what_a_page_may_load(web: httpx.Client) -> None:
    for path in ("/", "/vote", "/desk/about", "/look/page.js", "/nowhere"):
        found = web.get(path).headers
        assert "connect-src 'self'" in found["content-security-policy"]
        assert (found["x-content-type-options"], found["referrer-policy"]) == ("nosniff", "no-referrer")


def test_before_the_vote_nothing_tells_who_drew_what(served: compare.Served, web: httpx.Client) -> None:
    """Neither page, answer, header nor name; the same picture has another name in another trial."""
    page = web.get("/vote").text + web.get("/look/vote.js").text
    assert not any(word in page for word in ("shaken", "base@", served.desk.pool.artists[1].weights))
    asked = web.post("/desk/trial", json={"rater": "ada"})
    found = asked.json()
    assert set(found["trial"]) == {"id", "prompt", "pictures"}
    assert not any(word in asked.text for word in ("shaken", "base", "seed"))
    one, other = (web.get(f"/desk/blind/{name}") for name in found["trial"]["pictures"])
    for picture in (one, other):
        assert not {"etag", "last-modified", "content-disposition"} & set(picture.headers)
        assert picture.headers["cache-control"] == "no-store"
        assert not any(each.stem in str(picture.headers) for each in (served.desk.votes / "pictures").iterdir())
        assert Image.open(io.BytesIO(picture.content)).info == {}
    told = web.post("/desk/vote", json={"trial": found["trial"]["id"], "rater": "ada", "said": "left"}).json()
    assert {side["model"] for side in told["sides"]} == {"base", "shaken"}


def test_fifty_voters_at_once_leave_fifty_records(served: compare.Served) -> None:
    before = len(store.read(served.desk.votes))

    def vote(number: int) -> int:
        with httpx.Client(base_url=served.url, headers={"x-visalign-key": "the key"}, timeout=60) as web:
            asked = {"trial": trial(web, f"rater {number}")["id"], "rater": f"rater {number}", "said": "right"}
            web.post("/desk/vote", json=asked)
            return web.post("/desk/vote", json=asked).status_code  # a double click

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(vote, range(50))) == {200}
    assert len(store.read(served.desk.votes)) - before == 50


def test_programs_use_the_documented_endpoints(served: compare.Served) -> None:
    client = Client(served.url, verbose=False)
    names = set(client.view_api(return_format="dict")["named_endpoints"])
    assert names == {"/models", "/draw", "/leaderboard", "/next_pair", "/vote"}
    assert [each["name"] for each in client.predict(api_name="/models")] == ["base", "shaken"]
    drawn = client.predict(PROMPTS[0], 0, api_name="/draw")
    assert [cell["state"] for cell in drawn["cells"]] == ["ready", "ready"]
    assert drawn["proof"][0]["noise"] == drawn["proof"][1]["noise"]
    asked = client.predict("robot", api_name="/next_pair")["trial"]
    assert client.predict(asked["id"], "robot", "tie", api_name="/vote")["said"] == "tie"
    assert any(each["name"] == "robot" for each in client.predict(api_name="/leaderboard")["raters"])
    with pytest.raises(Exception, match="write a prompt first"):
        client.predict("  ", 0, api_name="/draw")


def test_votes_by_programs_are_closed_unless_asked_for(served: compare.Served) -> None:
    closed = compare.pages(served.desk, compare.Door())
    assert set(closed.get_api_info()["named_endpoints"]) == {"/models", "/draw", "/leaderboard"}


@pytest.mark.parametrize("door", [{"host": "0.0.0.0"}, {"host": "192.168.1.7"}, {"share": True}])
def test_others_are_let_in_with_a_password_only(door: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="opens the app to others: give --auth"):
        compare.Door(**door)
    policy = compare.Door(**door, login=("ada", "s3cret")).policy()
    assert policy.opens("Basic YWRhOnMzY3JldA==")
    assert not any(policy.opens(each) for each in ("", "Basic ", "Basic YWRhOmE=", "Bearer YWRhOnMzY3JldA=="))


def test_an_address_is_a_known_host_where_others_may_come() -> None:
    policy = compare.Door(host="0.0.0.0", login=("a", "b"), hosts=["Lab.example"]).policy()
    assert policy.knows("10.0.0.7:7860") and policy.knows("lab.example") and not policy.knows("evil.test")
    assert not Policy("key").knows("10.0.0.7")


def test_a_password_guards_every_door(tmp_path: Path, served: compare.Served) -> None:
    given = setup(tmp_path / "session", models=served.desk.setup.models, prompts=PROMPTS[:1], seeds=[0])
    with app(given, login=("ada", "s3cret")) as locked:
        paths = ("/", "/vote", "/desk/about", "/look/page.js", "/gradio_api/info", "/config", "/theme.css")
        assert {httpx.get(locked.url + path).status_code for path in paths} == {401}
        assert {httpx.get(locked.url + path, auth=("ada", "wrong")).status_code for path in paths} == {401}
        assert {httpx.get(locked.url + path, auth=("ada", "s3cret")).status_code for path in paths} == {200}
        client = Client(locked.url, verbose=False, httpx_kwargs={"auth": ("ada", "s3cret")})
        assert len(client.predict(api_name="/models")) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("playground", "two to six different models"),
        ("playground playground", "two to six different models"),
        ("playground nowhere/at/all", "nowhere/at/all"),
        ("playground MODEL --share", "give --auth"),
        ("playground MODEL --auth ada", "USER:PASSWORD"),
        ("playground MODEL --runs gone", "no folder of a training run"),
        ("playground MODEL --scorers ruls", "did you mean rules"),
        ("playground MODEL --answers gone.jsonl", "no answers at"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_two(
    words: str, says: str, served: compare.Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = str(served.desk.setup.models["shaken"].folder.path)
    asked = ["compare", *words.replace("MODEL", other).split(), "--out", str(tmp_path)]
    assert cli.main(asked) == 2
    said = capsys.readouterr().err.strip()
    assert says in said and "\n" not in said


def test_answers_that_are_damaged_are_told_with_their_line(tmp_path: Path) -> None:
    file, asked = tmp_path / "a.jsonl", '{"image": "a", "question": "b"'
    damaged = {
        "{": ":1 is not JSON",
        '{"image": 1}': 'needs an "image"',
        f"{asked}}}": 'needs "answers"',
        "": "no answers",
    }
    for text, says in damaged.items():
        file.write_text(text)
        with pytest.raises(DataError, match=says):
            answers.Answers(file)
    file.write_text(f'{asked}, "answers": {{}}}}')
    with pytest.raises(ImageError, match="no such file"):
        answers.Answers(file).picture(0)

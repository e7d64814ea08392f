"""Scorers over HTTP give the numbers that they give in this process, to many callers at once, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from visalign import cli, registry
from visalign.client import ScoreClient, ServerError
from visalign.playground import captions, world
from visalign.playground.corpus import scenes
from visalign.scoring import Sample, Scorer, Scores

KEY = "a key of the test"


@dataclass(frozen=True)
class Touchy:
    """A scorer that cannot bear one prompt, and is slow enough for requests to meet."""

    name = "touchy"

    def score(self, samples: Sequence[Sample]) -> Scores:
        time.sleep(0.02)
        if any(sample.prompt == "boom" for sample in samples):
            raise RuntimeError("cannot bear it")
        return Scores(torch.tensor([float(len(sample.prompt)) for sample in samples]))


def server(scorers: dict[str, Scorer], key: str | None = None, **limits: float) -> Iterator[str]:
    """A real server on a free port; its address."""
    app = registry.load("app", "score_api")(scorers, limits=limits, key=key)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=made.run)
    thread.start()
    while not made.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    made.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def rules() -> Scorer:
    made: Scorer = registry.build("scorer", "rules")
    return made


@pytest.fixture(scope="module")
def url(rules: Scorer) -> Iterator[str]:
    yield from server({"rules": rules, "touchy": Touchy()}, body=200_000, samples=40, pixels=100_000, wait=0.05)


@pytest.fixture(scope="module")
def locked(rules: Scorer) -> Iterator[str]:
    yield from server({"rules": rules}, key=KEY)


def drawn(count: int = 6) -> list[Sample]:
    """Pictures of the world, the odd ones under another's caption."""
    random = np.random.default_rng(0)
    found = scenes("heldout", count)
    told = [captions.caption(found[(row + row % 2) % count]) for row in range(count)]
    pictures = [Image.fromarray(world.draw(world.place(scene, random))) for scene in found]
    return [Sample(text, image=picture) for text, picture in zip(told, pictures, strict=True)]


def bytes_of(sample: Sample) -> bytes:
    file = io.BytesIO()
    assert isinstance(sample.image, Image.Image)
    sample.image.save(file, "PNG")
    return file.getvalue()


def item(sample: Sample) -> dict[str, str]:
    return {"prompt": sample.prompt, "image": base64.b64encode(bytes_of(sample)).decode()}


def test_the_client_s_scores_are_those_of_this_process(url: str, rules: Scorer) -> None:
    client, samples = ScoreClient(url, "rules", batch=4), drawn()
    near, far = rules.score(samples), client.score(samples)
    assert torch.equal(near.values, far.values)
    assert near.right is not None and far.right is not None and torch.equal(near.right, far.right)
    for name, values in near.aspects.items():
        assert torch.allclose(values, far.aspects[name].double(), atol=1e-6)
    assert len(set(far.values.tolist())) > 1
    assert client.name == "rules"
    assert list(client.scorers()) == ["rules", "touchy"]
    assert client.health()["status"] == "ok"
    client.close()


def test_json_and_files_say_the_same(url: str, rules: Scorer) -> None:
    samples = drawn(3)
    said = httpx.post(f"{url}/score", json={"scorer": "rules", "samples": [item(each) for each in samples]}).json()
    files = [("files", (f"{row}.png", bytes_of(each), "image/png")) for row, each in enumerate(samples)]
    form = {"scorer": "rules", "prompt": [each.prompt for each in samples]}
    assert httpx.post(f"{url}/score/upload", data=form, files=files).json() == said
    assert [each["value"] for each in said["results"]] == rules.score(samples).values.tolist()


def test_preferences_are_by_score_and_unsure_where_a_picture_is_broken(url: str) -> None:
    good, other = drawn(2)
    wrong = Sample(good.prompt, image=other.image)
    client = ScoreClient(url, "rules")
    assert client.prefer([good, wrong, good], [wrong, good, good]).tolist() == [1, 0, 0.5]
    broken = Sample(good.prompt, image=bytes_of(good)[:60])
    assert client.prefer([good], [broken]).isnan().all()
    sent = {"first": ("a.png", bytes_of(good)), "second": ("b.png", bytes_of(wrong))}
    said = httpx.post(f"{url}/prefer/upload", data={"prompt": good.prompt, "scorer": "rules"}, files=sent).json()
    assert said == {"scorer": "rules", "probabilities": [1.0]}


def test_what_cannot_be_decoded_is_not_judged_and_the_others_are(url: str) -> None:
    good = drawn(1)[0]
    large = io.BytesIO()
    Image.new("RGB", (400, 300)).save(large, "PNG")
    data = [bytes_of(good)[:60], b"<svg/>", bytes_of(good), large.getvalue()]
    sent = [{"prompt": good.prompt, "image": base64.b64encode(each).decode()} for each in data]
    sent.append({"prompt": good.prompt, "image": "/etc/passwd"})
    sent.append({"prompt": good.prompt, "image": "no base64 at all!"})
    said = httpx.post(f"{url}/score", json={"scorer": "rules", "samples": sent}).json()["results"]
    assert [each["valid"] for each in said] == [False, False, True, False, False, False]
    assert [each["value"] is None for each in said] == [True, True, False, True, True, True]
    reasons = ["damaged", "not a PNG", "nothing wrong", "400 x 300", "base64", "base64"]
    for each, word in zip(said, reasons, strict=True):
        assert word in (each["reason"] or "nothing wrong"), each


def test_requests_that_meet_are_scored_together_and_each_gets_its_own(url: str) -> None:
    before = batches(url)
    prompts = ["x" * length for length in range(1, 25)]
    picture = item(drawn(1)[0])["image"]

    def ask(prompt: str) -> float:
        sent = {"scorer": "touchy", "samples": [{"prompt": prompt, "image": picture}]}
        return float(httpx.post(f"{url}/score", json=sent, timeout=60).json()["results"][0]["value"])

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, prompts)) == [float(len(prompt)) for prompt in prompts]
    assert batches(url) - before <= 12, "two requests a batch at least"


def batches(url: str) -> float:
    """How many batches the touchy scorer has had."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('visalign_batch_samples_count{scorer="touchy"}')]
    return float(found[0].split()[-1]) if found else 0.0


def test_one_caller_s_fault_is_not_another_s(url: str) -> None:
    picture = item(drawn(1)[0])["image"]

    def ask(prompt: str) -> httpx.Response:
        return httpx.post(f"{url}/score", json={"scorer": "touchy", "samples": [{"prompt": prompt, "image": picture}]})

    with ThreadPoolExecutor(8) as pool:
        fine, boom = list(pool.map(ask, ["ok"] * 7)), pool.submit(ask, "boom")
    assert [each.status_code for each in fine] == [200] * 7
    failed = boom.result()
    assert (failed.status_code, "cannot bear it" in failed.json()["detail"]) == (500, True)
    assert "Traceback" not in failed.text


def test_too_much_is_refused_before_it_is_read(url: str) -> None:
    assert httpx.post(f"{url}/score", content=b"x" * 300_000).status_code == 413
    chunks = (b"x" * 50_000 for _ in range(8))  # no length is said
    with contextlib.suppress(httpx.HTTPError):  # the connection may be ended under the request
        assert httpx.post(f"{url}/score", content=chunks).status_code in (400, 413)
    many = [item(drawn(1)[0])] * 41
    assert "1 to 40 samples" in httpx.post(f"{url}/score", json={"samples": many, "scorer": "rules"}).json()["detail"]
    assert httpx.post(f"{url}/score", json={"samples": [], "scorer": "rules"}).status_code == 422


def test_a_full_line_is_said_and_the_client_tries_again() -> None:
    for address in server({"touchy": Touchy()}, held=2, batch=1, wait=0):
        client, sample = ScoreClient(address), Sample("abc", image=drawn(1)[0].image)
        sent = {"samples": [item(drawn(1)[0])] * 3}
        answer = httpx.post(f"{address}/score", json=sent)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.score([sample]).values.tolist() == [3.0]


def test_strangers_are_refused(url: str, locked: str) -> None:
    assert httpx.get(f"{url}/health", headers={"host": "evil.example"}).status_code == 403
    sent = {"samples": [item(drawn(1)[0])]}
    foreign = {"origin": "http://evil.example"}
    assert httpx.post(f"{url}/score", json={**sent, "scorer": "rules"}, headers=foreign).status_code == 403
    assert httpx.get(f"{locked}/health").status_code == 200
    for path in ("/scorers", "/metrics", "/docs", "/openapi.json"):
        assert httpx.get(f"{locked}{path}").status_code == 401
    assert httpx.post(f"{locked}/score", json=sent).status_code == 401
    assert httpx.post(f"{locked}/score", json=sent, headers={"x-api-key": KEY[:-1]}).status_code == 401
    for header in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
        assert httpx.post(f"{locked}/score", json=sent, headers=header).status_code == 200
    with pytest.raises(ServerError, match="401, a key is needed"):
        ScoreClient(locked).scorers()
    assert ScoreClient(locked, key=KEY).score(drawn(2)).judged.all()


def test_an_unknown_scorer_is_told_which_there_are(url: str) -> None:
    with pytest.raises(ServerError, match="no scorer is named 'hps' here; there are rules, touchy"):
        ScoreClient(url, "hps").score(drawn(1))
    with pytest.raises(ServerError, match="no scorer is named None"):
        ScoreClient(url).score(drawn(1))


def test_it_describes_itself(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {"/score", "/score/upload", "/prefer", "/prefer/upload", "/scorers", "/health", "/metrics"} <= set(paths)
    text = httpx.get(f"{url}/metrics").text
    assert 'visalign_requests_total{route="/score",status="200"}' in text
    assert 'visalign_samples_total{scorer="rules",valid="false"}' in text


def test_the_command_asks_for_a_key_where_others_could_come_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISALIGN_API_KEY", raising=False)
    assert cli.main(["serve", "--scorers", "rules", "--host", "0.0.0.0"]) == 2
    assert "give --key, or set VISALIGN_API_KEY" in capsys.readouterr().err
    assert cli.main(["serve", "--scorers", "ruels"]) == 2
    assert "did you mean rules?" in capsys.readouterr().err
    assert cli.main(["serve", "--scorers", "rules", "--max-body", "0"]) == 2


def test_a_picture_is_never_a_path_on_the_server(url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bytes_of(drawn(1)[0]))
    said = httpx.post(f"{url}/score", json={"scorer": "rules", "samples": [{"prompt": "a", "image": str(path)}]}).json()
    assert not said["results"][0]["valid"]

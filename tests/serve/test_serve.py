"""`glot serve` as its clients see it: through real HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed (extra: serve)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra: serve)")

from glot import GlotModel
from glot.errors import FaultError, UsageError
from glot.fit.ensemble import Ensemble
from glot.fit.run_folder import RunConfig
from glot.serve.batcher import Batcher
from glot.serve.options import Limits, address_of, listen, take_address
from glot.serve.server import make_server
from glot.serve.service import Service
from glot.store.task_spec import TaskSpec
from tests.conftest import SENTENCES

SECONDS = 30  # after which a test that waits has failed
ROOT = Path(__file__).parents[2]
LIMITS = Limits()
TOO_MANY = "too many texts wait: try again in 1 s"
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


@dataclass(frozen=True)
class Reply:
    """What came back: the status, the JSON, and the headers."""

    status: int
    json: Any
    headers: Any


def ask(address: str, path: str, body: object = None, kind: str = "application/json") -> Reply:
    """POST a body (bytes as they are, else as JSON), or GET without one."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return Reply(reply.status, json.loads(reply.read()), reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, json.loads(error.read()), error.headers)


@contextmanager
def serving(model: GlotModel, limits: Limits = LIMITS) -> Iterator[str]:
    """The address of a server in a thread; leaving stops it, as a signal does."""
    taken, started = take_address("127.0.0.1", 0), threading.Event()
    server = make_server(Service(model, Path("runs/made")), limits, started.set)
    taken.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    address = address_of(taken)
    thread.start()
    try:
        assert started.wait(SECONDS)
        yield address
    finally:
        server.should_exit = True
        thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def load(make_run: Callable[..., Path], backbone_folders: dict[str, Path]) -> Callable[..., GlotModel]:
    """`load(family="bert", **as make_run)`: a model with a random head."""

    def make(family: str = "bert", **settings: Any) -> GlotModel:
        return GlotModel.load(make_run(family, **settings), str(backbone_folders[family]), device="cpu")

    return make


class Held:
    """Holds a model's first batch until it is let through; knows the sizes of its batches, and how many texts wait."""

    def __init__(self, model: GlotModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open, self.sizes = threading.Event(), threading.Event(), list[int]()
        predict = model.predict_proba

        def held(*texts: list[str]) -> np.ndarray:
            self.sizes.append(len(texts[0]))
            self.entered.set()
            assert self.open.wait(SECONDS)
            return predict(*texts)

        monkeypatch.setattr(model, "predict_proba", held)
        self.batchers = list[Batcher]()
        enter = Batcher.__enter__
        monkeypatch.setattr(Batcher, "__enter__", lambda batcher: self.batchers.append(batcher) or enter(batcher))

    def wait_for(self, texts: int) -> None:
        """Until so many texts wait."""
        end = time.monotonic() + SECONDS
        while self.batchers[0].waiting != texts:
            assert time.monotonic() < end
            time.sleep(0.005)


def test_64_clients_at_once_each_get_their_own_answers(
    load: Callable[..., GlotModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    texts = [" ".join(np.random.default_rng(number).choice(WORDS, 6)) for number in range(65)]
    expected = model.predict_proba(texts)
    assert len({tuple(row) for row in expected.round(4).tolist()}) > 60  # an answer tells whose it is
    held = Held(model, monkeypatch)
    with serving(model) as address, ThreadPoolExecutor(65) as clients:
        first = clients.submit(ask, address, "/predict", {"texts": [texts[64]]})
        assert held.entered.wait(SECONDS)
        others = [clients.submit(ask, address, "/predict", {"texts": [text]}) for text in texts[:64]]
        held.wait_for(64)
        assert ask(address, "/health").json["ready"]  # while a batch is in hand
        held.open.set()
        replies = [done.result(SECONDS) for done in [*others, first]]
    assert held.sizes == [1, 64]
    assert {reply.status for reply in replies} == {200}
    for reply, shares in zip(replies, expected, strict=True):
        (answer,) = reply.json["predictions"]
        assert answer["label"] == model.classes_[shares.argmax()]
        np.testing.assert_allclose([answer["probabilities"][name] for name in model.classes_], shares, atol=1e-5)


def test_the_answers_are_those_of_predict_and_encode(
    glot: Callable[..., tuple], make_run: Callable[..., Path], backbone_folders: dict[str, Path]
) -> None:
    run, backbone = make_run("bert"), str(backbone_folders["bert"])
    Path("texts.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    given = ["--run", run, "--model", backbone, "--input", "texts.txt"]
    assert glot("predict", *given, "--output", "answers.jsonl")[0] == 0
    assert glot("encode", *given, "--output", "vectors.npy")[0] == 0
    with serving(GlotModel.load(run, backbone)) as address:
        predictions = ask(address, "/predict", {"texts": SENTENCES}).json["predictions"]
        vectors = ask(address, "/encode", {"texts": SENTENCES}).json["vectors"]
        facts = ask(address, "/health").json
        paths = ask(address, "/openapi.json").json["paths"]
        with urllib.request.urlopen(f"{address}/docs", timeout=SECONDS) as reply:  # the page for people
            assert (reply.status, reply.headers.get_content_type()) == (200, "text/html")
            assert "/openapi.json" in reply.read().decode()
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [answer["label"] for answer in predictions] == [line["label"] for line in lines]
    for name in ("no", "yes"):
        np.testing.assert_allclose(
            [answer["probabilities"][name] for answer in predictions],
            [line[f"probability_{name}"] for line in lines],
            atol=1e-5,
        )
    np.testing.assert_allclose(vectors, np.load("vectors.npy"), atol=1e-5)
    assert facts["width"] == len(vectors[0])
    assert (facts["classes"], facts["texts_each"], facts["run"]) == (["no", "yes"], 1, "runs/made")
    assert set(paths) == {"/predict", "/encode", "/health"}


def test_pairs_with_a_score(load: Callable[..., GlotModel]) -> None:
    model = load(task=TaskSpec("made", 2, "score", (), (0.0, 5.0), ("spearman",)))
    pair = {"texts": SENTENCES[:3], "texts_b": SENTENCES[3:6]}
    with serving(model) as address:
        predictions = ask(address, "/predict", pair).json["predictions"]
        assert np.shape(ask(address, "/encode", {"texts": SENTENCES}).json["vectors"]) == (8, model.width)
        refused = {
            "pass the second texts as texts_b": ("/predict", {"texts": SENTENCES}),
            "8 texts and 3 texts_b make no pairs": ("/predict", {**pair, "texts": SENTENCES}),
            "leave out texts_b": ("/encode", pair),
        }
        for line, (path, body) in refused.items():
            reply = ask(address, path, body)
            assert (reply.status, line in reply.json["detail"]) == (422, True), reply
        assert ask(address, "/health").json["classes"] is None
    np.testing.assert_allclose(
        [answer["score"] for answer in predictions], model.predict(*pair.values()), atol=1e-5, rtol=1e-5
    )


def test_a_prompt_of_both_texts_gives_vectors_of_pairs(load: Callable[..., GlotModel]) -> None:
    model, pair = load(template="{text} or {text_b}"), {"texts": SENTENCES[:2], "texts_b": SENTENCES[2:4]}
    with serving(model) as address:
        vectors = ask(address, "/encode", pair).json["vectors"]
        assert len(ask(address, "/predict", pair).json["predictions"]) == 2
        assert ask(address, "/encode", {"texts": SENTENCES}).status == 422
    np.testing.assert_allclose(vectors, model.encode(*pair.values()), atol=1e-5)


def test_an_ensemble_has_labels_and_no_vectors(
    make_run: Callable[..., Path], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "both").mkdir()
    runs = [make_run("bert", f"both/{number + 1}", layer=number + 1) for number in range(2)]
    Ensemble.of([RunConfig.load(run) for run in runs]).save(tmp_path / "both")
    model = GlotModel.load(tmp_path / "both", str(backbone_folders["bert"]), device="cpu")
    with serving(model) as address:
        predictions = ask(address, "/predict", {"texts": SENTENCES}).json["predictions"]
        reply = ask(address, "/encode", {"texts": SENTENCES})
        assert ask(address, "/health").json["width"] is None
    shares = [list(answer["probabilities"].values()) for answer in predictions]
    np.testing.assert_allclose(shares, model.predict_proba(SENTENCES), atol=1e-5)
    assert (reply.status, "gives labels and scores, and no vector" in reply.json["detail"]) == (422, True)


def test_what_is_no_request_is_told_in_one_line(load: Callable[..., GlotModel]) -> None:
    limits = Limits(texts=2, characters=30, waiting=2)
    wrong = [
        (b'{"texts": ["a"', 422, "the body is no JSON"),
        (b"\xff", 400, "error parsing the body"),
        (b"[]", 422, "the body must be a JSON object"),
        (["a"], 422, "the body must be a JSON object"),
        ({}, 422, "texts is missing"),
        ({"texts": []}, 422, "texts is empty"),
        ({"texts": "a"}, 422, "texts: "),
        ({"texts": ["a", 3]}, 422, "texts[1]: "),
        ({"texts": [None]}, 422, "texts[0]: "),
        ({"text": ["a"], "texts": ["a"]}, 422, "there is no text: pass texts"),
        ({"texts": ["a"], "texts_b": ["b"]}, 422, "leave out texts_b"),
        ({"texts": ["a", "b", "c"]}, 413, "texts holds 3 texts, and a request takes 2"),
        ({"texts": ["a", "b" * 31]}, 413, "texts[1] has 31 characters, and a text may have 30"),
        (b'{"texts": ["' + b" " * 10_000 + b'"]}', 413, "the body is longer than"),
    ]
    with serving(load(), limits) as address:
        for body, status, line in wrong:
            reply = ask(address, "/predict", body)
            assert (reply.status, line in reply.json["detail"]) == (status, True), (body, reply)
            assert "\n" not in reply.json["detail"]
        reply = ask(address, "/predict", {"texts": ["a"]}, kind="text/plain")
        assert (reply.status, "application/json" in reply.json["detail"]) == (422, True)
        assert ask(address, "/nothing").status == 404
        assert ask(address, "/predict").status == 405
        assert ask(address, "/predict", {"texts": ["a", "b" * 30]}).status == 200
        assert ask(address, "/predict", b'{"texts": ["", "half a pair \\ud83d"]}').status == 200


def test_an_error_of_one_request_is_not_another_s(
    load: Callable[..., GlotModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    expected = model.predict_proba(SENTENCES[:1])
    predict = model.predict_proba

    def fails(texts: list[str]) -> np.ndarray:
        if "NaN" in texts:
            raise FaultError("tiny gives NaN or infinite states\nfor a text")
        if "strange" in texts:
            raise RuntimeError("a mistake")
        return predict(texts)

    monkeypatch.setattr(model, "predict_proba", fails)
    held = Held(model, monkeypatch)
    with serving(model) as address, ThreadPoolExecutor(4) as clients:
        texts = ["rain", SENTENCES[0], "NaN", "strange"]
        sent = [clients.submit(ask, address, "/predict", {"texts": [text]}) for text in texts]
        held.open.set()
        _, good, bad, strange = (done.result(SECONDS) for done in sent)
    np.testing.assert_allclose(list(good.json["predictions"][0]["probabilities"].values()), expected[0], atol=1e-5)
    assert (bad.status, bad.json["detail"]) == (500, "tiny gives NaN or infinite states for a text")
    assert (strange.status, strange.json["detail"]) == (500, "the server failed: its log says why")


def test_where_too_many_wait_a_client_is_told_when_to_come_back(
    load: Callable[..., GlotModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    held = Held(model, monkeypatch)
    with serving(model, Limits(texts=2, waiting=2)) as address, ThreadPoolExecutor(2) as clients:
        body = {"texts": SENTENCES[:2]}
        first = clients.submit(ask, address, "/predict", body)
        assert held.entered.wait(SECONDS)
        second = clients.submit(ask, address, "/predict", body)
        held.wait_for(2)
        reply = ask(address, "/predict", body)
        assert (reply.status, reply.headers["Retry-After"], reply.json["detail"]) == (503, "1", TOO_MANY)
        held.open.set()
        assert first.result(SECONDS).status == second.result(SECONDS).status == 200
        assert ask(address, "/predict", body).status == 200


def test_a_server_that_is_stopped_answers_what_is_in_hand(
    load: Callable[..., GlotModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    held = Held(model, monkeypatch)
    with ThreadPoolExecutor(1) as clients:
        with serving(model) as address:
            asked = clients.submit(ask, address, "/predict", {"texts": SENTENCES[:1]})
            assert held.entered.wait(SECONDS)
            threading.Timer(0.3, held.open.set).start()  # after it was asked to stop
        assert asked.result(SECONDS).status == 200
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(address, "/health")


def test_a_client_that_never_finishes_its_request_does_not_keep_the_server(
    load: Callable[..., GlotModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glot.serve.server.LEAVE_SECONDS", 0.2)
    with socket.socket() as client, serving(load()) as address:  # it is open still when the server is asked to stop
        host, _, port = address.removeprefix("http://").partition(":")
        client.connect((host, int(port)))
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n")
        client.sendall(b'Content-Length: 100\r\n\r\n{"texts": [')
        assert ask(address, "/health").status == 200


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_ends_at_a_signal(
    number: int, make_run: Callable[..., Path], backbone_folders: dict[str, Path]
) -> None:
    command = [sys.executable, "-m", "glot", "serve", "--run", str(make_run("bert")), "--port", "0", "--json"]
    command += ["--model", str(backbone_folders["bert"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            said = json.loads(server.stdout.readline())
            reply = ask(said["address"], "/predict", {"texts": SENTENCES})
            server.send_signal(number)
            _, errors = server.communicate(timeout=SECONDS)
        finally:
            server.kill()
    assert (reply.status, len(reply.json["predictions"])) == (200, len(SENTENCES))
    assert (server.returncode, errors) == (0, "")
    assert said["classes"] == ["no", "yes"]


def test_a_port_that_is_taken_and_a_missing_package_are_one_line(
    glot: Callable[..., tuple],
    make_run: Callable[..., Path],
    backbone_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["serve", "--run", make_run("bert"), "--model", backbone_folders["bert"]]
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, out, err = glot(*words, "--port", other.getsockname()[1])
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "pass another with --port" in err
    with take_address("127.0.0.1", 0) as first, take_address(*first.getsockname()[:2]) as second:  # two at once
        listen(first)
        with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1 port .*; pass another with --port"):
            listen(second)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, out, err = glot(*words)
    assert (code, out, "pip install 'glot-pipeline[serve]'" in err) == (2, "", True), err


def test_a_text_with_several_labels(load: Callable[..., GlotModel]) -> None:
    task = TaskSpec("tickets", 1, "labels", ("billing", "login", "refund"), metrics=("micro_f1",))
    model = load(task=task)
    texts = SENTENCES[:3]
    with serving(model) as address:
        answers = ask(address, "/predict", {"texts": texts}).json["predictions"]
    shares = model.predict_proba(texts)
    for answer, each in zip(answers, shares, strict=True):
        assert answer["labels"] == [name for name, share in zip(task.classes, each, strict=True) if share > 0.5]
        np.testing.assert_allclose(list(answer["probabilities"].values()), each, atol=1e-5)

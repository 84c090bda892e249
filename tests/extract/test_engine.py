"""What forwards a backbone: OpenVINO agrees with torch, is taken where it can be, and else one line says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glot.errors import UsageError
from glot.extract import converted, engine, openvino
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.engine import take_engine
from glot.extract.options import ENGINE_VARIABLE
from glot.extract.ready import SUFFIX
from glot.extract.run import ExtractOptions, extract_states
from glot.extract.source import ModelSource
from glot.store.layout import TORCH, Manifest, sidecar_file
from glot.store.reader import Cache
from tests.extract.families import installed, save_model
from tests.work import make_work

needs_openvino = pytest.mark.skipif(
    openvino.openvino_version() is None, reason="OpenVINO is not installed: no backbone is forwarded by it"
)
pytestmark = pytest.mark.usefixtures("home")
CLOSE = 1e-4  # relative, of float32 states that two libraries computed


def load(folder: Path, **options: Any) -> Backbone:
    return load_backbone(ModelSource(folder.name, str(folder)), device="cpu", **options)


def batch(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of 1, 9 and 23 tokens, padded where the backbone takes that."""
    ids = [number % backbone.vocabulary_size for number in range(5, 28)]
    return backbone.pad([ids[:1], ids[:9], ids] if backbone.pads else [ids])


def both(backbone: Backbone, layers: tuple[int, ...]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The packed states of `batch` in each layer, by torch and by the backbone's engine."""
    ids, mask = batch(backbone)
    taken, backbone.engine = backbone.engine, None
    expected = [states[mask.bool()] for states in backbone.hidden_states(ids, mask, layers)]
    backbone.engine = taken
    assert taken is not None
    return expected, [states[mask.bool()] for states in backbone.hidden_states(ids, mask, layers)]


def assert_close(expected: list[torch.Tensor], given: list[torch.Tensor]) -> None:
    for ours, theirs in zip(expected, given, strict=True):
        assert theirs.dtype == torch.float32
        assert float(((ours - theirs).norm(dim=1) / ours.norm(dim=1)).max()) < CLOSE


@needs_openvino
@pytest.mark.parametrize("family", ["bert", "roberta", "mistral", "llama"])
def test_openvino_agrees_with_torch_in_every_layer(backbone_folders: dict[str, Path], family: str) -> None:
    backbone = load(backbone_folders[family])
    take_engine(backbone, (0, 1, 2), "openvino")
    assert backbone.engine_name.startswith("openvino ")
    assert backbone.engine_name.endswith(" float32")
    assert_close(*both(backbone, (0, 1, 2)))
    assert_close(*both(backbone, (1,)))  # of those that were asked for


@needs_openvino
def test_padding_beyond_a_sliding_window_reaches_no_token(tmp_path: Path) -> None:
    """Such padding attends to nothing, of which OpenVINO makes NaN by itself: it must not reach the real tokens."""
    family = next(item for item in installed() if item.model_type == "mistral")
    save_model(replace(family, config={**family.config, "sliding_window": 4}), tmp_path / "windowed")
    backbone = load(tmp_path / "windowed")
    take_engine(backbone, (1, 2), "openvino")
    assert_close(*both(backbone, (1, 2)))


@needs_openvino
def test_a_model_that_converts_and_is_wrong_is_found_out(tmp_path: Path) -> None:
    """The tracer writes a length into the graphs of Mamba and RWKV: only other lengths show it."""
    named = {family.model_type: family for family in installed()}
    save_model(named["mamba"], tmp_path / "mamba")
    backbone = load(tmp_path / "mamba")
    lines: list[str] = []
    take_engine(backbone, (-1 % (backbone.num_layers + 1),), "auto", say=lines.append)
    assert backbone.engine is None
    assert len(lines) == 1
    assert lines[0].startswith("torch forwards mamba: OpenVINO")
    with pytest.raises(UsageError, match="--engine openvino cannot forward mamba: OpenVINO"):
        take_engine(backbone, (backbone.num_layers,), "openvino")


@needs_openvino
def test_a_cache_of_either_engine_is_the_same_cache(
    extract: Callable, make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    """States agree to rounding, identities are equal, and each shard says what forwarded it."""
    corpus, bert = make_corpus({"train": 24}), backbone_folders["bert"]
    for name in ("torch", "openvino"):
        extract(corpus, bert, tmp_path / name, engine=name, layers=(1, -1), dtype="float32", shard_bytes=24 * 256)
    ours, theirs = (Cache(tmp_path / name) for name in ("torch", "openvino"))
    assert len(theirs.manifest.shards) > 1
    assert {entry.engine for entry in ours.manifest.shards.values()} == {TORCH}
    assert {entry.engine.split()[0] for entry in theirs.manifest.shards.values()} == {"openvino"}
    assert "engine" not in (tmp_path / "torch/manifest.json").read_text()
    assert ours.manifest.states.difference(theirs.manifest.states) is None
    for layer in (1, 2):
        texts = np.arange(len(ours.plan))
        expected, given = (torch.from_numpy(cache.read_texts(layer, texts).values) for cache in (ours, theirs))
        assert_close([expected], [given])


@needs_openvino
def test_the_second_start_converts_nothing(
    backbone_folders: dict[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(backbone_folders["bert"])
    take_engine(first, (2,), "openvino")
    assert [path.name for path in home.iterdir()] == [converted.model_key(first)]
    assert converted.kept_bytes() > 0

    def fail(backbone: Backbone) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(openvino, "convert", fail)
    second = load(backbone_folders["bert"])
    take_engine(second, (0, 2), "openvino")  # one model has all layers
    assert_close(*both(second, (0, 2)))


@needs_openvino
def test_a_damaged_model_is_converted_again(backbone_folders: dict[str, Path], home: Path) -> None:
    """One byte of its weights changed: the states would be wrong for a few tokens only."""
    backbone = load(backbone_folders["bert"])
    take_engine(backbone, (2,), "openvino")
    weights = home / converted.model_key(backbone) / "model.bin"
    whole = weights.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 64
    weights.unlink()  # it may be mapped
    weights.write_bytes(damaged)
    assert converted.find_model(backbone) is None
    backbone.engine = None
    take_engine(backbone, (2,), "openvino")
    assert weights.read_bytes() == whole
    assert_close(*both(backbone, (2,)))


@pytest.mark.slow
@needs_openvino
def test_two_processes_may_convert_at_once_and_call_nobody(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """OpenVINO would tell its maker of each import and conversion; what a third process left long ago goes."""
    code = (
        "import sys\n"
        "from glot.extract.backbone import load_backbone; from glot.extract.engine import take_engine\n"
        "from glot.extract.source import ModelSource\n"
        "backbone = load_backbone(ModelSource('bert', sys.argv[1]), device='cpu')\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, arguments: event in ('os.fork', 'os.posix_spawn', 'subprocess.Popen',"
        " 'socket.connect', 'socket.getaddrinfo') and seen.append((event, arguments)))\n"
        "take_engine(backbone, (2,), 'openvino')\n"
        "import openvino_telemetry  # can be imported still\n"
        "print(backbone.engine_name.split()[0], seen)"
    )
    home = tmp_path / "xdg/glot/openvino"
    left = home / "key.tmp-host-1-0"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    environment.pop("CI", None)  # which silences it too
    command = [sys.executable, "-c", code, str(backbone_folders["bert"])]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for run in [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]:
        out, err = run.communicate()
        assert (out, run.returncode) == ("openvino []\n", 0), err
    if sys.platform == "linux":  # elsewhere caches lie in another folder
        (folder,) = home.iterdir()
        names = sorted(path.name for path in folder.iterdir())
        assert [name for name in names if not name.endswith(SUFFIX)] == ["about.json", "model.bin", "model.xml"]
        assert len(names) == 4  # what a start without torch's model needs


@needs_openvino
@pytest.mark.parametrize("failing", ["mkdir", "write"])
def test_where_nothing_can_be_kept_it_is_converted_for_this_start(
    backbone_folders: dict[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    if failing == "mkdir":
        home.parent.mkdir(parents=True)
        home.write_text("a file in the folder's place")
    else:

        def save(model: Any, folder: Path) -> None:
            (folder / "model.bin").write_bytes(b"half")
            raise RuntimeError("No space left on device")

        monkeypatch.setattr(openvino, "save", save)
    backbone = load(backbone_folders["bert"])
    take_engine(backbone, (2,), "openvino")
    assert_close(*both(backbone, (2,)))
    assert failing == "mkdir" or list(home.iterdir()) == []


@needs_openvino
def test_a_model_that_does_not_convert_is_remembered(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line says so each time; only the first start tries."""
    tries = []

    def convert(backbone: Backbone) -> None:
        tries.append(backbone.name)
        raise RuntimeError("No conversion rule found for\noperations: aten::histc")

    monkeypatch.setattr(openvino, "convert", convert)
    lines: list[str] = []
    for _ in range(2):
        take_engine(load(backbone_folders["bert"]), (2,), "auto", say=lines.append)
    assert len(tries) == 1
    assert lines == 2 * [
        "torch forwards tiny-bert: OpenVINO cannot convert a bert model (No conversion rule found for operations: "
        "aten::histc)"
    ]


@needs_openvino
@pytest.mark.parametrize(
    "error", [MemoryError("none left"), OSError("disk"), RuntimeError("DefaultCPUAllocator: alloc")]
)
def test_a_machine_without_room_is_not_remembered(
    backbone_folders: dict[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It says nothing of the model: the next start tries again."""

    def convert(backbone: Backbone) -> None:
        raise error

    lines: list[str] = []
    backbone = load(backbone_folders["bert"])
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "convert", convert)
        take_engine(backbone, (2,), "auto", say=lines.append)
    assert str(error) in lines[0]
    assert converted.find_model(backbone) is None
    assert not home.exists()


@needs_openvino
@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_other_states_are_not_taken(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """A hundredth off, or NaN, in one layer."""
    states = openvino.OpenVinoEngine.hidden_states

    def off(self: Any, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        first, *others = states(self, ids, mask, layers)
        return [first * wrong, *others]

    monkeypatch.setattr(openvino.OpenVinoEngine, "hidden_states", off)
    lines: list[str] = []
    backbone = load(backbone_folders["bert"])
    take_engine(backbone, (1, 2), "auto", say=lines.append)
    assert backbone.engine is None
    assert "OpenVINO's states of layer 1 are" in lines[0]


# What needs no OpenVINO: where it is not there, not wanted, or not worth while.


@pytest.fixture
def no_compiling(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The layers of each model that would have been compiled; none is."""
    asked: list[tuple[int, ...]] = []

    def compile_model(backbone: Backbone, layers: tuple[int, ...]) -> None:
        asked.append(layers)

    monkeypatch.setattr(engine, "_compile", compile_model)
    return asked


def test_auto_is_for_much_work(
    backbone_folders: dict[str, Path], no_compiling: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion takes seconds: texts that torch forwards in less do not wait for one."""
    backbone = load(backbone_folders["bert"])
    take_engine(backbone, (2,), "auto", tokens=1000)
    assert no_compiling == []
    enough = 1 + int(engine.WORTH_SECONDS / engine.forward_seconds(backbone, 1))
    take_engine(backbone, (2,), "auto", tokens=enough)
    take_engine(backbone, (1,), "auto")  # nobody knows how many
    take_engine(backbone, (0,), "openvino", tokens=1)  # who asks for it gets it
    take_engine(backbone, (2,), "torch")
    assert no_compiling == [(2,), (1,), (0,)]


def test_the_environment_is_asked_where_the_option_is_not_given(
    backbone_folders: dict[str, Path], no_compiling: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(backbone_folders["bert"])
    monkeypatch.setenv(ENGINE_VARIABLE, "torch")
    take_engine(backbone, (2,))
    assert no_compiling == []
    take_engine(backbone, (2,), "openvino")
    assert no_compiling == [(2,)]
    monkeypatch.setenv(ENGINE_VARIABLE, "tensorrt")
    with pytest.raises(UsageError, match="unknown GLOT_ENGINE 'tensorrt': choose auto, torch or openvino"):
        take_engine(backbone, (2,))


def test_an_unknown_engine_is_told_before_anything_slow(glot: Callable[..., tuple], tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\na,b\n")
    code, out, err = glot("extract", "--model", "minilm", "--data", "texts.csv", "--engine", "onnx")
    assert (code, out) == (2, "")
    assert "unknown --engine 'onnx': choose auto, torch or openvino" in err


def test_why_it_is_not_taken_is_one_line(backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, not enough memory, or another arithmetic; asked for, each is an error."""
    lines: list[str] = []
    bert = backbone_folders["bert"]

    def refused(backbone: Backbone) -> str:
        take_engine(backbone, (2,), "auto", say=lines.append)
        assert backbone.engine is None
        with pytest.raises(UsageError, match=r"--engine openvino cannot forward tiny-bert: .*; pass --engine torch"):
            take_engine(backbone, (2,), "openvino")
        return lines[-1]

    assert refused(load(bert, compute_dtype="float16")).endswith("float32 or bfloat16, not in float16")
    monkeypatch.setattr(openvino, "openvino_version", lambda: None)
    assert refused(load(bert)) == (
        "torch forwards tiny-bert: OpenVINO, which is faster, is not installed (pip install 'glot-pipeline[openvino]')"
    )
    monkeypatch.setattr(openvino, "openvino_version", lambda: "2026.4")
    monkeypatch.setattr(openvino, "import_openvino", lambda: None)
    monkeypatch.setattr(openvino, "computes_bfloat16", lambda: False)
    assert "only on processors that have units for it" in refused(load(bert, compute_dtype="bfloat16"))
    monkeypatch.setattr(engine, "available_memory", lambda: 1000)
    assert "of memory, and fewer are free" in refused(load(bert))


class Other:
    """An engine that gives torch's states, a thousandth larger."""

    name, layers = "other 1 float32", (0, 1, 2)

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = replace(backbone, engine=None)

    def hidden_states(self, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        return [1.001 * states for states in self.backbone.hidden_states(ids, mask, layers)]


def test_a_shard_is_of_one_engine(
    make_corpus: Callable,
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    forwarded: list,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts that another engine left unfinished are forwarded again; a finished shard stays; both are recorded."""
    backbone = load(backbone_folders["bert"])
    options = ExtractOptions(max_tokens=32, token_budget=48, shard_bytes=2**20)
    monkeypatch.setattr("glot.extract.run.take_engine", lambda *arguments: None)
    corpus, folder = make_corpus({"train": 24}), tmp_path / "cache"
    backbone.engine = Other(backbone)
    with monkeypatch.context() as patch:
        from glot.extract import worker

        batches = iter(range(3))
        original = worker.forward_batch

        def dying(*arguments: Any) -> Any:
            if next(batches, None) is None:
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr(worker, "forward_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            extract_states(corpus, backbone, folder, options)
    assert list(folder.glob("*.part"))
    backbone.engine = None
    extract_states(corpus, backbone, folder, options)
    assert Manifest.load(folder).shards[0].engine == TORCH
    whole = tmp_path / "whole"
    extract_states(corpus, backbone, whole, options)
    assert (folder / "shard-00000.h5").read_bytes() == (whole / "shard-00000.h5").read_bytes()

    backbone.engine = Other(backbone)
    extract_states(make_corpus({"train": 24, "validation": 6}), backbone, folder, options)
    assert [entry.engine for entry in Manifest.load(folder).shards.values()] == [TORCH, "other 1 float32"]


def test_a_run_that_goes_on_chooses_as_the_unbroken_one_did(
    make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tokens of the whole plan, however few are left; a finished cache chooses none."""
    asked: list[int] = []
    monkeypatch.setattr("glot.extract.run.take_engine", lambda *arguments: asked.append(arguments[3]))
    backbone, corpus = load(backbone_folders["bert"]), make_corpus({"train": 24})
    options = ExtractOptions(max_tokens=32, shard_bytes=24 * 64)
    for part in ((0, 2), (1, 2)):
        extract_states(corpus, backbone, tmp_path / "cache", replace(options, part=part))
    extract_states(corpus, backbone, tmp_path / "cache", options)
    assert asked == [Manifest.load(tmp_path / "cache").plan.tokens] * 2


def test_what_forwarded_a_shard_is_found_again_where_the_manifest_is_lost(
    make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(backbone_folders["bert"])
    monkeypatch.setattr("glot.extract.run.take_engine", lambda *arguments: None)
    backbone.engine = Other(backbone)
    options = ExtractOptions(max_tokens=32)
    extract_states(make_corpus(), backbone, tmp_path / "cache", options)
    assert json.loads((tmp_path / "cache/manifest.json").read_text())["shards"][0]["engine"] == "other 1 float32"
    (tmp_path / "cache/manifest.json").unlink()
    backbone.engine = None
    summary = extract_states(make_corpus(), backbone, tmp_path / "cache", options)
    assert summary.forwarded == 0
    assert Cache(tmp_path / "cache").manifest.shards[0].engine == "other 1 float32"
    assert not (tmp_path / "cache" / sidecar_file(0)).exists()


# The engine that is asked for, wherever new texts are forwarded


@pytest.fixture(scope="module")
def work(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a run over its layer 2, and texts."""
    return make_work(tmp_path_factory.mktemp("work"), backbone_folders["bert"])


@pytest.fixture
def by_openvino(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The layers of each batch that OpenVINO forwards, but for the few that compare it with torch."""
    asked: list[tuple[int, ...]] = []
    states = openvino.OpenVinoEngine.hidden_states

    def counted(self: Any, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        if not comparing:
            asked.append(layers)
        return states(self, ids, mask, layers)

    comparing: list[bool] = []
    check = engine.check_agreement

    def compare(*arguments: Any) -> None:
        comparing.append(True)
        check(*arguments)
        comparing.clear()

    monkeypatch.setattr(openvino.OpenVinoEngine, "hidden_states", counted)
    for module in ("engine", "ready"):
        monkeypatch.setattr(f"glot.extract.{module}.check_agreement", compare)
    return asked


def answers(path: str) -> np.ndarray:
    """The vectors or the probabilities that a command wrote."""
    if path.endswith(".npy"):
        return np.load(path)
    return np.asarray([json.loads(line)["probability_yes"] for line in Path(path).read_text().splitlines()])


@needs_openvino
@pytest.mark.parametrize(
    "words",
    [
        ("encode", "--input", "texts.txt", "--output", "{engine}.npy"),
        ("predict", "--input", "texts.txt", "--output", "{engine}.jsonl"),
        ("evaluate", "--data", "data.csv", "--no-yardsticks"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_forwards_by_the_engine_that_is_asked_for(
    glot: Callable[..., tuple], work: Path, by_openvino: list, words: tuple[str, ...]
) -> None:
    """And gives the same answers, to rounding."""
    for name in ("texts.txt", "data.csv"):
        Path(name).write_bytes((work / name).read_bytes())
    found: list[np.ndarray] = []
    for asked in ("torch", "openvino"):
        given = [word.format(engine=asked) for word in words]
        code, _, err = glot(*given, "--run", work / "run", "--model", work / "model", "--engine", asked)
        assert code == 0, err
        assert set(by_openvino) == ({(2,)} if asked == "openvino" else set())
        found += [answers(word) for word in given if word.startswith(asked)]
    if found:
        np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-5)


@needs_openvino
def test_so_do_the_classes_of_the_python_api(work: Path, by_openvino: list, monkeypatch: pytest.MonkeyPatch) -> None:
    from glot import GlotClassifier, GlotModel

    texts = ["rain falls", "a cat", "two birds", "the door"]
    vectors = [
        GlotModel.load(work / "run", work / "model", "cpu", engine=name).encode(texts) for name in ("torch", "openvino")
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-3, atol=1e-5)
    assert by_openvino
    by_openvino.clear()
    head = GlotClassifier(str(work / "model"), preset="published", epochs=1, hidden=8, device="cpu", engine="openvino")
    head.fit(texts * 4, ["a", "b", "b", "a"] * 4).predict(texts)
    assert by_openvino


def test_a_gpu_keeps_torch(
    backbone_folders: dict[str, Path], no_compiling: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is to forward."""
    backbone = load(backbone_folders["bert"])
    backbone.device = torch.device("cuda")
    take_engine(backbone, (2,), "auto")
    assert (backbone.engine, no_compiling) == (None, [])


def test_several_layers_come_of_one_forward(backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, calls = load(backbone_folders["bert"]), []
    forward = type(backbone.model).forward
    monkeypatch.setattr(type(backbone.model), "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    assert len(backbone.hidden_states(*batch(backbone), (0, 1, 2))) == 3
    assert len(calls) == 1

"""GlotModel as people know such objects: beside sentence-transformers', saved and loaded, over models they hold."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from glot import GlotModel
from glot.errors import UsageError
from glot.extract.backbone import load_backbone
from glot.extract.held import hold_backbone, is_unknown, open_backbone
from glot.extract.source import resolve_model
from glot.fit.ensemble import Ensemble
from glot.fit.run_folder import RunConfig
from glot.store.task_spec import TaskSpec
from tests.hub_server import HubServer, files_of

TEXTS = ["a dog in the rain", "the old river", "books about ships", "a dog in the rain", "rain"]


@pytest.fixture
def run(glot: Callable[..., tuple], extracted: Path) -> Path:
    code, _, err = glot(
        "fit", "--cache", extracted, "--epochs", 1, "--hidden", 16, "--device", "cpu", "--out", "runs/a"
    )
    assert code == 0, err
    return Path("runs/a")


def pair(folder: Path, kind: type = AutoModel) -> tuple:
    return kind.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_encode_takes_what_sentence_transformers_encode_takes(
    run: Path, forwarded: list, capsys: pytest.CaptureFixture
) -> None:
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    model = GlotModel.load(run)
    vectors = model.encode(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((5, model.width), np.float32)
    assert model.encode(TEXTS[1]).shape == (model.width,)
    np.testing.assert_allclose(model.encode(TEXTS[1]), vectors[1], rtol=1e-4, atol=1e-5)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), vectors)
    unit = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-5)
    for a, b in ((vectors, vectors[:2]), (vectors[0], vectors), (tensor, tensor)):
        ours, theirs = model.similarity(a, b), peer.util.cos_sim(a, b)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs)

    forwarded.clear()
    sizes, forward = [], model.backbone.hidden_states
    model.backbone.hidden_states = lambda ids, *rest: (sizes.append(len(ids)), forward(ids, *rest))[1]
    capsys.readouterr()
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=3, show_progress_bar=True), vectors, rtol=1e-4, atol=1e-5)
    assert sizes == [3, 1], "each of four distinct texts once, three at a time"
    assert "5/5" in capsys.readouterr().err
    model.encode(TEXTS)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UsageError, match="batch_size must be 1"):
        model.encode(TEXTS, batch_size=0)


def test_encode_answers_as_sentence_transformers_does(
    glot: Callable[..., tuple], extracted: Path, backbone_folders: dict[str, Path]
) -> None:
    """The mean of the last layer is what it makes of a bare model: the same call, the same answer."""
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    fit = ["--pooler", "mean", "--preset", "published", "--epochs", 1, "--no-yardsticks", "--device", "cpu"]
    assert glot("fit", "--cache", extracted, *fit, "--out", "runs/mean")[0] == 0
    theirs, ours = peer.SentenceTransformer(str(backbone_folders["bert"]), device="cpu"), GlotModel.load("runs/mean")
    for given in (TEXTS, TEXTS[0], []):
        for options in (
            {},
            {"batch_size": 2, "show_progress_bar": False},
            {"convert_to_tensor": True},
            {"normalize_embeddings": True},
            {"normalize_embeddings": True, "convert_to_tensor": True, "batch_size": 3},
        ):
            expected, found = theirs.encode(given, **options), ours.encode(given, **options)
            if given:
                assert (type(found), found.dtype, found.shape) == (type(expected), expected.dtype, expected.shape)
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            assert len(found) == len(expected)
    vectors = ours.encode(TEXTS)
    torch.testing.assert_close(ours.similarity(vectors, vectors), theirs.similarity(vectors, vectors))


@pytest.mark.slow
def test_a_model_has_the_device_and_the_engine_that_were_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (extra: openvino)")
    monkeypatch.setattr("glot.extract.converted.models_folder", lambda: tmp_path / "converted")
    names = {}
    for engine in ("torch", "openvino"):
        model = GlotModel.from_pretrained(run, device="cpu", engine=engine)
        assert repr(model).endswith(", on cpu>")
        assert model.encode(TEXTS, convert_to_tensor=True).device == model.device
        names[engine] = model.backbone.engine_name, model.encode(TEXTS)
    assert [name.split()[0] for name, _ in names.values()] == ["torch", "openvino"]
    np.testing.assert_allclose(names["openvino"][1], names["torch"][1], rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="nowhere"):
        GlotModel.from_pretrained(run, device="nowhere")
    with pytest.raises(UsageError, match=r"unknown .*engine 'fast'"):
        GlotModel.from_pretrained(run, engine="fast")


def test_one_text_has_one_answer(run: Path) -> None:
    model = GlotModel.load(run)
    assert model.classes_.tolist() == ["animal", "water"]
    assert model.predict(TEXTS[0]) == model.predict(TEXTS)[0]
    np.testing.assert_allclose(model.predict_proba(TEXTS[0]), model.predict_proba(TEXTS)[0], rtol=1e-4)


def test_a_score_has_no_classes(run: Path) -> None:
    model = GlotModel.load(run)
    score = TaskSpec("mood", 1, "score", score_range=(0.0, 1.0), metrics=("spearman",))
    model.config = replace(model.config, task=score)
    assert not hasattr(model, "classes_")
    with pytest.raises(AttributeError, match="mood has no classes"):
        print(model.classes_)


def test_what_is_saved_is_a_run_and_comes_back(glot: Callable[..., tuple], run: Path, extracted: Path) -> None:
    model = GlotModel.load(run)
    model.save_pretrained("saved/mine")
    assert sorted(path.name for path in Path("saved/mine").iterdir()) == [
        "config.json",
        "head.safetensors",
        "metrics.json",
    ]
    assert list(Path("saved").iterdir()) == [Path("saved/mine")]
    again = GlotModel.from_pretrained("saved/mine")
    np.testing.assert_array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
    code, _, err = glot("evaluate", "--run", "saved/mine", "--cache", extracted)
    assert code == 0, err
    assert "not finished" not in err
    with pytest.raises(UsageError, match="there already"):
        model.save_pretrained("saved/mine")


def test_an_ensemble_is_saved_whole(glot: Callable[..., tuple], extracted: Path) -> None:
    for name, seed in (("1", 0), ("2", 1)):
        fit = ["fit", "--cache", extracted, "--epochs", 1, "--hidden", 8, "--device", "cpu", "--seeds", seed]
        assert glot(*fit, "--out", f"both/{name}")[0] == 0
    Ensemble.of([RunConfig.load(Path("both") / name) for name in "12"]).save(Path("both"))
    model = GlotModel.load("both")
    model.save_pretrained("saved")
    np.testing.assert_array_equal(GlotModel.from_pretrained("saved").predict_proba(TEXTS), model.predict_proba(TEXTS))


def test_a_run_goes_to_the_hub_and_comes_from_it(
    run: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the Hub's own client, over HTTP, from a Hub on this machine."""
    model = GlotModel.load(run)
    assert model.push_to_hub("somebody/mine") == f"{hub.address}/somebody/mine"
    kept = files_of(hub.folder / "somebody/mine")
    assert set(kept) == {"README.md", "config.json", "head.safetensors", "metrics.json"}
    assert not [name for name, content in kept.items() if str(tmp_path.parent).encode() in content]
    assert 'GlotModel.from_pretrained("somebody/mine", backbone="...")' in kept["README.md"].decode()
    with pytest.raises(UsageError, match="tiny-bert"):  # its backbone is a folder here, whose place is not told
        GlotModel.from_pretrained("somebody/mine")
    for _ in range(2):  # the second time from what was kept
        again = GlotModel.from_pretrained("somebody/mine", backbone=model.config.states.source)
        np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    with pytest.raises(UsageError, match="the hub has no model 'somebody/nothing'"):
        GlotModel.from_pretrained("somebody/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UsageError, match="does not take this token"):
        model.push_to_hub("somebody/mine")
    again.save_pretrained("saved")
    assert Path("saved/metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder nobody/nothing, and the hub cannot be asked"):
        GlotModel.from_pretrained("nobody/nothing")
    with pytest.raises(UsageError, match="there is no folder"):
        GlotModel.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForMaskedLM])
def test_a_pair_somebody_holds_gives_the_same_vectors(run: Path, backbone_folders: dict[str, Path], kind: type) -> None:
    expected = GlotModel.load(run).encode(TEXTS)
    model, tokenizer = pair(backbone_folders["bert"], kind)
    before = tokenizer.padding_side, tokenizer.backend_tokenizer.to_str()
    with pytest.warns(UserWarning, match="cannot be compared"):
        held = GlotModel.from_pretrained(run, backbone=(model, tokenizer))
    assert held.backbone.model is model.base_model
    np.testing.assert_allclose(held.encode(TEXTS), expected, rtol=1e-5, atol=1e-6)
    assert (tokenizer.padding_side, tokenizer.backend_tokenizer.to_str()) == before
    assert all(weights.requires_grad for weights in model.parameters()), "it is left as it was"
    model.train()
    np.testing.assert_allclose(held.encode(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_a_sentence_transformer_is_a_backbone(run: Path, backbone_folders: dict[str, Path]) -> None:
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedder = peer.SentenceTransformer(str(backbone_folders["bert"]), device="cpu")
        held = GlotModel.load(run, embedder)
    embedder[0].auto_model.config.use_cache = False  # as it sets for some models, and no state depends on
    assert hold_backbone(embedder).weights_sha256 == hold_backbone(pair(backbone_folders["bert"])).weights_sha256
    np.testing.assert_allclose(held.encode(TEXTS), GlotModel.load(run).encode(TEXTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [3, None, ("model", "tokenizer"), (), object(), {"model": 1}])
def test_what_is_no_backbone_is_told(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"an alias, a hub id, a folder .* pair \(model, tokenizer\) .* SentenceTransf"):
        open_backbone(wrong)


def test_the_parts_in_the_wrong_order_are_told(backbone_folders: dict[str, Path]) -> None:
    model, tokenizer = pair(backbone_folders["bert"])
    with pytest.raises(TypeError, match=r"got a tuple of .*Tokenizer.*, BertModel"):
        open_backbone((tokenizer, model))


def test_another_model_that_is_held_is_refused(run: Path, backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"is not the backbone that .* was trained on: kind encoder there, decoder"):
        GlotModel.load(run, pair(backbone_folders["llama"], AutoModelForCausalLM))
    model, tokenizer = pair(backbone_folders["bert"])
    with pytest.raises(UsageError, match="compute_dtype float32 there, bfloat16 here"):
        GlotModel.load(run, (model.to(torch.bfloat16), tokenizer))
    with pytest.raises(UsageError, match="lies on cpu, not on cuda: move it there first"):
        GlotModel.load(run, (model, tokenizer), device="cuda")


def test_weights_in_memory_are_told_apart_and_those_of_one_kind_are_one(
    backbone_folders: dict[str, Path], make_backbone_folder: Callable[..., Path]
) -> None:
    model, tokenizer = pair(backbone_folders["bert"])
    first = hold_backbone((model, tokenizer))
    named = load_backbone(resolve_model(str(backbone_folders["bert"])), device="cpu")
    assert first.weights_sha256 == hold_backbone(pair(backbone_folders["bert"])).weights_sha256
    assert first.tokenizer_sha256 == named.tokenizer_sha256
    assert first.loader_sha256 == named.loader_sha256
    other = hold_backbone(pair(make_backbone_folder("bert", seed=1)))
    assert (other.weights_sha256, other.name) != (first.weights_sha256, first.name)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias[3] += 1e-3
    assert hold_backbone((model, tokenizer)).weights_sha256 not in (first.weights_sha256, other.weights_sha256)
    assert not is_unknown(first)


def test_a_run_over_weights_in_memory_finds_them_saved(
    run: Path, backbone_folders: dict[str, Path], make_backbone_folder: Callable[..., Path]
) -> None:
    held = hold_backbone(pair(backbone_folders["bert"]))
    config = json.loads((run / "config.json").read_text())
    config["states"] |= {"weights_sha256": held.weights_sha256, "source": "", "backbone": held.name}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="was handed over in memory: hand it over again"):
        GlotModel.load(run)
    expected = GlotModel.load(run, pair(backbone_folders["bert"])).encode(TEXTS)
    np.testing.assert_allclose(GlotModel.load(run, str(backbone_folders["bert"])).encode(TEXTS), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="weights_sha256"):
        GlotModel.load(run, pair(make_backbone_folder("bert", seed=1)))
    with pytest.raises(UsageError, match="weights_sha256 differs"):
        GlotModel.load(run, str(make_backbone_folder("bert", seed=1)))

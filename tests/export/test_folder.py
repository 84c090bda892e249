"""What sentence-transformers makes of an exported folder: loads it alone, gives the run's vectors, saves, trains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss

from glot import GlotModel
from glot.errors import FaultError, UsageError
from glot.export.folder import export_folder
from glot.extract.backbone import load_backbone
from glot.extract.source import resolve_model
from glot.store.task_spec import TaskSpec
from tests import pages
from tests.export.conftest import TEXTS

CASES = {
    "bert": {"gnn": "gat"},
    "roberta": {"gnn": "gcn", "jk": "max", "tokens": "content"},
    "mistral": {"gnn": "gine", "jk": "mean", "layer": 1},
    "llama": {"pooler": "cls", "template": "say {text} loud"},
    "bare": {"gnn": "gin", "readout": "mean", "tau": 0.3},
}


def load(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("family", CASES)
def test_the_same_vectors_in_batches_of_any_size(family: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(family, **CASES[family])
    made = export_folder(run, tmp_path / "made")
    expected = GlotModel.load(run).encode(TEXTS)
    model = load(made.path)
    model.save_pretrained(str(tmp_path / "again"))
    for some in (model, load(tmp_path / "again")):
        for size in (1, 2, 64):
            vectors = some.encode(TEXTS, batch_size=size)
            np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
        assert some.get_embedding_dimension() == made.width == expected.shape[1]
        assert (some.max_seq_length, vectors.dtype) == (24, np.float32)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    # No texts with a token at all, and a prompt, which stands before the text.
    np.testing.assert_allclose(model.encode(["", ""]), expected[[2, 2]], rtol=1e-5, atol=1e-5)
    prompted = model.encode(TEXTS[1:2], prompt="the old town and ")
    np.testing.assert_allclose(
        prompted, GlotModel.load(run).encode(["the old town and " + TEXTS[1]]), rtol=1e-5, atol=1e-5
    )


def test_sentence_transformers_asks_for_trust_in_the_folder_s_code(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """So the line that loads it says trust_remote_code=True: on the card, in the README, and why."""
    made = export_folder(make_run("bert", pooler="mean"), tmp_path / "made")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(made.path), device="cpu")
    assert "trust_remote_code=True" in (made.path / "README.md").read_text(encoding="utf-8")
    said = " ".join((pages.ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "with `trust_remote_code=True`" in said
    assert "Graph and readout are a file of code in the folder" in said


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_mix_of_layers_goes_along(family: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(family, mixed_layers=2, template="say {text} loud")
    model = load(export_folder(run, tmp_path / "made").path)
    np.testing.assert_allclose(model.encode(TEXTS), GlotModel.load(run).encode(TEXTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "mistral", "bare"])
def test_content_is_what_somebody_wrote_there_too(family: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(family, tokens="content")
    texts = ["the Ωmega [SEP] cat </s>", "[UNK] <s>", "", "the cat sat on the mat " * 9]
    made, expected = export_folder(run, tmp_path / "made"), GlotModel.load(run).encode(texts)
    np.testing.assert_allclose(load(made.path).encode(texts), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected[0] - GlotModel.load(run).encode(["the cat"])[0]).max() > 0.01


def test_a_backbones_own_code_goes_along_where_it_is_trusted(
    make_run: Callable[..., Path], backbone_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    run, folder = make_run("bert"), Path(shutil.copytree(backbone_folders["bert"], tmp_path / "own"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "own.py").write_text("from transformers import BertModel\nclass BertModel(BertModel):\n    own = True\n")
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.BertModel"}}))
    for name, trusted in (("plain", False), ("trusted", True)):
        loaded = load_backbone(resolve_model(str(folder)), device="cpu", trust_remote_code=trusted)
        settings = json.loads((run / "config.json").read_text())
        hashes = {key: getattr(loaded, key) for key in ("weights_sha256", "tokenizer_sha256", "loader_sha256")}
        settings["states"] |= hashes | {"source": str(folder)}
        (run / "config.json").write_text(json.dumps(settings))
        path = export_folder(run, tmp_path / name, trust_remote_code=trusted).path
        # The code is named where it lies beside; whoever loads the pooling says that the folder is trusted.
        assert [(path / "own.py").exists(), "auto_map" in (path / "config.json").read_text()] == [trusted, trusted]
        assert load(path).encode(TEXTS).shape[0] == len(TEXTS)


ALONE = """
import sys
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("glot", "dgl", "h5py"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
vectors = model.encode(["rain", "a dog barks"])
np.save("vectors.npy", vectors)
print(model[1].predict(vectors))
assert "glot" not in sys.modules
"""


@pytest.mark.slow
def test_it_loads_where_this_program_is_not(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("llama")
    export_folder(run, tmp_path / "made")
    place = tmp_path / "elsewhere"
    place.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "made")],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    glot = GlotModel.load(run)
    expected = glot.encode(["rain", "a dog barks"])
    np.testing.assert_allclose(np.load(place / "vectors.npy"), expected, rtol=1e-5, atol=1e-5)
    assert done.stdout.strip() == str(glot.predict(["rain", "a dog barks"]).tolist())


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("loss", [MultipleNegativesRankingLoss, CosineSimilarityLoss])
def test_its_trainer_trains_the_pooling(
    frozen: bool, loss: type, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    from datasets import Dataset

    export_folder(make_run("mistral"), tmp_path / "made")
    model = load(tmp_path / "made")
    model[0].requires_grad_(not frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = {"anchor": TEXTS[:4] * 4, "positive": TEXTS[1:5] * 4}
    if loss is CosineSimilarityLoss:
        rows["score"] = [0.1, 0.9, 0.4, 0.6] * 4
    rows = {
        name: [str(value).encode("utf-8", "replace").decode() if name != "score" else value for value in column]
        for name, column in rows.items()
    }
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows), loss=loss(model)
    )
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    pooling = {name for name, _ in model[1].named_parameters(prefix="1") if ".head." not in name}
    # A softmax does not see what is added to all its scores.
    assert pooling - moved <= {"1.readout.score.bias"}
    assert not {name for name in moved if ".head." in name}
    assert any(name.startswith("0.") for name in moved) != frozen
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    model.save_pretrained(str(tmp_path / "trained"))
    np.testing.assert_allclose(load(tmp_path / "trained").encode(TEXTS), model.encode(TEXTS), rtol=1e-5, atol=1e-5)


def test_nothing_stays_of_an_export_that_failed(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("bert")
    monkeypatch.setattr(GlotModel, "encode", lambda self, texts: np.full((len(texts), self.width), 0.5, np.float32))
    with pytest.raises(FaultError, match="differ from the run's"):
        export_folder(run, tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_backbone_that_padding_changes_is_not_exported(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sentence-transformers pads every batch, so its vectors would be others."""
    run, load = make_run("bert"), GlotModel.load.__func__

    def loaded(cls: type[GlotModel], *arguments: object, **options: object) -> GlotModel:
        model = load(cls, *arguments, **options)
        model.backbone.pads = False
        return model

    monkeypatch.setattr(GlotModel, "load", classmethod(loaded))
    with pytest.raises(UsageError, match=r"padding changes the states of .*sentence-transformers pads"):
        export_folder(run, tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_folder_that_is_there_stays(make_run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        export_folder(make_run("bert"), tmp_path / "made")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mine.txt"]


def test_no_file_names_a_place_of_this_machine(
    make_run: Callable[..., Path], tmp_path: Path, backbone_folders: dict[str, Path]
) -> None:
    task = TaskSpec("pairs", 2, "score", score_range=(0.0, 5.0), metrics=("spearman", "pearson"))
    export_folder(make_run("bert", task=task), tmp_path / "made")
    for path in (tmp_path / "made").rglob("*"):
        if path.suffix in (".json", ".md", ".py"):
            assert str(backbone_folders["bert"].parent) not in path.read_text(encoding="utf-8"), path
    modules = json.loads((tmp_path / "made" / "modules.json").read_text())
    assert [module["type"] for module in modules] == ["glot_pooling.GlotBackbone", "glot_pooling.GlotPooling"]


def test_the_prompt_of_a_pair_is_taken_filled_in(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("bert", template="the dog's {text} and\n{text_b} too")
    made = export_folder(run, tmp_path / "made")
    assert made.prompt == "the dog's {text} and\n{text_b} too"
    pairs, glot = [("rain", "the old town"), ("a {text_b}", ""), ("books", "ships")], GlotModel.load(run)
    vectors = load(tmp_path / "made").encode([f"the dog's {text} and\n{text_b} too" for text, text_b in pairs])
    expected = glot.encode(*zip(*pairs, strict=True))
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
    example = (tmp_path / "made/README.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict = {"SentenceTransformer": lambda *_, **__: load(tmp_path / "made")}
    example = example.replace("A first text.", "rain").replace("A second text.", "ships")  # which are not cut
    exec(example.partition("\n\n")[2], found)  # without its import
    np.testing.assert_allclose(found["vectors"], glot.encode(["rain"], ["ships"]), rtol=1e-5, atol=1e-5)

"""Code that lies in a model's folder: it never runs unasked, nobody is asked on the terminal, and it counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.errors import UsageError
from glot.extract.backbone import load_backbone
from glot.extract.foreign_code import check_code, declared_code
from glot.extract.source import ModelSource

CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel, BertTokenizer

Path(MARK).write_text("the code ran")

class OwnConfig(BertConfig):
    model_type = "tiny-own"

class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * FACTOR
        return output

class BertModelFast(OwnModel):
    pass

class OwnTokenizer(BertTokenizer):
    pass
"""
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline"
RUN = """
import sys
from glot.commands import app as cli
try:
    cli.main()
finally:
    open("left", "w").write(sys.stdin.read())
"""
REFUSED = r"needs code of its own.*\(own\.\w+\).*--trust-remote-code"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def write_code(folder: Path, factor: int = 2) -> Path:
    mark = folder.parent / "mark"
    (folder / "own.py").write_text(CODE.replace("MARK", repr(str(mark))).replace("FACTOR", str(factor)))
    return mark


@pytest.fixture
def own(backbone_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A BERT whose folder brings a class of its own for its model; `mark` beside it appears where the code runs."""
    folder = Path(shutil.copytree(backbone_folders["bert"], tmp_path / "own"))
    write_code(folder)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    change(folder / "config.json", model_type="tiny-own", auto_map=auto_map)
    return folder


@pytest.fixture(autouse=True)
def _no_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_yes_on_standard_input_runs_nothing(own: Path, table: Path, tmp_path: Path) -> None:
    command = ["extract", "--model", own, "--data", table, "--text", "sentence", "--label", "kind", "--out", "cache"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, command)],
        cwd=tmp_path,
        input="yes\n" * 5,
        text=True,
        capture_output=True,
        env={
            **os.environ,
            "PYTHONPATH": str(PACKAGE),
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "COLUMNS": "400",
        },
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--trust-remote-code" in done.stderr.splitlines()[-1]
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "mark").exists()
    assert (tmp_path / "left").read_text() == "yes\n" * 5
    assert not (tmp_path / "cache").exists()


def test_code_that_is_trusted_runs_in_every_command(own: Path, table: Path, glot: Callable, tmp_path: Path) -> None:
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--limit", 24, "--max-tokens", 24]
    code, _, err = glot("extract", "--model", own, *data, "--out", "cache", "--trust-remote-code")
    assert code == 0, err
    assert (tmp_path / "mark").exists()
    assert glot("fit", "--cache", "cache", "--out", "run", "--epochs", 1, "--pooler", "mean", "--seeds", 0)[0] == 0
    (tmp_path / "new.txt").write_text("rain falls\nthe dog\n")
    new = ["--run", "run", "--input", "new.txt"]
    commands = [
        ["predict", *new],
        ["encode", *new, "--output", "vectors.npy"],
        ["explain", "--run", "run", "--input-text", "rain falls"],
        ["extract", "--model", own, *data, "--estimate"],
    ]
    for command in commands:
        code, out, err = glot(*command)
        assert (code, out) == (2, ""), command
        assert "--trust-remote-code" in err
        assert len(err.strip().splitlines()) == 1
        code, _, err = glot(*command, "--trust-remote-code")
        assert code == 0, err


def test_a_class_that_transformers_has_is_its_own(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone_folders["bert"], tmp_path / "own"))
    mark = write_code(folder)
    change(folder / "config.json", auto_map={"AutoConfig": "own.BertConfig", "AutoModel": "own.BertModelFast"})
    tokenizer = folder / "tokenizer_config.json"
    change(tokenizer, auto_map={"AutoTokenizer": [None, "own.PreTrainedTokenizerFast"]})
    loaded = load_backbone(ModelSource("x", str(folder)))
    assert type(loaded.model).__module__.startswith("transformers.")
    assert not mark.exists()


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["own.OwnTokenizer", None]}, ["own.OwnTokenizer", None]])
def test_a_tokenizers_own_class(auto_map: object, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone_folders["bert"], tmp_path / "own"))
    mark = write_code(folder)
    change(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")
    with pytest.raises(UsageError, match=REFUSED):
        load_backbone(ModelSource("x", str(folder)))
    assert not mark.exists()


def test_code_under_a_known_name_of_model(own: Path, tmp_path: Path) -> None:
    change(own / "config.json", model_type="bert")  # transformers would take its own BERT, and say nothing
    with pytest.raises(UsageError, match=REFUSED):
        load_backbone(ModelSource("x", str(own)))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("auto_map", [3, None, [], {"AutoModel": None}, {"AutoModel": 7}, {"AutoProcessor": "own.X"}])
def test_a_map_that_names_nothing_for_us(auto_map: object, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone_folders["bert"], tmp_path / "own"))
    change(folder / "config.json", auto_map=auto_map)
    check_code(folder, "x", trust_remote_code=False)
    assert declared_code(folder) == []

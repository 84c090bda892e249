"""Wrong use is told in one line before torch, transformers or a model is loaded, by every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.work import make_work

REPOSITORY = Path(__file__).parents[1]
# The words of a command -> what its line must hold.
WRONG = {
    "train nothing.csv --model model": "no file nothing.csv",
    "train data.xyz --model model": "no file data.xyz",
    "train texts.txt --model model": "texts.txt: unknown kind of table '.txt'",
    "train data.csv --model minillm": "unknown model 'minillm': did you mean minilm?",
    "train data.csv --model model --text body": "no column 'body'; the columns are: text, label",
    "train data.csv --model model --label topic": "no column 'topic'; the columns are: text, label",
    "train data.csv --model model --text text --text-b text": "the column 'text' is named twice",
    "train data.csv --model model --text text --label text": "the column 'text' is named twice",
    "train vague.csv --model model": "which column is the label? Name it with --label",
    "train one.csv --model model": "one.csv: every label is 'yes': training needs at least two classes",
    "train data.csv --model model --test new.csv": "new.csv line 3: label 'perhaps' is not among the training labels",
    "train data.csv --model model --test vague.csv": "vague.csv: no column 'label'",
    "train data.csv --model model --test nothing.csv": "no file nothing.csv",
    "train data.csv": "Missing option '--model': An alias (minilm, mistral-7b, ...), hub id, folder or GGUF file.",
    "train --data data.csv --model model": "it is passed without a name, as in `glot train DATA`",
    "train run --model model": "run is a folder without texts: name a file, or a folder of .txt files for each label",
    "predict --run run --input cache": "cache is a folder without texts: name a file",
    "train data.csv --model model --out run": "run is not empty, and not made by `glot train`",
    "train data.csv --model model --out data.csv": "data.csv is a file",
    "train data.csv --model model --out data.csv/new": "data.csv is a file",
    "train data.csv --model model --engine fast": "unknown --engine 'fast'",
    "train data.csv --model model --target number": "unknown --target 'number'",
    "train data.csv --model model --minutes -1": "--minutes",
    "train data.csv --model model --delimiter two": "--delimiter 'two'",
    "extract --model nothing --data data.csv": "unknown model 'nothing'",
    "extract --model model --data nothing.csv": "nothing.csv",
    "extract --model model --data data.xyz": "data.xyz",
    "extract --model model --data data.csv --text body": "body",
    "extract --model model --data data.csv --layers a": "--layers takes whole numbers",
    "extract --model model --data data.csv --dtype float8": "unknown --dtype 'float8'",
    "extract --model model --data data.csv --compute-dtype float8": "unknown compute dtype 'float8'",
    "extract --model model --data data.csv --prompt classify": "must hold {text} once",
    "extract --model model --data data.csv --prompt {text_b}": "must hold {text} once",
    "extract --model model --data data.csv --prompt {text}{text_b}": "data has one text an example: leave {text_b} out",
    "extract --model model --task cola --prompt {text}{text_b}": "cola has one text an example: leave {text_b} out",
    "extract --model model --pairs data.csv --prompt {text}{text_b}": "leave {text_b} out",
    "extract --model model --data data.csv --part 3/2": "as in 3/8",
    "extract --model model --data data.csv --workers 2": "--workers goes with --launcher ray",
    "extract --model model --data data.csv --ray-address auto": "--ray-address goes with --launcher ray",
    "extract --model model --data data.csv --gpus-per-worker 0": "--gpus-per-worker goes with --launcher ray",
    "sweep --cache cache --launcher ray --devices cpu": "--devices names what --launcher ray finds",
    "tune --cache cache --launcher ray --device cpu": "--device names what --launcher ray finds",
    "tune --cache cache --workers 2": "--workers goes with --launcher ray",
    "extract --model model --data data.csv --launcher slurm": "unknown --launcher 'slurm': choose ray",
    "extract --model model --data data.csv --launcher ray --part 1/2": "--part shares out by hand",
    "extract --model model --data data.csv --launcher ray --plan": "--plan makes no states",
    "extract --model model --data data.csv --launcher ray --workers 0": "--workers",
    "extract --model model --data data.csv --launcher ray --gpus-per-worker -1": "--gpus-per-worker",
    "extract --model model --data data.csv --launcher ray --ray-address head": "pass auto, or the head's host:port",
    "extract --model model --data data.csv --launcher ray --ray-address ray://head:10001": "runs on a node of the",
    "extract --model model --data data.csv --out data.csv": "data.csv is a file",
    "extract --model model --task colla": "colla",
    "fit": "pass --cache",
    "fit --cache nowhere": "there is no cache at nowhere",
    "fit --cache cache --pooler glott": "pooler must be one of",
    "fit --cache cache --tau 2": "tau is a cosine",
    "fit --cache cache --select best": "--select must be one of",
    "fit --cache cache --epochs 0": "--epochs must be at least 1",
    "fit --cache cache --layer 1": "has no layer 1: it keeps 2",
    "fit --cache cache --examples topics": "no example set 'topics.train'",
    "fit --cache cache --out run": "run is not empty",
    "fit --cache cache --out data.csv/run": "data.csv is a file",
    "fit --cache cache --backend tensorflow": "--backend must be one of auto, dgl, dense",
    "fit --cache cache --track paper": "--track must be one of",
    "fit --resume nowhere": "there is no folder nowhere",
    "fit --resume sweep": "go on with `glot sweep --resume sweep`",
    "sweep --cache cache --tau a": "--tau takes numbers",
    "sweep --cache cache --gnn gat,gatt": "gnn must be one of",
    "sweep --cache cache --out run": "run is not empty",
    "sweep --resume run": "run holds no sweep",
    "tune": "pass --cache",
    "tune --cache nowhere": "there is no cache at nowhere",
    "tune --cache cache --out run": "run is not empty",
    "tune --resume run": "run holds no study",
    "tune --resume run --out new": "--out does not go with --resume",
    "tune --cache cache --ensemble 1": "--ensemble",
    "evaluate --run nowhere --cache cache": "there is no folder nowhere",
    "evaluate --run run --cache nowhere": "there is no cache at nowhere",
    "evaluate --run both --mteb STSBenchmark": "both is an ensemble, which gives labels and scores and nothing else",
    "evaluate --run half --cache cache": "half is not whole: it is an ensemble of 2 heads",
    "evaluate --run run --cache cache --split test": "no example set 'test'",
    "evaluate --run sweep --cache cache": "sweep holds 2 runs (tau=0.3/seed-0, tau=0.6/seed-0): name one",
    "evaluate --run run --data nothing.csv": "nothing.csv",
    "evaluate --run run --data data.csv --text body": "body",
    "evaluate --run run --data data.csv --label kind": "kind",
    "evaluate --run run --data data.csv --text-b label": "leave out --text-b",
    "evaluate --run run --data data.csv --cache cache": "pass labelled texts with --data, or --cache",
    "evaluate --run run --data data.csv --out new": "--out does not go with --data",
    "evaluate --run run --data data.csv --page new.pdf": "one of .html, .htm",
    "evaluate --run run --data data.csv --engine nothing": "nothing",
    "evaluate --run run --data data.csv --model nothing": "unknown model 'nothing'",
    "evaluate --run half --data data.csv": "half is not whole",
    "evaluate --run run --cache cache --no-yardsticks": "--no-yardsticks does not go with --cache",
    "evaluate --run run --mteb STSBenchmark --label label": "--label does not go with --mteb",
    "evaluate --run run --cache cache --page new.html": "--page does not go with --cache",
    "encode --run run --input texts.txt --output new.csv": "the suffix must be one of .npy, .parquet, .jsonl, .ndjson",
    "encode --run run --input texts.txt --output cache": "cache is a folder: name a file with --output",
    "encode --run run --input texts.txt --output texts.txt/new.npy": "texts.txt is a file",
    "encode --run run --input rows.jsonl --output ./rows.jsonl": "rows.jsonl is the file of the texts",
    "encode --run run --input nothing.txt --output new.npy": "no file nothing.txt",
    "encode --run run --input data.csv --text body --output new.npy": "body",
    "encode --run seeds --input texts.txt --output new.npy": "seeds holds 2 runs (seed-0, seed-1): name one",
    "encode --run sweep --input texts.txt --output new.npy": "sweep holds 2 runs",
    "encode --run seeds/seed-0 --input texts.txt --output new.npy": "that fit has not finished an epoch",
    "encode --run run --model nothing --input texts.txt --output new.npy": "unknown model 'nothing'",
    "encode --run run --input data.csv --text-b label --output new.npy": "leave out --text-b",
    "encode --run both --input texts.txt --output new.npy": "name one of its heads, the best is both/1",
    "predict --run half --input texts.txt": "half is not whole: it is an ensemble of 2 heads",
    "predict --run half --cache cache --split validation": "there is no trained run half/2",
    "predict --run both --input data.csv --text-b label": "both was trained on 1 text(s) an example: leave out",
    "predict --run run --input texts.txt --output new.xlsx": "one of .jsonl, .ndjson, .csv, .tsv, .parquet",
    "predict --run run --input texts.txt --output new": "one of .jsonl, .ndjson, .csv, .tsv, .parquet",
    "predict --run run --input data.csv --output data.csv": "data.csv is the file of the texts, and would be lost",
    "predict --run run --input texts.txt --format glue": "leave it out",
    "predict --run run --input data.csv --text-b label": "leave out --text-b",
    "predict --run run --input nothing.csv": "no file nothing.csv",
    "predict --run run --input texts.txt --split train": "--split does not go with --input",
    "predict --run run --input texts.txt --backend dense": "--backend does not go with --input",
    "predict --run run --cache cache --text label": "--text does not go with --cache",
    "predict --run run --cache cache --model model": "--model does not go with --cache",
    "predict --run run --cache cache --engine torch": "--engine does not go with --cache",
    "predict --run run --cache cache --no-header": "--no-header does not go with --cache",
    "predict --run run --cache cache --split test": "no example set 'test'",
    "predict --run run --cache cache --split validation --format glue --output new.csv": "one of .tsv, .txt",
    "predict --run sweep --cache cache": "sweep holds 2 runs",
    "export --run sweep --to onnx new": "sweep holds 2 runs",
    "export --run both --to onnx new": "name one of its heads, the best is both/1",
    "export --run run --to onnx": "name the folder to make, once",
    "export --run run --to onnx new --out other": "name the folder to make, once",
    "export --run run --to onnx new.onnx": "pass new, or --head-only for a file of the head alone",
    "export --run run --to onnx cache": "cache is there already",
    "export --run run --to onnx data.csv/new": "data.csv is a file",
    "export --run run --to onnx new --model nowhere": "nowhere",
    "export --run run --to onnx new --push me/new": "--push does not go with --to onnx: leave it out",
    "export --run run --to onnx new.onnx --head-only --model model": "which needs no backbone: leave it out",
    "export --run run --to onnx new.pt --head-only": "the suffix must be one of .onnx",
    "export --run run --to sentence-transformers new --head-only": "--head-only does not go with --to sentence-tr",
    "export --run run --to sentence-transformers cache": "cache is there already",
    "serve --run nowhere": "there is no folder nowhere",
    "serve --run half": "half is not whole: it is an ensemble of 2 heads",
    "serve --run sweep": "sweep holds 2 runs",
    "serve --run run --model nothing": "unknown model 'nothing'",
    "serve --run run --engine fast": "unknown --engine 'fast'",
    "serve --run run --port 65536": "--port",
    "serve --run run --host a..b": "--host a..b",
    "serve --run run --max-texts 9 --max-waiting 3": "a full request could never wait",
    "explain --run run": 'pass a text with --input-text "..."',
    "explain --run run --text rain": "No such option: --text (Possible options: --index, --input-text",
    "explain --run run" + 21 * " --input-text rain": "21 examples are too many for one page: pass at most 20",
    "explain --run run --input-text a --input-text-b b --input-text-b c": "1 --input-text but 2 --input-text-b",
    "explain --run run --cache cache --index 1 --index 3 --png": "--png draws one example",
    "explain --run run --input-text rain --out new.png": "one of .html, .htm",
    "explain --run sweep --input-text rain": "sweep holds 2 runs",
    "explain --run both --input-text rain": "name one of its heads, the best is both/1",
    "explain --run run --cache cache --index 1 --split test": "no example set 'test'",
    "report nowhere": "there is no folder nowhere",
    "inspect nowhere": "there is no cache at nowhere",
    "inspect cache --layer 1": "has no layer 1",
    "cache copy cache run": "run is there already",
    "cache subset cache new --layers 1": "has no layer 1",
    "bench cost": "pass --model, or --random-init",
    "bench cost --model minilm --out new.csv": "one of .json",
    "bench cost --model model --tau 2": "tau is a cosine",
    "stress --model model --generator nothing": "unknown generator",
    "reproduce --profile nothing": "nothing",
}
RUNNER = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate", "datasets", "mteb"):
            raise AssertionError(f"{name} was imported before the wrong use was told")

sys.meta_path.insert(0, Blocked())
from glot.commands import app as cli
from glot.commands import console
found = []
for words in json.load(sys.stdin):
    sys.argv = ["glot", *words]
    out, err = io.StringIO(), io.StringIO()
    for name, file in (("screen", out), ("chat", out), ("notes", err), ("errors", err)):
        getattr(console, name).file = file
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        code = repr(error)
    found.append([code, out.getvalue(), err.getvalue()])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def told(
    backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, tuple[int, str, str]], set[str], set[str]]:
    """What each command came to in a process that may not import torch; and the files before and after."""
    work = make_work(tmp_path_factory.mktemp("work"), backbone_folders["bert"])
    (work / "rows.jsonl").write_text('{"text": "rain falls"}\n')
    (work / "one.csv").write_text("text,label\nrain falls,yes\nold town,yes\n")
    (work / "new.csv").write_text("text,label\nrain falls,yes\nold town,perhaps\n")
    (work / "vague.csv").write_text("text,id\nrain falls,1\nold town,2\nbooks,3\n")
    before = {str(path) for path in work.rglob("*")}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "pipeline"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([words.split() for words in WRONG]),
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(WRONG, map(tuple, json.loads(done.stdout)), strict=True)), before, {str(p) for p in work.rglob("*")}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_told_before_torch_is_loaded(words: str, told: tuple) -> None:
    code, out, err = told[0][words]
    assert (code, out, len(err.splitlines())) == (2, "", 1), (code, out, err)
    assert WRONG[words] in err


def test_wrong_use_makes_nothing(told: tuple) -> None:
    _, before, after = told
    assert after == before

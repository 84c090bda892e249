"""The documentation holds what it says: its commands parse, its blocks run, its reference is what the commands are.

Blocks that begin with ```sh and ```python run, in their order, each page in an empty folder of its own, with a tiny
model under the name of every alias and small files under the names that the pages use (`_fill`). A block that begins
with ```sh slow runs among the slow tests. All others (indented, ```bash, ```text) only have to parse.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import pages

RUNNABLE = ("sh", "python")
# Of other programs.
FOREIGN = {"--no-save", "--num_processes", "--nproc_per_node", "--multi_gpu", "--no-deps", "--index-url"}
LEFT_OUT = ("source ", "pip install ", "make ", "cd ")  # set up before a test begins
NEEDS = {"recipes.md": ("pyarrow", "sentence_transformers", "onnxruntime", "onnxscript", "mteb")}  # optional packages
BEFORE = {"cache-format.md": "glot extract --model minilm --task mrpc"}
ELSEWHERE = ("python.md",)  # run by test_python_examples.py, which looks at its results too
LONG_PAGES = ("recipes.md", "README.md")  # half a minute and more; among the slow tests
WORDS = {"sport": ["goal", "match", "team", "cup"], "trade": ["market", "price", "bank", "share"]}
FILLING = ["the", "old", "town", "rain", "about", "late", "again", "softly"]


def _paths(runnable: bool = False) -> list[pytest.param]:
    found = pages.pages()
    if runnable:
        found = [
            page
            for page in found
            if page.name not in ELSEWHERE and any(block.language in RUNNABLE for block in pages.blocks(page))
        ]
    return [pytest.param(page, id=page.name) for page in found]


def _slow(page: Path) -> bool:
    return any("slow" in block.words for block in pages.blocks(page))


@pytest.fixture(scope="session")
def tree() -> object:
    from glot.commands import app as cli

    return cli.command_tree()


@pytest.mark.parametrize("page", _paths())
def test_every_command_of_a_page_parses(page: Path, tree: object) -> None:
    targets = set(re.findall(r"^([\w-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for command, whole in pages.commands(page):
        for words in pages.variants(command):
            if words[0] == "make":
                unknown = [word for word in words[1:] if "=" not in word and word not in targets | {pages.ELIDED}]
                said = f"no target {unknown}" if unknown else ""
            else:
                said = pages.complaint(tree, words, whole)
            if said:
                wrong.append(f"{command}: {said}")
    assert wrong == []


@pytest.mark.parametrize("page", _paths())
def test_every_option_that_a_page_names_exists(page: Path, tree: object) -> None:
    known = {
        name
        for _, command in pages.walk(tree)
        for item in command.params
        for name in (*item.opts, *item.secondary_opts)
    }
    known |= {name for item in tree.params for name in item.opts} | FOREIGN | {"--help"}
    code = " ".join(re.findall(r"`[^`]+`", pages.prose(page)))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
    assert named - known == set()


@pytest.mark.parametrize("page", _paths())
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", pages.prose(page))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_reference_is_what_the_commands_are_now(tmp_path: Path) -> None:
    now = tmp_path / "cli.md"
    docs = [sys.executable, "-m", "typer", "glot.commands.app", "utils", "docs", "--name", "glot", "--output", str(now)]
    subprocess.run(docs, check=True, capture_output=True, timeout=120)
    assert (pages.ROOT / "docs" / pages.GENERATED).read_text() == now.read_text(), "run `make docs`"


def test_the_citation_names_the_paper_and_this_version() -> None:
    import yaml

    from glot.version import __version__

    said = yaml.safe_load((pages.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(said)  # what the format asks for
    assert (said["cff-version"], said["version"], said["license"]) == ("1.2.0", __version__, "MIT")
    paper = said["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= set(paper)
    assert paper["title"] == "Towards Improved Sentence Representations using Token Graphs"
    assert paper["identifiers"][0]["value"] == "arXiv:2603.03389"


def test_every_command_shows_two_examples_that_parse(tree: object) -> None:
    from glot.commands.examples import EXAMPLES

    commands = {name for name, command in tree.commands.items() if not hasattr(command, "commands")}
    assert set(EXAMPLES) == commands
    for name, lines in EXAMPLES.items():
        assert len(lines) == 2
        assert all(line.split()[0] == name for line in lines)
        for line in lines:
            said = "".join(pages.complaint(tree, words, True) for words in pages.variants(f"glot {line}"))
            assert said == "", f"{line}: {said}"


def test_a_wrong_command_is_found(tree: object) -> None:
    def said(command: str, whole: bool = True) -> str:
        return "".join(pages.complaint(tree, words, whole) for words in pages.variants(command))

    assert said("glot fit --cache cache/a --seeds 0,1") == ""
    assert said("glot --json cache copy a b") == ""
    assert said("glot fit --cash cache/a") == "fit has no option --cash"
    assert said("glot fit --epochs many") == "--epochs does not take many"
    assert said("glot ift --epochs 3") == "there is no command ift"
    assert said("glot cache copy|move a b") == "there is no command move"
    assert said("glot evaluate --cache cache/a") == "evaluate needs run. "
    assert said("glot evaluate --cache cache/a", whole=False) == ""
    assert said("glot inspect a b") == "inspect does not take b"


@pytest.fixture(scope="session")
def tiny_models(make_backbone_folder: Callable[..., Path]) -> dict[str, Path]:
    """An encoder and a decoder with room for 512 tokens."""
    import torch
    from transformers import AutoConfig, AutoModel

    folders = {}
    for family in ("bert", "mistral"):
        folders[family] = make_backbone_folder(family)
        config = AutoConfig.from_pretrained(folders[family], max_position_embeddings=512, initializer_range=0.05)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModel.from_config(config).save_pretrained(folders[family])
    return folders


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path], glot: Callable[..., tuple]
) -> Callable[[Path], None]:
    """Does what a page says, as its reader would."""
    from glot.registry.backbones import BACKBONES, BackboneEntry

    encoders = ("bert", "roberta", "minilm")
    for name in BACKBONES.names():
        folder = str(tiny_models["bert" if name in encoders else "mistral"])
        monkeypatch.setitem(BACKBONES._entries, name, BackboneEntry(name, folder))
    _fill(tmp_path)
    monkeypatch.setenv("GLUE_DIR", str(tmp_path / "glue"))

    def follow(page: Path, slow: bool = False) -> None:
        for package in NEEDS.get(page.name, ()):
            pytest.importorskip(package, reason=f"{page.name} shows what needs {package}, which is not installed")
        names: dict[str, object] = {"__name__": "__main__"}
        if page.name in BEFORE:
            _type(glot, monkeypatch, BEFORE[page.name])
        for block in pages.blocks(page):
            if block.language not in RUNNABLE or ("slow" in block.words and not slow):
                continue
            if block.language == "python":
                place = f"{page.name}:{block.line}"
                exec(compile("\n" * (block.line - 1) + block.text, place, "exec"), names)
            else:
                for line in pages.lines_of(block.text):
                    _type(glot, monkeypatch, line)

    return follow


def _fill(folder: Path) -> None:
    """The files that pages name: tables of your own, plain texts, and a GLUE folder."""
    rng = np.random.default_rng(0)

    def sentence(label: str) -> str:
        return " ".join(rng.permutation([*rng.choice(FILLING, 4), *rng.choice(WORDS[label], 2)]))

    for name, count in (("train", 48), ("dev", 16), ("new", 6)):
        rows = [[text, label] for label in WORDS for text in (sentence(label) for _ in range(count // 2))]
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["body", "topic"], *rows])
    moods = [[sentence(label), mood] for label, mood in zip([*WORDS] * 8, ["glad", "grim"] * 8, strict=True)]
    with open(folder / "topics.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["body", "mood"], *moods])
    pairs = [{"query": sentence(label), "positive": sentence(label)} for label in [*WORDS] * 12]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    scores = [f"{sentence('sport')}\t{sentence(label)}\t{row % 5}" for row, label in enumerate([*WORDS] * 8)]
    (folder / "similar.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *scores]) + "\n")
    (folder / "texts.txt").write_text("\n".join(sentence(label) for label in WORDS for _ in range(4)) + "\n")
    for task, head, number in (("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", 2), ("SST-2", None, 1)):
        (folder / "glue" / task).mkdir(parents=True)
        for split, count in (("train", 32), ("dev", 12)):
            rows = [head or "sentence\tlabel"]
            for row in range(count):
                first, second = sentence("sport"), sentence("sport" if row % 2 else "trade")
                rows.append(f"{row % 2}\t1\t2\t{first}\t{second}" if number == 2 else f"{second}\t{row % 2}")
            (folder / "glue" / task / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _type(glot: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Run one line of a shell: `glot` in this process, also at either end of a pipe, all else by the shell."""
    if line.startswith(LEFT_OUT):
        return
    before, _, after = line.rpartition(" | ") if " | glot " in line else ("", "", line)
    if not after.startswith("glot "):
        subprocess.run(line, shell=True, check=True, timeout=60)
        return
    if before:
        text = subprocess.run(before, shell=True, check=True, timeout=60, capture_output=True).stdout
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    command, _, rest = after.partition(" | ")
    command, _, target = command.partition(" > ")
    (words,) = pages.variants(command)
    code, out, err = glot(*words[1:])
    assert code == 0, f"{line}: {err}"
    if target:
        Path(target.strip()).write_text(out, encoding="utf-8")
    if rest:
        subprocess.run(rest, shell=True, check=True, timeout=60, input=out.encode())


@pytest.mark.parametrize("page", [page for page in _paths(runnable=True) if page.values[0].name not in LONG_PAGES])
def test_a_page_runs(page: Path, reader: Callable[..., None]) -> None:
    reader(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in _paths(runnable=True) if page.values[0].name in LONG_PAGES])
def test_a_long_page_runs(page: Path, reader: Callable[..., None]) -> None:
    reader(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in _paths(runnable=True) if _slow(page.values[0])])
def test_a_page_with_its_slow_blocks_runs(page: Path, reader: Callable[..., None]) -> None:
    reader(page, slow=True)


def test_a_block_that_fails_fails_its_page(reader: Callable[..., None], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nglot fit --cache cache/nowhere\n```\n")
    with pytest.raises(AssertionError, match="cache/nowhere"):
        reader(page)
    page.write_text("```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        reader(page)
    page.write_text("```sh\nglot doctor --json > doctor.json\n```\n")
    reader(page)
    assert json.loads(Path("doctor.json").read_text())["works"]

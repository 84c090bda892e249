"""Tiny backbones with random weights and real tokenizers, and small corpora: no download, no GPU."""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    import torch

    from glot.extract.backbone import Backbone

pytest_plugins = ["tests.hub_server", "tests.made_runs", "tests.s3", "tests.stage_two"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub is a mistake
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # servers of tests are on this machine
os.environ.pop("FORCE_COLOR", None)  # what is printed is read here as it is, without codes of colours
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GLOT_PRODUCTS", "torch")  # what is measured may fall out otherwise in the next process
os.environ.setdefault("GLOT_ENGINE", "torch")  # tests of the engine say otherwise

# No example of hypothesis fails for being slow, and one that fails for another reason says how to get it again.
hypothesis.settings.register_profile(
    "glot", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("glot")

SENTENCES = [
    "the cat sat on the mat and looked at the dog",
    "a dog barks when the postman brings letters to the door",
    "rain falls softly over the old town in autumn",
    "she reads long books about ships, storms and islands",
    "the market opens early and closes late on fridays",
    "nobody knows why the river turned green last summer",
    "two birds built their nest above the kitchen window",
    "he never paid the bill, so the lights went out",
]
FAMILIES = ("mistral", "llama", "bert", "roberta")
MAX_POSITIONS = 48  # the longest input of every tiny model, special tokens included


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `cuda` need a GPU."""
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end what a failure may hang on: the order of the tests, and the processor's instructions."""
    import torch

    seed = getattr(config.option, "randomly_seed", None)  # of pytest-randomly, where `-p randomly` asks for it
    order = "in the order of the files" if seed is None else f"in random order, seed {seed}: `make test SEED={seed}`"
    asked = os.environ.get("ATEN_CPU_CAPABILITY")
    given = f" (ATEN_CPU_CAPABILITY={asked})" if asked else ""
    terminalreporter.write_line(f"{order}; torch computes with {torch.backends.cpu.get_cpu_capability()}{given}")
    _print_families(terminalreporter)


def _print_families(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the backbone families that were tried (see tests/extract/test_families.py)."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    rows = [row for report in reports for name, row in report.user_properties if name == "backbone family"]
    if rows:
        from tests.extract.family_check import TABLE_HEAD

        terminalreporter.section("backbone families")
        terminalreporter.write_line("\n".join([TABLE_HEAD, *sorted(rows)]))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # the tensors are tiny, and a second thread only waits where the machine is busy


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test draws the same numbers whatever ran before it in this process."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _save_tokenizer(family: str, folder: Path, bos: bool = True) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # Vocabularies are written down, not trained: the library's trainers break ties differently from run to run.
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    if family == "bert":
        letters = sorted({letter for word in words for letter in word})
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters), *words]
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        around, names = "[CLS] $A [SEP]", ["[CLS]", "[SEP]"]
        roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        roles["mask_token"] = "[MASK]"
    else:
        merges = []
        for word in (f"\u0120{word}" for word in words[:20]):  # "\u0120" is a space in byte-level BPE
            merges += [(word[:end], word[end]) for end in range(1, len(word))]
        merges = list(dict.fromkeys(merges))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if family == "roberta":
            specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
            around, names = "<s> $A </s>", ["<s>", "</s>"]
            roles = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
            roles |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
        else:
            specials = ["<unk>", "<s>", "</s>"]
            around, names = "<s> $A", ["<s>"]
            roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        pieces = [*specials, *alphabet, *(left + right for left, right in merges)]
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if bos:
        ids = [(name, tokenizer.token_to_id(name)) for name in names]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)


def _save_model(family: str, folder: Path, seed: int = 0) -> None:
    import torch
    from transformers import AutoModel, BertConfig, LlamaConfig, MistralConfig, RobertaConfig

    # Weights far from 0, so that a wrong mask or position shows in the states.
    shared = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shared |= {"intermediate_size": 48, "initializer_range": 0.3, "max_position_embeddings": MAX_POSITIONS}
    decoder = {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    config = {
        "mistral": lambda: MistralConfig(**shared, **decoder, head_dim=8, sliding_window=None),
        "llama": lambda: LlamaConfig(**shared, **decoder),
        "bert": lambda: BertConfig(**shared, pad_token_id=0),
        # RoBERTa's positions start after the pad id.
        "roberta": lambda: RobertaConfig(
            **{**shared, "max_position_embeddings": MAX_POSITIONS + 2}, pad_token_id=1, bos_token_id=0, eos_token_id=2
        ),
    }[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a fresh tiny model: `make(family, seed=0, bos=True)` gives a Hugging Face folder of its own."""

    def make(family: str, seed: int = 0, bos: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("backbone") / f"tiny-{family}"
        folder.mkdir()
        _save_tokenizer(family, folder, bos)
        _save_model(family, folder, seed)
        return folder

    return make


@pytest.fixture(scope="session")
def backbone_folders(make_backbone_folder: Callable[..., Path]) -> dict[str, Path]:
    """The tiny models by family, to be read only; "bare" is a Llama whose tokenizer adds no BOS."""
    folders = {family: make_backbone_folder(family) for family in FAMILIES}
    folders["bare"] = make_backbone_folder("llama", bos=False)
    return folders


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The token ids of every text that goes through the backbone, in the order of forwards, padding left out."""
    from glot.extract.backbone import Backbone

    seen: list[tuple[int, ...]] = []
    forward = Backbone.hidden_states

    def spy(self: Backbone, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        seen.extend(tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True))
        return forward(self, ids, mask, layers)

    monkeypatch.setattr(Backbone, "hidden_states", spy)
    return seen


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of an encoder-decoder, which glot refuses before it looks for weights."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny-t5"
    folder.mkdir()
    config = {"model_type": "t5", "architectures": ["T5Model"], "d_model": 32, "num_layers": 2, "num_heads": 2}
    (folder / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": True}))
    return folder


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., object]:
    """A small corpus: `make(splits={"train": 12}, pairs=False, words=12)`.

    Row 0 is repeated in row 3, row 1 is an empty text, row 2 is far longer than any `max_tokens` of the tests.
    """
    from glot.corpus.examples import Corpus, Example, Split
    from glot.store.task_spec import TaskSpec

    words = sorted({word for sentence in SENTENCES for word in sentence.split()})

    def text(kind: str, row: int) -> str:
        row = 0 if row == 3 else row
        if row == 1:
            return ""
        rng = np.random.default_rng([row, sum(kind.encode())])
        return " ".join(rng.choice(words, 90 if row == 2 else int(rng.integers(1, 12))))

    def make(splits: dict[str, int] | None = None, pairs: bool = False, labels: bool = True) -> Corpus:
        made = {}
        for name, count in (splits or {"train": 12}).items():
            rows = range(count)
            examples = [
                Example(row, text(name, row), text(name + "-b", row) if pairs else None, row % 2 if labels else None)
                for row in rows
            ]
            made[name] = Split(name, examples, f"made {name}")
        return Corpus(TaskSpec("made", 2 if pairs else 1, "classes", ("no", "yes")), made)

    return make


@pytest.fixture(scope="session")
def write_plan() -> Callable[..., object]:
    """`write(folder, texts, lengths, cuts, keep_texts=True)` writes plan.h5 and gives its `ColumnFile`.

    `cuts` are the texts at which a new shard begins. A text's first token is special, token ids count 0 to 6 round.
    """
    from glot.store.plan import CONTENT, SPECIAL, PlanWriter, text_hash

    def write(folder: Path, texts: list[str], lengths: list[int], cuts: list[int], keep_texts: bool = True) -> object:
        writer = PlanWriter(folder, keep_texts)
        length = np.asarray(lengths, dtype=np.uint32)
        kinds = np.full(int(length.sum()), CONTENT, dtype=np.uint8)
        kinds[(np.cumsum(length) - length).astype(int)] = SPECIAL
        ids = np.arange(len(kinds)) % 7
        encoded = [text.encode() for text in texts]
        writer.add(length, b"".join(map(text_hash, texts)), ids, kinds, length > 8, encoded)
        writer.vocabulary = {number: f"Ġ{number}é" if number else "" for number in set(ids.tolist())}
        writer.shard_start = [0, *cuts, len(texts)] if texts else [0]
        data = writer.finish(folder / "plan.h5", 1)
        writer.close()
        return data

    return write


WORDS = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "about", "ships"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Data sorted by label: a text with "dog" is animal, one with "river" is water."""
    rng = np.random.default_rng(0)
    for name, count in [("train", 240), ("dev", 40), ("test", 10)]:
        rows = []
        for label, word in [("animal", "dog"), ("water", "river")]:
            for _ in range(count // 2):
                words = [*rng.choice(WORDS, rng.integers(1, 4)), word]
                rows.append([" ".join(rng.permutation(words)), label])
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["sentence", "kind"], *rows])
    return tmp_path / "train.csv"


@pytest.fixture
def glot(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., tuple]:
    """`glot("fit", "--cache", ...)` runs the command in an empty folder: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # of processes that it starts; a console looks there when it is made, alone
    from glot.commands import console as consoles

    for console in (consoles.screen, consoles.chat, consoles.notes, consoles.errors):
        monkeypatch.setattr(console, "width", 200)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which the command would set, and leave, in this process
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))  # every fit ends with a regression, and many begin so

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glot", *map(str, arguments)])
        capsys.readouterr()  # what the test itself printed, as a library's bars, is not the command's
        from glot.commands import app as cli

        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def extracted(glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]) -> Path:
    options = ["--data", table, "--eval-data", table.with_name("dev.csv"), "--test-data", table.with_name("test.csv")]
    options += ["--text", "sentence", "--label", "kind", "--max-tokens", 24]
    code, out, err = glot("extract", "--model", backbone_folders["bert"], *options)
    assert code == 0, err
    assert "train 240, validation 40, test 10" in out
    return Path("cache/train/tiny-bert")


@pytest.fixture
def make_head_run(tmp_path: Path) -> Callable[..., Path]:
    """A run with random weights: `make(name, num_texts=1, width=8, **fields of PoolerConfig)` gives its folder.

    It tells "no" from "yes", or with `scores=True` scores texts from 0 to 5.
    """
    import torch

    from glot.fit.head_model import HeadModel
    from glot.fit.run_folder import HEAD_FILE, RunConfig, TrainConfig, save_tensors
    from glot.nn.poolers import PoolerConfig
    from glot.store.layout import StatesIdentity
    from glot.store.task_spec import TaskSpec

    def make(
        name: str, num_texts: int = 1, width: int = 8, task: str = "made", scores: bool = False, **pooler: object
    ) -> Path:
        kind = {"target": "score", "classes": (), "score_range": (0, 5)} if scores else {}
        states = StatesIdentity("tiny", "", "w", "t", "encoder", width, 2, "{text}", 16, (2,), "float32", "float32")
        config = RunConfig(
            cache="nowhere",
            states=states,
            layer=2,
            data={},
            task=TaskSpec(task, num_texts, **{"target": "classes", "classes": ("no", "yes"), **kind}),
            pooler=PoolerConfig(**{"hidden": 4, **pooler}),
            train=TrainConfig(1e-3, 1, 8, None, 0, 0, "validation", "cpu", "dense", None),
            created_by="test",
        )
        folder = tmp_path / name
        folder.mkdir()
        config.save(folder)
        torch.manual_seed(0)
        save_tensors(folder / HEAD_FILE, HeadModel(config.pooler, config.task, width, "dense").state_dict())
        return folder

    return make


@pytest.fixture
def make_example() -> Callable[..., object]:
    """An example of given tokens: `make(["[CLS]", "a"], ["b"])`; states are random, a token in brackets is special."""
    import torch

    from glot.inference.attribution import Example, TextStates

    def make(*texts: list[str], width: int = 8, task: str = "made") -> Example:
        generator = torch.Generator().manual_seed(1)
        made = [
            TextStates(
                tokens,
                np.asarray([token.startswith("[") for token in tokens]),
                torch.randn(len(tokens), width, generator=generator) + 0.8,
            )
            for tokens in texts
        ]
        return Example(made, "made here", "yes", task)

    return make

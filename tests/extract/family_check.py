"""Whether the cached states of a family's tiny model are right; `make backbones` writes docs/backbones.md's table."""

from __future__ import annotations

import inspect
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.options import ExtractOptions
from glot.extract.run import extract_states
from glot.extract.source import resolve_model
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from tests.conftest import SENTENCES
from tests.extract.families import LEFT_OUT, Family, installed, save_model

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
HEADING = "## The table"  # of the page: what follows it is written here
TABLE_HEAD = "| family | batches | longest text | layers | largest difference |\n|---|---|---:|---|---:|"
LONGEST = 64  # tokens of the longest text, where a model has no limit
TOLERANCE = 1e-5  # of the largest magnitude among a text's states: float32's rounding


@dataclass(frozen=True)
class Outcome:
    """What became of a family.

    Attributes:
        how: "padded" or "equal lengths" (which batches are forwarded), or "refused".
        refusal: the line that refused it.
        longest: tokens of the longest text. limited: whether the model takes no longer one.
        layers: which layers may be kept together: "all", or "the last". Layer 0 is promised to be the embeddings.
        difference: the largest between a stored state and that of the text forwarded alone, as a share of the largest
            magnitude among the text's states.
    """

    how: str
    refusal: str = ""
    longest: int = 0
    limited: bool = False
    layers: str = ""
    difference: float = 0.0

    def row(self, name: str) -> str:
        """A row of the table."""
        if self.how == "refused":
            return f"| {name} | refused: {self.refusal.replace('|', '/')} | | | |"
        longest = f"{self.longest:,}" if self.limited else "no limit"
        difference = f"{self.difference:.0e}" if self.difference <= TOLERANCE else f"**{self.difference:.0e}**"
        return f"| {name} | {self.how} | {longest} | {self.layers} | {difference} |"


def check(family: Family, folder: Path) -> Outcome:
    """Extract small corpora over a tiny model of the family, and compare with the model itself.

    Raises whatever is wrong: only a refusal in one line is an outcome.
    """
    model_folder = folder / f"tiny-{family.name}"
    model_folder.mkdir()
    save_model(family, model_folder)
    try:
        backbone = load_backbone(resolve_model(str(model_folder)))
    except UsageError as error:
        return Outcome("refused", refusal=_refusal(error, model_folder))
    limit = backbone.max_positions
    longest = LONGEST if limit is None else limit
    texts = [_text(family, length) for length in (2, 1, longest + 5, 9, 1, longest // 2, 3, 17, 9)]
    cache, layers = _extract_most_layers(backbone, texts, folder, longest)
    assert {1, longest} <= set(cache.plan.length.tolist())
    if limit is not None:
        beyond = folder / "beyond"
        assert _is_refused(backbone, texts, beyond, limit + 1, (-1,)), f"--max-tokens {limit + 1} was taken"
        assert not beyond.exists()
    if layers == "all":
        _check_embeddings(backbone, family, folder)
    return Outcome(
        "padded" if backbone.pads else "equal lengths",
        longest=longest,
        limited=limit is not None,
        layers=layers,
        difference=_largest_difference(cache, model_folder),
    )


def _text(family: Family, tokens: int, first: int = 0) -> str:
    """A text of so many tokens; `first` chooses among them."""
    choose = random.Random(1000 * first + tokens)
    if family.tokenizer == "bert":
        words = sorted({word for sentence in SENTENCES for word in sentence.split() if word.isalpha()})
        return " ".join(choose.choices(words, k=tokens))
    return "".join(choose.choices("abcdefghijklmnopqrstuvwxyz", k=tokens))  # no merge begins without a space


def _extract(backbone: Backbone, texts: list[str], folder: Path, max_tokens: int, layers: tuple[int, ...]) -> Cache:
    """A cache of the texts in float32, one shard and, where the backbone pads, one batch."""
    examples = [Example(row, text, None, None) for row, text in enumerate(texts)]
    corpus = Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "made here")})
    budget = len(texts) * max_tokens
    options = ExtractOptions(max_tokens=max_tokens, layers=layers, dtype="float32", token_budget=budget)
    extract_states(corpus, backbone, folder, options)
    cache = Cache(folder)
    assert len(cache.manifest.shards) == 1
    return cache


def _is_refused(backbone: Backbone, texts: list[str], folder: Path, max_tokens: int, layers: tuple[int, ...]) -> bool:
    try:
        _extract(backbone, texts, folder, max_tokens, layers)
    except UsageError as error:
        _refusal(error, Path(backbone.source))
        return True
    return False


def _extract_most_layers(backbone: Backbone, texts: list[str], folder: Path, longest: int) -> tuple[Cache, str]:
    """A cache of all layers but the embeddings, or of the last alone where others are refused."""
    inner = tuple(range(1, backbone.num_layers + 1))
    if not _is_refused(backbone, texts, folder / "cache", longest, inner):
        return Cache(folder / "cache"), "all"
    return _extract(backbone, texts, folder / "last", longest, (-1,)), "the last"


def _check_embeddings(backbone: Backbone, family: Family, folder: Path) -> None:
    """Layer 0 can be kept, or is refused; it must be the embeddings: other tokens do not change one's.

    The next ones may: MobileBERT's embeddings are of three tokens each.
    """
    middle = _text(family, 3)
    space = " " if family.tokenizer == "bert" else ""
    texts = [space.join([_text(family, 1, first), middle, _text(family, 1, first + 1)]) for first in (1, 3)]
    if _is_refused(backbone, texts, folder / "embeddings", 5, (0,)):
        return
    cache = Cache(folder / "embeddings")
    first, second = (cache.read_texts(0, np.asarray([text_id])).values for text_id in range(2))
    assert not np.allclose(first[0], second[0])  # other tokens
    changed = np.abs(first[2] - second[2]).max() / np.abs(first).max()
    assert changed <= TOLERANCE, f"layer 0 is not the embeddings: other tokens change it by {changed:.0e}"


def _largest_difference(cache: Cache, model_folder: Path) -> float:
    """How far stored states are from those of each text alone, unpadded, through transformers and no code of ours."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_folder, dtype=torch.float32).eval()
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    difference = 0.0
    for text_id in range(len(cache.plan)):
        ids = torch.from_numpy(cache.plan.token_ids(text_id, text_id + 1).astype(np.int64))[None]
        with torch.no_grad():
            output = model(input_ids=ids, output_hidden_states=True, **options)
        for layer in cache.manifest.states.layers:
            last = layer == cache.manifest.states.num_layers
            expected = (output.last_hidden_state if last else output.hidden_states[layer])[0].numpy()
            stored = cache.read_texts(layer, np.asarray([text_id])).values
            assert stored.shape == expected.shape, (stored.shape, expected.shape)
            difference = max(difference, float(np.abs(stored - expected).max() / np.abs(expected).max()))
    return difference


def _refusal(error: UsageError, model_folder: Path) -> str:
    """The line of a refusal, which names the model, without the folder's place on this machine."""
    line = str(error)
    assert "\n" not in line, line
    assert model_folder.name in line, line
    return line.replace(f"{model_folder.parent}/", "")


def write_page(page: Path = PAGE) -> None:
    """Check every family and write the last part of the page anew, telling of each family on the way.

    Raises ValueError where the page lacks the heading.
    """
    import transformers

    text = page.read_text(encoding="utf-8")
    before = text[: text.index(HEADING)]
    rows = []
    for family in installed():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_row(family, Path(folder)))
        print(rows[-1], flush=True)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}"
    left_out = [f"- {reason}: {names.replace(' ', ', ')}." for reason, names in LEFT_OUT.items()]
    parts = [
        f"{HEADING}\n",
        f"Written by `make backbones` with {versions}: {len(rows)} families.\n",
        "\n".join([TABLE_HEAD, *rows]) + "\n",
        "Left out, by the reason:\n",
        "\n".join(left_out) + "\n",
    ]
    page.write_text(before + "\n".join(parts), encoding="utf-8")


def _row(family: Family, folder: Path) -> str:
    try:
        outcome = check(family, folder)
    except Exception as error:  # the page shows what is wrong; the tests fail for it
        return f"| {family.name} | **wrong**: {type(error).__name__} | | | |"
    return outcome.row(family.name)


if __name__ == "__main__":
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    write_page()

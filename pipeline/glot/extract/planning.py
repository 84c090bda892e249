"""Stage one's first step: which distinct texts there are, their tokens, and which shard each goes to.

Nothing here grows with the texts' bytes: they go from the corpus to the plan's file in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from glot.corpus.examples import Corpus, PackedTexts, Split, label_column, pack
from glot.errors import UsageError
from glot.extract.backbone import Backbone
from glot.extract.probe import longest_that_works
from glot.process import no_collection
from glot.store.example_set import NO_TEXT, ExampleSet
from glot.store.files import nameless_file
from glot.store.layout import StatesIdentity
from glot.store.plan import CONTENT, SPECIAL, TEMPLATE, Plan, PlanWriter, encoded_hash, number_by_first_use
from glot.store.template import TEXT, fill, join_pair, pieces, takes_pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HASH_BATCH = 4096  # examples
TOKENIZE_BATCH = 1000  # texts
PIECE = 2**16  # hashes of an old plan that are read at a time


Spread = Callable[[Callable[[Any], Any], Iterator[Any]], Iterator[Any]]  # as `map`, here or elsewhere


@dataclass(frozen=True)
class TextBatch:
    """Some texts, not unpacked yet: `map_over_ray` sends them on as they are.

    Attributes:
        examples: those that the texts are of, packed, in the order of `which`.
        which: (k,) which of its example's texts each is: 0, 1, or from 2 on a negative.
    """

    examples: tuple[PackedTexts, ...]
    which: np.ndarray

    def encoded(self) -> list[bytes]:
        """The k texts, clean, in UTF-8."""
        rows = zip(chain.from_iterable(self.examples), self.which.tolist(), strict=True)
        return [clean_bytes((text, text_b, *negatives)[which]) for (_, text, text_b, negatives), which in rows]

    def texts(self) -> list[str]:
        """The k texts."""
        return [encoded.decode("utf-8") for encoded in self.encoded()]


@dataclass
class NumberedTexts:
    """What a corpus comes to beside the texts of an old plan.

    Attributes:
        sets: an example set a split, in permuted order.
        new: (k,) ascending positions among all occurrences of the texts that the old plan does not have, which is the
            order of their ids. occurrences: the splits' permuted examples that these positions count through.
    """

    sets: dict[str, ExampleSet]
    new: np.ndarray
    occurrences: list[tuple[Split, np.ndarray, int]]

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The new texts, in the order of their ids, so many at a time."""
        starts = np.cumsum([0] + [len(order) * width for _, order, width in self.occurrences])
        for first in range(0, len(self.new), size):
            positions = self.new[first : first + size].astype(np.int64)
            examples, which = [], []
            for (split, order, width), start, stop in zip(self.occurrences, starts[:-1], starts[1:], strict=True):
                inside = positions[slice(*np.searchsorted(positions, (start, stop)))] - start
                if len(inside):
                    examples.append(pack(split.examples, order[inside // width].tolist()))
                    which.append(inside % width)
            yield TextBatch(tuple(examples), np.concatenate(which))


def number_texts(
    corpus: Corpus, old: Plan | None, order_seed: int, scratch: Path | None = None, spread: Spread = map
) -> NumberedTexts:
    """Permute the examples by `order_seed` and number texts by first use; texts of the old plan keep their ids.

    So every shard is a random sample, and the two texts of a pair lie together. The hashes of all texts lie in a
    nameless file meanwhile, in the folder `scratch` or else in that for temporary files. `spread` hashes texts.
    """
    known = 0 if old is None else len(old)
    widths = {name: corpus.spec.num_texts + split.negatives for name, split in corpus.splits.items()}
    total = known + sum(len(split.examples) * widths[name] for name, split in corpus.splits.items())
    occurrences, columns = [], {}
    with nameless_file(scratch, total * 16) as file:
        keys = np.memmap(file, dtype=np.uint8, shape=(total, 16)) if total else np.zeros((0, 16), np.uint8)
        if old is not None:
            for first in range(0, known, PIECE):
                keys[first : min(first + PIECE, known)] = old.hashes(first, min(first + PIECE, known))
        start = known
        for name, split in corpus.splits.items():
            order = np.random.default_rng(order_seed).permutation(len(split.examples))
            width = widths[name]
            stop = start + len(order) * width
            columns[name] = _read_columns(split, order, keys[start:stop].reshape(len(order), width, 16), spread)
            occurrences.append((split, order, width))
            start = stop
        is_new, number = number_by_first_use(keys)
        del keys
    new = np.flatnonzero(is_new[known:]).astype(number.dtype)
    sets, start = {}, known
    for name, (index, label, filled) in columns.items():
        width, pair = widths[name], corpus.spec.num_texts == 2
        ids = number[start : start + len(index) * width].reshape(len(index), width).astype(np.int64)
        negatives = np.where(np.arange(2, width) < filled[:, None], ids[:, 2:], NO_TEXT) if width > 2 else None
        sets[name] = ExampleSet(index, ids[:, 0].copy(), ids[:, 1].copy() if pair else None, label, negatives)
        start += len(index) * width
    return NumberedTexts(sets, new, occurrences)


@dataclass(frozen=True)
class HashedTexts:
    """What numbering needs of k examples of `width` texts at most.

    Attributes:
        index: (k,) int64 rows in the source. filled: (k,) uint16, how many texts each has.
        hashes: (k, width, 16) uint8; where an example has fewer texts, that of its first again.
    """

    index: np.ndarray
    filled: np.ndarray
    hashes: np.ndarray


def hash_texts(examples: PackedTexts, width: int) -> HashedTexts:
    """Hash the texts of some examples."""
    index, filled, hashes = [], [], []
    for row, text, text_b, negatives in examples:
        texts = (text, text_b, *negatives)[:width]
        found = [encoded_hash(clean_bytes(one)) for one in texts if one is not None]
        hashes += found + found[:1] * (width - len(texts))
        index.append(row)
        filled.append(len(texts))
    table = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, width, 16)
    return HashedTexts(np.asarray(index, dtype=np.int64), np.asarray(filled, dtype=np.uint16), table)


def _read_columns(
    split: Split, order: np.ndarray, keys: np.ndarray, spread: Spread
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(m,) rows, labels and numbers of texts of a split's examples in permuted order.

    The hashes of their texts go to keys, (m, width, 16).
    """
    count = len(order)
    target = np.empty(count, dtype=np.int64)
    target[order] = np.arange(count)
    index, filled = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.uint16)
    pieces = (range(first, min(first + HASH_BATCH, count)) for first in range(0, count, HASH_BATCH))
    packed = (pack(split.examples, piece) for piece in pieces)
    first = 0
    for found in spread(partial(hash_texts, width=keys.shape[1]), packed):
        rows = target[first : first + len(found.index)]
        index[rows], filled[rows], keys[rows] = found.index, found.filled, found.hashes
        first += len(rows)
    labels = label_column(split.examples)
    return index, None if labels is None else labels[order], filled


def clean(text: str) -> str:
    """Half of a surrogate pair (a broken escape in JSON) has no UTF-8 and no tokens: it becomes "?"."""
    return clean_bytes(text).decode("utf-8")


def clean_bytes(text: str) -> bytes:
    """The clean text in UTF-8."""
    return text.encode("utf-8", "replace")


def check_template(template: str, backbone: Backbone) -> str:
    """The template as it is kept.

    Raises UsageError where the tokenizer cannot say which tokens are the text's.
    """
    if template != TEXT and not backbone.tokenizer.is_fast:
        raise UsageError(
            f"--prompt needs a fast tokenizer, which tells tokens of text and prompt apart: {backbone.name} has none"
        )
    return clean(template)


@dataclass(frozen=True)
class PlannedTexts:
    """What a plan holds of k texts with n tokens.

    Attributes:
        length: (k,) uint32. ids: (n,) uint32. kinds: (n,) uint8, see `Tokens`. truncated: (k,) uint8.
        hashes: 16 bytes a text. encoded: the texts in UTF-8. empty: how many texts have no token of their own.
    """

    length: np.ndarray
    ids: np.ndarray
    kinds: np.ndarray
    truncated: np.ndarray
    hashes: bytes
    encoded: list[bytes]
    empty: int


@no_collection()
def plan_texts(batch: TextBatch, template: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> PlannedTexts:
    """Tokenize some texts, at least one, in their template, and hash them."""
    encoded = batch.encoded()
    texts = [one.decode("utf-8") for one in encoded]
    tokens = tokenize_filled(texts, template, TokenizerAlone(tokenizer), max_tokens)
    length = np.asarray([len(item) for item in tokens.ids], dtype=np.uint32)
    ids = np.fromiter(chain.from_iterable(tokens.ids), dtype=np.uint32, count=int(length.sum()))
    kinds = np.concatenate(tokens.kinds)
    starts = np.cumsum(length, dtype=np.int64) - length
    empty = int((np.add.reduceat((kinds == CONTENT).astype(np.int64), starts) == 0).sum())
    return PlannedTexts(length, ids, kinds, tokens.truncated, b"".join(map(encoded_hash, encoded)), encoded, empty)


def tokenize_into(
    writer: PlanWriter,
    texts: NumberedTexts,
    backbone: Backbone,
    identity: StatesIdentity,
    progress: Callable[[int, int], None],
    spread: Spread = map,
) -> int:
    """Tokenize the new texts, in their template, into a plan; returns how many have no token of their own.

    `spread` calls a function with batch after batch, here or elsewhere, and gives the results in their order.

    Raises UsageError where the tokenizer has tokens that the backbone does not know.
    """
    empty, done = 0, 0
    plan = partial(plan_texts, template=identity.template, tokenizer=backbone.tokenizer, max_tokens=identity.max_tokens)
    for batch in spread(plan, texts.batches(TOKENIZE_BATCH)):
        if len(batch.ids) and batch.ids.max() >= backbone.vocabulary_size:
            raise UsageError(
                f"the tokenizer of {backbone.name} gives token {batch.ids.max()}, its embeddings end at "
                f"{backbone.vocabulary_size - 1}: pass the tokenizer and the model of one checkpoint"
            )
        writer.add(batch.length, batch.hashes, batch.ids, batch.kinds, batch.truncated, batch.encoded)
        empty += batch.empty
        done += len(batch.length)
        progress(done, len(texts.new))
    missing = writer.missing_vocabulary()
    names = backbone.tokenizer.convert_ids_to_tokens(missing)
    writer.vocabulary.update(zip(missing, (name or "" for name in names), strict=True))
    return empty


class HasTokenizer(Protocol):
    """A backbone, as far as its texts' tokens go."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        ...


@dataclass(frozen=True)
class TokenizerAlone:
    """A backbone's tokenizer, where the backbone is not."""

    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts.

    Attributes:
        ids: of each text, at least one.
        kinds: (n,) uint8 for each text's n tokens: CONTENT, SPECIAL (what the tokenizer itself added) or TEMPLATE.
        truncated: (texts,) uint8, 1 where a text was cut.
    """

    ids: list[list[int]]
    kinds: list[np.ndarray]
    truncated: np.ndarray


def tokenize_filled(texts: list[str], template: str, backbone: HasTokenizer, max_tokens: int) -> Tokens:
    """The tokens of each text in its template, cut where they are more than `max_tokens`.

    A token that spans the border of text and template is the text's. A text without any token becomes one EOS.
    What is cut is the end; of a pair in one template the end of the longer text, so that the template stays whole.

    Raises UsageError where a template of pairs is too long itself.
    """
    filled = [fill(template, text) for text in texts]
    ids, truncated, spans = _encode(filled, backbone, max_tokens, template != TEXT, cut=not takes_pair(template))
    kinds = _kinds([len(item) for item in ids], *added_tokens(backbone.tokenizer))
    ids = [item or [ending(backbone.tokenizer)] for item in ids]
    if template != TEXT:
        for row, (text, span) in enumerate(zip(texts, spans, strict=True)):
            if not span:
                continue  # it is the EOS of a text without tokens
            owner = np.where(kinds[row] == CONTENT, _owners(span, pieces(template, text)), 0)
            kinds[row][(kinds[row] == CONTENT) & (owner == 0)] = TEMPLATE
            if takes_pair(template) and truncated[row]:
                stays = _cut_longer(owner, max_tokens)
                ids[row], kinds[row] = [ids[row][place] for place in stays], kinds[row][stays]
    return Tokens(ids, kinds, truncated)


def _owners(spans: list[tuple[int, int]], filled: list[tuple[str, int]]) -> np.ndarray:
    """(n,) uint8 whose each of n spans of characters is, by the pieces of a filled template (see `pieces`).

    A span that touches a text is the text's, of two texts the first's.
    """
    owner, start = np.zeros(len(spans), dtype=np.uint8), 0
    for piece, number in filled:
        if number:
            owner[(owner == 0) & _touches(spans, start, start + len(piece))] = number
        start += len(piece)
    return owner


def _cut_longer(owner: np.ndarray, most: int) -> np.ndarray:
    """The places of the at most `most` tokens that stay of a pair: the longer text is cut at its end, then both.

    `owner` (n,) says whose each token is: 1 the first text's, 2 the second's, 0 nobody's, which stays.
    """
    first, second = (np.flatnonzero(owner == number) for number in (1, 2))
    room = most - (len(owner) - len(first) - len(second))
    if room < 0:
        raise UsageError(f"--max-tokens {most} leaves no token of the texts: pass at least {most - room + 2}")
    half = min(len(first), max(room - room // 2, room - len(second)))
    return np.sort(np.concatenate([np.flatnonzero(owner == 0), first[:half], second[: room - half]]))


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """How many tokens the tokenizer itself puts before and behind a text's own."""
    whole, own = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    for before in range(len(whole) - len(own) + 1):
        if own and whole[before : before + len(own)] == own:
            return before, len(whole) - len(own) - before
    return 0, 0


def _kinds(lengths: list[int], before: int, after: int) -> list[np.ndarray]:
    """CONTENT or SPECIAL for each token of each text, by its position; of a text without tokens, SPECIAL for its EOS.

    Not by its number: [UNK] stands for a piece of the text, and a [SEP] that somebody wrote is a piece of it.
    """
    length = np.asarray(lengths, dtype=np.int64)
    held = np.maximum(length, 1)
    ends = np.cumsum(held)
    position = np.arange(held.sum()) - np.repeat(ends - held, held)
    special = (position < before) | (position >= np.repeat(length - after, held))
    return np.split(np.where(special, SPECIAL, CONTENT).astype(np.uint8), ends[:-1]) if lengths else []


def ending(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for a text without any: EOS where there is one."""
    candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, 0)
    return next(number for number in candidates if number is not None)


def _touches(spans: list[tuple[int, int]], start: int, stop: int) -> np.ndarray:
    """(n,) bool: which of n spans of characters share one with [start, stop)."""
    first, end = np.asarray(spans, dtype=np.int64).T
    return (first < stop) & (np.maximum(end, first + 1) > start) & (start < stop)


def _encode(
    texts: list[str], backbone: HasTokenizer, max_tokens: int, with_spans: bool, cut: bool
) -> tuple[list[list[int]], np.ndarray, list[list[tuple[int, int]]]]:
    """Token ids of each text, maybe none, whether it is too long, and where its tokens' characters are if asked for.

    Where it is too long its end goes if `cut` says so.
    """
    tokenizer = backbone.tokenizer
    options = {"add_special_tokens": True, "verbose": False}
    options |= {"return_attention_mask": False, "return_token_type_ids": False}  # each is a Python list a text
    options |= {"return_offsets_mapping": True} if with_spans else {}
    encoded = tokenizer(texts, **options)
    ids, spans = encoded["input_ids"], encoded.get("offset_mapping", [])
    truncated = np.asarray([len(item) > max_tokens for item in ids], dtype=np.uint8)
    long = np.flatnonzero(truncated).tolist() if cut else []
    if long:
        # The tokenizer cuts, not we: it keeps the special tokens at the end.
        short = tokenizer([texts[index] for index in long], truncation=True, max_length=max_tokens, **options)
        for number, index in enumerate(long):
            ids[index] = short["input_ids"][number]
            if with_spans:
                spans[index] = short["offset_mapping"][number]
    return ids, truncated, spans


def length_limit(backbone: Backbone, asked: int | None, usual: int, template: str = TEXT) -> int:
    """The length at which texts are cut: what was asked for, else the usual one, or what the backbone takes of it.

    The length is tried: a text of so many tokens goes through the backbone once.

    Raises UsageError where the backbone takes fewer tokens than were asked for, or no token of a text would be left.
    """
    wanted = usual if asked is None else asked
    most = wanted if backbone.max_positions is None else min(wanted, backbone.max_positions)
    most = longest_that_works(backbone, most)
    if asked is not None and most < asked:
        raise UsageError(f"--max-tokens {asked}: {backbone.name} takes at most {most} tokens a text")
    least = _least_tokens(template, backbone)
    if most < least:
        if asked is None:
            raise UsageError(f"{backbone.name} takes at most {most} tokens, and {least} are needed for one of the text")
        raise UsageError(f"--max-tokens {asked} leaves no token of the text: pass at least {least}")
    return most


def _least_tokens(template: str, backbone: Backbone) -> int:
    """How many tokens leave room for one of the text, or of each text of a pair."""
    if takes_pair(template):  # whose template stays whole
        return len(backbone.tokenizer(fill(template, join_pair("a", "a")))["input_ids"])
    # A space before the text may become one token with its first word.
    before = template[: template.index(TEXT)].rstrip()
    least = len(backbone.tokenizer(before, add_special_tokens=False)["input_ids"]) if before else 0
    return least + backbone.tokenizer.num_special_tokens_to_add() + 1

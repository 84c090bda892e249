"""Stage one's first step: which distinct texts there are, their tokens, and which shard each goes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.corpus.examples import Corpus, Example, Split
from pipeline.errors import UsageError
from pipeline.extract.backbone import Backbone
from pipeline.store.example_set import ExampleSet
from pipeline.store.plan import CONTENT, SPECIAL, Plan, text_hash

TOKENIZE_BATCH = 1000


@dataclass
class Tokens:
    """The tokens of one text: ids and kinds of equal length (at least 1), and whether it was cut."""

    ids: list[int]
    kinds: list[int]
    truncated: bool
    empty: bool


def make_plan(
    corpus: Corpus, backbone: Backbone, old: Plan, order_seed: int, max_tokens: int, shard_tokens: int
) -> tuple[Plan, dict[str, ExampleSet], int]:
    """Extend a plan by the texts of a corpus.

    Examples are permuted by `order_seed`, then new texts are numbered by first use: every shard is a
    random sample, and the two texts of a pair lie together. Texts that the plan has keep their ids.

    Args:
        old: the plan of the cache so far (`Plan.empty` for a new one).
        max_tokens: longer texts are cut here, special tokens included.
        shard_tokens: a shard is closed before it would exceed this (a longer text has a shard of its own).

    Returns:
        The plan, an example set a split, and how many texts had no token of their own.
    """
    ids = {row.tobytes(): number for number, row in enumerate(old.hash)}
    new_texts: list[str] = []
    sets = {name: _number_texts(split, order_seed, ids, new_texts, len(old)) for name, split in corpus.splits.items()}
    tokens = list(tokenize(new_texts, backbone, max_tokens))
    plan = _extend(old, new_texts, tokens, shard_tokens)
    _add_vocabulary(plan, backbone)
    return plan, sets, sum(item.empty for item in tokens)


def _number_texts(
    split: Split, order_seed: int, ids: dict[bytes, int], new_texts: list[str], old_count: int
) -> ExampleSet:
    """Permute a split's examples and give each distinct text an id, appending unseen texts to `new_texts`."""

    def number(text: str) -> int:
        text = clean(text)
        key = text_hash(text)
        if key not in ids:
            ids[key] = old_count + len(new_texts)
            new_texts.append(text)
        return ids[key]

    order = np.random.default_rng(order_seed).permutation(len(split.examples))
    examples: list[Example] = [split.examples[place] for place in order]
    first: list[int] = []
    second: list[int] = []
    for example in examples:
        first.append(number(example.text))
        if example.text_b is not None:
            second.append(number(example.text_b))
    labels = [example.label for example in examples]
    is_score = any(isinstance(label, float) for label in labels)
    return ExampleSet(
        index=np.asarray([example.index for example in examples], dtype=np.int64),
        text_id=np.asarray(first, dtype=np.int64),
        text_id_b=np.asarray(second, dtype=np.int64) if second else None,
        label=None if None in labels else np.asarray(labels, dtype=np.float64 if is_score else np.int64),
    )


def clean(text: str) -> str:
    """Half of a surrogate pair (a broken escape in JSON) has no UTF-8 and no tokens: it becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def tokenize(texts: list[str], backbone: Backbone, max_tokens: int) -> Iterator[Tokens]:
    """Tokenize each text alone. A text without any token becomes one EOS token.

    Raises UsageError where the backbone takes fewer than `max_tokens` positions, or no token of the text would be left.
    """
    tokenizer = backbone.tokenizer
    if backbone.max_positions is not None and max_tokens > backbone.max_positions:
        raise UsageError(
            f"--max-tokens {max_tokens}: {backbone.name} takes at most {backbone.max_positions} tokens a text"
        )
    least = tokenizer.num_special_tokens_to_add() + 1
    if max_tokens < least:
        raise UsageError(f"--max-tokens {max_tokens} leaves no token of the text: pass at least {least}")
    ending = next(
        number
        for number in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, 0)
        if number is not None
    )
    specials = set(tokenizer.all_special_ids)
    for start in range(0, len(texts), TOKENIZE_BATCH):
        batch = texts[start : start + TOKENIZE_BATCH]
        options = {"add_special_tokens": True, "return_attention_mask": False, "verbose": False}
        whole = tokenizer(batch, **options)["input_ids"]
        long = [place for place, ids in enumerate(whole) if len(ids) > max_tokens]
        # The tokenizer cuts, not we: it keeps the special tokens at the end.
        cut = (
            tokenizer([batch[place] for place in long], truncation=True, max_length=max_tokens, **options)
            if long
            else {}
        )
        shortened = dict(zip(long, cut.get("input_ids", []), strict=True))
        for place, ids in enumerate(whole):
            ids = shortened.get(place, ids)
            kinds = [SPECIAL if number in specials else CONTENT for number in ids]
            empty = CONTENT not in kinds
            yield Tokens(ids, kinds, place in shortened, empty) if ids else Tokens([ending], [SPECIAL], False, empty)


def _extend(old: Plan, texts: list[str], tokens: list[Tokens], shard_tokens: int) -> Plan:
    length = np.asarray([len(item.ids) for item in tokens], dtype=np.uint32)
    shard = _assign_shards(length, shard_tokens) + np.uint32(old.num_shards)
    row = np.arange(len(shard)) - np.searchsorted(shard, shard)
    hashes = np.frombuffer(b"".join(map(text_hash, texts)), dtype=np.uint8).reshape(-1, 16)

    def grow(column: np.ndarray, values: list | np.ndarray) -> np.ndarray:
        return np.concatenate([column, np.asarray(values, dtype=column.dtype)])

    return Plan(
        hash=np.concatenate([old.hash, hashes]),
        length=grow(old.length, length),
        shard=grow(old.shard, shard),
        row=grow(old.row, row),
        truncated=grow(old.truncated, [item.truncated for item in tokens]),
        token_ids=grow(old.token_ids, [number for item in tokens for number in item.ids]),
        token_kind=grow(old.token_kind, [kind for item in tokens for kind in item.kinds]),
        texts=None if old.texts is None else old.texts + texts,
        vocabulary=dict(old.vocabulary),
    )


def _assign_shards(length: np.ndarray, shard_tokens: int) -> np.ndarray:
    """(n,) uint32 shard numbers from 0, filling one shard after the other up to `shard_tokens`."""
    shard = np.zeros(len(length), dtype=np.uint32)
    current, filled = 0, 0
    for place, count in enumerate(length.tolist()):
        if filled and filled + count > shard_tokens:
            current, filled = current + 1, 0
        shard[place] = current
        filled += count
    return shard


def _add_vocabulary(plan: Plan, backbone: Backbone) -> None:
    missing = [number for number in np.unique(plan.token_ids).tolist() if number not in plan.vocabulary]
    strings = backbone.tokenizer.convert_ids_to_tokens(missing)
    plan.vocabulary.update(zip(missing, (string or "" for string in strings), strict=True))

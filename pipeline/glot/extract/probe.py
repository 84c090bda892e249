"""What a backbone makes of its input, found by trying: padding, positions, layers. No list of families.

The states of a text must depend on that text alone. Each backbone forwards a few short texts when it is loaded, alone
and beside others, and once more a text of the length that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from glot.errors import FaultError, GlotError, UsageError, reason_of
from glot.extract.forward import Backbone

SENTENCE = "The states of a text depend on that text alone, whatever stands beside it: 7 more words follow here, or 20."
# Tokens of the texts that every backbone forwards when it is loaded: primes, for some take only multiples of a length.
SHORT, LONG = 5, 31
# How far a token's state may move by rounding alone, relative to its norm, when the shape of the batch changes.
ROUNDING = {torch.float64: 3e-5, torch.float32: 3e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def probe(backbone: Backbone) -> None:
    """Set `pads`, `layer_widths`, `max_positions` and `tried` of a backbone that was just loaded.

    Raises UsageError where it cannot forward a text, or where a text's states depend on more than the text even
    without padding; FaultError where the device has no memory for one.
    """
    declared = getattr(backbone.model.config, "max_position_embeddings", None)
    declared = declared if isinstance(declared, int) and declared > 0 else None  # XLNet says -1: no limit
    size = LONG if declared is None else max(2, min(LONG, declared // 2))
    long = probe_ids(backbone, size)
    one, short = long[:1], long[: min(SHORT, size // 2 + 1)]
    with refused_by_name(backbone):
        tables = TableReads(backbone)
        alone = [_last(backbone, [one])[0], tables.watch(short), tables.watch(long)]
        twin = [*long]
        twin[size // 4] = next((number for number in long if number != twin[size // 4]), 0)
        together = backbone.forward(*backbone.pad([one, short, long, twin]), with_inner=True)
        backbone.layer_widths = _layer_widths(backbone, together, size)
        backbone.max_positions = min((limit for limit in (declared, tables.limit()) if limit is not None), default=None)
        backbone.pads = all(
            same(expected, row[: len(expected)], backbone)
            for expected, row in zip(alone, together.last_hidden_state, strict=False)
        )
        _check_alone(backbone, short, alone[1])
    backbone.tried = size


def longest_that_works(backbone: Backbone, length: int) -> int:
    """The largest number of tokens, up to `length`, that the backbone forwards; each is tried at most once.

    Looks at padding again: some backbones compute short texts in another way beside long ones. Raises what `probe`
    raises.
    """
    if length <= backbone.tried:
        return length
    works, fails = backbone.tried, length + 1
    guess = length  # most backbones take what they declare
    while fails - works > 1:
        if _runs(backbone, guess):
            works = guess
        else:
            fails = guess
            if backbone.device.type == "cuda":  # an index out of range ends every later use of the device
                break
        guess = (works + fails) // 2
    if works < length:
        backbone.max_positions = works
    backbone.tried = works
    return works


def _runs(backbone: Backbone, length: int) -> bool:
    """Whether a text of this many tokens can be forwarded; looks at the padding that goes with it."""
    long = probe_ids(backbone, length)
    short = long[:SHORT]
    try:
        alone = _last(backbone, [short])[0]
        _last(backbone, [long])
        ids, mask = backbone.pad([short, long])
        beside = backbone.forward(ids[:1], mask[:1]).last_hidden_state[0] if backbone.pads else alone
    except torch.OutOfMemoryError:
        return True  # the first batch of this length says what to do about it
    except (RuntimeError, IndexError, ValueError, AssertionError):
        return False
    backbone.pads = backbone.pads and same(alone, beside[: len(short)], backbone)
    with refused_by_name(backbone):
        _check_alone(backbone, short, alone)
    return True


def _check_alone(backbone: Backbone, short: list[int], alone: torch.Tensor) -> None:
    """Raise UsageError where a text's states depend on what was forwarded before, or without padding on its batch."""
    if not same(alone, _last(backbone, [short])[0], backbone):
        raise UsageError(
            f"{describe(backbone)} gives the same text other states at each forward: a cache of them would mean nothing"
        )
    if not backbone.pads and not same(alone, _last(backbone, [short, short[::-1]])[0], backbone):
        raise UsageError(
            f"{describe(backbone)} gives a text other states beside other texts, even of the same length: "
            "a cache of them would mean nothing"
        )


def same(expected: torch.Tensor, states: torch.Tensor, backbone: Backbone) -> bool:
    """Whether (L, d) states differ by rounding alone; what is not finite in both counts as the same."""
    distance = distance_of(expected.float().nan_to_num(), states.float().nan_to_num())
    return distance <= ROUNDING.get(backbone.model.dtype, ROUNDING[torch.float32])


def distance_of(expected: torch.Tensor, states: torch.Tensor) -> float:
    """The largest distance of a token's state from what is expected, (L, d) both, relative to its norm."""
    norm = expected.norm(dim=1)
    return float(((expected - states).norm(dim=1) / norm.clamp_min(1e-3 * float(norm.mean()) + 1e-30)).max())


def describe(backbone: Backbone) -> str:
    """The backbone's name and family, for messages."""
    return f"{backbone.name} (a {backbone.model.config.model_type} model)"


@contextmanager
def refused_by_name(backbone: Backbone) -> Iterator[None]:
    """Turn whatever a model raises for a short text into one line."""
    try:
        yield
    except GlotError:
        raise
    except torch.OutOfMemoryError:
        raise FaultError(f"{backbone.device} has no memory left to forward a text through {backbone.name}") from None
    except Exception as error:  # each family has its own ways to fail
        raise UsageError(
            f"{describe(backbone)} cannot be used: forwarding token ids and a mask alone fails ({reason_of(error)}); "
            "pass another model"
        ) from None


def probe_ids(backbone: Backbone, length: int) -> list[int]:
    """Token ids of a sentence, repeated up to `length`; none that has a meaning of its own, as padding has."""
    special = set(backbone.tokenizer.all_special_ids)
    sentence = backbone.tokenizer(SENTENCE, add_special_tokens=False, verbose=False)["input_ids"]
    plain = (number for number in range(backbone.vocabulary_size) if number not in special)
    ids = [number for number in sentence if number not in special and number < backbone.vocabulary_size]
    if len(set(ids)) < 2:
        ids = list(islice(plain, LONG)) or [0]
    return (ids * math.ceil(length / len(ids)))[:length]


def _last(backbone: Backbone, rows: list[list[int]]) -> torch.Tensor:
    """(B, L, d) states after the last layer of texts of one length."""
    return backbone.forward(*backbone.pad(rows)).last_hidden_state


def _layer_widths(backbone: Backbone, output: Any, size: int) -> tuple[int | None, ...]:
    """d of each layer from 0 to n; None where the model's own list does not say for sure which layer it holds.

    Its last two texts differ in one token. Layer 0 is the embeddings only if no token far from it knows.
    """
    last: torch.Tensor = output.last_hidden_state
    inner: tuple[torch.Tensor, ...] = output.hidden_states or ()
    if last.shape[:2] != (4, size):
        raise UsageError(f"{describe(backbone)} gives no state a token: {size} tokens have {last.shape[1]} states")
    widths = [states.shape[2] if states.ndim == 3 and states.shape[:2] == (4, size) else None for states in inner[:-1]]
    is_sure = len(widths) == backbone.num_layers and widths[0] is not None
    if is_sure:
        far = size // 4 + 2
        is_sure = far >= size or same(inner[0][2, far:], inner[0][3, far:], backbone)
    return (*(widths if is_sure else [None] * backbone.num_layers), last.shape[2])


class TableReads(TorchDispatchMode):
    """Watches which rows of its own tables a model reads: a table of positions ends the texts it can take.

    Looking is safer than trying: on a GPU an index out of range cannot be recovered from.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        model = backbone.model
        words = model.get_input_embeddings().weight
        tables = [table for table in (*model.parameters(), *model.buffers()) if table is not words and table.dim() > 0]
        self._backbone = backbone
        self._rows = {table.data_ptr(): table.shape[0] for table in tables if table.device.type != "meta"}
        self._read: dict[int, int] = {}
        self._seen: list[tuple[int, dict[int, int]]] = []

    def watch(self, text: list[int]) -> torch.Tensor:
        """(L, d) states of a text alone, the rows that it read kept in mind."""
        self._read = {}
        with self:
            states = _last(self._backbone, [text])[0]
        self._seen.append((len(text), self._read))
        return states

    def limit(self) -> int | None:
        """The most tokens for which there are rows, in each table of which a text reads one more a token; or None."""
        (less, few), (more, many) = self._seen
        limits = [
            self._rows[table] - (row - (more - 1))
            for table, row in many.items()
            if table in few and more > less and row - few[table] == more - less
        ]
        return min(limits, default=None)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None) -> Any:
        """Note the largest row and let the operation go on."""
        index = _index_of(func, args)
        if index is not None and index.numel() and args[0].data_ptr() in self._rows:
            table = args[0].data_ptr()
            self._read[table] = max(self._read.get(table, 0), int(index.max()))
        return func(*args, **(kwargs or {}))


def _index_of(func: Any, args: tuple) -> torch.Tensor | None:
    """The rows that an operation reads of its first argument, where it is one that reads rows."""
    aten = torch.ops.aten
    if func is aten.embedding.default:
        return args[1]
    if func is aten.index_select.default and args[1] == 0:
        return args[2]
    if func is aten.index.Tensor and args[1] and args[1][0] is not None and args[1][0].dtype == torch.int64:
        return args[1][0]
    return None

"""Finds the columns of a table that nobody named, where they are obvious: by their names, then by their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from glot.corpus.dialect import FIND_OUT, TableFormat, is_delimited
from glot.corpus.examples import UnfitRow
from glot.corpus.formats import is_parquet
from glot.corpus.labels import is_number
from glot.corpus.request import CorpusRequest
from glot.corpus.tables import Table
from glot.errors import UsageError
from glot.registry.tasks import Columns

# In lower case; the first name stands before the others, of which only one may be there.
TEXTS = (
    "text",
    "sentence",
    "body",
    "content",
    "review",
    "comment",
    "message",
    "tweet",
    "document",
    "question",
    "title",
)
PAIRS = (
    ("text", "text_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
)
LABELS = ("label", "labels", "class", "category", "target", "topic", "intent", "sentiment", "score", "rating", "stars")
_SAMPLE = 500  # rows that show what columns hold
_WORDS = 2.0  # a text has more on average, a label no more
_DISTINCT, _SHARE = 20, 0.2  # values that a column of labels may have: so many, or so many a row
_OTHER_MARKS = ("tab", "semicolon", "pipe", "comma")


class NamedColumns(NamedTuple):
    """The columns that a user names, see `Columns`; None: not named."""

    text: str | None = None
    text_b: str | None = None
    label: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class Guess:
    """The columns of a table, and how it is written as far as that was needed to see them.

    Attributes:
        columns: the names. form: as given, or with the delimiter under which there are columns.
        found: those that nobody named, for people: "text in 'body', label in 'topic'"; "" where all were named.
    """

    columns: Columns
    form: TableFormat
    found: str


def guess_columns(
    path: Path,
    text: str | None = None,
    text_b: str | None = None,
    label: str | None = None,
    form: TableFormat = FIND_OUT,
    separator: str | None = None,
) -> Guess:
    """The columns of a table: those that are named, and for the others the obvious ones.

    A second text is looked for only where no text is named. Raises UsageError where the file or a column is missing, or
    several columns could be the one: which is said, and how to name it.
    """
    if text is not None and label is not None:
        return Guess(Columns(text, text_b, label, separator), form, "")
    named = Columns(text or "", text_b, label or "")
    form, names = _names(path, named, form)
    rows = _sample(path, named, form)
    taken = [name for name in (text, text_b, *Columns("", None, label or "").labels) if name]
    there = [name for name in names if name not in taken]
    second = text_b
    if text is None and text_b is None and (pair := _pair(there)) is not None:
        text, second = pair
        there = [name for name in there if name not in pair]
        shown = [f"texts in {text!r} and {second!r}"]
    else:
        shown = []
    if text is None:
        text = _one(path, "text", there, TEXTS, [name for name in there if _is_text(rows, name)], names)
        there.remove(text)
        shown.append(f"text in {text!r}")
    if label is None:
        label = _one(path, "label", there, LABELS, [name for name in there if _is_label(rows, name)], names)
        shown.append(f"label in {label!r}")
    return Guess(Columns(text, second, label, separator), form, ", ".join(shown))


def name_columns(request: CorpusRequest) -> tuple[CorpusRequest, str]:
    """A request for a table with its columns named, and in words those that nobody named.

    It stays as it is where the table has the usual "text" and "label", where nothing is obvious (whoever reads the
    table says what is wrong), and where it is for no table.
    """
    path, text, label = request.data, request.text, request.label
    if not isinstance(path, Path) or (text is not None and label is not None):
        return request, ""
    named = Columns(text or "", request.text_b, label or "")
    try:
        first = set[str]().union(*_sample(path, named, request.form))  # to name all columns, JSON is read whole
        if {text or TEXTS[0], *(named.labels or LABELS[:1])} <= first:
            return request, ""
        names = _names(path, named, request.form)[1]
        text = text or (TEXTS[0] if TEXTS[0] in names else None)
        label = label or (LABELS[0] if LABELS[0] in names else None)
        if text is not None and label is not None:
            return request, ""
        guess = guess_columns(path, text, request.text_b, label, request.form, request.label_separator)
    except UsageError:
        return request, ""
    found = guess.columns
    return replace(request, text=found.text, text_b=found.text_b, label=found.label), f"{path.name}: {guess.found}"


def guess_texts(path: Path, texts_each: int, form: TableFormat = FIND_OUT, trained: Columns | None = None) -> Guess:
    """The columns of new texts in a table, whose labels nobody looks for.

    They are those of the table that was trained on, where this one has them too, else the obvious ones.

    Args:
        texts_each: 1, or 2 where a row is a pair. trained: the columns of that table, where they are known.

    Raises UsageError where the file is missing, none or several could be the one, or where the first line, which would
    get no answer as a header line, does not look like one.
    """
    form, names = _names(path, Columns("", None, ""), form)
    if trained is not None and form.header:  # else names are numbers of columns
        wanted = [trained.text, trained.text_b or ""][:texts_each]
        if set(wanted) <= set(names):
            return _texts_found(wanted, form, ", as in training")
    if texts_each == 2:
        pair = _pair(names)
        if pair is None:
            raise UsageError(
                f"{path.name}: which columns are the two texts? Name them with --text and --text-b; the columns are: "
                f"{', '.join(names)}"
            )
        return _texts_found(pair, form)
    table = _table(path, Columns(TEXTS[0], None, ""), form)
    if form.header and table.is_headless and not {name.lower() for name in names} & set(TEXTS):
        table.check()  # raises: it has no such column
    rows = _sample(path, Columns("", None, ""), form)
    likely = [name for name in names if len(name.split()) <= _WORDS and _is_text(rows, name)]
    return _texts_found([_one(path, "text", names, TEXTS, likely, names)], form)


def guess_labelled(
    path: Path, columns: NamedColumns, texts_each: int, form: TableFormat = FIND_OUT, trained: Columns | None = None
) -> Guess:
    """The columns of labelled rows that somebody trained a head for: those that are named, and for the others as in
    `guess_texts`; the label's is that of the table that was trained on, where this one has it, else the obvious one.

    Raises UsageError as `guess_columns`.
    """
    text, text_b, label, separator = columns
    shown = []
    if text is None:
        texts = guess_texts(path, texts_each, form, trained)
        text, form = texts.columns.text, texts.form
        text_b = text_b or texts.columns.text_b
        shown.append(texts.found)
    if label is None and trained is not None and form.header:
        names = set(_names(path, Columns("", None, ""), form)[1])
        if trained.labels and set(trained.labels) <= names:
            label, separator = trained.label, separator or trained.separator
            shown.append(f"label in {label!r}, as in training")
    if label is None:
        rest = guess_columns(path, text, text_b, None, form, separator)
        label, form = rest.columns.label, rest.form
        shown.append("" if label == LABELS[0] else rest.found)
    return Guess(Columns(text, text_b, label, separator), form, "; ".join(filter(None, shown)))


def _texts_found(names: Sequence[str], form: TableFormat, why: str = "") -> Guess:
    """The guess of one text or two; nothing is said of the name that a text has where nobody says otherwise."""
    if len(names) == 2:
        return Guess(Columns(names[0], names[1], ""), form, f"texts in {names[0]!r} and {names[1]!r}{why}")
    return Guess(Columns(names[0], None, ""), form, "" if names[0] == TEXTS[0] else f"text in {names[0]!r}{why}")


def _names(path: Path, columns: Columns, form: TableFormat) -> tuple[TableFormat, list[str]]:
    """The names of all columns; of a file whose suffix is not its delimiter's, under the one that shows several."""
    names = list(_table(path, columns, form).column_types())
    if len(names) == 1 and is_delimited(path, form) and form.delimiter is None and not is_parquet(path):
        for mark in _OTHER_MARKS:
            other = replace(form, delimiter=mark)
            found = list(_table(path, columns, other).column_types())
            if len(found) > 1:
                return other, found
    if not names:
        _, first = next(_table(path, columns, form).cells(), ("", None))
        if isinstance(first, UnfitRow):
            raise first
        raise UsageError(f"{path.name} has no rows: pass data that has some")
    return form, names


def _table(path: Path, columns: Columns, form: TableFormat) -> Table:
    return Table(path, columns, label_needed=bool(columns.label), form=form, whole=True)


def _sample(path: Path, columns: Columns, form: TableFormat) -> list[dict[str, Any]]:
    cells = _table(path, columns, form).cells()
    return [row for _, row in islice(cells, _SAMPLE) if isinstance(row, dict)]


def _pair(there: Sequence[str]) -> tuple[str, str] | None:
    """The two texts of pairs, if a usual couple of names is there."""
    lower = {name.lower(): name for name in there}
    return next(((lower[one], lower[two]) for one, two in PAIRS if one in lower and two in lower), None)


def _one(path: Path, what: str, there: list[str], usual: Sequence[str], likely: list[str], names: list[str]) -> str:
    """The column of the text or the label: of a usual name, or the only one whose cells are such.

    Raises UsageError where there is none, or several.
    """
    lower = {name.lower(): name for name in there}
    if usual[0] in lower:
        return lower[usual[0]]
    named = [lower[name] for name in usual if name in lower]
    found = named or likely
    if len(found) == 1:
        return found[0]
    several = f"{' or '.join(map(repr, found))}? " if found else ""
    raise UsageError(
        f"{path.name}: which column is the {what}? {several}Name it with --{what}; the columns are: {', '.join(names)}"
    )


def _is_text(rows: Iterable[dict[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    texts = [value for value in values if isinstance(value, str)]
    return bool(texts) and len(texts) == len(values) and sum(len(text.split()) for text in texts) > _WORDS * len(texts)


def _is_label(rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether the cells are few values, each of few words; numbers with digits behind the point may all differ."""
    values = [row.get(name) for row in rows]
    if any(isinstance(value, list | dict) for value in values):
        return False
    shown = [str(value) for value in values if value is not None and str(value).strip()]
    if not shown or sum(len(value.split()) for value in shown) > _WORDS * len(shown):
        return False
    count = len(set(shown))
    is_decimal = all(is_number(value) for value in shown) and any("." in value for value in shown)
    return is_decimal or (count <= max(_DISTINCT, _SHARE * len(shown)) and (count < len(shown) or count <= 2))

"""Finds out how a file of delimited text is written: its delimiter, its encoding, and whether its quotes are CSV's.

That a quote at the beginning of a cell opens it, and is not a mark of the text, shows only over the whole file. It is
read once under both rules; the one under which fewer lines are unfit holds. Where both fit, what a CSV writer would
have written decides: see `_Look.quoted`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from glot.corpus.delimited import QUOTE, BrokenRow, Dialect, RowParser
from glot.corpus.lines import bare, check_encoding, encoding_of, read_file
from glot.errors import UsageError
from glot.registry.tasks import Columns

QUOTING = ("auto", "none", "csv")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "pipe", " ": "space"}
_BY_NAME = {**{name: mark for mark, name in _NAMES.items()}, "\\t": "\t"}
_SAMPLE = 200  # lines at the beginning that show the delimiter, and whether there is a header line
_KEPT = 10_000  # labels, and lines of one row, that are kept while a file is looked through
_LABEL_CHARACTERS = 200  # longer ones are not kept
_BLOCK = 1 << 20
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+")
_NAME_WORDS, _NAME_CHARACTERS = 4, 40  # the name of a column has no more


@dataclass(frozen=True)
class TableFormat:
    """What a user says of how tables are written; the defaults are to find out.

    Attributes:
        delimiter: a character, or its name: tab, comma, semicolon, pipe, space. Given, a file of any suffix but those
            of JSON lines and Parquet is delimited text.
        quoting: "auto", "csv" (cells may stand in quotes) or "none" (a quote is text).
        encoding: of the text; None: what a byte-order mark says, else UTF-8.
        header: False where the first line is a row like others: columns are then called by their numbers from 1.

    Raises UsageError for what is none of these.
    """

    delimiter: str | None = None
    quoting: str = "auto"
    encoding: str | None = None
    header: bool = True

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            mark = _BY_NAME.get(self.delimiter, self.delimiter)
            if len(mark) != 1 or mark in '"\r\n':
                raise UsageError(f"--delimiter {self.delimiter!r}: pass one character, or {', '.join(_NAMES.values())}")
            object.__setattr__(self, "delimiter", mark)
        if self.quoting not in QUOTING:
            raise UsageError(f"unknown --quoting {self.quoting!r}: choose {', '.join(QUOTING)}")
        check_encoding(self.encoding)

    @property
    def asked(self) -> str:
        """The first option that is for delimited text alone and was given, else ""."""
        given = {"--delimiter": self.delimiter, "--quoting": self.quoting != "auto", "--no-header": not self.header}
        return next((option for option, value in given.items() if value), "")

    def check_columns(self, columns: Columns) -> None:
        """Raise UsageError where there is no header line and a column is not called by its number."""
        if not self.header:
            for name in filter(None, (columns.text, columns.text_b, *columns.labels)):
                if not re.fullmatch("[1-9][0-9]*", name):
                    raise UsageError(f"--no-header: pass the columns' numbers, as in --label 1 --text 2; got {name!r}")


FIND_OUT = TableFormat()


@dataclass(frozen=True)
class FoundDialect:
    """What a look at a file found.

    Attributes:
        dialect: how it is written.
        header: the names of its columns; "1", "2", ... where it has no header line, none where it is empty.
        least: how many cells a row has, or where there is no header line, and cells are parted by tabs, at least.
        spanning: how many rows span several lines.
        headless: its first line does not look like a header line.
        described: all that for people: "tab-separated, quotes are text, UTF-8".
    """

    dialect: Dialect
    header: tuple[str, ...]
    least: int
    spanning: int
    headless: bool
    described: str


def is_delimited(path: Path, form: TableFormat) -> bool:
    """Whether the suffix of a file says so, or a delimiter was named."""
    return not path.is_dir() and (path.suffix.lower() in DELIMITERS or form.delimiter is not None)


def find_dialect(path: Path, form: TableFormat, columns: Columns, label_needed: bool) -> FoundDialect:
    """Look through a file for what the user did not say of it.

    Raises UnicodeDecodeError and OSError where it cannot be read.
    """
    labels = columns.labels if label_needed else ()
    label = columns.label if label_needed and not columns.has_several else None
    wanted = [name for name in (columns.text, columns.text_b, *labels) if name]
    delimiter = form.delimiter or _find_delimiter(path, form, wanted)
    least = None if form.header or delimiter != "\t" or not wanted else max(map(int, wanted))
    look = _Look(Dialect(delimiter, False, form.encoding, form.header), least, label)
    has_quotes = form.quoting != "none" and _holds_quotes(path)
    for line in islice(read_file(path, form.encoding), None if has_quotes else _SAMPLE):
        look.take(line)
    look.close()
    quoted = look.quoted if form.quoting == "auto" else form.quoting == "csv"
    side = look.csv if quoted else look.plain
    header = side.first if form.header else [str(number) for number in range(1, max(side.width, least or 0) + 1)]
    how = ["CSV quotes" if quoted else "quotes are text"] if look.quotes or form.quoting != "auto" else []
    parted = f"{_NAMES.get(delimiter, repr(delimiter))}-separated"
    described = ", ".join([parted, *how, encoding_of(path, form.encoding)])
    return FoundDialect(
        Dialect(delimiter, quoted, form.encoding, form.header),
        tuple(header),
        side.width if least is None else least,
        look.spanning if quoted else 0,
        look.headless(quoted),
        described,
    )


def _holds_quotes(path: Path) -> bool:
    with path.open("rb") as stream:
        return any(QUOTE.encode() in block for block in iter(lambda: stream.read(_BLOCK), b""))


def _find_delimiter(path: Path, form: TableFormat, wanted: list[str]) -> str:
    """The suffix's own, unless the wanted columns are there under another one only."""
    own = DELIMITERS.get(path.suffix.lower(), "\t")
    lines = list(islice(filter(bare, read_file(path, form.encoding)), _SAMPLE if not form.header else 1))
    marks = sorted((",", "\t", ";", "|"), key=lambda mark: mark != own)
    if form.header:
        return next((mark for mark in marks if lines and set(wanted) <= set(_cells(lines[0], mark))), own)
    needed = max(map(int, wanted), default=1)
    shares = {mark: _share_alike([len(_cells(line, mark)) for line in lines], needed) for mark in marks}
    return max(marks, key=lambda mark: shares[mark])


def _cells(line: str, delimiter: str) -> list[str]:
    """The cells of a line under CSV's quotes, where it obeys them."""
    parser = RowParser(delimiter)
    try:
        return parser.cells if parser.feed(line) else bare(line).split(delimiter)
    except BrokenRow:
        return bare(line).split(delimiter)


def _share_alike(counts: list[int], needed: int) -> float:
    """The share of lines that have the commonest number of cells; 0 where that is too small."""
    if not counts:
        return 0.0
    (commonest, times), *_ = Counter(counts).most_common(1)
    return times / len(counts) if commonest >= needed else 0.0


@dataclass
class _Side:
    """The file by one rule of quotes: its first row, how many cells that has, and how many lines are in unfit rows."""

    first: list[str] = field(default_factory=list)
    width: int = 0
    unfit: int = 0


class _Look:
    """Goes through a file line by line under both rules of quotes.

    Attributes:
        plain, csv: what was seen where quotes are text, and where they are CSV's.
        quotes: whether there is any. strays: cells with quotes in them that no CSV writer writes. tidy: cells in quotes
            as CSV writes them. needless: among them, some that would do without.
        spanning: rows over several lines by CSV's rule.
    """

    def __init__(self, dialect: Dialect, least: int | None, label: str | None) -> None:
        self.plain, self.csv = _Side(), _Side()
        self.quotes = False
        self.strays = self.tidy = self.needless = self.spanning = 0
        self._dialect, self._least, self._label_name = dialect, least, label
        self._delimiter = dialect.delimiter
        self._label: int | None = None  # the index of its column
        self._parser = RowParser(dialect.delimiter)
        self._row: list[str] = []  # the lines of the row that is open, while they are few
        # Rows that span lines each of which could be a row: how many lines, and their cells in the label's column.
        self._swallowed: list[tuple[int, set[str]]] = []
        self._labels: set[str] = set()  # of lines without quotes
        self._early: list[list[str]] = []  # rows after the first
        self._first_in_quotes = False

    def take(self, line: str) -> None:
        """Look at a line with its end."""
        text = bare(line)
        if not text and not self._parser.is_open:
            return
        has_quotes = QUOTE in line
        self.quotes = self.quotes or has_quotes
        if text:
            self._take_plain(text, has_quotes)
        if not has_quotes and not self._parser.is_open and self.csv.first:  # most lines
            self.csv.unfit += self._misfit(text.count(self._delimiter) + 1, self.csv)
            return
        if len(self._row) < _KEPT:
            self._row.append(text)
        try:
            if self._parser.feed(line):
                self._take_csv()
                self._row = []
        except BrokenRow:
            if not self.csv.first:
                self.csv.first, self.csv.width = self.plain.first, self.plain.width
            self.csv.unfit += self._parser.lines
            self._row = []

    def close(self) -> None:
        """The file is at its end."""
        if self._parser.is_open:
            self.csv.unfit += self._parser.lines
        for lines, labels in self._swallowed:
            if self._delimiter == "\t" or (self._label is not None and labels <= self._labels):
                self.csv.unfit += lines

    @property
    def quoted(self) -> bool:
        """Whether quotes are CSV's: the rule by which fewer lines are unfit; CSV's where more cells need quotes.

        Where both fit alike, it counts that a CSV writer leaves no quote in a bare cell, and puts only those cells in
        quotes that need them, unless it puts all of the header line in quotes, too. Tab-separated text is CSV only
        where this holds; other text where quoted cells are at least as many as stray quotes, for people write `"a",1`.
        """
        if not self.quotes:
            return False
        more_unfit = self.csv.unfit - self.plain.unfit
        if more_unfit > 0 and self._delimiter != "\t":  # a CSV file that was cut, or where a hand broke a row
            return self.tidy - self.needless > more_unfit
        if more_unfit:
            return more_unfit < 0
        if self._delimiter != "\t":
            return self.tidy >= self.strays
        return not self.strays and (self._first_in_quotes or not self.needless)

    def headless(self, quoted: bool) -> bool:
        """Whether the first row has what no name of a column is: a number, a sentence, or a value of a later row."""
        first = (self.csv if quoted else self.plain).first
        for index, cell in enumerate(first):
            is_long = len(cell) > _NAME_CHARACTERS or len(cell.split()) > _NAME_WORDS
            again = cell and any(index < len(row) and row[index] == cell for row in self._early)
            if is_long or again or _NUMBER.fullmatch(cell.strip()):
                return True
        return False

    def _take_plain(self, text: str, has_quotes: bool) -> None:
        side = self.plain
        if not side.first:
            side.first = text.split(self._delimiter)
            side.width = len(side.first) if self._least is None else self._least
            self._find_label(side.first)
            if self._dialect.header:
                return
        elif self._misfit(text.count(self._delimiter) + 1, side):
            side.unfit += 1
            return
        elif len(self._early) < _SAMPLE:
            self._early.append(text.split(self._delimiter))
        if self._label is not None and not has_quotes and len(self._labels) < _KEPT:
            label = text.split(self._delimiter, self._label + 1)[self._label]
            if len(label) <= _LABEL_CHARACTERS:
                self._labels.add(label)

    def _find_label(self, first: list[str]) -> None:
        numbers = [str(number) for number in range(1, len(first) + 1)]
        names = [cell.strip(QUOTE) for cell in first] if self._dialect.header else numbers
        if self._label_name in names:
            self._label = names.index(self._label_name)

    def _misfit(self, count: int, side: _Side) -> bool:
        return bool(self._dialect.misfit(count, side.width))

    def _take_csv(self) -> None:
        parser, side = self._parser, self.csv
        is_first = not side.first
        if is_first:
            side.first = parser.cells
            side.width = len(parser.cells) if self._least is None else self._least
            self._first_in_quotes = all(parser.in_quotes)
        elif self._misfit(len(parser.cells), side):
            side.unfit += parser.lines
            return
        self.strays += parser.stray
        self._weigh_quotes()
        if parser.lines > 1:
            self.spanning += not (is_first and self._dialect.header)
            self._weigh_lines()

    def _weigh_quotes(self) -> None:
        parser = self._parser
        if not any(parser.in_quotes):
            return
        for cell, in_quotes in zip(parser.cells, parser.in_quotes, strict=True):
            self.tidy += in_quotes
            self.needless += in_quotes and not any(mark in cell for mark in (self._delimiter, QUOTE, "\n", "\r"))

    def _weigh_lines(self) -> None:
        """Keep the row in mind if more than half of its lines have as many cells as a row has."""
        rows = [text for text in self._row if text and not self._misfit(text.count(self._delimiter) + 1, self.plain)]
        if 2 * len(rows) > len(self._row) and len(self._swallowed) < _KEPT:
            index = self._label or 0
            labels = {row.split(self._delimiter)[index] for row in rows} if self._label is not None else set()
            self._swallowed.append((self._parser.lines, labels))

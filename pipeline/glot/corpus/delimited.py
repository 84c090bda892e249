"""Delimited text as rows of cells: CSV with its quotes, and tab-separated text in which a quote is a mark like others.

The standard library's csv module reads the same rows where a CSV writer wrote them, but does not say what else there
was: a quote within a bare cell, where a broken row began. That decides whether quotes are quotes at all
(`glot.corpus.dialect`), and lets a reader go on behind a broken row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from glot.corpus.examples import UnfitRow
from glot.corpus.lines import bare

QUOTE = '"'
NO_QUOTES = "--quoting none takes quotes as text"
CELL_LIMIT = 2**26  # characters: a cell beyond is a quote that nothing closes, and a file is not to fill the memory


@dataclass(frozen=True)
class Dialect:
    """How a file of delimited text is written.

    Attributes:
        delimiter: the character between cells.
        quoted: a cell may stand in quotes, where delimiters and line ends are text and a quote is doubled; else a quote
            is text, and every line is a row.
        encoding: None: what the byte-order mark says, else UTF-8.
        header: the first row names the columns; else they are called "1", "2", ...
    """

    delimiter: str
    quoted: bool
    encoding: str | None = None
    header: bool = True

    def misfit(self, count: int, least: int) -> str:
        """What is wrong with a row of `count` cells where there should be `least`, "" where nothing is.

        Without a header line tab-separated rows may have more, for then nobody said how many there are.
        """
        if count == least or (count > least and not self.header and self.delimiter == "\t"):
            return ""
        return f"{count} columns where " + (f"the header has {least}" if self.header else f"{least} are expected")


class BrokenRow(Exception):
    """A row that breaks the rules of quotes; the message says how."""


class RowParser:
    """Puts rows together from lines, by CSV's rules of quotes.

    Attributes, of the row that was fed last:
        lines: how many lines it spans.
        cells: its cells.
        in_quotes: for each cell whether it stood in quotes.
        stray: a cell that is not in quotes holds a quote, which no CSV writer writes.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._open: list[str] | None = None  # the pieces of a cell whose closing quote is still to come
        self._length = 0  # of those pieces
        self._clear()

    @property
    def is_open(self) -> bool:
        """Whether the row goes on in the next line."""
        return self._open is not None

    def feed(self, line: str) -> bool:
        """Take a line with its end; True where it ends a row. Raises BrokenRow, and begins anew with the next line."""
        end = len(bare(line))
        if self._open is None:
            self._clear()
            if QUOTE not in line:
                self.lines, self.cells = 1, line[:end].split(self._delimiter)
                self.in_quotes = [False] * len(self.cells)
                return True
        self.lines += 1
        position = 0 if self._open is None else self._quoted(line, 0, end)
        while position <= end:
            position = self._cell(line, position, end)
        return self._open is None

    def _clear(self) -> None:
        self.lines, self.cells, self.in_quotes, self.stray = 0, [], [], False

    def _cell(self, line: str, position: int, end: int) -> int:
        """Read the cell that begins at a position; returns where the next begins, beyond the end where none does."""
        if line.startswith(QUOTE, position):
            self._open, self._length = [], 0
            return self._quoted(line, position + 1, end)
        stop = line.find(self._delimiter, position, end)
        stop = end if stop < 0 else stop
        self._add(line[position:stop], False)
        self.stray = self.stray or QUOTE in self.cells[-1]
        return stop + 1

    def _quoted(self, line: str, position: int, end: int) -> int:
        assert self._open is not None
        close = line.find(QUOTE, position)
        while close >= 0 and line.startswith(QUOTE, close + 1):
            close = line.find(QUOTE, close + 2)
        if close < 0:
            self._open.append(line[position:])
            self._length += len(line) - position
            if self._length > CELL_LIMIT:
                self._open = None
                raise BrokenRow(f"nothing closes a cell's quote within {CELL_LIMIT:,} characters ({NO_QUOTES})")
            return end + 1
        self._add("".join([*self._open, line[position:close]]).replace(QUOTE * 2, QUOTE), True)
        self._open = None
        if close + 1 < end and not line.startswith(self._delimiter, close + 1):
            raise BrokenRow(f"text follows the quote that closes a cell: mind the quotes ({NO_QUOTES})")
        return close + 2

    def _add(self, cell: str, in_quotes: bool) -> None:
        self.cells.append(cell)
        self.in_quotes.append(in_quotes)


def read_rows(lines: Iterable[str], dialect: Dialect, name: str) -> Iterator[tuple[int, list[str] | UnfitRow]]:
    """Pairs of (number of the row's first line, its cells or what is wrong with it); empty lines are no rows.

    `name` is the file's, for messages.
    """
    return _quoted_rows(lines, dialect, name) if dialect.quoted else plain_rows(lines, dialect.delimiter)


def plain_rows(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """As `read_rows` where quotes are text: every line is a row."""
    for number, line in enumerate(lines, start=1):
        if text := bare(line):
            yield number, text.split(delimiter)


def _quoted_rows(lines: Iterable[str], dialect: Dialect, name: str) -> Iterator[tuple[int, list[str] | UnfitRow]]:
    parser, first = RowParser(dialect.delimiter), 0
    for number, line in enumerate(lines, start=1):
        if not parser.is_open:
            if not bare(line):
                continue
            first = number
        try:
            if parser.feed(line):
                yield first, parser.cells
        except BrokenRow as error:
            yield first, UnfitRow(f"{name} line {number}: {error}")
    if parser.is_open:
        last = f", and so {parser.lines:,} lines are one row" if parser.lines > 1 else ""
        yield first, UnfitRow(f"{name} line {first}: a quote opens a cell that nothing closes{last} ({NO_QUOTES})")

"""One reader for delimited text: what is written comes back, and how it was taken is said."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glot.corpus.delimited import RowParser
from glot.corpus.dialect import TableFormat
from glot.corpus.examples import BadRows
from glot.corpus.tables import Table
from glot.errors import UsageError
from glot.registry.tasks import Columns

COLUMNS = Columns("text", None, "label")
NUMBERS = Columns("2", None, "1")


def read(path: Path, content: str | bytes, columns: Columns = COLUMNS, **form: object) -> tuple[list[tuple], str]:
    """The (text, label) of each row, and what is said of the file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = Table(path, columns, form=TableFormat(**form))
    return [(row.text, row.label) for row in table], table.described


def message(path: Path, content: str | bytes, columns: Columns = COLUMNS, **form: object) -> str:
    with pytest.raises(UsageError) as raised:
        read(path, content, columns, **form)
    assert "\n" not in str(raised.value)
    return str(raised.value)


TEN = [
    ("ham", '"Go until the point'),
    ("ham", "ok lar"),
    ("spam", "free entry in 2"),
    ("ham", "you dun say so early"),
    ("ham", 'nah I do not think so"'),
    *(("spam", f"win {i} now") for i in range(5)),
]


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
@pytest.mark.parametrize("text_first", [False, True])
def test_ten_rows_are_ten_examples(suffix: str, text_first: bool, tmp_path: Path) -> None:
    mark = {"tsv": "\t", "csv": ","}[suffix]
    rows = [("label", "text"), *TEN]
    lines = [mark.join(row[::-1] if text_first else row) for row in rows]
    got, said = read(tmp_path / f"a.{suffix}", "\n".join(lines) + "\n")
    assert got == [(text, label) for label, text in TEN]
    assert "quotes are text" in said


def test_a_comma_in_a_letter_is_no_row(tmp_path: Path) -> None:
    """Each line of the quoted cell has one comma, but what follows it is no label."""
    got, said = read(tmp_path / "a.csv", 'text,label\n"Dear Sir, hello\nYours",pos\nbye,neg\nso,pos\n')
    assert got == [("Dear Sir, hello\nYours", "pos"), ("bye", "neg"), ("so", "pos")]
    assert said == "comma-separated, CSV quotes, UTF-8"


SHORT_MESSAGES = [
    "ok lar, see u",
    'he said "no" twice',
    '"quoted',
    'end"',
    '"whole"',
    "it's £5",
    "",
    "a,b;c|d",
    '""',
    '"',
]


def test_thousands_of_messages_without_a_header(tmp_path: Path) -> None:
    """A file of the shape of the public SMS collection: no header, stray quotes, 5,574 rows."""
    rows = [("spam" if i % 7 == 0 else "ham", f"{SHORT_MESSAGES[i * i % 10]} {i}") for i in range(5574)]
    rows = [(label, text.rsplit(" ", 1)[0] if i % 3 else text) for i, (label, text) in enumerate(rows)]
    content = "".join(f"{label}\t{text}\n" for label, text in rows)
    for encoding in (None, "latin-1"):
        data = content.encode(encoding or "utf-8")
        got, said = read(tmp_path / "sms.tsv", data, NUMBERS, header=False, encoding=encoding)
        assert got == [(text, label) for label, text in rows]
        assert said == f"tab-separated, quotes are text, {encoding or 'UTF-8'}"
    for name, form in [("SMSSpamCollection", {"delimiter": "tab"}), ("sms.csv", {})]:
        got, said = read(tmp_path / name, content, NUMBERS, header=False, **form)
        assert (len(got), said) == (5574, "tab-separated, quotes are text, UTF-8")


def test_a_file_without_a_header_line_is_told_without_its_text(tmp_path: Path) -> None:
    content = "ham\tDo not show this to anybody at all\nspam\twin\nham\tok\n"
    said = message(tmp_path / "train.tsv", content)
    assert said == (
        "train.tsv seems to have no header line (columns are found by name, and none is 'text'): pass --no-header and "
        "column numbers, as in --label 1 --text 2"
    )
    short = message(tmp_path / "train.tsv", "ham\tsecret\nspam\twin\nham\tok\n")
    assert "seems to have no header line" in short
    assert "secret" not in short
    named = message(tmp_path / "train.tsv", "body\ttopic\nham\tspam\nok\tham\n")
    assert named == "train.tsv: no column 'text'; the columns are: body, topic"
    assert "pass the columns' numbers, as in --label 1 --text 2; got 'text'" in message(
        tmp_path / "train.tsv", content, header=False
    )


def test_rows_of_several_lengths_without_a_header_line(tmp_path: Path) -> None:
    """The public STS files have two more columns in some rows, and `.csv` in their names."""
    rows = ["main\tfile\t2012\t0001\t5.000\tA plane, it takes off.\tAn air plane takes off."] * 3
    rows += [f'{rows[0]}\twhere\t"what', rows[0]]
    columns = Columns("6", "7", "5")
    got, said = read(tmp_path / "sts-train.csv", "\n".join(rows) + "\n", columns, header=False)
    assert got == [("A plane, it takes off.", "5.000")] * 5
    assert said.startswith("tab-separated")
    assert "line 2: 1 columns where 7 are expected" in message(
        tmp_path / "sts-train.csv", "\n".join([rows[0], "short"]), columns, header=False, delimiter="tab"
    )


@pytest.mark.parametrize(
    ("content", "expected", "said"),
    [
        ('text\tlabel\n"a ""b"" c"\tx\nd\ty\n', [('a "b" c', "x"), ("d", "y")], "CSV quotes"),  # pandas, excel-tab
        ('"text"\t"label"\n"a"\t"x"\n"d"\t"y"\n', [("a", "x"), ("d", "y")], "CSV quotes"),  # all in quotes
        ('text\tlabel\n"a"\tx\nd\ty\n', [('"a"', "x"), ("d", "y")], "quotes are text"),  # a quoted sentence
        ('text\tlabel\n"a\nb"\tx\nd\ty\n', [("a\nb", "x"), ("d", "y")], "CSV quotes"),
        ('text\tlabel\n"a\tb"\tx\nd\ty\n', [("a\tb", "x"), ("d", "y")], "CSV quotes"),
        ('text\tlabel\n5" pipe\tx\n"d"\ty\n', [('5" pipe', "x"), ('"d"', "y")], "quotes are text"),
        ('text\tlabel\n"a b\tx\nd\ty\n', [('"a b', "x"), ("d", "y")], "quotes are text"),
    ],
)
def test_quotes_in_tab_separated_text(content: str, expected: list, said: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", content) == (expected, f"tab-separated, {said}, UTF-8")


@pytest.mark.parametrize(
    ("content", "expected", "said"),
    [
        ('text,label\n"a",x\nd,y\n', [("a", "x"), ("d", "y")], "CSV quotes"),  # by hand
        ('text,label\n"a, b",x\n5" pipe,y\n', [("a, b", "x"), ('5" pipe', "y")], "CSV quotes"),
        ('text,label\n"x"y,x\n', [('"x"y', "x")], "quotes are text"),
        ('text,label\nx,x\n"y,y\n', [("x", "x"), ('"y', "y")], "quotes are text"),
    ],
)
def test_quotes_in_comma_separated_text(content: str, expected: list, said: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", content) == (expected, f"comma-separated, {said}, UTF-8")


def test_a_csv_file_that_was_cut_is_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + '"a, b\nc",x\n' * 9 + '"a, b\nc')
    bad = BadRows("skip")
    assert [row.text for row in Table(path, COLUMNS, bad_rows="skip").rows(bad)] == ["a, b\nc"] * 9
    assert (bad.count, "line 20: a quote opens a cell that nothing closes, and so 2 lines" in bad.first) == (1, True)


def test_what_the_user_says_goes_before_what_is_found(tmp_path: Path) -> None:
    content = 'text\tlabel\n"a"\tx\n"d\ty\n'
    assert read(tmp_path / "a.tsv", content, quoting="none")[0] == [('"a"', "x"), ('"d', "y")]
    assert "line 3: a quote opens a cell that nothing closes (--quoting none" in message(
        tmp_path / "a.tsv", content, quoting="csv"
    )
    assert read(tmp_path / "a.csv", "text;label\na,b;x\n") == ([("a,b", "x")], "semicolon-separated, UTF-8")
    assert read(tmp_path / "a.csv", "text,label;x\na,b;x\n", delimiter=",", columns=Columns("text", None, "label;x"))[
        0
    ] == [("a", "b;x")]
    assert read(tmp_path / "a.txt", "text|label\na|x\n", delimiter="pipe")[0] == [("a", "x")]


@pytest.mark.parametrize(
    ("file", "form", "expected"),
    [
        ("a.csv", {"delimiter": "ab"}, "--delimiter 'ab': pass one character, or tab, comma,"),
        ("a.csv", {"quoting": "all"}, "unknown --quoting 'all': choose auto, none, csv"),
        ("a.csv", {"encoding": "utf-9"}, "unknown --encoding utf-9: pass one as in utf-8, latin-1"),
        ("a.csv", {"encoding": "base64"}, "unknown --encoding base64"),
        ("a.jsonl", {"quoting": "none"}, "--quoting is for delimited text, and a.jsonl is none: leave it out"),
        ("a.jsonl", {"header": False}, "--no-header is for delimited text"),
        ("a.parquet", {"encoding": "latin-1"}, "--encoding is for text, and a.parquet is none"),
    ],
)
def test_wrong_options_are_one_line(file: str, form: dict, expected: str, tmp_path: Path) -> None:
    assert expected in message(tmp_path / file, "text,label\n", **form)


def test_names_of_columns_that_nobody_asked_for(tmp_path: Path) -> None:
    """As spreadsheets leave them: empty, and so all alike."""
    assert read(tmp_path / "a.csv", "text,label,,,\na,x,,,\n")[0] == [("a", "x")]


def test_broken_rows_are_left_out_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a, b",x\n"c"d,"e",y\nf,y\n"g\nh, i",y\nj,y\n')
    bad = BadRows("skip")
    rows = [row.text for row in Table(path, COLUMNS, bad_rows="skip").rows(bad)]
    assert rows == ["a, b", "f", "g\nh, i", "j"]
    assert (bad.count, bad.first[:14]) == (1, "a.csv line 3: ")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le+bom", "utf-16-be+bom", "utf-32", "latin-1", "utf-16-le"]
)
def test_encodings_and_line_ends(encoding: str, end: str, tmp_path: Path) -> None:
    content = end.join(["text,label", "naïve,x", '"a, b",y', ""])
    codec, _, mark = encoding.partition("+")
    data = content.encode(codec)
    if mark:
        data = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}[codec] + data
    named = {"encoding": encoding} if encoding in ("latin-1", "utf-16-le") else {}
    assert read(tmp_path / "a.csv", data, **named)[0] == [("naïve", "x"), ("a, b", "y")]
    if named:
        assert f"--encoding {encoding}" in message(tmp_path / "a.csv", data)


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    text = "a\x85b\u2028c\x0bd\re\x1cf"
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        assert read(tmp_path / name, f"text{mark}label\r\n{text}{mark}x\r\n")[0] == [(text, "x")]


CELLS = st.text(alphabet='ab",;\t \n\r\u2028é', max_size=8)
DIALECTS = {"excel": ".csv", "unix": ".csv", "excel-tab": ".tsv"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, st.sampled_from(["pos", "neg"])), min_size=1, max_size=8))
def test_what_csv_writes_comes_back(dialect: str, quoting: int, rows: list, tmp_path: Path) -> None:
    if dialect == "unix":  # older Pythons put no quotes around a "\r" where lines end in "\n"
        rows = [(text.replace("\r", ""), label) for text, label in rows]
    out = io.StringIO(newline="")
    csv.writer(out, dialect, quoting=quoting).writerows([("text", "label"), *rows])
    got, _ = read(tmp_path / f"a{DIALECTS[dialect]}", out.getvalue(), quoting="csv")
    assert got == [(text, label) for text, label in rows]
    if '"' not in out.getvalue().replace('"pos"', "").replace('"neg"', ""):
        return
    plain = [(text, label) for text, label in rows if not {"\t", ",", ";"} & set(text)]  # what leaves no doubt
    out = io.StringIO(newline="")
    csv.writer(out, dialect, quoting=quoting).writerows([("text", "label"), *plain, ("a\nb", "pos"), ("c", "neg")])
    got, said = read(tmp_path / f"b{DIALECTS[dialect]}", out.getvalue())
    assert (got, "CSV quotes" in said) == ([*plain, ("a\nb", "pos"), ("c", "neg")], True)


@settings(deadline=None)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=6))
def test_rows_of_cells_are_those_of_the_csv_module(rows: list) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    text = out.getvalue()
    parser, got = RowParser(","), []
    for line in io.StringIO(text, newline="\n"):
        if parser.feed(line):
            got.append(parser.cells)
    assert got == list(csv.reader(io.StringIO(text, newline=""))) == rows


@pytest.mark.parametrize("sep", [",", "\t", ";"])
def test_what_pandas_writes_comes_back(sep: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    texts = ['He said "no", twice', "line\nbreak", "tab\there; semi", '"all"', "plain", "", '"', "back\\slash"]
    frame = pandas.DataFrame({"text": texts, "label": ["a", "b"] * 4})
    for name, options in [("m", {}), ("a", {"quoting": csv.QUOTE_ALL}), ("n", {"quoting": csv.QUOTE_NONNUMERIC})]:
        path = tmp_path / f"{name}{'.tsv' if sep == chr(9) else '.csv'}"
        frame.to_csv(path, sep=sep, index=False, **options)
        assert [row.text for row in Table(path, COLUMNS)] == texts


def test_a_quote_that_nothing_closes_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.corpus.delimited.CELL_LIMIT", 1000)
    path = tmp_path / "a.tsv"
    content = "text\tlabel\n" + '"open\tx\n' + "b\ty\n" * 2000
    assert len(read(path, content)[0]) == 2001
    bad = BadRows("skip")
    form = TableFormat(quoting="csv")
    rows = list(Table(path, COLUMNS, bad_rows="skip", form=form).rows(bad))
    assert (bad.count, len(rows) > 1000) == (1, True)
    assert "nothing closes a cell's quote within 1,000 characters" in bad.first

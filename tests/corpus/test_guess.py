"""Columns that nobody names: found where they are obvious, asked for where they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glot.corpus.dialect import TableFormat
from glot.corpus.guess import guess_columns, guess_texts, name_columns
from glot.corpus.load import load_corpus
from glot.corpus.request import CorpusRequest
from glot.errors import UsageError
from glot.registry.tasks import Columns


def guess(folder: Path, content: str, name: str = "a.csv", **given: str) -> tuple[str, str | None, str]:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    found = guess_columns(path, **given).columns
    return found.text, found.text_b, found.label


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label\n", ("text", None, "label")),  # by their names alone, no row needed
        ("Label,id,Sentence\nx,1,a b c\n", ("Sentence", None, "Label")),
        ("body,topic\nrain falls on town,x\n" * 2, ("body", None, "topic")),
        ("text,title,label,class\na,b,x,y\n", ("text", None, "label")),  # the first name stands before the others
        ("premise,hypothesis,label\na,b,no\n", ("premise", "hypothesis", "label")),
        ("a,b\nthis is a text,x\nthat is one too,y\nand this was also,x\n", ("a", None, "b")),
        (
            "nr;meinung;urteil\n1;das war ganz gut;+\n2;gar nicht gut;-\n3;na ja das geht;+\n",
            ("meinung", None, "urteil"),
        ),
        ("words,points\nthis is a text,0.25\nthat is one too,1.75\nand a third one,3.5\n", ("words", None, "points")),
    ],
)
def test_the_obvious_columns_are_found(content: str, expected: tuple, tmp_path: Path) -> None:
    assert guess(tmp_path, content) == expected


def test_what_is_named_is_not_looked_for(tmp_path: Path) -> None:
    content = "body,title,topic,tone\na b c,d e f,x,y\ng h i,j k l,x,z\nm n o,p q r,w,z\n"
    assert guess(tmp_path, content, text="title", label="tone") == ("title", None, "tone")
    assert guess(tmp_path, content, text="title") == ("title", None, "topic")
    assert guess(tmp_path, content, text="body", text_b="title") == ("body", "title", "topic")
    assert guess(tmp_path, "sentence1,sentence2,label\na,b,x\n", text="sentence1") == ("sentence1", None, "label")


def test_json_lines_and_numbered_columns(tmp_path: Path) -> None:
    from glot.corpus.dialect import TableFormat

    rows = [{"id": i, "body": f"rain falls on town {i}", "topic": i % 2} for i in range(6)]
    assert guess(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl") == ("body", None, "topic")
    path = tmp_path / "bare.tsv"
    path.write_text("ham\tok so be it\nspam\twin a dog now\nham\tgo to the town\n")
    found = guess_columns(path, form=TableFormat(header=False)).columns
    assert (found.text, found.label) == ("2", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title,body,label\na b c,d e f,x\n", "which column is the text? 'body' or 'title'? Name it with --text"),
        ("x,y\n1,2\n2,3\n", "which column is the text? Name it with --text; the columns are: x, y"),
        ("text,topic,intent\na b c,x,y\n", "which column is the label? 'topic' or 'intent'? Name it with --label"),
        ("text,id\na b c,1\nd e f,2\ng h i,3\n", "which column is the label? Name it with --label"),
        ("", "a.csv has no rows"),
    ],
)
def test_what_is_not_obvious_is_asked_for(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        guess(tmp_path, content)
    assert message in str(caught.value)


ROWS = "1,rain falls on town,x\n2,the river is wide,y\n"


@pytest.mark.parametrize(
    ("header", "trained", "expected"),
    [
        ("nr,text,kind", None, ("text", "")),  # as where nobody says otherwise
        ("nr,body,kind", None, ("body", "text in 'body'")),
        ("nr,words,kind", None, ("words", "text in 'words'")),  # by its cells
        ("text,body,kind", "body", ("body", "text in 'body', as in training")),
        ("nr,body,kind", "message", ("body", "text in 'body'")),  # no such column here
        ("2024,body,kind", None, ("body", "text in 'body'")),
    ],
)
def test_the_column_of_new_texts(header: str, trained: str | None, expected: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text(f"{header}\n{ROWS}", encoding="utf-8")
    found = guess_texts(path, 1, trained=trained and Columns(trained, None, "topic"))
    assert (found.columns.text, found.found) == expected
    assert found.columns.text_b is None


def test_names_of_a_table_without_a_header_line_are_not_those_of_training(tmp_path: Path) -> None:
    """They are numbers: the second column of that table may be another one here."""
    path = tmp_path / "new.csv"
    path.write_text("rain falls on the town,x\nthe river is wide and slow,y\n", encoding="utf-8")
    found = guess_texts(path, 1, TableFormat(header=False), trained=Columns("2", None, "1"))
    assert found.columns.text == "1"


def test_the_columns_of_new_pairs(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("sentence1,sentence2,a,b\nrain,falls,on,town\n", encoding="utf-8")
    for trained, expected, why in (
        (None, ("sentence1", "sentence2"), ""),
        (("a", "b"), ("a", "b"), ", as in training"),
    ):
        found = guess_texts(path, 2, trained=trained and Columns(*trained, "label"))
        assert (found.columns.text, found.columns.text_b) == expected
        assert found.found == f"texts in {expected[0]!r} and {expected[1]!r}{why}"
    path.write_text("a,b\nrain,falls\n", encoding="utf-8")
    with pytest.raises(UsageError, match="which columns are the two texts\\? Name them with --text and --text-b; the"):
        guess_texts(path, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("what,why\nrain falls on town,so it is and was\n", "which column is the text? 'what' or 'why'? Name it with"),
        ("id,kind\na,x\nb,y\n", "which column is the text? Name it with --text; the columns are: id, kind"),
        (ROWS, "new.csv seems to have no header line"),  # whose first row would get no answer
        ("rain falls on\nthe river is wide\n", "which column is the text? Name it with --text"),
    ],
)
def test_new_texts_that_are_not_obvious(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        guess_texts(path, 1)
    assert said in str(raised.value)


def test_extract_takes_text_and_label_or_what_is_obvious(tmp_path: Path) -> None:
    """A request that says the usual names by saying nothing stays the same request; one that is completed reads on."""
    path = tmp_path / "a.csv"
    path.write_text("text,title,label,class\na b c,d e f,x,y\n", encoding="utf-8")
    asked = CorpusRequest(data=path)
    assert name_columns(asked) == (asked, "")
    path.write_text(
        "nr;meinung;urteil\n1;das war ganz gut;+\n2;gar nicht gut;-\n3;na ja das geht;+\n4;und das war nichts;-\n"
    )
    named, said = name_columns(CorpusRequest(data=path))
    assert (named.text, named.label, said) == ("meinung", "urteil", "a.csv: text in 'meinung', label in 'urteil'")
    assert name_columns(replace(asked, text="meinung", label="urteil"))[1] == ""
    assert name_columns(replace(asked, label="urteil"))[0] == named
    corpus = load_corpus(asked)
    assert corpus.remarks == [said]
    examples = [row for split in corpus.splits.values() for row in split.examples]
    assert sorted(example.text for example in examples) == [
        "das war ganz gut",
        "gar nicht gut",
        "na ja das geht",
        "und das war nichts",
    ]
    path.write_text("question1,question2,label\na b,b c,1\nd e,f g,0\n", encoding="utf-8")
    assert name_columns(asked)[0] == replace(asked, text="question1", text_b="question2", label="label")
    path.write_text("a,b\n1,2\n2,3\n")
    for unclear in (asked, replace(asked, data=tmp_path / "missing.csv")):
        assert name_columns(unclear) == (unclear, "")
    assert name_columns(CorpusRequest(task="sst2")) == (CorpusRequest(task="sst2"), "")

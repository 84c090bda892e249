"""A folder of texts, one a file, in folders that are called as their labels are."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glot.corpus.load import load_corpus, load_table
from glot.corpus.request import CorpusRequest, corpus_name, request_digest
from glot.errors import UsageError


def written(folder: Path, texts: dict[str, str | bytes]) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def rows(folder: Path, **options: Any) -> dict[str, tuple[str, str]]:
    """Each text's row, with the name of its label."""
    corpus = load_table(folder, eval_data=folder, **options)
    return {
        example.index: (example.text, corpus.spec.classes[int(example.label or 0)])
        for example in corpus.splits["train"].examples
    }


def test_a_text_has_the_label_that_its_folder_is_called(tmp_path: Path) -> None:
    folder = written(
        tmp_path / "re views",
        {
            "pos/2.txt": "two\n",
            "pos/10.txt": "ten\r\n\r\nlines\r\n",
            "neg/deeper/a.TXT": "",
            "neg/no suffix": "\ufeffmarked",
            ".hidden/a.txt": "x",
            "pos/.hidden": "x",
        },
    )
    assert rows(folder) == {
        0: ("", "neg"),
        1: ("marked", "neg"),
        2: ("ten\r\n\r\nlines", "pos"),
        3: ("two", "pos"),
    }
    corpus = load_corpus(CorpusRequest(data=folder, eval_data=folder))
    assert corpus.spec.name == corpus_name(CorpusRequest(data=folder)) == "re-views"
    assert corpus.understood()[0] == "re views: texts in folders, UTF-8, 4 rows"


def test_files_that_are_no_texts_are_unfit_rows(tmp_path: Path) -> None:
    folder = written(tmp_path / "r", {"a/1.txt": "one", "a/2.pdf": "%PDF", "b/3.txt": b"caf\xe9", "b/4.txt": "four"})
    with pytest.raises(UsageError, match=r"^r/a/2\.pdf is no \.txt file: move it elsewhere; --on-bad-row skip"):
        rows(folder)
    assert rows(folder, bad_rows="skip") == {0: ("one", "a"), 3: ("four", "b")}
    (folder / "a/2.pdf").unlink()
    with pytest.raises(
        UsageError,
        match=r"^r/b/3\.txt is not UTF-8 text \(byte 0xe9, .*\): save it as UTF-8, or name its encoding, as in",
    ):
        rows(folder)
    (folder / "c.txt").write_text("whose?")
    with pytest.raises(UsageError, match=r"^r/c\.txt: no label in column 'label'"):
        load_corpus(CorpusRequest(data=folder, encoding="latin-1"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "r is a folder without texts: name a file, or a folder of .txt files for each label"),
        (["a.csv", "manifest.json"], "r is a folder without texts: name a file"),
        (["train/a/1.txt", "test/b/1.txt"], "r holds test, train: name each by itself, as in {folder}/test"),
    ],
)
def test_folders_of_other_things(tmp_path: Path, files: list[str], words: str) -> None:
    folder = written(tmp_path / "r", dict.fromkeys(files, "text"))
    folder.mkdir(exist_ok=True)
    with pytest.raises(UsageError) as raised:
        load_table(folder)
    assert words.format(folder=folder) in str(raised.value)


def test_what_is_for_delimited_text_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r", {"a/1.txt": "one", "b/1.txt": "two"})
    with pytest.raises(UsageError, match=r"--delimiter is for delimited text, and .*r is a folder of texts: leave it"):
        load_corpus(CorpusRequest(data=folder, delimiter="tab"))
    with pytest.raises(UsageError, match="no column 'body'; the columns are: file, text, label"):
        load_corpus(CorpusRequest(data=folder, text="body"))


def test_another_text_is_another_request(tmp_path: Path) -> None:
    folder = written(tmp_path / "r", {"a/1.txt": "one", "b/1.txt": "two"})
    first = request_digest(CorpusRequest(data=folder))
    os.utime(folder / "a/1.txt", (0, 0))
    assert request_digest(CorpusRequest(data=folder)) == first
    (folder / "a/1.txt").write_text("owe")
    assert request_digest(CorpusRequest(data=folder)) != first


@pytest.mark.slow
def test_from_a_folder_to_answers(
    glot: Callable[..., tuple[int, str, str]], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    texts = {f"{label}/{row}.txt": f"the old {label} {row}\n" for label in ("dog", "river") for row in range(30)}
    folder = written(tmp_path / "reviews", texts)
    code, _, err = glot("train", folder, "--model", backbone_folders["bert"], "--out", "run", "--max-tokens", 24)
    assert code == 0, err
    code, _, err = glot("train", folder, "--model", backbone_folders["bert"], "--out", "run", "--max-tokens", 24)
    assert code == 0, err  # it is there
    new = written(tmp_path / "new", {"x.txt": "the old dog 7", "y.txt": "the old river\n3"})
    code, out, err = glot("predict", "--run", "run", "--input", new, "--out", "answers.csv")
    assert code == 0, err
    with open("answers.csv", newline="", encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert [(row["file"], row["text"]) for row in answers] == [
        ("x.txt", "the old dog 7"),
        ("y.txt", "the old river\n3"),
    ]
    assert {row["label"] for row in answers} <= {"dog", "river"}
    code, out, err = glot("evaluate", "--run", "run", "--data", folder)
    assert (code, "reviews: texts in folders, UTF-8" in err + out, "60" in out) == (0, True, True), out + err

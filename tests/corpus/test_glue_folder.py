from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from glot.corpus.glue_folder import read_split
from glot.errors import UsageError
from glot.registry.tasks import find_task

PAIR_HEADER = "index\tsentence1\tsentence2\tlabel\n"
# task -> (folder, {split: (file, content)}, {split: expected (index, text, text_b, label)})
MADE = {
    "cola": (
        "CoLA",
        {
            "train": ("train.tsv", 'gj04\t1\t\tShe said "no.\ngj04\t0\t*\tThem goes.\n'),
            "validation": ("dev.tsv", "w_80\t1\t\tJohn left."),  # the real file, too, ends without a newline
            "test": ("test.tsv", "index\tsentence\n0\tBill whistled.\n"),
        },
        {
            "train": [(0, 'She said "no.', None, 1), (1, "Them goes.", None, 0)],
            "validation": [(0, "John left.", None, 1)],
            "test": [(0, "Bill whistled.", None, None)],
        },
    ),
    "sst2": (
        "SST-2",
        {
            "train": ("train.tsv", "sentence\tlabel\nnew\u2028 units \t0\nfine \x85 film\t1\n"),
            "test": ("test.tsv", "index\tsentence\n0\tuneasy\n1\tgood\n"),
        },
        {
            "train": [(0, "new\u2028 units ", None, 0), (1, "fine \x85 film", None, 1)],
            "test": [(0, "uneasy", None, None), (1, "good", None, None)],
        },
    ),
    "stsb": (
        "STS-B",
        {
            "train": (
                "train.tsv",
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
                "0\tmain\tvid\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t4.800\n",
            ),
            "test": (
                "test.tsv",
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
                "0\tmain\tvid\t2012\t1\tnone\tnone\tA girl.\tA boy.\n",
            ),
        },
        {"train": [(0, "A plane.", "An air plane.", 4.8)], "test": [(0, "A girl.", "A boy.", None)]},
    ),
    "mrpc": (
        "MRPC",
        {
            "train": (
                "train.tsv",
                '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said " this .\tHe did\n0\t9\t9\ta\tb\n',
            ),
            "test": ("test.tsv", "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tone\ttwo\n"),
        },
        {"train": [(0, 'He said " this .', "He did", 1), (1, "a", "b", 0)], "test": [(0, "one", "two", None)]},
    ),
    "qqp": (
        "QQP",
        {
            "train": (
                "train.tsv",
                # the second question has a line break in it, so it lies in two rows that are too short
                "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
                "5\t1\t2\tWhy?\tHow?\t0\n6\t3\t4\tWhat is\nthis?\tthat?\t1\n7\t5\t6\tWho?\tWho is?\t1\n",
            ),
            "test": ("test.tsv", "id\tquestion1\tquestion2\n0\tWould?\tShould?\n"),
        },
        {
            "train": [(0, "Why?", "How?", 0), (3, "Who?", "Who is?", 1)],
            "test": [(0, "Would?", "Should?", None)],
        },
    ),
    "mnli": (
        "MNLI",
        {
            "train": (
                "train.tsv",
                "index\tpromptID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
                "0\t31\tgov\tp\th\tneutral\tcontradiction\n",
            ),
            "validation": (
                "dev_matched.tsv",
                "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n0\tm\tn\tneutral\tneutral\tentailment\n",
            ),
            "validation_mismatched": (
                "dev_mismatched.tsv",
                "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n0\tx\ty\tneutral\tneutral\tneutral\n",
            ),
            "test": ("test_matched.tsv", "index\tsentence1\tsentence2\n0\tq\tr\n"),
            "test_mismatched": ("test_mismatched.tsv", "index\tsentence1\tsentence2\n0\ts\tt\n"),
        },
        {
            "train": [(0, "p", "h", 2)],
            "validation": [(0, "m", "n", 0)],
            "validation_mismatched": [(0, "x", "y", 1)],
            "test": [(0, "q", "r", None)],
            "test_mismatched": [(0, "s", "t", None)],
        },
    ),
    "qnli": (
        "QNLI",
        {
            "train": ("train.tsv", "index\tquestion\tsentence\tlabel\r\n0\tWho?\tHe.\tnot_entailment\r\n"),
            "test": ("test.tsv", "index\tquestion\tsentence\r\n0\tWho?\tShe.\r\n"),
        },
        {"train": [(0, "Who?", "He.", 1)], "test": [(0, "Who?", "She.", None)]},
    ),
    "rte": (
        "RTE",
        {"train": ("train.tsv", PAIR_HEADER + "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n")},
        {"train": [(0, "a", "b", 0), (1, "c", "d", 1)]},
    ),
    "wnli": (
        "WNLI",
        {"train": ("train.tsv", PAIR_HEADER + "0\ta\t\t1\n1\tc\td\t0\n")},
        {"train": [(0, "a", "", 1), (1, "c", "d", 0)]},  # an empty text is a text
    ),
}


def write(root: Path, folder: str, file: str, content: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    (root / folder / file).write_bytes(content.encode())


@pytest.mark.parametrize("name", MADE)
def test_reads_each_task_with_its_quirks(name: str, tmp_path: Path) -> None:
    folder, files, expected = MADE[name]
    for split, (file, content) in files.items():
        write(tmp_path, folder, file, content)
        got = read_split(find_task(name), tmp_path, split)
        assert got.name == split
        assert [example[:4] for example in got.examples] == expected[split]


def test_limit_counts_examples_and_stops_reading(tmp_path: Path) -> None:
    write(tmp_path, "SST-2", "train.tsv", "sentence\tlabel\na\t0\nb\t1\nbroken\n")
    got = read_split(find_task("sst2"), tmp_path, "train", limit=2)
    assert [example.text for example in got.examples] == ["a", "b"]


def test_source_names_the_file_and_what_was_left_out(tmp_path: Path) -> None:
    write(tmp_path, "QQP", "train.tsv", MADE["qqp"][1]["train"][1])
    write(tmp_path, "RTE", "train.tsv", MADE["rte"][1]["train"][1])
    assert read_split(find_task("qqp"), tmp_path, "train").source == "QQP/train.tsv (2 broken rows left out)"
    assert read_split(find_task("rte"), tmp_path, "train").source == "RTE/train.tsv"


@pytest.mark.parametrize(
    ("name", "folder", "content", "message"),
    [
        ("sst2", "SST-2", "sentence\tlabel\nfine\t1\nbad\t2\n", "SST-2/train.tsv line 3: label '2' is none of 0, 1"),
        ("sst2", "SST-2", "sentence\tlabel\nfine\n", "SST-2/train.tsv line 2: 1 columns where 2 belong"),
        ("sst2", "SST-2", "sentence\tlabel\na\tb\t1\n", "SST-2/train.tsv line 2: 3 columns where 2 belong"),
        ("sst2", "SST-2", "text\tlabel\na\t1\n", "no column 'sentence' in the header line, which has: text, label"),
        ("sst2", "SST-2", "", "SST-2/train.tsv: no column 'sentence'"),
        ("cola", "CoLA", "source\tlabel\tmark\tsentence\n", "CoLA/train.tsv line 1: label 'label' is none of 0, 1"),
        ("rte", "RTE", PAIR_HEADER + "0\ta\tb\t1\n", "line 2: label '1' is none of entailment, not_entailment"),
        ("stsb", "STS-B", "sentence1\tsentence2\tscore\na\tb\tnan\n", "score 'nan' is not a number from 0 to 5"),
        ("stsb", "STS-B", "sentence1\tsentence2\tscore\na\tb\t5.1\n", "score '5.1' is not a number from 0 to 5"),
        ("stsb", "STS-B", "sentence1\tsentence2\tscore\na\tb\t\n", "line 2: score '' is not a number"),
    ],
)
def test_a_bad_row_is_named(name: str, folder: str, content: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, folder, "train.tsv", content)
    with pytest.raises(UsageError) as raised:
        read_split(find_task(name), tmp_path, "train")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2/train.tsv").write_bytes("sentence\tlabel\nna\xefve\t1\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"train\.tsv is not UTF-8"):
        read_split(find_task("sst2"), tmp_path, "train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    task = find_task("rte")
    with pytest.raises(UsageError, match=r"no folder .*nowhere: pass --data-dir .*RTE/train\.tsv"):
        read_split(task, tmp_path / "nowhere", "train")
    with pytest.raises(UsageError, match=r"no folder .*RTE: pass --data-dir .*or neither to read from the hub"):
        read_split(task, tmp_path, "train")
    (tmp_path / "RTE").mkdir()
    with pytest.raises(UsageError, match=r"no file .*dev\.tsv"):
        read_split(task, tmp_path, "validation")


def test_unfit_rows_are_left_out_on_demand(tmp_path: Path) -> None:
    write(tmp_path, "SST-2", "train.tsv", "sentence\tlabel\na\t0\nb\n\nc\t7\nd\t1\te\nf\t1\ng\t0\nh\n")
    split = read_split(find_task("sst2"), tmp_path, "train", bad_rows="skip")
    assert [example[:4] for example in split.examples] == [(0, "a", None, 0), (4, "f", None, 1), (5, "g", None, 0)]
    assert (split.skipped, split.source) == (4, "SST-2/train.tsv")
    assert split.first_skipped == "SST-2/train.tsv line 3: 1 columns where 2 belong: download the file anew"
    few = read_split(find_task("sst2"), tmp_path, "train", 2, "skip")
    assert ([example.text for example in few.examples], few.skipped) == (["a", "f"], 3)


def test_rows_known_to_be_broken_are_not_counted_twice(tmp_path: Path) -> None:
    write(tmp_path, "QQP", "train.tsv", MADE["qqp"][1]["train"][1] + "8\t7\t8\tOne?\tTwo?\t5\n")
    split = read_split(find_task("qqp"), tmp_path, "train", bad_rows="skip")
    assert (len(split.examples), split.source) == (2, "QQP/train.tsv (2 broken rows left out)")
    assert (split.skipped, split.first_skipped) == (1, "QQP/train.tsv line 6: label '5' is none of 0, 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"text\tlabel\na\t1\n", "no column 'sentence'"), (b"sentence\tlabel\na\t1\n\xff\t1\n", "is not UTF-8")],
)
def test_what_breaks_a_whole_file_stops_all_the_same(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2/train.tsv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_split(find_task("sst2"), tmp_path, "train", bad_rows="skip")


# task -> split -> rows, and the SHA-256 of the first and the last row, its cells joined by U+001F
REAL = {
    ("cola", "train"): (8551, "0c472a1dcd9ce46d", "98f221e3fb13ec6c"),
    ("cola", "validation"): (1043, "80d6338ae96ac0ee", "c8c5ff09965f81f4"),
    ("cola", "test"): (1063, "7cae4d01ca487207", "b2c035a87c391bd0"),
    ("sst2", "train"): (67349, "a753bb5998a59765", "0bdcd578b8d1d606"),
    ("sst2", "validation"): (872, "7c68ba5ddf275b08", "a750f158b2933e11"),
    ("sst2", "test"): (1821, "56439c77d96bd8b8", "e3073387fddf1649"),
    ("stsb", "train"): (5749, "b318e4083d519248", "b827f25e2c29b7c3"),
    ("stsb", "validation"): (1500, "7df9909979a3d681", "b41124753eac6f3c"),
    ("stsb", "test"): (1379, "2abe4f8a7532593f", "10dcda5cc31e6eef"),
    ("mrpc", "train"): (3668, "e006b6ee02675fdf", "b3394f36a7111d09"),
    ("mrpc", "validation"): (408, "a2ddd3d0a39010f4", "670d2c0a3fc6965e"),
    ("mrpc", "test"): (1725, "6904e86b446e0e59", "f7e28d84e6dcd1a8"),
}


def real_folder() -> Path:
    folder = Path(os.environ.get("GLUE_DIR") or Path(__file__).parents[2].parent / "shared/data/glue")
    if not folder.is_dir():
        pytest.skip("no real GLUE files: set GLUE_DIR to read them")
    return folder


def digest(*cells: object) -> str:
    return hashlib.sha256("\x1f".join("" if cell is None else str(cell) for cell in cells).encode()).hexdigest()[:16]


@pytest.mark.real
@pytest.mark.parametrize(("name", "split"), REAL)
def test_real_files(name: str, split: str) -> None:
    task, folder = find_task(name), real_folder()
    if not (folder / task.folder).is_dir():
        pytest.skip(f"no {task.folder} among the real GLUE files")
    examples = read_split(task, folder, split).examples
    ends = (digest(*examples[0][1:4]), digest(*examples[-1][1:4]))
    assert (len(examples), *ends) == REAL[name, split]
    assert [example.index for example in examples] == list(range(len(examples)))

from __future__ import annotations

import subprocess
import sys
from itertools import product

from glot.reproduce.published import PAPER_NAMES, comparison_note, load_stress, load_table1, nearest_paper_model

METHODS = ("cls", "mean", "max", "adapool", "glot")
COLUMNS = ("cola", "sst2", "stsb", "mrpc", "qqp", "mnli", "mnli_mm", "qnli", "rte", "wnli")


def test_table1_is_complete() -> None:
    numbers = load_table1()
    assert set(numbers) == set(product(PAPER_NAMES, METHODS, COLUMNS))
    assert len(numbers) == 300
    assert numbers["bert", "glot", "cola"] == 47.49
    assert numbers["tinyllama", "cls", "mnli_mm"] == 40.92


def test_the_stress_test_is_complete() -> None:
    numbers = load_stress()
    assert set(numbers) == set(product(PAPER_NAMES, METHODS, (0.2, 0.5, 0.8, 0.9)))
    assert len(numbers) == 120
    assert numbers["bert", "glot", 0.9] == 98.8
    assert numbers["mistral-7b", "cls", 0.2] == 89.4


def test_a_backbone_stands_beside_itself_or_its_nearest_relation() -> None:
    assert nearest_paper_model("bert") == "bert"
    assert nearest_paper_model("minilm") == "bert"
    assert nearest_paper_model("smollm2-135m") == "smollm2"
    assert nearest_paper_model("my-model") is None


def test_the_note_says_when_the_backbone_is_another() -> None:
    assert comparison_note("roberta") == "Compared with the paper's RoBERTa, the same backbone."
    assert "The paper has no `minilm`" in comparison_note("minilm")
    assert "nothing to compare" in comparison_note("my-model")


def test_the_room_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, glot.reproduce.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

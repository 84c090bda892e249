"""The states of a text depend on that text alone, in every family of text models, or the model is refused in a line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.extract.families import COVERED_VERSION, FAMILIES, LEFT_OUT, Family, installed
from tests.extract.family_check import HEADING, PAGE, TOLERANCE, check

QUICK = ("bert", "llama", "fnet", "mpnet", "opt-projected")  # the others are slow


def _cases() -> list:
    marks = dict.fromkeys(QUICK, ())
    return [pytest.param(one, id=one.name, marks=marks.get(one.name, pytest.mark.slow)) for one in installed()]


@pytest.mark.parametrize("family", _cases())
def test_a_text_has_the_states_that_it_has_alone(
    family: Family, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    outcome = check(family, tmp_path)
    record_property("backbone family", outcome.row(family.name))  # tests/conftest.py prints them as a table
    assert outcome.difference <= TOLERANCE, outcome


def test_every_type_of_model_is_tried_or_left_out_for_a_reason() -> None:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    tried = {family.model_type for family in FAMILIES}
    left_out = [name for names in LEFT_OUT.values() for name in names.split()]
    assert len(left_out) == len(set(left_out))
    assert tried & set(left_out) == set()
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    unknown = sorted(set(MODEL_MAPPING_NAMES) - tried - set(left_out))
    if transformers.__version__ == COVERED_VERSION:
        assert unknown == []
        assert len(installed()) == len(FAMILIES)
    elif unknown:
        warnings.warn(f"transformers {transformers.__version__} has families not tried: {unknown}", stacklevel=1)
    assert len(installed()) >= 40


def test_the_page_has_a_row_for_every_family() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(HEADING)[2]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == [family.name for family in FAMILIES], "run `make backbones`"

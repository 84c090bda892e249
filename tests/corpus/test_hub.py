from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from glot.corpus import hub
from glot.errors import UsageError
from glot.registry.tasks import find_task


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for `datasets`: serves `rows`, records the call and how many rows were drawn."""
    fake = SimpleNamespace(rows=[], calls=[], drawn=0)

    def load_dataset(*args: object, **kwargs: object) -> Iterator[dict]:
        fake.calls.append((args, kwargs))
        for row in fake.rows:
            if isinstance(row, Exception):
                raise row
            fake.drawn += 1
            yield row

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(hub, "_check_reachable", lambda: None)
    return fake


def test_streams_pairs_and_turns_minus_one_into_none(fake_hub: SimpleNamespace) -> None:
    fake_hub.rows = [
        {"premise": "p", "hypothesis": "h", "label": 2, "idx": 0},
        {"premise": "q", "hypothesis": "i", "label": -1, "idx": 1},
    ]
    split = hub.read_split(find_task("mnli"), "validation")
    assert [example[:4] for example in split.examples] == [(0, "p", "h", 2), (1, "q", "i", None)]
    assert (split.name, split.source) == ("validation", "nyu-mll/glue mnli validation_matched")
    assert fake_hub.calls == [(("nyu-mll/glue", "mnli"), {"split": "validation_matched", "streaming": True})]


def test_a_limit_draws_no_row_more(fake_hub: SimpleNamespace) -> None:
    fake_hub.rows = [{"sentence": str(i), "label": i % 2} for i in range(9)]
    split = hub.read_split(find_task("cola"), "train", limit=3)
    assert [example.text for example in split.examples] == ["0", "1", "2"]
    assert fake_hub.drawn == 3


def test_imdb_has_its_test_as_validation(fake_hub: SimpleNamespace) -> None:
    fake_hub.rows = [{"text": "a", "label": 0}]
    assert hub.read_split(find_task("imdb"), "validation").source == "stanfordnlp/imdb test"
    assert fake_hub.calls == [(("stanfordnlp/imdb", None), {"split": "test", "streaming": True})]


def test_a_break_in_the_stream_is_one_line(fake_hub: SimpleNamespace) -> None:
    fake_hub.rows = [{"sentence": "a", "label": 0}, RuntimeError("first line\nsecond line")]
    with pytest.raises(UsageError) as raised:
        hub.read_split(find_task("cola"), "train")
    assert "cannot read nyu-mll/glue cola train from the hub (RuntimeError: first line): pass --data-dir" in str(
        raised.value
    )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bad_rows", ["stop", "skip"])
@pytest.mark.parametrize(("rows", "after"), [(1, "after 1 row: "), (1200, "after 1,200 rows: ")])
def test_a_break_in_the_stream_says_after_how_many_rows(
    fake_hub: SimpleNamespace, bad_rows: str, rows: int, after: str
) -> None:
    fake_hub.rows = [*({"sentence": "a", "label": 0} for _ in range(rows)), ConnectionError("gone")]
    with pytest.raises(UsageError) as raised:
        hub.read_split(find_task("cola"), "train", bad_rows=bad_rows)
    start = f"{after}cannot read nyu-mll/glue cola train from the hub (ConnectionError: gone)"
    assert str(raised.value).startswith(start)


BROKEN = [
    (
        {"sentence": None, "label": 1},
        "nyu-mll/glue cola train row 2: column 'sentence' holds null where a text belongs",
    ),
    ({"sentence": 5, "label": 1}, "nyu-mll/glue cola train row 2: column 'sentence' holds int where a text belongs"),
    ({"sentence": "b", "label": 2}, "nyu-mll/glue cola train row 2: label 2 is no class from 0 to 1"),
    ({"sentence": "b", "label": "x"}, "nyu-mll/glue cola train row 2: label 'x' is no class from 0 to 1"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_an_unfit_row_stops_or_is_left_out(fake_hub: SimpleNamespace, row: dict, message: str) -> None:
    fake_hub.rows = [{"sentence": "a", "label": 0}, row, {"sentence": "c", "label": 1}]
    with pytest.raises(UsageError) as raised:
        hub.read_split(find_task("cola"), "train")
    assert str(raised.value) == message
    split = hub.read_split(find_task("cola"), "train", bad_rows="skip")
    assert [example[:4] for example in split.examples] == [(0, "a", None, 0), (2, "c", None, 1)]
    assert (split.skipped, split.first_skipped) == (1, message)


@pytest.mark.parametrize("bad_rows", ["stop", "skip"])
def test_a_missing_column_is_named(fake_hub: SimpleNamespace, bad_rows: str) -> None:
    fake_hub.rows = [{"text": "a", "label": 0}]
    with pytest.raises(UsageError, match="cola train: no column 'sentence'; the columns are: text, label"):
        hub.read_split(find_task("cola"), "train", bad_rows=bad_rows)


def test_without_datasets_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'glot-pipeline\[hub\]' or pass --data-dir"):
        hub.read_split(find_task("cola"), "train")
    with pytest.raises(UsageError, match=r"pip install 'glot-pipeline\[hub\]' or pass your own file with --data"):
        hub.read_split(find_task("imdb"), "train")


def test_an_unreachable_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *a, **k: called.append(a)))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(UsageError, match="cannot read nyu-mll/glue cola train from the hub") as raised:
        hub.read_split(find_task("cola"), "train")
    assert "\n" not in str(raised.value)
    assert called == []  # which would try again for half a minute


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
def test_the_real_datasets_offline_is_one_line() -> None:
    code = (
        "from glot.corpus.load import load_hub, load_task\n"
        "from glot.corpus.request import HubDataset\n"
        "from glot.errors import UsageError\n"
        "for load, what in [(load_task, 'cola'), (load_hub, HubDataset('nobody/nothing'))]:\n"
        "    try: load(what)\n"
        "    except UsageError as error: print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "GLUE_DIR": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot read nyu-mll/glue cola train from the hub (ConnectionError")
    assert "\ncannot read hub:nobody/nothing from the hub (ConnectionError" in done.stdout
    assert done.stdout.count("\n") == 2

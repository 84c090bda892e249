"""What a user asks for, and what is known of it before the corpus is read."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glot.corpus.dialect import TableFormat
from glot.corpus.stress import GENERATORS, PUBLISHED, Haystack
from glot.corpus.text_folder import content_sha256
from glot.errors import UsageError
from glot.registry.tasks import find_task
from glot.store.files import json_sha256
from glot.store.template import check_pairs

OWN_MAX_TOKENS = 128  # the length limit of texts that belong to no known task
NOTHING_ASKED = (
    "pass --task (a known task), --data (your own file, or hub:owner/name) or --pairs (texts that belong together)"
)
HUB = "hub:"  # what a dataset's name begins with


@dataclass(frozen=True)
class HubDataset:
    """Anybody's dataset on the hub: "ag_news" or "owner/name", and its configuration where it has several."""

    name: str
    config: str | None = None

    def __str__(self) -> str:
        return f"{HUB}{self.name}" + (f":{self.config}" if self.config else "")


def parse_data(value: str) -> Path | HubDataset:
    """A file, or of "hub:owner/name" or "hub:owner/name:config" a dataset; raises UsageError where it names neither."""
    if not value.startswith(HUB):
        return Path(value)
    match = re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)(?::([^:]+))?", value.removeprefix(HUB))
    if match is None:
        raise UsageError(f"{value!r} names no dataset: write hub:name, hub:owner/name or hub:owner/name:config")
    return HubDataset(match[1], match[2])


@dataclass(frozen=True)
class CorpusRequest:
    """Which corpus the user asked for; None means not given.

    Attributes:
        task: a known task, or with `data` the name of the user's own.
        data, eval_data, test_data, text, text_b, label: see `load_table`, for a dataset of the hub `load_hub`.
        pairs, negatives: see `load_pairs`; `eval_data` goes with it.
        splits: names of splits, "train,test" (see `load_task`), or with `data` the share of train to keep as
            validation, "0.1".
        data_dir: see `load_task`. generator, ratio: see `load_stress`.
        delimiter, quoting, encoding, no_header: how the files are written, see `TableFormat`.
        target: what their labels are, see `tables.read_training`. label_separator: between several labels in a cell.
        limit: rows to take of each split.
        bad_rows: what becomes of rows that are unfit on their own: "stop" at the first, or "skip" them, counted in
            their `Split`.
    """

    task: str | None = None
    data: Path | HubDataset | None = None
    eval_data: Path | None = None
    test_data: Path | None = None
    text: str | None = None
    text_b: str | None = None
    label: str | None = None
    data_dir: Path | None = None
    splits: str | None = None
    generator: str | None = None
    ratio: float | None = None
    limit: int | None = None
    bad_rows: str = "stop"
    pairs: str | None = None
    negatives: int | None = None
    delimiter: str | None = None
    quoting: str | None = None
    encoding: str | None = None
    no_header: bool | None = None
    target: str | None = None
    label_separator: str | None = None

    @property
    def form(self) -> TableFormat:
        """How the user says that the files are written; raises UsageError where that makes no sense."""
        return TableFormat(self.delimiter, self.quoting or "auto", self.encoding, not self.no_header)


def corpus_name(request: CorpusRequest) -> str:
    """The name that the corpus will have; raises UsageError for an unknown task."""
    if request.data is not None:
        return table_name(request.data, request.task)
    if request.pairs is not None:
        return pairs_name(request.pairs, request.task)
    if request.task is None:
        raise UsageError(NOTHING_ASKED)
    name = find_task(request.task).spec.name
    return stress_name(*stress_settings(request)) if name == "stress" else name


def table_name(data: Path | HubDataset, name: str | None) -> str:
    """The name of anybody's own data: as given, or the file's, or the dataset's without its owner."""
    if isinstance(data, HubDataset):
        own = "-".join(filter(None, [data.name.rpartition("/")[2], data.config]))
    else:
        own = data.absolute().name if data.is_dir() else data.stem
    return name or re.sub(r"[^\w.-]+", "-", own)


def pairs_name(pairs: str, name: str | None) -> str:
    """The name of anybody's own pairs: as given, or that of their file or of their data set on the hub."""
    last = pairs.removeprefix(HUB).rstrip("/").rpartition("/")[2]
    return table_name(Path(re.sub(r"(\.jsonl?|\.ndjson)?(\.gz)?$", "", last)), name)


def check_name(name: str) -> str:
    """The name of somebody's own task, which names folders; raises UsageError where it cannot."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"task name {name!r}: use letters, digits, '.', '_' and '-', the first a letter or digit")
    return name


def stress_settings(request: CorpusRequest) -> tuple[str, float]:
    """The generator and the distractor ratio that are asked for."""
    return request.generator or "published", 0.9 if request.ratio is None else request.ratio


def stress_name(generator: str, ratio: float, haystack: Haystack = PUBLISHED) -> str:
    """The name of a made corpus: "stress-paired-0.9", and "-w256-g20" after it where the texts are of another size."""
    size = "" if haystack == PUBLISHED else f"-w{haystack.words}-g{haystack.gap}"
    return f"stress-{generator}-{ratio:g}{size}"


def parse_stress_name(name: str) -> tuple[str, float, Haystack] | None:
    """Generator, ratio and size of a made corpus, by its name; None for any other."""
    match = re.fullmatch(rf"stress-({'|'.join(GENERATORS)})-(\d*\.?\d+)(?:-w(\d+)-g(\d+))?", name)
    if match is None:
        return None
    return match[1], float(match[2]), Haystack(int(match[3]), int(match[4])) if match[3] else PUBLISHED


def default_max_tokens(request: CorpusRequest) -> int:
    """The length limit of the task, in tokens."""
    if request.data is not None or request.pairs is not None or request.task is None:
        return OWN_MAX_TOKENS
    return find_task(request.task).max_tokens


def check_template(request: CorpusRequest, template: str) -> None:
    """Raise UsageError where a template takes both texts of a pair and the examples will be no labelled pairs."""
    num_texts = 2 if request.text_b is not None or request.pairs is not None else 1
    if request.data is None and request.pairs is None and request.task is not None:
        num_texts = find_task(request.task).spec.num_texts
    check_pairs(template, corpus_name(request), num_texts, request.pairs is None)


def request_digest(request: CorpusRequest) -> str:
    """SHA-256 over the options, and over name, size and content of the files that they name.

    Workers with the same digest asked for the same corpus. A hub's data is known by its name alone, a GLUE folder's
    by the names and sizes of its files.
    """
    values: dict[str, Any] = {key: _describe(value) for key, value in asdict(request).items() if key != "data_dir"}
    if request.label_separator is None:  # as requests were before there was one
        del values["label_separator"]
    if request.pairs is not None and not request.pairs.startswith(HUB):
        values["pairs"] = _describe(Path(request.pairs))
    folder = request.data_dir or os.environ.get("GLUE_DIR")
    if request.data is None and request.pairs is None and folder and request.task and find_task(request.task).folder:
        files = sorted((Path(folder) / find_task(request.task).folder).glob("*.tsv"))
        values["data_dir"] = [[path.name, path.stat().st_size] for path in files]
    return json_sha256(values)


def _describe(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    try:
        return [value.name, value.stat().st_size if value.is_file() else 0, content_sha256(value)]
    except OSError:
        return [str(value) if str(value).startswith(HUB) else value.name]  # its reader says what is wrong with it

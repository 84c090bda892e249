"""A cache to a dataset repository on the Hugging Face Hub, with a card that says what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from glot.errors import UsageError
from glot.inference.push import check_push, one_line_of_hub
from glot.registry.backbones import hub_id
from glot.store.column_reader import ColumnReader
from glot.store.files import make_folder, read_json, write_text
from glot.store.layout import EXAMPLES_FOLDER, MANIFEST_FILE, ExamplesEntry, Manifest
from glot.store.places import place_of
from glot.store.reader import Cache
from glot.store.transfer import REPAIR, UNTOUCHED, Parcel, Transfer, manifest_json, parcel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
HUB_URL = re.compile(r"hf:/+datasets/([^/@]+/[^/@]+)((?:/[^/]+)*)/?")
DATASET = "dataset"
CLASSES_SHOWN = 20


def push_cache_to_hub(cache: Cache, url: str, keep_texts: bool = True, licence: str | None = None) -> Transfer:
    """Upload a finished cache to hf://datasets/user/name; where the repository is not there, a private one is made.

    The Hub's own client does it: what is there already is not sent again, after an interruption too. The manifest and
    the card come last.

    Args:
        keep_texts: False leaves the texts out, see `glot.store.transfer.parcel`.
        licence: an identifier of the Hub's, for the card.

    Raises UsageError for a URL that is none, a place that holds another cache, and without a token that may write;
    FaultError where a file is damaged or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    match = HUB_URL.fullmatch(url)
    place_of(url)  # refuses what names no place
    if match is None:
        raise UsageError(f"{url} is no place on the Hub for a cache: write it as in hf://datasets/user/name")
    repo, inside = match[1], match[2].strip("/")
    check_push(repo, "hf://datasets/")
    api = HfApi()
    with parcel(cache, keep_texts) as given:
        with one_line_of_hub(repo):
            api.create_repo(repo, exist_ok=True, private=True, repo_type=DATASET)
            is_there = _holds_this(api, repo, inside, given, url)
            has_card = api.file_exists(repo, _path(inside, CARD_FILE), repo_type=DATASET)
        last = [MANIFEST_FILE]
        if not has_card:  # one that somebody wrote stays
            has_texts = cache.plan.has_texts and keep_texts
            write_text(given.made / CARD_FILE, cache_card(given.manifest, url, has_texts, licence))
            last.append(CARD_FILE)
        staged = _stage(given)
        with one_line_of_hub(repo):
            _upload(api, repo, inside, staged, "Files of a GLOT cache")
            _upload(api, repo, inside, given.made, "A GLOT cache: its manifest and card", last)
    files = given.manifest.files
    sent = [] if is_there else files
    return Transfer(url, given.manifest, len(sent), len(files) - len(sent), sum(data.size for data in sent))


def _upload(api: HfApi, repo: str, inside: str, folder: Path, message: str, only: list[str] | None = None) -> None:
    api.upload_folder(
        repo_id=repo,
        folder_path=folder,
        path_in_repo=inside or None,
        commit_message=message,
        repo_type=DATASET,
        allow_patterns=only,
    )


def _path(inside: str, file: str) -> str:
    return f"{inside}/{file}" if inside else file


def _holds_this(api: HfApi, repo: str, inside: str, given: Parcel, url: str) -> bool:
    """Whether this cache is there already; raises UsageError where another one is."""
    name = _path(inside, MANIFEST_FILE)
    if not api.file_exists(repo, name, repo_type=DATASET):
        return False
    if read_json(Path(api.hf_hub_download(repo, name, repo_type=DATASET)).resolve()) != manifest_json(given):
        raise UsageError(f"{url} holds another cache: {UNTOUCHED}")
    return True


def _stage(given: Parcel) -> Path:
    """A folder of links to all files but the manifest, each compared with its checksums."""
    folder = make_folder(given.made / "staged" / EXAMPLES_FOLDER).parent
    for data in given.manifest.files:
        source = given.folders[data.file]
        ColumnReader(source, data, REPAIR).check_file()
        (folder / data.file).symlink_to((source / data.file).absolute())
    return folder


def cache_card(manifest: Manifest, url: str, has_texts: bool, licence: str | None = None) -> str:
    """The card of a cache as Markdown, with the metadata that the Hub reads: what it holds, and how it is read."""
    from huggingface_hub import DatasetCardData

    states = manifest.states
    data = DatasetCardData(
        license=licence, tags=["glot", "token-states"], pretty_name=f"Token states of {states.backbone}"
    )
    rows = [
        f"| `{name}` | {_word(entry.task.name)} | {entry.examples:,} | {_labels(entry)} |"
        for name, entry in manifest.examples.items()
    ]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# Token states of {_word(states.backbone)}",
        _about(manifest, has_texts),
        _facts(manifest, licence),
        "\n".join(["| example set | task | examples | labels |", "|---|---|---|---|", *rows]),
        "## Train a head on it",
        f"```sh\npip install 'glot-pipeline[remote]'\nglot fit --cache {url}\n```",
        "## Read it without GLOT",
        "`manifest.json` names every file's columns with their offset, shape, dtype (bfloat16 lies as uint16) and "
        "checksum: row t of a column lies at offset + t x bytes of a row, and a text's states are consecutive rows of "
        "`hidden/LAYER`.",
        f"```python\n{_READING}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _about(manifest: Manifest, has_texts: bool) -> str:
    states, plan, base = manifest.states, manifest.plan, hub_id(manifest.states.source)
    whose = f"[{base}](https://huggingface.co/{base})" if base else f"`{_word(states.backbone)}`"
    revision = f", revision `{states.revision}`" if states.revision else ""
    kept = "The texts themselves lie in `plan.h5`."
    if not has_texts:
        kept = (
            "The texts themselves are left out; the tokens are not, and texts can be guessed from them. Messages name "
            "a text by its hash, and baselines that read words do not run."
        )
    return (
        f"A cache of GLOT: the hidden states of every token of {plan.texts:,} texts ({plan.tokens:,} tokens) under the "
        f"frozen {states.kind} {whose}{revision}. {kept}"
    )


def _facts(manifest: Manifest, licence: str | None) -> str:
    states, size = manifest.states, sum(data.size for data in manifest.files)
    layers = ", ".join(map(str, states.layers))
    stored = f"stored as {states.dtype}, computed in {states.compute_dtype}"
    licences = f"`{licence}`, as its owner says" if licence else "not stated"
    facts = [
        f"layers {layers} of 0 to {states.num_layers}, width {states.width}, {stored}",
        f"at most {states.max_tokens} tokens a text ({manifest.plan.truncated:,} were cut)",
        f"template `{_word(states.template)}`",
        f"{len(manifest.shards):,} shards, {size:,} bytes",
        f"licence of the data: {licences}; that of the backbone and of the texts' owner hold beside it",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _labels(entry: ExamplesEntry) -> str:
    if not entry.labelled:
        return "none"
    shown = ", ".join(f"`{_word(name)}`" for name in entry.task.classes[:CLASSES_SHOWN])
    return shown + (", …" if len(entry.task.classes) > CLASSES_SHOWN else "") or "scores"


def _word(text: str) -> str:
    """A text as it can stand in a cell of a table, in one line."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())


_READING = """import json
import numpy as np

manifest = json.load(open("manifest.json"))
shard = manifest["shards"][0]["data"]
place = shard["columns"][f"hidden/{manifest['states']['layers'][-1]}"]
states = np.memmap(shard["file"], place["dtype"], "r", place["offset"], tuple(place["shape"]))  # (tokens, width)"""

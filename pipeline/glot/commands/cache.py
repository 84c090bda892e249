"""`glot inspect` and `glot cache`: looking at caches, verifying, repairing, moving, cutting, joining, linking them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from glot.commands.console import ShardOption, answer, manners, notes, numbers, printable, say, screen, tell, words
from glot.commands.machine_options import DeviceOption, TrustOption
from glot.commands.progress import byte_bar
from glot.errors import FaultError, UsageError
from glot.store.template import TEXT

if TYPE_CHECKING:
    from glot.report.cache_summary import CacheSummary
    from glot.store.layout import Manifest
    from glot.store.reader import Cache
    from glot.store.transfer import Transfer
    from glot.store.verify import Damage

app = typer.Typer(help="Copy, cut, join, link, push and pull caches.", no_args_is_help=True)
NAMED_TEXTS = 20  # damaged texts that are named one by one

CacheArgument = Annotated[Path, typer.Argument(help="A cache, a folder with one cache below it, or a URL.")]
TargetArgument = Annotated[Path, typer.Argument(help="The new cache's folder.")]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Read the result back and compare every checksum.")]


def inspect(
    cache: CacheArgument,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte and name damaged shards and texts; exit code 1 if any.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Verify, and forward damaged texts again, those alone.")
    ] = False,
    list_texts: Annotated[
        bool, typer.Option("--list-texts", help="Print id, shard, tokens, whether cut, and the text, of each text.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="For --repair: the backbone, where its name in the cache does not find it.")
    ] = None,
    trust_remote_code: TrustOption = False,
    layer: Annotated[
        int | None, typer.Option(help="The layer whose graph density is shown; default: the last that is kept.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Show what a cache holds; verify and repair it."""
    from glot.store.places import local_folder
    from glot.store.reader import Cache

    opened = Cache(cache, allow_unfinished=True)
    if repair:
        local_folder(opened.folder, "pull it with `glot cache pull` and repair the copy")
        opened.manifest.refuse_linked(opened.folder, "--verify names the damaged files: repair the caches of these")
    if verify or repair:
        _verify(opened, repair, model, device, trust_remote_code)
    elif list_texts:
        _list_texts(opened)
    else:
        _summarize(opened, layer)


def _summarize(cache: Cache, layer: int | None) -> None:
    from glot.report.cache_summary import summarize_cache

    summary = summarize_cache(cache, layer)
    answer(summary)
    for table in (_facts(summary), _sets(summary), _lengths(summary)):
        screen.print(table)


def _facts(summary: CacheSummary) -> Table:
    table = Table(title=_cell(summary.folder), title_justify="left", show_header=False)
    kept = ", ".join(map(str, summary.layers))
    stored = f"{summary.dtype}, computed in {summary.compute_dtype}, at most {summary.max_tokens} tokens a text"
    mixed = f"; {summary.float32_shards} shards in float32" if summary.float32_shards else ""
    rows = {
        "model": f"{summary.backbone} {summary.revision} ({summary.kind})",
        "states": f"layers {kept} of 0 to {summary.num_layers}, width {summary.width}, {stored}{mixed}",
        "texts": f"{summary.texts:,} distinct, {summary.truncated:,} truncated, {summary.empty:,} empty",
        "tokens": f"{summary.tokens:,}",
        "bytes": f"{summary.bytes:,}: {summary.bytes_per_token:.1f} a token, "
        f"{summary.bytes_per_token / summary.states_bytes_per_token:.4f} of the states alone",
        "shards": f"{summary.shards:,} of {summary.shards_planned:,}" + ("" if summary.complete else ": unfinished"),
        f"graph density, layer {summary.density_layer}": ", ".join(
            f"τ {tau}: {100 * value:.1f} %" for tau, value in summary.density.items()
        ),
    }
    if summary.template != TEXT:
        rows["prompt"] = summary.template
    if summary.parts:
        again = f"; {summary.repeated:,} of their texts are in an earlier one too" if summary.repeated else ""
        rows["linked to"] = f"{len(summary.parts)} caches: {', '.join(summary.parts)}{again}"
    if summary.workers:
        rows["working"] = "; ".join(summary.workers)
    for name, value in rows.items():
        table.add_row(name, _cell(value))
    return table


def _cell(value: str) -> Text:
    """Words of a cache, which anybody may have made, as they are: no markup, nothing for the terminal."""
    return Text(printable(value))


def _sets(summary: CacheSummary) -> Table:
    table = Table(title="example sets", title_justify="left")
    for heading in ("name", "task", "examples", "labels", "skipped", "source"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("examples", "skipped") else "left")
    for name, entry in summary.examples.items():
        values = [entry["task"], f"{entry['examples']:,}", entry["label"], f"{entry['skipped']:,}", entry["source"]]
        table.add_row(*map(_cell, [name, *values]))
    return table


def _lengths(summary: CacheSummary) -> Table:
    table = Table(title="tokens a text", title_justify="left")
    table.add_column("tokens", justify="right")
    table.add_column("texts", justify="right")
    table.add_column("")
    most = max((count for _, _, count in summary.histogram), default=1)
    for low, high, count in summary.histogram:
        table.add_row(f"{low} to {high}", f"{count:,}", "█" * round(30 * count / most))
    return table


def _list_texts(cache: Cache) -> None:
    plan = cache.plan
    for number in range(plan.num_shards):
        first, stop = plan.shard_range(number)
        texts = plan.texts(first, stop) if plan.has_texts else [key.tobytes().hex() for key in plan.hashes(first, stop)]
        for text_id, text, cut in zip(range(first, stop), texts, plan.truncated(first, stop).tolist(), strict=True):
            values = {"id": text_id, "shard": number, "tokens": int(plan.length[text_id]), "truncated": bool(cut)}
            if manners.as_json:  # a line a text: there may be millions
                answer({**values, "text" if plan.has_texts else "hash": text})
            else:
                print(*values.values(), printable(" ".join(text.split())), sep="\t")


def _verify(cache: Cache, repair: bool, model: str | None, device: str | None, trust_remote_code: bool) -> None:
    from glot.store.verify import verify_cache

    with byte_bar(notes, f"verify {cache.folder}") as report:
        damages = verify_cache(cache, report)
    answer([vars(damage) for damage in damages])
    for damage in damages:
        _print_damage(cache, damage)
    if not damages:
        say(f"{cache.folder}: {len(cache.manifest.shards):,} shards, every checksum fits")
        return
    texts = sum(len(damage.texts) for damage in damages)
    if not repair:
        remedy = "run `glot inspect --repair`" + (" on the caches where they lie" if cache.manifest.parts else "")
        raise FaultError(f"{cache.folder}: {len(damages)} damaged files, {texts} damaged texts: {remedy}")
    from glot.extract.repair import repair_cache

    forwarded = repair_cache(cache, damages, model, device, trust_remote_code)
    say(f"{cache.folder}: {len(damages)} files repaired, {forwarded:,} texts forwarded again")


def _print_damage(cache: Cache, damage: Damage) -> None:
    say(f"{damage.file}: {damage.what}")
    for text_id in damage.texts[:NAMED_TEXTS]:
        say(f"  {cache.plan.name_text(text_id)}")
    if len(damage.texts) > NAMED_TEXTS:
        say(f"  and {len(damage.texts) - NAMED_TEXTS:,} more")


@app.command()
def copy(source: CacheArgument, target: TargetArgument, verify: VerifyOption = False) -> None:
    """Copy a cache, an unfinished one too."""
    from glot.store.combine import copy_cache

    _print_made(target, copy_cache(source, target, verify))


@app.command()
def subset(
    source: CacheArgument,
    target: TargetArgument,
    split: Annotated[str | None, typer.Option(help="Example sets, as in train,validation; default: all.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N examples of each set: a sample.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to keep; default: all.")] = None,
    shard_mb: ShardOption = 1024,
    verify: VerifyOption = False,
) -> None:
    """Write a smaller cache: some example sets, some examples, some layers."""
    from glot.store.combine import subset_cache

    kept = numbers(layers, "--layers") if layers else None
    names = words(split) if split else None
    _print_made(target, subset_cache(source, target, names, limit, kept, shard_mb * 2**20, verify))


@app.command()
def merge(
    sources: Annotated[list[Path], typer.Argument(help="Two caches or more, then the new cache's folder.")],
    shard_mb: ShardOption = 1024,
    verify: VerifyOption = False,
) -> None:
    """Join caches of one model and the same settings; the last folder is the new cache's."""
    from glot.store.combine import merge_caches

    if len(sources) < 3:
        raise UsageError("merge takes two caches or more, and then the new cache's folder")
    _print_made(sources[-1], merge_caches(sources[:-1], sources[-1], shard_mb * 2**20, verify))


@app.command()
def link(
    parts: Annotated[list[Path], typer.Argument(help="Two finished caches or more.")],
    out: Annotated[Path, typer.Option(help="The new cache's folder.")],
    verify: VerifyOption = False,
) -> None:
    """Make one cache of several without copying their states: the parts stay where they are, and are read there."""
    from glot.store.combine import link_caches

    if len(parts) < 2:
        raise UsageError("link takes two caches or more, and --out for the new cache's folder")
    _print_made(out, link_caches(parts, out, verify))


@app.command()
def push(
    cache: CacheArgument,
    url: Annotated[str, typer.Argument(help="Where to: s3://bucket/folder, gs://…, az://…, hf://datasets/user/name.")],
    no_texts: Annotated[
        bool, typer.Option("--no-texts", help="Leave the texts out; from the tokens, which stay, they can be guessed.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="For the card on the Hub: the data's licence, as in cc-by-4.0.")
    ] = None,
    verify: VerifyOption = False,
) -> None:
    """Send a finished cache to a store; what is there already is not sent again, and nothing there is replaced."""
    from glot.store.reader import Cache
    from glot.store.transfer import push_cache

    if url.startswith("hf:"):
        from glot.export.cache_hub import push_cache_to_hub

        found = push_cache_to_hub(Cache(cache), url, not no_texts, licence)  # its client draws bars of its own
    elif licence is not None:
        raise UsageError("--license is for the card of a repository on the Hub, hf://datasets/user/name: leave it out")
    else:
        with byte_bar(notes, f"push to {url}") as report:
            found = push_cache(Cache(cache), url, not no_texts, report)
    if verify:
        _verify(Cache(url), False, None, None, False)
    _print_transfer(found)


@app.command()
def pull(
    url: Annotated[str, typer.Argument(help="Where it lies: s3://bucket/folder, gs://…, az://…, hf://datasets/…")],
    folder: TargetArgument,
) -> None:
    """Fetch a finished cache from a store; what came before is not fetched again. Every checksum is compared."""
    from glot.store.transfer import pull_cache

    with byte_bar(notes, f"pull {url}") as report:
        found = pull_cache(url, folder, report)
    _print_transfer(found)


def _print_transfer(found: Transfer) -> None:
    tell(f"{found.place}: {found.sent:,} files sent ({found.bytes:,} bytes), {found.there:,} were there")
    _print_made(found.place, found.manifest)


def _print_made(folder: Path | str, manifest: Manifest) -> None:
    counts = ", ".join(f"{name} {entry.examples:,}" for name, entry in manifest.examples.items())
    plan = manifest.plan
    tell(
        f"{folder}: {counts}; {manifest.texts:,} texts, {plan.tokens:,} tokens, "
        f"{len(manifest.shards):,} of {plan.shards:,} shards"
    )
    answer({"folder": folder, "texts": manifest.texts, "tokens": plan.tokens, "shards": len(manifest.shards)})

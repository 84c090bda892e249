"""Before any shard: the folder, the settings, the plan, the example sets and the manifest, by one worker at a time."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from glot.corpus.examples import Corpus
from glot.errors import FaultError, UsageError
from glot.extract.backbone import Backbone
from glot.extract.old_caches import check_old_loader, check_old_tokens
from glot.extract.options import ExtractOptions
from glot.extract.planning import NumberedTexts, Spread, check_template, length_limit, number_texts, tokenize_into
from glot.extract.probe import describe
from glot.store.claims import Claims
from glot.store.example_set import ExampleSet, group_of, set_name, split_of
from glot.store.layout import (
    EXAMPLES_FOLDER,
    MANIFEST_FILE,
    PLAN_FILE,
    ExamplesEntry,
    Manifest,
    PlanEntry,
    StatesIdentity,
    next_name,
)
from glot.store.plan import Plan, PlanWriter
from glot.store.recover import recover_manifest
from glot.store.shards import finished_shard, unfinished_bytes
from glot.store.task_spec import TaskSpec
from glot.store.verify import verify_file
from glot.version import __version__

PROGRAM = f"glot {__version__}"
POLL_SECONDS = 0.25
Progress = Callable[[int, int], None]  # (done, in all)
Say = Callable[[str], None]


def states_identity(backbone: Backbone, options: ExtractOptions) -> StatesIdentity:
    """All that the states will depend on.

    Raises UsageError where options that `check_options` passes do not fit this backbone: template, length, layers.
    """
    count = backbone.num_layers
    wanted = range(count + 1) if options.layers is None else options.layers
    layers = sorted({layer if layer >= 0 else count + 1 + layer for layer in wanted})
    if not layers or layers[0] < 0 or layers[-1] > count:
        raise UsageError(
            f"--layers {options.layers}: {backbone.name} has the layers 0 to {count} (or -1 to -{count + 1})"
        )
    template = check_template(options.template, backbone)
    automatic = "int8" if len(layers) > 1 else sixteen_bits(backbone)
    return StatesIdentity(
        backbone=backbone.name,
        revision=backbone.revision,
        weights_sha256=backbone.weights_sha256,
        tokenizer_sha256=backbone.tokenizer_sha256,
        kind=backbone.kind,
        width=_common_width(backbone, layers),
        num_layers=count,
        template=template,
        max_tokens=length_limit(backbone, options.max_tokens, options.usual_tokens, template),
        layers=tuple(layers),
        dtype=automatic if options.dtype == "auto" else options.dtype,
        compute_dtype=backbone.compute_dtype,
        source=backbone.source,
        loader_sha256=backbone.loader_sha256,
    )


def sixteen_bits(backbone: Backbone) -> str:
    """The dtype of 16 bits that holds a backbone's states: bfloat16 where it computes in it, else float16."""
    return "bfloat16" if backbone.compute_dtype == "bfloat16" else "float16"


def as_kept(identity: StatesIdentity, kept: StatesIdentity, options: ExtractOptions) -> StatesIdentity:
    """The identity asked for, its dtype that of the cache which is there already, where none was asked for."""
    return replace(identity, dtype=kept.dtype) if options.dtype == "auto" else identity


def _common_width(backbone: Backbone, layers: list[int]) -> int:
    """d of the layers; raises UsageError where they differ, or it is not sure which layers the model's own are."""
    found = {layer: backbone.layer_widths[layer] for layer in layers}
    widths = {layer: width for layer, width in found.items() if width is not None}
    unsure = [layer for layer in found if layer not in widths]
    if unsure:
        raise UsageError(
            f"--layers {unsure[0]}: {describe(backbone)} does not list its states from the embeddings on, so its "
            "inner layers have no sure number: leave --layers out, for the last"
        )
    if len(set(widths.values())) > 1:
        told = ", ".join(f"layer {layer} has {width}" for layer, width in widths.items())
        raise UsageError(f"--layers: {backbone.name} has layers of several widths ({told}): extract them one by one")
    return next(iter(widths.values()))


def hold_plan(claims: Claims, say: Say) -> None:
    """Wait until this worker may write plan and manifest."""
    waited_for = ""
    while not claims.acquire("plan"):
        owner = str(claims.owner("plan") or "another process")
        if owner != waited_for:
            say(f"waiting for {owner}, which holds the plan of {claims.folder}")
            waited_for = owner
        time.sleep(POLL_SECONDS)


@dataclass
class Preparation:
    """Makes or extends plan, example sets and manifest, in this order, so that the manifest never promises too much.

    To be used while the plan's claim is held. `progress` is told of (texts tokenized, texts in all); `spread` is where
    they are tokenized, see `tokenize_into`.
    """

    folder: Path
    backbone: Backbone
    identity: StatesIdentity
    options: ExtractOptions
    progress: Progress
    say: Say
    spread: Spread = map

    def run(self, corpus: Corpus | None) -> Manifest:
        """The manifest of a cache that holds the corpus; None takes the plan that is there for `options.request`.

        Raises UsageError for other settings, a smaller example set or another task than those that are there,
        FaultError where there is no room, or a damaged plan cannot be made again.
        """
        manifest, old = self._open_old()
        request = self.options.request
        shares_plan = self.options.part is not None or corpus is None
        if manifest is not None and old is not None and shares_plan and request and manifest.plan.request == request:
            self._check_room(old.tokens, manifest, old)
            return manifest
        if corpus is None:
            raise FaultError(f"the plan of {self.folder} was changed by another run: run the same command again")
        self._tell_of_skipped(corpus)
        # A cache keeps the seed it began with.
        order_seed = manifest.plan.order_seed if manifest else self.options.order_seed
        texts = number_texts(corpus, old, order_seed, self.folder, self.spread)
        if manifest is not None and old is not None and len(texts.new) and not manifest.states.loader_sha256:
            check_old_tokens(self.folder, old, self.backbone, manifest.states)
            self.say(f"{self.folder} was made by an older version: its texts come to the same tokens still")
        sets = {set_name(self.options.group, name): examples for name, examples in texts.sets.items()}
        for name, examples in sets.items():
            _check_examples(manifest, self.folder, name, examples, corpus.spec)
        if manifest is None:
            self._distrust_shards()
            manifest = Manifest(PROGRAM, self.identity, self._write_plan(None, None, texts, order_seed))
        elif old is None:
            self._rebuild_plan(manifest, texts)
        elif len(texts.new):
            manifest.plan = self._write_plan(manifest, old, texts, order_seed)
        else:
            self._check_room(old.tokens, manifest, old)
        plan = Plan(self.folder, manifest.plan.data)
        for name, examples in sets.items():
            self._add_examples(manifest, name, examples, corpus, plan)
        manifest.plan = replace(manifest.plan, request=request)
        manifest.save(self.folder)
        remove_killed(self.folder, manifest)
        return manifest

    def _tell_of_skipped(self, corpus: Corpus) -> None:
        for split in corpus.splits.values():
            if split.skipped:
                self.say(f"{split.name}: {split.skipped:,} rows skipped, the first: {split.first_skipped}")

    def _open_old(self) -> tuple[Manifest | None, Plan | None]:
        """The cache so far, after a look at its settings. A lost manifest is rebuilt; no plan means a damaged one."""
        manifest = self._open_manifest()
        if manifest is None:
            return None, None
        self.identity = as_kept(self.identity, manifest.states, self.options)
        difference = manifest.states.difference(self.identity)
        if difference:
            raise UsageError(
                f"{self.folder} was made with other settings ({difference}): choose another folder with --out"
            )
        if not manifest.states.loader_sha256:
            check_old_loader(self.folder, self.backbone)
        try:
            plan = Plan(self.folder, manifest.plan.data)
            plan.file.check_file()
        except FaultError as error:
            self.say(f"{error}: doing so")
            return manifest, None
        if plan.has_texts and not self.options.keep_texts:
            raise UsageError(f"{self.folder} already holds its texts: choose another folder with --out for --no-texts")
        return manifest, plan

    def _open_manifest(self) -> Manifest | None:
        """The manifest; where it is torn, or missing beside shards, what can be rebuilt from the other files.

        Raises FaultError where shards are there and nothing says what they are: they might be replaced by fewer.
        """
        path, damage = self.folder / MANIFEST_FILE, None
        if path.exists():
            try:
                return Manifest.load(self.folder)
            except FaultError as error:
                damage = error
        has_shards = any(self.folder.glob("shard-*.h5"))
        if damage is None and not has_shards:
            return None
        rebuilt = recover_manifest(self.folder, PROGRAM)
        if rebuilt is None and has_shards:
            raise FaultError(
                f"{self.folder} holds states, its {MANIFEST_FILE} is {'damaged' if damage else 'lost'}, and no plan "
                f"beside it says what they are: take {MANIFEST_FILE} or the plan from a copy, or choose another folder "
                "with --out; nothing was changed"
            )
        if damage is not None:
            self.say(f"{damage}: rebuilding it from the files beside it")
            path.replace(path.with_name(f"{MANIFEST_FILE}.damaged"))
        self._distrust_shards()
        return rebuilt

    def _distrust_shards(self) -> None:
        """Without a manifest shards are taken up only after a look at each: nothing may vouch for them."""
        for path in self.folder.glob("shard-*.json"):
            path.unlink()

    def _rebuild_plan(self, manifest: Manifest, texts: NumberedTexts) -> None:
        """Make a damaged plan again; it must come to the same bytes, for the shards were made by it."""
        entry = manifest.plan
        new = self._write_plan(manifest, None, texts, entry.order_seed)
        if replace(new.data, file=entry.data.file) != entry.data:
            (self.folder / new.data.file).unlink()
            raise FaultError(
                f"{self.folder / entry.data.file} is damaged, and this data alone does not make it again: take the "
                f"file from a copy, or remove {self.folder} and extract anew"
            )
        os.replace(self.folder / new.data.file, self.folder / entry.data.file)

    def _write_plan(
        self, manifest: Manifest | None, old: Plan | None, texts: NumberedTexts, order_seed: int
    ) -> PlanEntry:
        """Tokenize the new texts and write the plan to a file of its own.

        `manifest` is None for a new cache; of one that is there `old` is the plan, or None where that is damaged.
        """
        if manifest is None:
            states, file, keep_texts = self.identity, PLAN_FILE, self.options.keep_texts
        else:
            # The name by which the backbone was called first: a plan made again must come to the same bytes.
            states, file = manifest.states, next_name(manifest.plan.data.file)
            keep_texts = "texts/offsets" in manifest.plan.data.columns
        writer = PlanWriter(self.folder, keep_texts)
        try:
            if old is not None:
                writer.copy(old)
            empty = tokenize_into(writer, texts, self.backbone, self.identity, self.progress, self.spread)
            if manifest is not None and old is not None:
                empty += manifest.plan.empty
            if manifest is None or old is not None:  # the states of a plan made again are there
                self._check_room(writer.tokens, manifest, old)
            options = self.options
            return writer.save(self.folder / file, states, options.shard_bytes, empty, order_seed, options.request)
        finally:
            writer.close()

    def _check_room(self, tokens: int, manifest: Manifest | None, old: Plan | None) -> None:
        """Compare the states still to be made with what is free."""
        if manifest is not None and old is not None:
            there = (number for number in range(old.num_shards) if finished_shard(self.folder, number, manifest))
            tokens -= sum(map(old.shard_tokens, there))
        needed = tokens * self.identity.bytes_per_token
        free = shutil.disk_usage(self.folder).free + unfinished_bytes(self.folder)
        if needed > free:
            raise FaultError(
                f"{self.folder} needs {needed / 2**30:.2f} GiB for these states and {free / 2**30:.2f} GiB are free: "
                "make room, or choose another folder with --out"
            )

    def _add_examples(self, manifest: Manifest, name: str, examples: ExampleSet, corpus: Corpus, plan: Plan) -> None:
        split = corpus.splits[split_of(name)]
        entry = ExamplesEntry.of(examples, plan.hashes(), corpus.spec, split.provenance, split.skipped)
        old = manifest.examples.get(name)
        is_same = old is not None and (old.fingerprint, old.task) == (entry.fingerprint, entry.task)
        if old is not None and is_same and verify_file(self.folder, old.data) is None:
            return
        file = next_name(old.data.file) if old else f"{EXAMPLES_FOLDER}/{name}.h5"
        manifest.examples[name] = entry.save(examples, self.folder / file, name)


def _check_examples(manifest: Manifest | None, folder: Path, name: str, examples: ExampleSet, task: TaskSpec) -> None:
    """Refuse to shrink an example set, or to mix the labels of two tasks in one group of sets."""
    if manifest is None:
        return
    old = manifest.examples.get(name)
    if old and old.examples > len(examples):
        raise UsageError(
            f"{folder} already holds {old.examples} examples of {name}, more than these {len(examples)}: "
            "choose another folder with --out for a smaller cache"
        )
    for other, entry in manifest.examples.items():
        mixed = any(getattr(entry.task, key) != getattr(task, key) for key in ("target", "classes", "num_texts"))
        if group_of(other) == group_of(name) and mixed:
            kind = "no labels" if entry.task.target == "contrastive" else "scores"
            raise UsageError(
                f"{folder} holds {other} examples of another task ({', '.join(entry.task.classes) or kind}; "
                f"{entry.task.num_texts} text(s) each): choose another folder with --out, or add them with --examples"
            )


def remove_killed(folder: Path, manifest: Manifest) -> None:
    """Remove what killed workers left, but for shards that are planned; for the holder of the plan's claim."""
    named = {manifest.plan.data.file, *(entry.data.file for entry in manifest.examples.values())}
    sets = "|".join(map(re.escape, manifest.examples))
    leftover = re.compile(
        rf"manifest\.json(\.tmp-.+|\.damaged)|(plan|{EXAMPLES_FOLDER}/({sets}))(-\d+)?\.h5(\.tmp-.+)?"
        r"|((plan|shard-\d{5,})\.claim|clock)\.tmp-.+|plan\.claim\.takeover"
    )
    for path in [*folder.iterdir(), *(folder / EXAMPLES_FOLDER).iterdir()]:
        name = path.relative_to(folder).as_posix()
        shard = re.fullmatch(r"shard-(\d{5,})\.h5", name)
        beyond = shard is not None and int(shard.group(1)) >= manifest.plan.shards
        if name not in named and (beyond or leftover.fullmatch(name)):
            path.unlink(missing_ok=True)

"""`glot tune`: Optuna chooses candidates, which train side by side over hold-outs of train and are pruned early.

Only train is looked at until the search is over: candidates know of no other example set. The study lies in Optuna's
journal, which any number of processes append to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist, mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from glot.errors import FaultError, UsageError
from glot.fit.config import FitOptions
from glot.fit.ensemble import ENSEMBLE
from glot.fit.ensemble_run import make_ensemble
from glot.fit.learner import Job, LossError
from glot.fit.predictions_file import read_numbers, read_predictions
from glot.fit.presets import select_of
from glot.fit.promise import Promise
from glot.fit.ray_claim import wait_for_orphans
from glot.fit.result import Epoch
from glot.fit.run import make_configs
from glot.fit.run_folder import METRICS_FILE, RunConfig
from glot.fit.states import MemoryStates, States, StreamedStates
from glot.fit.statistics import Difference, paired_bootstrap, score_interval
from glot.fit.study import (
    HOLD_OUTS,
    JOURNAL_FILE,
    MOST,
    PATIENCE,
    TRAIN,
    Standing,
    StudyFile,
    describe,
    folds_of,
    preset_params,
    propose,
    settings_key,
    settings_of,
)
from glot.fit.sweep import finish_jobs, remove_others
from glot.fit.train import Progress, batch_key, fit_heads
from glot.fit.training_data import TrainingData, labels_of, open_states
from glot.fit.warm_start import Start
from glot.fit.yardsticks import measure_yardsticks, resamples_for
from glot.process import quiet
from glot.store.claims import Claims, Owner
from glot.store.files import checked, make_folder, save_array
from glot.store.reader import Cache

SIDE_BY_SIDE = 6  # candidates of a round
LIKED = "liked"  # as a layer: the one that cross-validation of the regression on the mean likes best
# Tried first: the search ends below none of them but by chance. The others are pruned against those that were finished.
FIRST: dict[str, dict[str, Any]] = {
    "published": {"preset": "published"},
    "strong": {"preset": "strong"},
    "strong adapool": {"preset": "strong", "pooler": "adapool"},
    "regression": {"preset": "strong", "pooler": "mean", "backbone_layer": LIKED},
}
YARDSTICKS = {"published": "glot", "adapool": "adapool", "mean": "mean"}  # poolers, with the published settings
STRONG = "strong"  # of `FIRST`: the winner, unless another candidate is clearly better
BEST = "best"  # the winner's run folder
PROMISE = "promise"  # the winner once more, trained on a large train but for a fifth and scored on that
HELD_OUT = "held-out"  # folder: `NUMBER-FOLD.npy`, what a candidate answers to a hold-out, for comparisons
RESAMPLES = 2000  # of a comparison
END = "end"  # the claim of who trains them

normal_quantile = NormalDist().inv_cdf


@dataclass
class Candidate:
    """A trial in training.

    Attributes:
        is_first: one of `FIRST`, which is never pruned, and scored on one hold-out at least.
        scores: of each hold-out that is done, at its best epoch.
        given_up: why it trains no further: "pruned", "late" (the time is up), "diverged"; "" while it does.
    """

    trial: optuna.Trial
    config: RunConfig
    is_first: bool
    scores: list[float] = field(default_factory=list)
    given_up: str = ""
    reported: int = 0


@dataclass(frozen=True)
class Searcher:
    """Who is at a candidate: a process, or one of several places that it has others fill, again where they die."""

    owner: Owner
    place: int = 0

    @classmethod
    def me(cls) -> Searcher:
        """This process."""
        return cls(Owner.me())

    def is_lost(self, me: Searcher) -> bool:
        """Whether it is surely at the candidate no more. `me` asks, and has begun no candidate yet."""
        return self.owner.is_dead or (self.place == me.place and self.owner.is_process_of(me.owner))


class Tuner:
    """A study over the training examples of a cache.

    Args:
        folder: holds `study.json` and the journal, a new study's or one's to go on with.
        device: None takes a GPU where there is one.

    Attributes:
        searcher: who searches.

    Raises UsageError where the study is of other data, or the training examples are of one class.
    """

    def __init__(self, folder: Path, cache: Cache, device: str | None = None) -> None:
        StudyFile.load(folder).check(folder, cache)
        self.folder, self.cache, self.device = folder, cache, device
        self.searcher = Searcher.me()
        self.entry = cache.examples_entry(TRAIN)
        self.metric = self.entry.task.metrics[0]
        self.strong = self._make_config(preset=STRONG)  # which refuses examples of one class
        every = cache.examples(TRAIN)
        sample = np.random.default_rng(0).permutation(len(every))[:MOST]
        self.examples = every.subset(np.sort(sample))
        self.fold_of = folds_of(labels_of(self.examples))
        make_folder(folder / HELD_OUT)
        self.states: dict[tuple, States] = {}
        self.known: dict[tuple, dict[tuple, Start]] = {}  # by layers and fold
        self.deadline = 0.0
        self.study = _open_study(folder / JOURNAL_FILE, watched=self.strong.train.epochs // 2)

    def search(
        self,
        seconds: float,
        most: int | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_round: Callable[[Standing, float], None] = lambda standing, left: None,
    ) -> None:
        """Train rounds of candidates until the time of this process is up, or `most` candidates are there in all.

        `on_round` is told how far the study is, and the seconds left. The first candidates are trained whatever the
        time, so that there is a winner.

        Raises Stopped after `should_stop` said so; what was finished is kept.
        """
        self.deadline = time.monotonic() + seconds
        self.queue_first(again=seconds > 0)
        pace = 0.0  # seconds that a candidate took in the round before
        while True:
            waiting = len(self._trials(TrialState.WAITING))
            left = self.deadline - time.monotonic()
            # Those that the time is up for are lost: no more than it lasts for.
            room = min(SIDE_BY_SIDE, max(1, int(left / pace)) if pace else SIDE_BY_SIDE)
            room = room if most is None else min(room, most - len(self._trials()))
            if not waiting and (room < 1 or left <= pace / 2):
                return
            candidates = self._ask(waiting or room, most)
            if not candidates:
                return
            self._run_round(candidates, progress, should_stop)
            pace = (left - self.deadline + time.monotonic()) / len(candidates)
            if self._scored():  # not where others are at the first ones, and these here were too late
                on_round(self.standing(), max(0.0, self.deadline - time.monotonic()))

    def standing(self) -> Standing:
        """How far the study is, by what all processes finished."""
        winner = self.winner()
        scores = winner.user_attrs["scores"]
        tried = [trial for trial in self._trials() if trial.state != TrialState.WAITING and trial.intermediate_values]
        pruned = len(self._trials(TrialState.PRUNED))
        return Standing(len(tried), pruned, mean(scores), len(scores), winner.params)

    def winner(self) -> FrozenTrial:
        """The preset strong, or the leader where that is clearly better: the best of many is so by chance, too.

        Raises UsageError where no candidate was scored yet.
        """
        leader, strong, lead = self._contest()
        return leader if strong is None or lead is None or lead.low > 0 else strong

    def verdict(self) -> str:
        """In a line, whether a candidate was better than the preset strong on the hold-outs, and which won."""
        leader, strong, lead = self._contest()
        if strong is None:
            return "no candidate scored above the preset strong, which is the winner"
        if lead is None:
            return "the winner cannot be compared with the preset strong: the study is of before answers were kept"
        value, low, high = (f"{100 * number:+.1f}" for number in (lead.value, lead.low, lead.high))
        compared = f"{self.metric} {value} [{low}, {high}] beside it on {lead.examples:,} held-out examples"
        if lead.low > 0:
            return f"clearly better than the preset strong: {compared}"
        return f"not clearly better than the preset strong, which wins: {describe(leader.params)}; {compared}"

    def _contest(self) -> tuple[FrozenTrial, FrozenTrial | None, Difference | None]:
        """The leader; the candidate with the settings of strong, None where that leads; and the lead over it."""
        leader = self._ranked()[0]
        strong = next((trial for trial in self._scored() if trial.user_attrs.get("first") == STRONG), leader)
        if leader.number == strong.number:
            return leader, None, None
        return leader, strong, self._lead(leader, strong)

    def _lead(self, trial: FrozenTrial, over: FrozenTrial) -> Difference | None:
        """By how much a candidate is better than another on the hold-outs of both; None where one kept no answers.

        The interval is that of the best of so many, each of which is to be above 0 by chance so many times more seldom
        (Bonferroni).
        """
        folds = range(min(len(one.user_attrs["scores"]) for one in (trial, over)))
        ours, theirs = (self._answers(one, folds) for one in (trial, over))
        if ours is None or theirs is None:
            return None
        labels = self._held_out_labels(folds)
        found = paired_bootstrap(ours, theirs, labels, self.metric, RESAMPLES)
        wider = normal_quantile(1 - 0.025 / max(1, len(self._scored()) - 1)) / normal_quantile(0.975)
        below, above = wider * (found.value - found.low), wider * (found.high - found.value)
        return replace(found, low=found.value - below, high=found.value + above)

    def _answers(self, trial: FrozenTrial, folds: range) -> np.ndarray | None:
        """What a candidate answered to the examples of some folds; None of a study of before answers were kept."""
        counts = np.bincount(self.fold_of)
        kept = [read_numbers(self._held_out(trial.number, fold), counts[fold]) for fold in folds]
        there = [found for found in kept if found is not None]
        return np.concatenate(there) if len(there) == len(kept) else None

    def _held_out_labels(self, folds: range) -> np.ndarray:
        return np.concatenate([labels_of(self.examples.subset(self.fold_of == fold)) for fold in folds])

    def _held_out(self, number: int, fold: int) -> Path:
        return self.folder / HELD_OUT / f"{number}-{fold}.npy"

    def _ranked(self) -> list[FrozenTrial]:
        """The trials that were scored, the best first, of equals the earliest; UsageError where there is none."""
        scored = self._scored()
        if not scored:
            raise UsageError(f"{self.folder} has no candidate yet: go on with `glot tune --resume {self.folder}`")

        def rank(trial: FrozenTrial) -> tuple[int, float]:
            return len(trial.user_attrs["scores"]), mean(trial.user_attrs["scores"])

        return sorted(scored, key=rank, reverse=True)

    def _scored(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials() if trial.user_attrs.get("scores")]

    def _leaders(self, most: int) -> list[RunConfig]:
        """The configs of the winner and of the best of the others, each other in a setting that it uses."""
        found: dict[str, RunConfig] = {}
        for trial in [self.winner(), *self._ranked()]:
            config = self._config(trial.params)
            found.setdefault(settings_key(config), config)
            if len(found) == most:
                break
        return list(found.values())

    def importances(self) -> dict[str, float]:
        """The share of each setting in what made candidates good, by Optuna's PED-ANOVA; none from too few."""
        if len(self._trials(TrialState.COMPLETE)) < 2 * len(FIRST):
            return {}
        with quiet():
            return optuna.importance.get_param_importances(self.study)

    def promise(self) -> Promise | None:
        """What train alone says that the winner will score, once it is trained; None of studies of older versions.

        Where candidates were scored on all of train, by their answers to its hold-outs; where on a sample, by those of
        the run `PROMISE`, or, of many examples with scores, of the winner's own hold-out, which chose its epoch too.
        """
        if len(self.examples) == self.entry.examples:
            winner, learned = self.winner(), int((self.fold_of != 0).sum())
            folds = range(len(winner.user_attrs["scores"]))
            answers, labels = self._answers(winner, folds), self._held_out_labels(folds)
            if answers is None:
                return None
        else:
            run = self.folder / (BEST if self.strong.train.select == "holdout" else PROMISE)
            found = read_predictions([run], "holdout")
            if found is None:
                return None
            (answers,), labels = found
            learned = self.entry.examples - len(labels)
        score = score_interval(answers, labels, self.metric, resamples_for(len(labels)))
        return Promise(self.metric, score, learned, self.entry.examples)

    def finish(
        self,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        ensemble: int | None = None,
    ) -> Path | None:
        """Train the winner and the yardsticks on all of train, of many examples but for those that choose the epoch.

        Gives the winner's run folder, the yardsticks lie beside it; None where another process is at it. What is there
        already stays. With `ensemble` so many of the best candidates, the winner first, become the ensemble beside it;
        fewer where fewer were scored.

        Raises Stopped after `should_stop` said so.
        """
        with Claims(self.folder) as claims:
            if not claims.acquire(END):
                return None
            wait_for_orphans(self.folder)
            self.train_best(progress, should_stop, ensemble)
        return self.folder / BEST

    def train_best(
        self,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        ensemble: int | None = None,
    ) -> None:
        """What `finish` does, for who knows that nobody else is at it."""
        leaders = self._leaders(ensemble or 1)
        configs = {self.folder / BEST: leaders[0]}
        for name, pooler in YARDSTICKS.items():
            configs[self.folder / "yardsticks" / name] = self._make_config(preset="published", pooler=pooler)
        promised = replace(leaders[0], data={TRAIN: self.entry.fingerprint})
        wanted = configs | {self.folder / PROMISE: promised}
        remove_others(self.folder, wanted, wanted)  # the winner of before
        if len(self.examples) < self.entry.examples and promised.train.select == "last":
            self._train_promised(promised, progress, should_stop)
        jobs = [Job(config, make_folder(run)) for run, config in configs.items()]
        finish_jobs(jobs, self.folder, self.cache, progress, should_stop)
        if ensemble is not None:
            make_ensemble(self.folder / ENSEMBLE, leaders, [self.folder / BEST], self.cache, progress, should_stop)

    def _train_promised(self, config: RunConfig, progress: Progress | None, should_stop: Callable[[], bool]) -> None:
        """Train a head on train but for a fifth, and score it on that; what is there already stays."""
        run, every = self.folder / PROMISE, self.cache.examples(TRAIN)
        if (run / METRICS_FILE).exists():
            return
        is_kept = folds_of(labels_of(every)) == 0
        states = open_states(self.cache, config)
        train, holdout = every.subset(~is_kept), every.subset(is_kept)
        data = TrainingData(train, holdout, {}, states.lengths, self.cache.plan.shard_of(train.text_id))
        fit_heads(self.cache, [Job(config, make_folder(run))], run, progress, should_stop, states, data)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def queue_first(self, again: bool) -> None:
        """Queue those of `FIRST` that nobody has scored, is at or will take up; give up what the lost left.

        With `again` also those that the time was up for before their last hold-out.
        """
        for trial in self._trials(TrialState.RUNNING):
            owner = trial.user_attrs.get("owner")
            if owner is None:
                continue
            if Searcher(checked(Owner, owner), trial.user_attrs.get("place", 0)).is_lost(self.searcher):
                self.study.tell(trial.number, state=TrialState.FAIL)
        there = [
            trial
            for trial in self._trials()
            if trial.state != TrialState.FAIL or (trial.user_attrs.get("scores") and not again)
        ]
        known = {trial.user_attrs.get("first") for trial in there}
        for name, settings in FIRST.items():
            if name not in known:
                given: dict[str, Any] = {
                    key: self._liked_layer() if value == LIKED else value for key, value in settings.items()
                }
                self.study.enqueue_trial(preset_params(self.cache, **given), user_attrs={"first": name})

    def _liked_layer(self) -> int | None:
        return measure_yardsticks(self.cache, self.entry.task, self.examples, {})[-1].layer

    def _ask(self, count: int, most: int | None = None) -> list[Candidate]:
        """So many new candidates. All but the first read the same layers, so that they share batches.

        Fewer where others asked meanwhile: the numbers of trials tell which are beyond `most`.
        """
        layers: dict[str, str] = {}
        candidates = []
        with quiet():  # Optuna remarks on what is new in it, and on settings of a task that lie beside the space
            for _ in range(count):
                trial = self.study.ask()
                is_first = "first" in trial.user_attrs
                if most is not None and trial.number >= most and not is_first:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    break
                trial.set_user_attr("owner", asdict(self.searcher.owner))
                trial.set_user_attr("place", self.searcher.place)
                # A sampler of its own: what comes next depends on the study alone, and processes do not repeat others.
                sampler = optuna.samplers.TPESampler(seed=trial.number, multivariate=False)
                self.study.sampler = optuna.samplers.PartialFixedSampler(layers, sampler)
                propose(trial, self.cache)
                if not is_first:
                    layers = {"layers": trial.params["layers"]}
                candidates.append(Candidate(trial, self._config(trial.params), is_first))
        return candidates

    def _config(self, params: dict[str, Any]) -> RunConfig:
        """A candidate's config, as its run would have it: what the study does not search is as in strong."""
        return self._make_config(preset=STRONG, **settings_of(params))

    def _make_config(self, **given: Any) -> RunConfig:
        select = select_of(self.entry.task, self.entry.examples)
        return make_configs(self.cache, FitOptions(select=select, device=self.device, **given))[0]

    def _run_round(
        self, candidates: list[Candidate], progress: Progress | None, should_stop: Callable[[], bool]
    ) -> None:
        """Score candidates on one hold-out after the other, and tell the study."""
        groups: dict[tuple, list[Candidate]] = {}
        for candidate in candidates:
            groups.setdefault(batch_key(candidate.config), []).append(candidate)
        try:
            for fold in range(HOLD_OUTS):
                if fold and self._is_late:
                    break
                for group in groups.values():
                    self._run_fold([some for some in group if not some.given_up], fold, progress, should_stop)
        finally:
            self.states.clear()
            for candidate in candidates:
                self._tell(candidate)

    def _tell(self, candidate: Candidate) -> None:
        number, scores = candidate.trial.number, candidate.scores
        if len(scores) == HOLD_OUTS:
            self.study.tell(number, mean(scores))
        elif candidate.given_up == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def _run_fold(
        self, group: list[Candidate], fold: int, progress: Progress | None, should_stop: Callable[[], bool]
    ) -> None:
        """Train candidates that share batches on all folds but one, and score them on that."""
        while group:
            configs = [self._config_of(candidate, fold) for candidate in group]
            states, data = self._open(configs[0], fold)
            with TemporaryDirectory(prefix="glot-tune-") as made:
                folders = [Path(made) / str(candidate.trial.number) for candidate in group]
                watches = [partial(self._watch, candidate, fold) for candidate in group]
                jobs = [
                    Job(config, folder, is_given_up=watch)
                    for config, folder, watch in zip(configs, folders, watches, strict=True)
                ]
                known = self.known.setdefault((configs[0].layers, fold), {})
                try:
                    results = fit_heads(self.cache, jobs, Path(made), progress, should_stop, states, data, known)
                except LossError as error:  # one is out; the others begin this fold again
                    group[folders.index(error.folder)].given_up = "diverged"
                    group = [candidate for candidate in group if not candidate.given_up]
                    continue
                for candidate, folder in zip(group, folders, strict=True):
                    answers = np.load(folder / "predictions-holdout.npy")
                    save_array(self._held_out(candidate.trial.number, fold), answers)
            for candidate, result in zip(group, results, strict=True):
                if not candidate.given_up or len(result.epochs) == self.strong.train.epochs:
                    candidate.scores.append(result.best["holdout"][self.metric])
                    candidate.trial.set_user_attr("scores", candidate.scores)
            return

    def _watch(self, candidate: Candidate, fold: int, records: list[Epoch]) -> bool:
        """Report an epoch of a candidate to the study; whether it is given up, for it is behind or the time is up."""
        step = fold * self.strong.train.epochs + records[-1].epoch
        if step > candidate.reported:  # else it is trained again beside one that diverged
            scores = [record.scores["holdout"][self.metric] for record in records]
            so_far = scores[-1] if candidate.config.train.select == "last" else max(scores)
            candidate.trial.report(mean([*candidate.scores, so_far]), step)
            candidate.reported = step
        if not candidate.is_first and candidate.trial.should_prune():
            candidate.given_up = "pruned"
        elif self._is_late and not (candidate.is_first and fold == 0):
            candidate.given_up = "late"
        return bool(candidate.given_up)

    def _config_of(self, candidate: Candidate, fold: int) -> RunConfig:
        """Its config on one fold, with a seed of the fold's own; it names train alone."""
        train = replace(candidate.config.train, order_seed=fold, init_seed=fold)
        if train.select == "holdout":
            train = replace(train, patience=PATIENCE)
        return replace(candidate.config, train=train, data={TRAIN: self.entry.fingerprint})

    def _open(self, config: RunConfig, fold: int) -> tuple[States, TrainingData]:
        """The states of the examples that the search takes, and which of them are trained on and scored."""
        layers, device = config.layers, torch.device(config.train.device)
        if layers not in self.states:
            if config.train.window is None:
                self.states[layers] = MemoryStates(self.cache, layers, self.examples.used_ids(), device)
            else:
                self.states[layers] = StreamedStates(self.cache, layers, device)
        states = self.states[layers]
        train, holdout = self.examples.subset(self.fold_of != fold), self.examples.subset(self.fold_of == fold)
        return states, TrainingData(train, holdout, {}, states.lengths, self.cache.plan.shard_of(train.text_id))


def _open_study(journal: Path, watched: int) -> optuna.Study:
    """The study of a journal, a new one where there is none; candidates train `watched` epochs before one is pruned.

    Raises FaultError where it is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=len(FIRST), n_warmup_steps=watched),
        )
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise FaultError(f"{journal} is damaged ({error!r}): tune anew with --out") from None

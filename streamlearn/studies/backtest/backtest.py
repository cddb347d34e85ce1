"""Models side by side over a stream of the past, by the very shard of `serve`, with nothing around it.

The source is read once; each run of records is stepped by every model in turn. What comes out is one plain
object, which `--json` prints and `report.page` makes a page of.

Invariants:
- Predictions and scores are byte for byte those of a service under the same configuration that takes the
  same records in the same order; the digests say so.
- A comparison is made on labels that both answered, in the order of the labels.
- Memory is bounded: a run of records, what the models hold, and at most `POINTS` points of each curve.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from streamlearn.core.events.event import Label
from streamlearn.core.records import Record
from streamlearn.core.scores.metrics import judges
from streamlearn.engine.era import versions
from streamlearn.env import Env, Flag
from streamlearn.errors import ConfigError, Stop
from streamlearn.studies.backtest.candidate import Candidate, state_bytes
from streamlearn.studies.backtest.cautions import DEPENDENT, no_verdict, unscored_reason, warnings
from streamlearn.studies.backtest.compare import Difference, Floats, verdict
from streamlearn.studies.backtest.curves import Curves
from streamlearn.studies.backtest.losses import Losses
from streamlearn.studies.backtest.words import metric_title, shown

RUN_RECORDS: Final = 200
"""Stepped at most by one model before the next one has its turn; less at the start, where a short stream's
curves need points."""


class StreamDescription(NamedTuple):
    """The stream of a run, for its result: the source's name, when labels come ("" = inside their events),
    the topic of labels, and in what order records were taken.
    """

    source: str
    delay: str
    labels_topic: str
    order: str


class Pair:
    """A model and what it is compared with: another model (`rival`), or the forecaster at `index`."""

    def __init__(self, a: Candidate, b: str, metric: str, rival: Candidate | None, index: int) -> None:
        self.a = a
        self.b = b
        self.metric = metric
        self._rival = rival
        self._index = index
        self.difference = Difference(bounded=metric == "accuracy")

    def names(self) -> set[str]:
        """Names of the two that are compared."""
        return {self.a.name, self.b}

    def update(self) -> None:
        """Take in the labels of the last run. A difference above 0 is in favour of `a`."""
        mine, theirs = _matched(self.a.losses, self._rival.losses if self._rival else self.a.losses)
        values = theirs[:, self._index] - mine[:, 0]
        self.difference.add(values[~np.isnan(values)])

    def result(self) -> dict[str, Any]:
        """Its member of `pairs`."""
        interval = self.difference.interval()
        low, high = interval or (None, None)
        return {
            "a": self.a.name,
            "b": self.b,
            "metric": self.metric,
            "labels": self.difference.labels,
            "difference": self.difference.mean if self.difference.labels else None,
            "low": low,
            "high": high,
            "better": {0: None, 1: self.a.name, -1: self.b}[verdict(interval)],
            "method": self.difference.method,
            "words": self._words(),
        }

    def _words(self) -> str:
        interval, mean, metric = self.difference.interval(), self.difference.mean, metric_title(self.metric)
        if interval is None:
            return f"{self.a.name} and {self.b} cannot be told apart: too few labels"
        low, high = interval
        better = verdict(interval)
        if not better:
            span = f"{shown(mean)} [{shown(low)}, {shown(high)}]"
            return f"{self.a.name} and {self.b} cannot be told apart yet: {span} {metric}"
        names = (self.a.name, self.b) if better > 0 else (self.b, self.a.name)
        low, high = (low, high) if better > 0 else (-high, -low)
        span = f"{shown(abs(mean))} [{shown(low)}, {shown(high)}]"
        return f"{names[0]} is better than {names[1]} by {span} {metric}"


def _matched(mine: Losses, theirs: Losses) -> tuple[Floats, Floats]:
    """The losses of the labels that both observed in this run: nearly always all, and in the same order."""
    if mine is theirs or np.array_equal(mine.numbers, theirs.numbers):
        return mine.values, theirs.values
    _, ours, others = np.intersect1d(mine.numbers, theirs.numbers, return_indices=True)
    order = np.argsort(ours)
    return mine.values[ours[order]], theirs.values[others[order]]


class Backtest:
    """Several models over one stream, as `streamlearn backtest` compares them (docs/backtest.md).

    `run` it once, then take `result`. The intervals are those of Howard et al. (2021), see `compare`.

    Args:
        env: The clock of the costs per event.
        models: The candidates, from `BacktestSetup.candidates`; all of one task.

    Raises:
        ConfigError: The models are of several tasks.
    """

    def __init__(self, env: Env, models: Sequence[Candidate]) -> None:
        self._env = env
        tasks = {model.shard.learner.task for model in models}
        if len(tasks) > 1:
            names = ", ".join(f"{model.name} ({model.shard.learner.task})" for model in models)
            raise ConfigError(f"these models do not do the same task, so they cannot be compared: {names}")
        self.models = models
        self.task = tasks.pop()
        whole = models[0].report()["all"]
        self.forecasters = [name for name, scores in whole.items() if isinstance(scores, dict)]
        self.metrics = _metrics(whole["model"])
        """Those there may be; which of them there are for classes depends on how many classes come."""
        headlines = [name for name in judges(self.task).headline if name in self.metrics]
        self.metric = (headlines or self.metrics)[0]
        labels = models[0].shard.spec.labels
        self.dependent = labels is not None and labels.join in DEPENDENT
        """True if labels are of many events each, so that no interval that counts events means anything."""
        self.pairs = self._pairs()
        self._label: Label | None = None
        self.events = self.labels = 0
        self.seconds = 0.0
        by_loss = judges(self.task).loss == self.metric
        self._curves = Curves(models, self.forecasters, self.metric, by_loss, self.pairs)

    def _pairs(self) -> list[Pair]:
        metric = judges(self.task).loss
        if not metric or self.dependent:
            return []
        models = [model for model in self.models if model.gives_verdicts()]
        pairs = [Pair(a, b.name, metric, b, 0) for a, b in itertools.combinations(models, 2)]
        baselines = list(enumerate(self.forecasters))[1:]
        return pairs + [Pair(model, name, metric, None, n) for model in models for n, name in baselines]

    def run(
        self,
        records: Iterator[Record | None],
        labels_topic: str,
        stop: Flag,
        progress: Callable[[int], None],
    ) -> None:
        """Step all of `records` by every model.

        Args:
            records: Records in order; None where nothing more has arrived yet.
            labels_topic: The topic of labels; its records are no events.
            stop: A flag that ends the run early.
            progress: Called with the number of events done since the call before.

        Raises:
            Stop: The flag was set, or a model cannot go on.
        """
        began_s = self._env.monotonic()
        while run := list(itertools.islice(records, min(RUN_RECORDS, self._curves.every))):
            events = self._step([record for record in run if record is not None], labels_topic)
            progress(events)
            if stop.is_set():
                raise Stop(f"interrupted after {self.events:,} events")
        self._curves.end(self.events)
        self.seconds = self._env.monotonic() - began_s

    def _step(self, records: Sequence[Record], labels_topic: str) -> int:
        """Step a run of records by every model; the number of events among them."""
        if self._label is None:
            labels = map(self.models[0].label_in, records)
            self._label = next((label for label in labels if label is not None), None)
        for model in self.models:
            model.run(records)
        for pair in self.pairs:
            pair.update()
        events = sum(record.topic != labels_topic for record in records)
        self.events += events
        self._curves.after(self.events)
        return events

    def result(self, stream: StreamDescription) -> dict[str, Any]:
        """The result as one plain object, which `--json` prints and the page is made of."""
        reports = [model.report() for model in self.models]
        models = [self._model(model, report) for model, report in zip(self.models, reports, strict=True)]
        labels = max(report["labels"] for report in reports)
        learner = self.models[0].shard.learner
        unscored = "" if labels else unscored_reason(self.events, models[0], learner, self._label)
        lines, withheld = no_verdict(models, self.dependent and bool(judges(self.task).loss))
        baselines = self._baselines(reports[0])
        curves = self._curves.result()
        judged = [not pair.names() & withheld for pair in self.pairs]
        curves["pairs"] = list(itertools.compress(curves["pairs"], judged))
        return {
            **stream._asdict(),
            "task": self.task,
            "metric": self.metric,
            "events": self.events,
            "labels": labels,
            "unscored": unscored,
            "window": self.models[0].window,
            "seconds": self.seconds,
            "models": models,
            "baselines": baselines,
            "pairs": [pair.result() for pair in itertools.compress(self.pairs, judged)],
            "no_verdict": lines,
            "warnings": warnings(self.metric, self.events, unscored, models, baselines),
            "versions": versions(),
            "curves": curves,
        }

    def _baselines(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"name": name, "scores": self._scores(report["all"][name]), "window": report["window"][name]}
            for name in self.forecasters[1:]
        ]

    def _scores(self, scores: dict[str, Any]) -> dict[str, float | None]:
        return {metric: value for metric, value in scores.items() if _is_one_number(metric)}

    def _model(self, model: Candidate, report: dict[str, Any]) -> dict[str, Any]:
        sections = model.take_snapshot()
        model_bytes = state_bytes({"model": sections["model"]})
        return {
            "name": model.name,
            "use": model.use,
            "version": model.version,
            "scores": self._scores(report["all"]["model"]),
            "window": report["window"]["model"],
            "labels": report["labels"],
            "learned": model.shard.memory.learned,
            "frozen": model.shard.memory.frozen,
            "frozen_at": model.stopped_at,
            "failure": model.first_failure,
            "answered": model.answered(),
            "us_per_event": model.seconds / max(1, self.events) * 1e6,
            "model_bytes": model_bytes,
            "growth_bytes_per_event": (model_bytes - model.born_bytes) / max(1, self.events),
            "state_bytes": state_bytes(sections),
            "outcomes": dict(model.shard.memory.outcomes),
            "join": None if model.shard.joiner is None else model.shard.joiner.report(),
            "digests": {role: digest.hexdigest() for role, digest in model.digests.items()},
        }


def _is_one_number(metric: str) -> bool:
    return metric != "answered" and "_by_" not in metric


def _metrics(scores: dict[str, Any]) -> list[str]:
    metrics = [*filter(_is_one_number, scores)]
    return [*metrics, "macro_f1"] if "f1" in metrics else metrics

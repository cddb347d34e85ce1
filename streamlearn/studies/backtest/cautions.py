"""Cautions beside the numbers of a backtest: conditions that change what they mean.

Invariant: a model whose numbers are about something else, because it stopped learning or left hard events
out, gets no verdict.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from streamlearn.core.events.event import Label
from streamlearn.core.model.learner import Learner
from streamlearn.core.scores.metrics import is_better
from streamlearn.studies.backtest.words import count, metric_title, misleading, shown

DEPENDENT: Final = ("group", "interval")
"""How labels are joined that are about many events each."""

_TAKES: Final = {
    "classification": "classes: true/false, integers or texts",
    "regression": "numbers",
    "forecasting": "numbers",
    "anomaly": "true/false or 0/1",
    "clustering": "classes of any kind",
}
_KINDS: Final = {bool: "true/false", int: "integers", float: "numbers", str: "texts"}


def no_verdict(models: Sequence[Mapping[str, Any]], dependent: bool) -> tuple[list[str], set[str]]:
    """A line for each reason why there is no verdict, and the names of models that get none."""
    lines = []
    if dependent:
        lines.append(
            "no verdict between models: a label here is about many events, whose errors hang together, and an"
            " interval that took each event for itself would be far too sure"
        )
    withheld = {model["name"]: why for model in models if (why := misleading(model))}
    lines += [f"no verdict about {name}: it {why}" for name, why in withheld.items()]
    return lines, set(withheld)


def unscored_reason(events: int, model: Mapping[str, Any], learner: Learner, label: Label | None) -> str:
    """A sentence that says why no label was scored. `label`: the first one that came."""
    outcomes = model["outcomes"]
    refused = {name: n for name, n in outcomes.items() if name.startswith(("dlq.", "label.unused"))}
    counts = ", ".join(f"{count(n)} {name.removeprefix('dlq.')}" for name, n in sorted(refused.items()))
    if label is None:
        why = "the source has no events" if not events else "none came: name the labels' column (--label)"
        return f"No label was scored: {why}.{f' Refused records: {counts}.' if counts else ''}"
    takes = "true/false or 0/1" if learner.binary else _TAKES[learner.task]
    kind = f"{_KINDS[type(label)]} such as {shown_label(label)}"
    labels = f"the labels are {kind}, and {model['name']} takes {takes}"
    if counts:
        return f"No label was scored: {labels}. What became of them: {counts}."
    return f"No label was scored: {labels}; none of them found an event that was answered."


def shown_label(label: Label) -> str:
    """A label as JSON writes it, cut short."""
    return str(label).lower() if type(label) is bool else repr(label)[:60]


def warnings(
    metric: str,
    events: int,
    unscored: str,
    models: Sequence[Mapping[str, Any]],
    baselines: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Warnings that a newcomer must not miss: models that stopped learning or answered little, no labels,
    models that are no better than guessing, refused events.
    """
    stopped = [text for model in models if (text := _learning_warning(model, events))]
    beaten = [list(_beaten_by(metric, model, baselines)) for model in models]
    no_better = [f"{text}." for text in itertools.chain(*beaten)]
    if not unscored and all(beaten):
        no_better = [
            f"No model beats every baseline ({metric_title(metric)}): {'; '.join(map('; '.join, beaten))}."
            " Do not use any of them for this task."
        ]
    refused = itertools.chain(*map(_refused_warnings, models))
    return [*stopped, *filter(None, [unscored]), *no_better, *refused]


def _learning_warning(model: Mapping[str, Any], events: int) -> str:
    """A model that stopped learning, or answered little; "" for none."""
    failure = f": {model['failure']}" if model["failure"] else f" ({model['frozen']})"
    why = misleading(model)
    if model["frozen"]:
        return f"{model['name']} {why} of {count(events)}{failure}."
    if why and model["frozen_at"] is not None:
        return f"{model['name']} {why}{failure}."
    return f"{model['name']} {why}: its scores are about those alone." if why else ""


def _refused_warnings(model: Mapping[str, Any]) -> Iterator[str]:
    """Records that were refused, and labels that the model could not take."""
    refused = {name: n for name, n in model["outcomes"].items() if name.startswith("dlq.")}
    if refused:
        counts = ", ".join(f"{n:,} {name.removeprefix('dlq.')}" for name, n in sorted(refused.items()))
        first = f" The first one: {model['failure']}." if model["failure"] and not model["frozen"] else ""
        yield f"{model['name']} had {sum(refused.values()):,} records refused: {counts}.{first}"
    if unused := model["outcomes"].get("label.unused"):
        yield f"{count(unused)} labels were of no use to {model['name']}: true/false or 0/1 are."


def _beaten_by(
    metric: str, model: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    mine = model["scores"].get(metric)
    for baseline in baselines:
        theirs = baseline["scores"].get(metric)
        if mine is not None and theirs is not None and not is_better(mine, theirs, metric):
            yield f"{model['name']} ({shown(mine)}) does not beat {baseline['name']} ({shown(theirs)})"

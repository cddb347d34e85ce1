"""Cautions beside the numbers of a backtest: conditions that change what they mean.

Invariant: a model whose numbers are about something else, because it stopped learning or left hard events
out, gets no verdict.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from streamlearn.core.events import Label
from streamlearn.core.learner import Learner
from streamlearn.core.metrics import is_better
from streamlearn.replay.report import count, misleading, shown, title_of

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
    withheld = {one["name"]: why for one in models if (why := misleading(one))}
    lines += [f"no verdict about {name}: it {why}" for name, why in withheld.items()]
    return lines, set(withheld)


def unscored_why(events: int, model: Mapping[str, Any], learner: Learner, label: Label | None) -> str:
    """A sentence that says why no label was scored. `label`: the first one that came."""
    outcomes = model["outcomes"]
    refused = {name: n for name, n in outcomes.items() if name.startswith(("dlq.", "label.unused"))}
    told = ", ".join(f"{count(n)} {name.removeprefix('dlq.')}" for name, n in sorted(refused.items()))
    if label is None:
        why = "the source has no events" if not events else "none came: name the labels' column (--label)"
        return f"No label was scored: {why}.{f' Refused records: {told}.' if told else ''}"
    takes = "true/false or 0/1" if learner.binary else _TAKES[learner.task]
    kind = f"{_KINDS[type(label)]} such as {shown_label(label)}"
    came = f"the labels are {kind}, and {model['name']} takes {takes}"
    if told:
        return f"No label was scored: {came}. What became of them: {told}."
    return f"No label was scored: {came}; none of them found an event that was answered."


def shown_label(label: Label) -> str:
    """A label as JSON writes it, cut short."""
    return str(label).lower() if type(label) is bool else repr(label)[:60]


def warnings_of(
    metric: str,
    events: int,
    unscored: str,
    models: Sequence[Mapping[str, Any]],
    baselines: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What a newcomer must not miss: models that stopped learning or answered little, no labels, models that
    are no better than guessing, refused events.
    """
    found = []
    for model in models:
        failed = f": {model['failure']}" if model["failure"] else f" ({model['frozen']})"
        if model["frozen"]:
            found.append(f"{model['name']} {misleading(model)} of {count(events)}{failed}.")
        elif (why := misleading(model)) and model["frozen_at"] is not None:
            found.append(f"{model['name']} {why}{failed}.")
        elif why:
            found.append(f"{model['name']} {why}: its scores are about those alone.")
    if unscored:
        found.append(unscored)
    beaten = [list(_beaten_by(metric, model, baselines)) for model in models]
    if not unscored and all(beaten):
        found.append(
            f"No model beats every baseline ({title_of(metric)}): {'; '.join(map('; '.join, beaten))}."
            " Do not use any of them for this task."
        )
    else:
        found += [f"{one}." for some in beaten for one in some]
    for model in models:
        dead = {what: n for what, n in model["outcomes"].items() if what.startswith("dlq.")}
        if dead:
            told = ", ".join(f"{n:,} {what.removeprefix('dlq.')}" for what, n in sorted(dead.items()))
            first = f" The first one: {model['failure']}." if model["failure"] and not model["frozen"] else ""
            found.append(f"{model['name']} had {sum(dead.values()):,} records refused: {told}.{first}")
        if unused := model["outcomes"].get("label.unused"):
            found.append(f"{count(unused)} labels were of no use to {model['name']}: true/false or 0/1 are.")
    return found


def _beaten_by(
    metric: str, model: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    mine = model["scores"].get(metric)
    for baseline in baselines:
        other = baseline["scores"].get(metric)
        if mine is not None and other is not None and not is_better(mine, other, metric):
            yield f"{model['name']} ({shown(mine)}) does not beat {baseline['name']} ({shown(other)})"

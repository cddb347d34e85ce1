"""Words and numbers for people about the result of a backtest, or of a service's scores.

Invariant: a condition that changes a number's meaning has words here (`misleading`), to stand beside it.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from streamlearn.core.scores.metrics import LOWER_IS_BETTER

_TITLES: Final = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "roc_auc_ranks": "ROC AUC by ranks",
    "roc_auc": "ROC AUC",
    "cohen_kappa": "Cohen’s kappa",
    "kappa_m": "kappa M",
    "kappa_temporal": "kappa temporal",
    "mae": "MAE",
    "rmse": "RMSE",
    "mse": "MSE",
    "mase": "MASE",
    "r2": "R²",
}


def metric_title(metric: str) -> str:
    """A metric's name for people: `balanced_accuracy` is "balanced accuracy"."""
    return _TITLES.get(metric, metric.replace("_", " "))


def count(number: int) -> str:
    """12345 is "12,345"."""
    return f"{number:,}"


def shown(value: float | None) -> str:
    """A score, to about four digits.

    >>> shown(0.97163), shown(12345.6), shown(3.14159), shown(-0.00002), shown(None)
    ('0.9716', '12,346', '3.142', '-2.0e-05', '–')
    """
    if value is None:
        return "–"
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1e}"
    if size < 1:
        return f"{value:.4f}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def in_bytes(number: float) -> str:
    """A size.

    >>> in_bytes(512), in_bytes(1.23), in_bytes(20480), in_bytes(3_500_000)
    ('512 B', '1.23 B', '20.5 kB', '3.5 MB')
    """
    for unit in ("B", "kB", "MB"):
        if abs(number) < 1000:
            return f"{number:.3g} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def table_rows(result: Mapping[str, Any]) -> list[tuple[bool, Mapping[str, Any]]]:
    """Models, then baselines, each after a flag: true for a model."""
    return [(True, row) for row in result["models"]] + [(False, row) for row in result["baselines"]]


def metric_names(result: Mapping[str, Any]) -> list[str]:
    """The names of all metrics, the main one first."""
    names = dict.fromkeys([result["metric"]])
    for _, row in table_rows(result):
        names |= dict.fromkeys(row["scores"])
    return list(names)


_ABSTAINS: Final = 0.99


def abstains(share: float | None) -> TypeGuard[float]:
    """True if a model that answered this share of the labels left events out. None: not counted."""
    return share is not None and share < _ABSTAINS


def answered_share(span: Mapping[str, Any]) -> float | None:
    """Share of answers by the model, among the labels that a baseline answered (all after the first).
    `span`: numbers by forecaster, as in a scores message. None where answers are not counted.
    """
    counts = [
        scores["answered"] for scores in span.values() if isinstance(scores, dict) and "answered" in scores
    ]
    return counts[0] / max(counts) if counts and max(counts) else None


def misleading(row: Mapping[str, Any]) -> str:
    """Conditions that change the meaning of a model's numbers, in words; "" for none."""
    event = row.get("frozen_at")
    if row.get("frozen"):
        verb = "paused" if row["frozen"] == "paused" else "stopped"
        return f"{verb} learning" if event is None else f"{verb} learning at event {count(event)}"
    if event is not None and row["learned"] < _ABSTAINS * row["labels"]:
        learned, labels = count(row["learned"]), count(row["labels"])
        return f"paused learning at event {count(event)} and learned {learned} of {labels} labels"
    share = row.get("answered")
    if abstains(share):
        return f"answered {share * 100:.3g} % of the labels"
    return ""


def best_words(result: Mapping[str, Any]) -> str:
    """The best forecaster by the main metric; "" where none has a number."""
    metric = result["metric"]
    values = {row["name"]: row["scores"].get(metric) for _, row in table_rows(result) if not misleading(row)}
    defined = {name: value for name, value in values.items() if value is not None}
    if not defined:
        return ""
    best = (min if metric in LOWER_IS_BETTER else max)(defined.values())
    names = ", ".join(name for name, value in defined.items() if value == best)
    return f"best by {metric_title(metric)}: {names}"


def labels_words(result: Mapping[str, Any]) -> str:
    """The number of labels scored, by model where they differ."""
    counts = {row["name"]: row.get("labels", result["labels"]) for row in result["models"]}
    if len(set(counts.values())) < 2:
        return count(result["labels"])
    return ", ".join(f"{count(n)} ({name})" for name, n in counts.items())


def best_value(result: Mapping[str, Any], metric: str) -> float | None:
    """The best score among forecasters whose numbers mean the same; None when nothing stands out."""
    scores = [row["scores"].get(metric) for _, row in table_rows(result) if not misleading(row)]
    defined: list[float] = [score for score in scores if score is not None]
    if len(set(defined)) < 2:
        return None
    return min(defined) if metric in LOWER_IS_BETTER else max(defined)

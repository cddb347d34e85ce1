"""The page of a backtest: one HTML file with everything in it, made from the object that `--json` prints.

Invariants:
- The page asks no network for anything: styles, scripts and data are inside, and its Content-Security-Policy
  forbids the rest. Only the two scripts whose hashes the policy names can run.
- Whatever came from outside (names of models, sources, topics) stands in it as text: escaped in the markup,
  and with `<` written as an escape in the data, so that nothing can end a script.
- The plots are those of uPlot 1.6.32 (MIT licence), kept in `page/uplot` as its npm package has them.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

import orjson

from streamlearn.core.metrics import LOWER_IS_BETTER

_COLORS: Final = ("--c0", "--c1", "--c2", "--c3", "--c4", "--c5")
_BASELINE_COLORS: Final = ("--b0", "--b1")
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


def page(result: Mapping[str, Any]) -> str:
    """The HTML of a backtest's result, see `replay.backtest.Result`."""
    room = files("streamlearn.replay").joinpath("page")
    texts = {
        name: room.joinpath(path).read_text("utf-8")
        for name, path in (
            ("page", "backtest.html"),
            ("css", "backtest.css"),
            ("js", "backtest.js"),
            ("uplot_css", "uplot/uPlot.min.css"),
            ("uplot_js", "uplot/uPlot.iife.min.js"),
        )
    }
    metric = title_of(result["metric"])
    return Template(texts.pop("page")).substitute(
        texts,
        title=escape(f"Backtest of {result['source']}"),
        hashes=" ".join(_hash(texts[name]) for name in ("uplot_js", "js")),
        facts=_facts(result),
        warnings="".join(f'<p class="warning">{escape(text)}</p>' for text in result["warnings"]),
        scores_intro=escape(
            "Each answer was scored before its label was learned, over all"
            f" {count(result['labels'])} labels. Baselines answered the same events and learned the same"
            " labels, as late. ↑ higher is better, ↓ lower is better; bold is the best of its column."
        ),
        best=escape(best_words(result)),
        table=_table(result),
        window_intro=escape(f"The {metric} over the newest {count(result['window'])} labels at each moment."),
        pairs_intro=escape(_pairs_intro(result)),
        verdicts=_verdicts([*result.get("no_verdict", ()), *(pair["words"] for pair in result["pairs"])]),
        pair_figures=_pair_figures(result["pairs"]),
        details=_details(result),
        data=orjson.dumps(_plots(result)).decode().replace("<", "\\u003c"),
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


# --- numbers for people -------------------------------------------------------------------------------


def title_of(metric: str) -> str:
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


# --- the parts of the page ----------------------------------------------------------------------------


def _facts(result: Mapping[str, Any]) -> str:
    facts = {
        "Task": result["task"],
        "Events": count(result["events"]),
        "Labels": labels_words(result),
        "Labels come": result["delay"] or "inside their events",
        "Took": f"{result['seconds']:,.1f} s",
    }
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{"".join(rows)}</dl>'


def rows_of(result: Mapping[str, Any]) -> list[tuple[bool, Mapping[str, Any]]]:
    """Models, then baselines: whether it is a model, and it."""
    return [(True, one) for one in result["models"]] + [(False, one) for one in result["baselines"]]


def metrics_of(result: Mapping[str, Any]) -> list[str]:
    """The names of all metrics, the main one first."""
    found = dict.fromkeys([result["metric"]])
    for _, one in rows_of(result):
        found |= dict.fromkeys(one["scores"])
    return list(found)


ABSTAINS: Final = 0.99
"""A model that answered a smaller share of the labels than this left events out."""


def answered_share(span: Mapping[str, Any]) -> float | None:
    """Share of answers by the model, among the labels that a baseline answered (all after the first).
    `span`: numbers by forecaster, as in a scores message. None where answers are not counted.
    """
    counts = [one["answered"] for one in span.values() if isinstance(one, dict) and "answered" in one]
    return counts[0] / max(counts) if counts and max(counts) else None


def misleading(one: Mapping[str, Any]) -> str:
    """What makes a model's numbers mean something else than those beside them, in words; "" for nothing."""
    if one.get("frozen"):
        at = one.get("frozen_at")
        how = "paused" if one["frozen"] == "paused" else "stopped"
        return f"{how} learning" if at is None else f"{how} learning at event {count(at)}"
    at = one.get("frozen_at")
    if at is not None and one["learned"] < ABSTAINS * one["labels"]:
        learned, labels = count(one["learned"]), count(one["labels"])
        return f"paused learning at event {count(at)} and learned {learned} of {labels} labels"
    share = one.get("answered")
    if share is not None and share < ABSTAINS:
        return f"answered {share * 100:.3g} % of the labels"
    return ""


def best_words(result: Mapping[str, Any]) -> str:
    """The best forecaster by the main metric; "" where none has a number."""
    metric = result["metric"]
    values = {one["name"]: one["scores"].get(metric) for _, one in rows_of(result) if not misleading(one)}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return ""
    best = (min if metric in LOWER_IS_BETTER else max)(known.values())
    names = ", ".join(name for name, value in known.items() if value == best)
    return f"best by {title_of(metric)}: {names}"


def labels_words(result: Mapping[str, Any]) -> str:
    """The number of labels scored, by model where they differ."""
    counts = {one["name"]: one.get("labels", result["labels"]) for one in result["models"]}
    if len(set(counts.values())) < 2:
        return count(result["labels"])
    return ", ".join(f"{count(n)} ({name})" for name, n in counts.items())


def best_of(values: Iterable[float | None], metric: str) -> float | None:
    """The best of a column, None when nothing stands out."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return None
    return min(known) if metric in LOWER_IS_BETTER else max(known)


def _table(result: Mapping[str, Any]) -> str:
    rows, metrics = rows_of(result), metrics_of(result)
    fair = [one["scores"] for _, one in rows if not misleading(one)]
    best = {metric: best_of((scores.get(metric) for scores in fair), metric) for metric in metrics}
    heads = [
        f"<th{_main(metric, result)}>{escape(title_of(metric))}"
        f" {'↓' if metric in LOWER_IS_BETTER else '↑'}</th>"
        for metric in metrics
    ]
    heads += ["<th>time<small>per event</small></th>", "<th>model<small>its size</small></th>"]
    heads.append("<th>growth<small>per event</small></th>")
    lines = []
    for n, (model, one) in enumerate(rows):
        odd = misleading(one)
        cells = [_cell(one["scores"].get(m), None if odd else best[m], _main(m, result)) for m in metrics]
        if model:
            growth = one["growth_bytes_per_event"]
            costs = (f"{one['us_per_event']:,.1f} µs", in_bytes(one["model_bytes"]), in_bytes(growth))
        else:
            costs = ("", "", "")
        cells += [f"<td>{cost}</td>" for cost in costs]
        color = _color(model, n if model else n - len(result["models"]))
        # The style of an element from the page's own palette; no text from outside is in it.
        name = f'<span class="swatch" style="background: var({color})"></span>{escape(one["name"])}'
        name += f"<small>{escape(odd)}</small>" if odd else ""
        kind = "model" if model else "baseline"
        lines.append(f'<tr class="{kind}"><th scope="row">{name}</th>{"".join(cells)}</tr>')
    head = f'<thead><tr><th scope="col"></th>{"".join(heads)}</tr></thead>'
    return f'<table class="scores">{head}<tbody>{"".join(lines)}</tbody></table>'


def _main(metric: str, result: Mapping[str, Any]) -> str:
    return ' class="main"' if metric == result["metric"] else ""


def _cell(value: float | None, best: float | None, main: str) -> str:
    if value is not None and value == best:
        main = ' class="main best"' if main else ' class="best"'
    return f"<td{main}>{shown(value)}</td>"


def _pairs_intro(result: Mapping[str, Any]) -> str:
    pairs = result["pairs"]
    if not pairs and result.get("no_verdict"):
        return "There is no comparison answer by answer."
    if not pairs:
        return "There is nothing to compare answer by answer for this task."
    return (
        "The average difference on the same labels so far, in favour of the first one where it is above 0."
        " The band is a 95 % confidence sequence: it may be looked at after every label, and is right at all"
        f" of them at once with that probability ({pairs[0]['method']}). It is about this stream so far, not"
        " about its future; while it holds 0, nothing is decided."
    )


def _verdicts(lines: Sequence[str]) -> str:
    items = (f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="verdicts">{"".join(items)}</ul>' if lines else ""


def _pair_figures(pairs: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        f'<figure data-plot="pair{n}"><h3>{escape(pair["a"])} against {escape(pair["b"])}</h3></figure>'
        for n, pair in enumerate(pairs)
    )


def _details(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"<div>Versions: {escape(versions)}</div>"]
    for one in result["models"]:
        digests = one["digests"]
        lines.append(
            f"<div>{escape(one['name'])}: <code>{escape(one['use'])}</code>, version"
            f" <code>{escape(one['version'])}</code>; digest of its predictions"
            f" <code>{escape(digests['predictions'])}</code>, of its scores messages"
            f" <code>{escape(digests['scores'])}</code></div>"
        )
    return f'<div class="details">{"".join(lines)}</div>'


# --- the plots ----------------------------------------------------------------------------------------


def _color(model: bool, n: int) -> str:
    colors = _COLORS if model else _BASELINE_COLORS
    return colors[n % len(colors)]


def _plots(result: Mapping[str, Any]) -> dict[str, Any]:
    """Data that `backtest.js` draws, by figure."""
    curves, metric = result["curves"], title_of(result["metric"])
    x = {"x": curves["events"], "x_label": "events read", "x_name": "event"}
    models = [
        {"label": name, "color": _color(True, n), "values": values}
        for n, (name, values) in enumerate(curves["models"].items())
    ]
    baselines = [
        {"label": name, "color": _color(False, n), "dash": [6, 4], "values": values}
        for n, (name, values) in enumerate(curves["baselines"].items())
    ]
    costs = [
        {"label": name, "color": _color(True, n), "values": values}
        for n, (name, values) in enumerate(curves["us"].items())
    ]
    plots: dict[str, Any] = {
        "window": x | {"y_label": metric, "unit": "", "series": models + baselines},
        "cost": x | {"y_label": "µs per event", "unit": "µs", "series": costs, "from_zero": True},
    }
    for n, (pair, curve) in enumerate(zip(result["pairs"], curves["pairs"], strict=True)):
        at = next(k for k, one in enumerate(result["models"]) if one["name"] == pair["a"])
        plots[f"pair{n}"] = x | _pair_plot(pair, curve, _color(True, at))
    return plots


def _pair_plot(
    pair: Mapping[str, Any], curve: Mapping[str, Sequence[float | None]], color: str
) -> dict[str, Any]:
    # uPlot fills from the first series of a band down to the second one.
    ends = [
        {"label": f"95 % {name}", "color": color, "fill": True, "values": curve[name]}
        for name in ("high", "low")
    ]
    mean = {"label": "difference", "color": color, "values": curve["mean"]}
    plot = {
        "y_label": f"difference in {title_of(pair['metric'])}, in favour of the first",
        "unit": "",
        "series": [mean, *ends],
    }
    # The first intervals are so wide that nothing else could be seen beside them.
    later = slice(len(curve["low"]) // 5, None)
    lows, highs = ([v for v in curve[name][later] if v is not None] for name in ("low", "high"))
    if lows and highs:
        plot["y"] = [min(lows), max(highs)]
    return plot | {"band": [2, 3], "zero": True}

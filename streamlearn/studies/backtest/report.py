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
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

import orjson

from streamlearn.core.scores.metrics import LOWER_IS_BETTER
from streamlearn.studies.backtest.words import (
    best_value,
    best_words,
    count,
    in_bytes,
    labels_words,
    metric_names,
    metric_title,
    misleading,
    shown,
    table_rows,
)

_COLORS: Final = ("--c0", "--c1", "--c2", "--c3", "--c4", "--c5")
_BASELINE_COLORS: Final = ("--b0", "--b1")


def page(result: Mapping[str, Any]) -> str:
    """The HTML of a backtest's result, as `Backtest.result` gives it."""
    metric = metric_title(result["metric"])
    body = Template(_text("backtest.html")).substitute(
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
    )
    return framed(f"Backtest of {result['source']}", _facts(result), body, _details(result), _plots(result))


def framed(title: str, facts: str, body: str, details: str, plots: Mapping[str, Any]) -> str:
    """A page of the one template. `title` is text; `facts`, `body` and `details` are HTML of ours; `plots`:
    data that `plots.js` draws, by figure.
    """
    texts = {
        "css": _text("page.css"),
        "js": _text("plots.js"),
        "uplot_css": _text("uplot/uPlot.min.css"),
        "uplot_js": _text("uplot/uPlot.iife.min.js"),
    }
    return Template(_text("page.html")).substitute(
        texts,
        title=escape(title),
        hashes=" ".join(_hash(texts[name]) for name in ("uplot_js", "js")),
        facts=facts,
        body=body,
        details=details,
        data=orjson.dumps(plots).decode().replace("<", "\\u003c"),
    )


def _text(name: str) -> str:
    return files("streamlearn.studies.backtest").joinpath("page", name).read_text("utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


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


def _table(result: Mapping[str, Any]) -> str:
    rows, metrics = table_rows(result), metric_names(result)
    best = {metric: best_value(result, metric) for metric in metrics}
    heads = [
        f"<th{_main(metric, result)}>{escape(metric_title(metric))}"
        f" {'↓' if metric in LOWER_IS_BETTER else '↑'}</th>"
        for metric in metrics
    ]
    heads += ["<th>time<small>per event</small></th>", "<th>model<small>its size</small></th>"]
    heads.append("<th>growth<small>per event</small></th>")
    lines = []
    for n, (is_model, row) in enumerate(rows):
        marks = {} if misleading(row) else best
        cells = [_cell(row["scores"].get(m), marks.get(m), _main(m, result)) for m in metrics]
        cells += [f"<td>{cost}</td>" for cost in _costs(is_model, row)]
        color = _color(is_model, n if is_model else n - len(result["models"]))
        kind = "model" if is_model else "baseline"
        lines.append(f'<tr class="{kind}"><th scope="row">{_row_head(row, color)}</th>{"".join(cells)}</tr>')
    head = f'<thead><tr><th scope="col"></th>{"".join(heads)}</tr></thead>'
    return f'<table class="scores">{head}<tbody>{"".join(lines)}</tbody></table>'


def _row_head(row: Mapping[str, Any], color: str) -> str:
    """The name of a model. The style is from the page's own palette; no text from outside is in it."""
    name = f'<span class="swatch" style="background: var({color})"></span>{escape(row["name"])}'
    condition = misleading(row)
    return f"{name}<small>{escape(condition)}</small>" if condition else name


def _costs(is_model: bool, row: Mapping[str, Any]) -> tuple[str, str, str]:
    if not is_model:
        return "", "", ""
    growth = row["growth_bytes_per_event"]
    return f"{row['us_per_event']:,.1f} µs", in_bytes(row["model_bytes"]), in_bytes(growth)


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
    for row in result["models"]:
        digests = row["digests"]
        lines.append(
            f"<div>{escape(row['name'])}: <code>{escape(row['use'])}</code>, version"
            f" <code>{escape(row['version'])}</code>; digest of its predictions"
            f" <code>{escape(digests['predictions'])}</code>, of its scores messages"
            f" <code>{escape(digests['scores'])}</code></div>"
        )
    return f'<div class="details">{"".join(lines)}</div>'


# --- the plots ----------------------------------------------------------------------------------------


def _color(is_model: bool, n: int) -> str:
    colors = _COLORS if is_model else _BASELINE_COLORS
    return colors[n % len(colors)]


def _plots(result: Mapping[str, Any]) -> dict[str, Any]:
    """Data that `plots.js` draws, by figure."""
    curves, metric = result["curves"], metric_title(result["metric"])
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
        index = [row["name"] for row in result["models"]].index(pair["a"])
        plots[f"pair{n}"] = x | _pair_plot(pair, curve, _color(True, index))
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
        "y_label": f"difference in {metric_title(pair['metric'])}, in favour of the first",
        "unit": "",
        "series": [mean, *ends],
    }
    # The first intervals are so wide that nothing else could be seen beside them.
    later = slice(len(curve["low"]) // 5, None)
    lows, highs = ([v for v in curve[name][later] if v is not None] for name in ("low", "high"))
    if lows and highs:
        plot["y"] = [min(lows), max(highs)]
    return plot | {"band": [2, 3], "zero": True}

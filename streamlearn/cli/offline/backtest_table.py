"""The result of a backtest in a terminal: a table of scores, who is better, and what to beware of."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamlearn.core.scores.metrics import LOWER_IS_BETTER
from streamlearn.studies.backtest.words import (
    abstains,
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

_WIDTH = 110


def show(result: dict[str, Any]) -> None:
    """Print it to standard output; what to beware of to standard error."""
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = _WIDTH  # a file or a pipe has no width of its own
    when = f", labels {result['delay']}" if result["delay"] else ""
    out.print(
        Text(
            f"{result['source']}: {result['task']}, {count(result['events'])} events,"
            f" {labels_words(result)} labels{when}, {result['seconds']:.1f} s"
        )
    )
    if words := best_words(result):
        out.print(Text(words))
    out.print(_scores(result), soft_wrap=False)
    for line in (*result["no_verdict"], *(pair["words"] for pair in result["pairs"])):
        out.print(Text(f"  {line}"))
    if any(pair["low"] is not None for pair in result["pairs"]):
        out.print(Text("  [from, to]: 95 % confidence sequence, valid at any time", style="dim"))
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    for text in result["warnings"]:
        if text == result["unscored"]:
            continue  # the error with which the command ends
        err.print(Text(f"warning: {text}", style="yellow"))


def _scores(result: dict[str, Any]) -> Table:
    """A row per score, so that many scores of few models fit; a column per model and baseline."""
    rows = table_rows(result)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=True)
    table.add_column("")
    for model, row in rows:
        name = f"{row['name']}\n({why})" if (why := misleading(row)) else row["name"]
        table.add_column(Text(name), justify="right", style="" if model else "dim", overflow="fold")
    for metric in metric_names(result):
        arrow = "↓" if metric in LOWER_IS_BETTER else "↑"
        best = best_value(result, metric)
        cells = [_cell(row["scores"].get(metric), None if misleading(row) else best) for _, row in rows]
        table.add_row(Text(f"{metric_title(metric)} {arrow}"), *cells)
    table.add_section()
    _add_costs(table, result["models"])
    return table


def _cell(score: float | None, best: float | None) -> Text:
    return Text(shown(score), style="bold" if score is not None and score == best else "")


def _add_costs(table: Table, models: Sequence[Mapping[str, Any]]) -> None:
    """Add the rows that are about models alone: answers left out, time and memory."""
    shares = [row.get("answered") for row in models]
    if any(map(abstains, shares)):
        table.add_row("answered", *("–" if share is None else f"{share * 100:.3g} %" for share in shares))
    table.add_row("time per event", *(f"{row['us_per_event']:.1f} µs" for row in models))
    table.add_row("size of the model", *(in_bytes(row["model_bytes"]) for row in models))
    table.add_row("its growth per event", *(in_bytes(row["growth_bytes_per_event"]) for row in models))

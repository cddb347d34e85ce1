"""`streamlearn backtest`: models side by side over a stream of the past, by the very shard of `serve`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli import common, options, progress
from streamlearn.cli.offline import feeding, source_options
from streamlearn.cli.offline.source_options import SourceOptions
from streamlearn.cli.options import ConfigOptions
from streamlearn.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.label_delay import Delay as Lag
    from streamlearn.history.sources import ReadOptions

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="preset:NAME, my_module:build, river.tree:Class; repeat it to compare. [default: the config's]",
    ),
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots, in one file.")
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under",
        metavar="METRIC=VALUE",
        help="Exit with 3 when a model's score is worse than this; may be repeated.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option("--window", min=10, max=100_000, metavar="N", help="Labels in the window. [default: 1000]"),
]


def backtest(
    *,
    source: source_options.Source,
    models: Models = None,
    delay: feeding.Delay = "",
    window: Window = None,
    html: Html = None,
    fail_under: FailUnder = None,
    table: SourceOptions,
    limit: feeding.Limit = None,
    name: options.Name = None,
    as_json: options.AsJson = False,
    app_dir: options.AppDir = None,
    config: ConfigOptions,
) -> None:
    """Score models on a stream of the past as they would have been live, beside baselines and each other.

    Every answer is given before its label is learned, and the label comes as late as --delay says. With the
    configuration of a service (-c) and topic:NAME of its input, its labels topic is read too, in the order of
    its journal: the predictions and scores are then byte for byte those of the service.
    """
    from streamlearn.history.whole_file import whole_file
    from streamlearn.studies.backtest.report import page

    settings = config.settings(app_name=name, scores_window=window)
    feeding.prepare(settings, app_dir)
    late = feeding.delay_in(delay)
    reading = table.read_options(settings, late is not None, late)
    bars = [_bar(text) for text in fail_under or []]
    if html is not None and not html.resolve().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no such folder")
    with contextlib.ExitStack() as stack:
        if html is not None:  # before an hour of work, which it must not cost
            page_file = stack.enter_context(whole_file(html))
        result = _result(
            settings, models or [settings.model.use], source, reading, (delay, late), limit, bars
        )
        if html is not None:
            page_file.write(page(result).encode())
    _tell(result, as_json, html)
    _check(result, bars)


def _result(
    settings: "Config",
    uses: list[str],
    source: str,
    reading: "ReadOptions",
    delay: "tuple[str, Lag | None]",
    limit: int | None,
    bars: list[tuple[str, float]],
) -> dict[str, Any]:
    """Open the source, make the models, and run."""
    from streamlearn.studies.backtest.backtest import Backtest
    from streamlearn.studies.backtest.setup import BacktestSetup

    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(common.open_admin(settings)) if source.startswith("topic:") else None
        trial = BacktestSetup(common.ENV, settings, source, reading, delay, limit, admin)
        common.note(*trial.notes)
        run = Backtest(common.ENV, trial.candidates(uses))
        for metric, _ in bars:
            if metric not in run.metrics:
                names = ", ".join(run.metrics)
                raise ConfigError(f"--fail-under {metric}: a model for {run.task} has these scores: {names}")
        stop = stack.enter_context(common.stop_on_signal())
        advance = stack.enter_context(progress.bar("backtest", trial.total))
        run.run(trial.records, trial.stream.labels_topic, stop, advance)
        common.note(*trial.remarks())
        return run.result(trial.stream)


def _bar(text: str) -> tuple[str, float]:
    metric, equals, value = text.partition("=")
    try:
        if metric and equals:
            return metric.strip(), float(value)
    except ValueError:
        pass
    raise ConfigError(f"--fail-under {text}: write METRIC=VALUE, for example --fail-under accuracy=0.9")


def _tell(result: dict[str, Any], as_json: bool, html: Path | None) -> None:
    if as_json:
        common.print_json(result)
        return
    from streamlearn.cli.offline.backtest_table import show

    show(result)
    if html is not None:
        common.note(f"the page is in {html}")


def _check(result: dict[str, Any], bars: list[tuple[str, float]]) -> None:
    """Raise `CheckFailed` when nothing was scored, and for models whose scores are worse than asked for."""
    from streamlearn.studies.backtest.words import misleading

    if result["unscored"]:
        raise CheckFailed(result["unscored"])
    if not bars:
        return
    stopped = [model for model in result["models"] if model["frozen_at"] is not None]
    failed = [f"{model['name']} {why}" for model in stopped if (why := misleading(model))]
    failed += filter(None, (_failure(model, *bar) for bar in bars for model in result["models"]))
    if failed:
        raise CheckFailed(f"--fail-under: {'; '.join(failed)}")


def _failure(model: dict[str, Any], metric: str, bar: float) -> str:
    """The words for a model that does not reach a bar; "" for one that does."""
    from streamlearn.core.scores.metrics import is_better

    value = model["scores"][metric]
    if value is None:
        return f"{model['name']} has no {metric}: no label was scored that defines it"
    if is_better(bar, value, metric):
        return f"{model['name']} has {metric} {value:.6g}, which is worse than {bar:g}"
    return ""

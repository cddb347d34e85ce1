"""`streamlearn score`: a fixed model answers a whole source at once, into a file or a topic."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from streamlearn.cli import common, options
from streamlearn.cli.offline import feeding, replay, source_options
from streamlearn.cli.offline.source_options import SourceOptions
from streamlearn.cli.options import ConfigOptions
from streamlearn.errors import ConfigError, Stop

Checkpoint = Annotated[
    str,
    typer.Option("--checkpoint", metavar="CHECKPOINT", help="file:DIR@latest, file:DIR@SEQ or a file."),
]
Out = Annotated[
    str,
    typer.Option(
        "--out", "-o", metavar="FILE", help="FILE.csv is a table; or topic:NAME. [default: standard output]"
    ),
]
_ROWS = 40
"""So many windows of the report are printed at most."""

Window = Annotated[
    int, typer.Option("--window", min=10, max=1_000_000, metavar="N", help="Labels in a row of the report.")
]


def score(
    *,
    source: source_options.Source,
    checkpoint: Checkpoint,
    out: Out = "",
    dead_letters: feeding.DeadLetters = "",
    model: options.Model = None,
    delay: feeding.Delay = "",
    window: Window = 1000,
    table: SourceOptions,
    limit: feeding.Limit = None,
    as_json: options.AsJson = False,
    app_dir: options.AppDir = None,
    config: ConfigOptions,
) -> None:
    """Answer every event of a source with the model of a checkpoint, which learns nothing from them.

    Where there are labels, a report says how good the answers were, window by window beside the baselines,
    and since when they were not. For a model of your own name it with -m or -c, so that its classes load.
    """
    settings = config.settings(model_use=model)
    if as_json and not out:
        raise ConfigError(
            "--json prints the report on standard output: send the predictions to a file with -o"
        )
    feeding.prepare(settings, app_dir)

    from streamlearn.engine.checkpoint_file import model_in, read_saved
    from streamlearn.engine.model import configured_model
    from streamlearn.history.sinks import open_sink
    from streamlearn.service.loading import preset_names
    from streamlearn.studies.score import ScoringJob
    from streamlearn.studies.score import score as answer

    late = feeding.delay_in(delay)
    reading = table.read_options(settings, late is not None, late)
    saved = read_saved(checkpoint, settings.checkpoint.key)
    trusted = preset_names(saved)
    if model or config.config:  # the model is named, so that what it is made of is trusted
        trusted |= configured_model(settings).trusted
    model_in(saved, trusted)
    job = ScoringJob(saved, trusted, settings.event.schema_registry, window)
    to_topic = out.startswith("topic:")
    parts = (reading, late, limit)
    with feeding.open_run("score", settings, source, parts, dead_letters, to_topic) as (run, admin):
        if to_topic and admin is not None:
            replay.need_topic(admin, settings, out.removeprefix("topic:"))
        with _told(out), open_sink(out, admin) as sink:
            report = answer(common.ENV, job, run, sink)
    if as_json:
        common.print_json(report)
    else:
        _tell(report, out, dead_letters)


@contextlib.contextmanager
def _told(out: str) -> Iterator[None]:
    """Adds to a `Stop` what became of the predictions."""
    try:
        yield
    except Stop as error:
        to_topic = out.startswith("topic:")
        left = f"part of the predictions is in {out}" if to_topic else f"{out or 'the rest'} was not written"
        raise Stop(f"{error}: {left}") from error


def _tell(report: dict[str, Any], out: str, dead_letters: str) -> None:
    """The report for a person, on standard error: standard output may hold the predictions."""
    where = out or "standard output"
    common.note(
        f"{report['predictions']:,} predictions of {report['records']:,} records to {where}, in"
        f" {report['seconds']:.1f} s ({report['per_s']:,.0f} a second)"
    )
    refused = 0
    for outcome, count in sorted(report["outcomes"].items()):
        if outcome != "prediction":
            common.note(f"{count:,} records: {outcome}")
            refused += count * outcome.startswith("dlq.")
    if refused:
        fate = f"are in {dead_letters}" if dead_letters else "were left out; --dead-letters FILE keeps them"
        common.note(f"{refused:,} refused records {fate}")
    if report["decay"] is not None:
        _tell_decay(report["decay"])


_MARKS: Final = {True: "", False: "   not better than the best baseline", None: "   cannot be compared"}


def _tell_decay(decay: dict[str, Any]) -> None:
    """Print how good the model was, and since when it has decayed."""
    metric = decay["metric"]
    names = list(decay["all"])
    head = " ".join(f"{name.replace('_', '-'):>10}" for name in names)
    common.note(f"\n{metric} ({'more' if decay['more_is_better'] else 'less'} is better)")
    common.note(f"{'labels':>12} {head}")
    rows = decay["windows"]
    step = -(-len(rows) // _ROWS) or 1
    for row in [row for number, row in enumerate(rows) if number % step == 0 or row is decay["worse_since"]]:
        mark = _MARKS[row["better"]] + (f": {row['why']}" if row["better"] is None else "")
        common.note(f"{row['labels']:>12,} {_cells(row, names)}{mark}")
    if step > 1:
        windows = f"{len(rows):,} windows of {decay['window']:,} labels"
        common.note(f"(every {step}th of {windows}; --json has all)")
    common.note(f"{'all':>12} {_cells(decay['all'], names)}")
    common.note(_verdict(decay))


def _verdict(decay: dict[str, Any]) -> str:
    from streamlearn.studies.backtest.words import abstains

    rows, since, share = decay["windows"], decay["worse_since"], decay["answered"]
    if abstains(share):
        said = f"the model answered {share * 100:.3g} % of the labels"
        return f"no verdict: {said}, and the numbers are of those alone"
    if not rows:
        return f"{decay['labels']:,} labels: too few for one window of {decay['window']:,} (--window)"
    judged = [row for row in rows if row["better"] is not None]
    if not judged:
        return (
            "no window could be compared: either the model or every baseline had no answer in it (baselines"
            " have none before the first label is known), or the number is not defined there"
        )
    if since is None:
        worse = sum(not row["better"] for row in judged)
        but = f", though not in {worse:,} of {len(judged):,} windows" if worse else ", and in every other"
        return f"in the last window that could be compared it was better than each baseline{but}"
    if since is judged[0]:
        return "in no window was the model better than the best baseline"
    first = since["labels"] - decay["window"] + 1
    return (
        f"it stopped being good: from label {first:,} on (record {since['records']:,} ends that window) no"
        " window was better than the best baseline; train it again"
    )


def _cells(scores: dict[str, Any], names: list[str]) -> str:
    """The scores of the forecasters with these names, as columns."""
    return " ".join(map(_number, map(scores.get, names)))


def _number(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:>10.4g}"

"""`streamlearn train`: from history to a checkpoint that `serve --from` begins with."""

import contextlib
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streamlearn.cli import common, options, progress
from streamlearn.cli.offline import feeding, source_options
from streamlearn.cli.offline.source_options import SourceOptions
from streamlearn.cli.options import ConfigOptions

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.label_delay import Delay
    from streamlearn.history.sources import ReadOptions
    from streamlearn.studies.train import Training

Out = Annotated[
    str, typer.Option("--out", "-o", metavar="file:DIR", help="The folder that gets the checkpoint.")
]

_NAMED: Final = 20


def train(
    *,
    source: source_options.Source,
    out: Out,
    model: options.Model = None,
    delay: feeding.Delay = "",
    table: SourceOptions,
    limit: feeding.Limit = None,
    dead_letters: feeding.DeadLetters = "",
    name: options.Name = None,
    as_json: options.AsJson = False,
    app_dir: options.AppDir = None,
    config: ConfigOptions,
) -> None:
    """Learn from a source of the past, in its order, and save the state as a checkpoint.

    Each event is predicted and then learned, by the code of `serve`; `serve --from file:DIR@latest` goes on
    from there. Use the configuration of that service (-c), so that the model is the same.
    """
    settings = config.settings(app_name=name, model_use=model)
    feeding.prepare(settings, app_dir)
    late = feeding.delay_in(delay)
    reading = table.read_options(settings, late is not None, late)
    done = _train(settings, source, reading, (out, dead_letters), late, limit)
    if as_json:
        common.print_json(done._asdict())
        return
    print(f"learned {done.learned:,} of {done.events:,} events with {done.model} {done.version}")
    _tell_rest(done, dead_letters)
    print(f"saved as {done.checkpoint}; begin with it: streamlearn serve --from {done.checkpoint}")


def _tell_rest(done: "Training", dead_letters: str) -> None:
    """Say why records were not learned, and what to do."""
    from streamlearn.core.events.event import REASONS

    for outcome, count in sorted(done.outcomes.items()):
        if outcome.startswith("dlq."):
            common.note(f"{count:,} records: {outcome}: {REASONS[outcome.rpartition('.')[2]]}")
        elif outcome not in ("prediction", "label.joined"):
            common.note(f"{count:,} records: {outcome}")
    if any(outcome.startswith("dlq.") for outcome in done.outcomes):
        common.note(f"they are in {dead_letters}" if dead_letters else "--dead-letters FILE keeps them")
    unlabelled = done.outcomes.get("prediction", 0) - done.learned
    if unlabelled > 0:
        common.note(
            f"{unlabelled:,} events were answered and not learned: no label for them was there, or learning"
            " stood still"
        )
    if done.withheld:
        common.note(
            f"the model does without {', '.join(done.withheld[:_NAMED])}: it saw these names with values of"
            " another type first, or raised at their texts; declare what they are in [event] types, or mend"
            " the source"
        )


def _train(
    settings: "Config",
    source: str,
    reading: "ReadOptions",
    outs: tuple[str, str],
    delay: "Delay | None",
    limit: int | None,
) -> "Training":
    from streamlearn.engine.checkpoint_file import folder_of
    from streamlearn.engine.model import configured_model
    from streamlearn.history.sinks import Letters, open_sink
    from streamlearn.studies.train import train as run

    out, dead_letters = outs
    folder_of(out)
    fresh = configured_model(settings)
    with contextlib.ExitStack() as stack:
        feed, _ = stack.enter_context(feeding.feed_of(settings, source, reading, delay, limit))
        stop = stack.enter_context(common.stop_on_signal())
        advance = stack.enter_context(progress.bar("train", feed.total))
        letters = Letters(stack.enter_context(open_sink(dead_letters, None))) if dead_letters else None
        return run(common.ENV, settings, fresh, feed, out, stop, advance, letters)

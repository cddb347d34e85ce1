"""`streamlearn train`: from history to a checkpoint that `serve --from` begins with."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from streamlearn.cli import common, options
from streamlearn.cli.offline import feeding, source_options
from streamlearn.cli.offline.source_options import SourceOptions
from streamlearn.cli.options import ConfigOptions

if TYPE_CHECKING:
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

    from streamlearn.engine.checkpoint_file import trained_folder
    from streamlearn.engine.model import configured_model
    from streamlearn.studies.train import train as learn

    late = feeding.delay_in(delay)
    reading = table.read_options(settings, late is not None, late)
    trained_folder(out)
    template = configured_model(settings)
    with feeding.open_run("train", settings, source, (reading, late, limit), dead_letters) as (run, _):
        result = learn(common.ENV, settings, template, run, out)
    if as_json:
        common.print_json(result._asdict())
        return
    print(f"learned {result.learned:,} of {result.events:,} events with {result.model} {result.version}")
    _tell_rest(result, dead_letters)
    print(f"saved as {result.checkpoint}; begin with it: streamlearn serve --from {result.checkpoint}")


def _tell_rest(result: "Training", dead_letters: str) -> None:
    """Say why records were not learned, and what to do."""
    from streamlearn.core.events.event import REASONS

    for outcome, count in sorted(result.outcomes.items()):
        if outcome.startswith("dlq."):
            common.note(f"{count:,} records: {outcome}: {REASONS[outcome.rpartition('.')[2]]}")
        elif outcome not in ("prediction", "label.joined"):
            common.note(f"{count:,} records: {outcome}")
    if any(outcome.startswith("dlq.") for outcome in result.outcomes):
        common.note(f"they are in {dead_letters}" if dead_letters else "--dead-letters FILE keeps them")
    unlabelled = result.outcomes.get("prediction", 0) - result.learned
    if unlabelled > 0:
        common.note(
            f"{unlabelled:,} events were answered and not learned: no label for them was there, or learning"
            " stood still"
        )
    if result.withheld:
        common.note(
            f"the model does without {', '.join(result.withheld[:_NAMED])}: it saw these names with values of"
            " another type first, or raised at their texts; declare what they are in [event] types, or mend"
            " the source"
        )

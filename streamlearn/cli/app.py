"""The table of commands. Each command's module imports what it needs when it runs."""

from typing import Any

import typer
from typer.core import TyperGroup

from streamlearn.cli import demo, options, show, streams
from streamlearn.cli.log import data, dlq, topics
from streamlearn.cli.offline import backtest, look, replay, score, train
from streamlearn.cli.service import adopt, checkpoints, control, explain, reset, scores, serve


class Commands(TyperGroup):
    """The commands; a pipe that its reader has closed is told before typer makes a failure of it."""

    def make_context(self, *words: Any, **more: Any) -> Any:
        """As `TyperGroup.make_context`, which prints the help. Raises `streams.ClosedPipe`."""
        try:
            return super().make_context(*words, **more)
        except BrokenPipeError as error:
            raise streams.ClosedPipe from error

    def invoke(self, ctx: Any) -> Any:
        """As `TyperGroup.invoke`. Raises `streams.ClosedPipe`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise streams.ClosedPipe from error


app = typer.Typer(
    cls=Commands,
    name="streamlearn",
    help="Models that keep learning on a live stream, and can be trusted with it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
options.register(app, short_help="See it learn, be killed, and come back.")(demo.demo)
options.register(app, short_help="Read events, predict, learn, publish.")(serve.serve)
options.register(app, short_help="See what data are there, and propose a configuration.")(look.look)
options.register(app, short_help="Send a stream of the past to a topic.")(replay.replay)
options.register(app, short_help="What was known when a prediction was made.")(explain.explain)
options.register(app, short_help="How good a service is, beside the baselines.")(scores.scores)
options.register(app, short_help="Learn from the past, for `serve --from`.")(train.train)
options.register(app, short_help="Answer a whole source with a fixed model.")(score.score)
options.register(app, short_help="Score models on a stream of the past, side by side.")(backtest.backtest)
options.register(app, short_help="Write a range of a topic to a file.")(data.record)
options.register(app, short_help="Print what is in a topic.")(data.tail)
options.register(app, short_help="Make or check the topics of a service.")(topics.topics)
options.register(app, short_help="Begin a new journal where an old one ends.")(reset.reset)
options.register(app, short_help="Go on with topics of a moved cluster.")(adopt.adopt)
app.add_typer(checkpoints.app, name="checkpoints", short_help="List, inspect and verify saved states.")
app.add_typer(control.app, name="control", short_help="Send a command to a service.")
app.add_typer(dlq.app, name="dlq", short_help="List, show and retry dead letters.")
app.add_typer(show.app, name="config", short_help="Show the configuration, or a template.")
options.register(app, short_help="What is installed.")(show.version)

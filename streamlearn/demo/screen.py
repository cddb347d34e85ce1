"""The demo's progress on standard error: a live table on a terminal, else a few lines."""

import sys
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from streamlearn.env import Env

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from streamlearn.demo.score import Score

ROWS: Final = {"model": "model", "no_change": "no-change baseline", "prior": "prior baseline"}
_LIVE_S: Final = 0.1
_PLAIN_S: Final = 2.0


class Progress(NamedTuple):
    """Position in the stream; `per_s` predictions a second lately, `scores` of the first `scored` events."""

    events: int
    total: int
    predictions: int
    per_s: float
    scored: int
    scores: "dict[str, Score]"


class Screen:
    """Use it as a context. On anything but a terminal it prints a line now and then."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._live: Live | None = None
        self._shown_s = 0.0
        if sys.stderr.isatty():
            from rich import live
            from rich.console import Console

            self._live = live.Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def due(self) -> bool:
        """True when it is time for new numbers."""
        return self._env.monotonic() - self._shown_s >= (_PLAIN_S if self._live is None else _LIVE_S)

    def show(self, progress: Progress) -> None:
        """Show new numbers."""
        self._shown_s = self._env.monotonic()
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
        elif progress.scored > 1:
            kappas = ", ".join(f"{title} {progress.scores[name].kappa:z.3f}" for name, title in ROWS.items())
            print(f"{_counts(progress)}; kappa: {kappas}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Say what happens now."""
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._live.console.print(text, highlight=False)

    def _table(self, progress: Progress) -> "Group":
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table(box=box.SIMPLE)
        table.add_column(f"first {progress.scored:,} events", min_width=20)
        table.add_column("accuracy", justify="right")
        table.add_column("kappa", justify="right")
        for name, title in ROWS.items():
            accuracy, kappa = progress.scores[name]
            table.add_row(title, f"{accuracy:.3f}", f"{kappa:z.3f}", style="bold" if name == "model" else "")
        return Group(_counts(progress), table)


def _counts(progress: Progress) -> str:
    return (
        f"events {progress.events:,} of {progress.total:,}, predictions {progress.predictions:,},"
        f" {progress.per_s:,.0f} events/s"
    )

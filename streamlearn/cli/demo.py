"""`streamlearn demo`: run it, and say what was checked."""

import sys
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from streamlearn.cli import common, options
from streamlearn.errors import CheckFailed

if TYPE_CHECKING:
    from streamlearn.demo.run import Report

INTERRUPTED = 130


def demo(
    *,
    limit: Annotated[
        int | None, typer.Option(min=100, metavar="N", help="Only the first N of the 49,097 events.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """See a model learn, be killed, and come back: no broker, some ten seconds, nothing left behind.

    Exit 3 when a prediction was lost, repeated, or differs from a plain river loop.
    """
    from streamlearn.demo.run import Interrupted, run

    with common.stop_on_signal() as stop:
        try:
            report = run(common.ENV, limit, stop)
        except Interrupted:
            common.note("interrupted; the worker is gone and its folder removed")
            raise typer.Exit(INTERRUPTED) from None
    _print(report, sys.stderr if as_json else sys.stdout)
    if as_json:
        common.print_json(report.as_json())
    if not report.holds:
        raise CheckFailed("the service did not keep its guarantee: see lost, repeated and different")


def _print(report: "Report", out: TextIO) -> None:
    from streamlearn.demo.screen import ROWS

    moment = "inside its open transaction" if report.killed_in_transaction else "between two transactions"
    lines = {
        "events in": f"{report.events:,}",
        "predictions out": f"{report.predictions:,}",
        "lost": f"{report.lost:,}",
        "repeated": f"{report.repeated:,}",
        "different": f"{report.different:,}   (bit for bit, from a plain river loop)",
        "killed": f"after {report.killed_at:,} predictions, {moment}",
        "recovered": f"{report.recovery_s:.1f} s from the kill to the next prediction",
    }
    for name, text in lines.items():
        print(f"{name:<20}{text}", file=out)
    for name, title in ROWS.items():
        accuracy, kappa = report.scores[name]
        print(f"{title:<20}accuracy {accuracy:.3f}   kappa {kappa:z.3f}", file=out)
    print(f"{'took':<20}{report.seconds:.1f} s", file=out, flush=True)

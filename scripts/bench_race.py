"""`scripts/bench race`: streamlearn beside bare river and its peers, in one run, in turns.

Every round starts each runner anew, in turns forwards and backwards; the quietest round counts, for wall time
and for CPU over all threads, because others can only disturb upwards. Each runner's last answer is compared
with the bare loop's: a runner that answers otherwise is a failure, no figure.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench_page
import bench_venvs
from bench_kafka import BenchKafka
from bench_models import MODELS, same_answer
from bench_runners import OURS, RUNNERS, Heat, Measured, RunnerFailedError, heat

QUICK = ("bare", "model", "core", "embedded", "kafka-python", "confluent", "naive")
"""The runners of models that the others are not asked for: a race of all takes an hour."""
FULL = ("scaler|logistic", "HoeffdingTree")

Rounds = dict[str, list[Measured]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `race`, `stages` and `latency`."""
    parser.add_argument("--models", default="", help=f"some of {', '.join(MODELS)}; default: all")
    parser.add_argument(
        "--runners",
        default="",
        help=f"some of {', '.join(RUNNERS)}, or all; default: all for {' and '.join(FULL)}, for others "
        f"{', '.join(QUICK)}",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=0, help="at most so many of each model")
    parser.add_argument(
        "--limit", type=float, default=180.0, help="seconds that a round of a runner may take"
    )
    parser.add_argument("--cache", type=Path, default=bench_venvs.default_cache(), help="of the peers' venvs")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write table and picture into this folder")


def chosen(words: str, of: Sequence[str], default: Sequence[str]) -> list[str]:
    """The names in a list with commas. Ends the program at an unknown one."""
    names = [word.strip() for word in words.split(",") if word.strip()] or list(default)
    names = list(of) if names == ["all"] else names
    for name in names:
        if name not in of:
            sys.exit(f"bench: there is no {name!r}; there are {', '.join(of)}")
    return names


@contextmanager
def a_broker(is_needed: bool) -> Iterator[BenchKafka | None]:
    """The broker at $STREAMLEARN_TEST_KAFKA, else one that `scripts/kafka` starts here; None without any."""
    import os

    from checks import BROKER_VARIABLE, broker

    if not is_needed:
        yield None
        return
    with broker():
        address = os.environ.get(BROKER_VARIABLE)
        yield BenchKafka(address) if address else None


def race(args: argparse.Namespace) -> dict[str, Any]:
    """Run it; the result of each model, by name."""
    raced: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    models = chosen(args.models, list(MODELS), list(MODELS))
    runners = {name: _runners(args.runners, name) for name in models}
    with a_broker(any(RUNNERS[one].needs_kafka for names in runners.values() for one in names)) as kafka:
        for name in models:
            here = ready(runners[name], kafka, args.cache, left_out)
            count = min(args.events or MODELS[name].events, MODELS[name].events)
            with (
                tempfile.TemporaryDirectory() as folder,
                heat(Path(folder), args.cache, name, count, kafka, args.limit) as made,
            ):
                rounds = _raced(made, here, args.rounds, left_out)
                raced[name] = {
                    "machine": bench_page.machine(),
                    "rounds": args.rounds,
                    "events": count,
                    "runners": _summary(rounds),
                    "left_out": {
                        runner: left_out.get(runner) or left_out[f"{runner} on {name}"]
                        for runner in runners[name]
                        if runner not in rounds
                    },
                }
    peers = {peer: bench_venvs.versions(peer) for peer in bench_venvs.PINS}
    return {"models": raced, "peers": peers}


def _runners(words: str, model: str) -> list[str]:
    names = chosen(words, list(RUNNERS), list(RUNNERS) if model in FULL else QUICK)
    return [name for name in RUNNERS if name in {"bare", "model", *names}]  # all figures are beside these


def ready(names: Sequence[str], kafka: BenchKafka | None, cache: Path, left_out: dict[str, str]) -> list[str]:
    """Those that can run here; why the others cannot is said and noted."""
    ready = []
    for name in names:
        runner = RUNNERS[name]
        why = left_out.get(name, "")
        if not why and runner.needs_kafka and kafka is None:
            why = "there is no broker"
        why = why or runner.missing(cache)
        if why:
            if name not in left_out:
                print(f"bench: {runner.title} is left out: {why}", file=sys.stderr)
            left_out[name] = why
        else:
            ready.append(name)
    return ready


def _raced(made: Heat, names: list[str], rounds: int, left_out: dict[str, str]) -> Rounds:
    """All rounds of one model. A peer that fails is left out from there on; ours must not fail."""
    found: Rounds = {name: [] for name in names}
    for number in range(rounds):
        for name in [names[0], *names[1:][:: -1 if number % 2 else 1]]:
            if f"{name} on {made.name}" in left_out:
                continue
            try:
                measured = RUNNERS[name].run(made, number)
                _check(made, name, measured)
            except RunnerFailedError as error:
                if name in (*OURS, "bare", "model"):
                    raise
                print(f"bench: {name} on {made.name} is left out: {error}", file=sys.stderr)
                left_out[f"{name} on {made.name}"] = str(error).splitlines()[0]
                del found[name]
                continue
            found[name].append(measured)
            print(
                f"{made.name} round {number + 1}: {name:13} wall {measured.wall_us:8.1f}  "
                f"cpu {measured.cpu_us:8.1f} us/event over {measured.events:,}",
                file=sys.stderr,
                flush=True,
            )
    return found


def _check(made: Heat, name: str, measured: Measured) -> None:
    """Raise unless the last answer is the bare loop's."""
    if measured.answer_offset < 0:
        return
    expected = (made.folder / f"answer-{measured.answer_offset}").read_bytes()
    if not same_answer(expected, measured.answer):
        raise RunnerFailedError(
            f"{name} answered {measured.answer.decode(errors='replace')}, the bare loop {expected.decode()}"
        )


def _summary(rounds: Rounds) -> dict[str, dict[str, float]]:
    """The quietest of each runner, its ratio to bare, and its CPU beyond the model code."""
    bare_wall = min(one.wall_us for one in rounds["bare"])
    bare_cpu = min(one.cpu_us for one in rounds["bare"])
    model_cpu = min(one.cpu_us for one in rounds["model"])
    summary = {}
    for name, measured in rounds.items():
        wall, cpu = min(one.wall_us for one in measured), min(one.cpu_us for one in measured)
        summary[name] = {
            "wall_us": round(wall, 2),
            "cpu_us": round(cpu, 2),
            "wall_ratio": round(wall / bare_wall, 3),
            "cpu_ratio": round(cpu / bare_cpu, 3),
            "over_model_us": round(cpu - model_cpu, 2),
            "worst_wall_us": round(max(one.wall_us for one in measured), 2),
            "events": max(one.events for one in measured),
            "rounds": len(measured),
        }
    return summary


def command(words: list[str]) -> None:
    """`scripts/bench race`."""
    parser = argparse.ArgumentParser(prog="scripts/bench race", description=__doc__)
    arguments(parser)
    args = parser.parse_args(words)
    result = race(args)
    bench_page.deliver("race", result, args)

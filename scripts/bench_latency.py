"""`scripts/bench latency`: from an event's production to the moment when a reader outside has its prediction.

Events come at a steady rate through the real broker; the reader is read committed. Both are in this process,
so there is one clock. The first seconds are not counted; the rounds take turns, and the quietest of each
runner, by its median, counts.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_page
import orjson
from bench_app import events, stop
from bench_kafka import BenchKafka
from bench_models import MODELS
from bench_race import a_broker, arguments, chosen, ready
from bench_runners import RUNNERS, Heat, Peer, RunnerFailedError, Service

DEFAULT = ("kafka-python", "confluent", "naive")
MODEL = "scaler|logistic"
WARM_S = 3.0
START_S = 60.0


class Delays:
    """The delays of events whose predictions came, by the numbers in their ids."""

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last)
        self.sent_s: dict[int, float] = {}
        self.delays_ms: dict[int, float] = {}

    def received(self, value: bytes, now_s: float) -> None:
        number = int(orjson.loads(value)["id"][1:])
        if number in self._range:
            self.delays_ms.setdefault(number, (now_s - self.sent_s[number]) * 1e3)

    @property
    def is_whole(self) -> bool:
        return len(self.delays_ms) == len(self._range)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def measured(made: Heat, kafka: BenchKafka, name: str, number: int, rate: float, count: int) -> list[float]:
    """One round: the delays in milliseconds of `count` events, after those of `WARM_S`."""
    runner = RUNNERS[name]
    source = f"{made.topic}-{name}-{number}"
    made = made._replace(topic=source)
    kafka.create(source)
    if isinstance(runner, Service):
        app = runner.app(made, number, **{"app.name": f"{source}-app"})
        process, target = app.serve(), app.predictions
    else:
        assert isinstance(runner, Peer)
        target = f"{source}-out"
        kafka.create(target)
        process = runner.start(made, f"{source}-group", target)
    warm = int(WARM_S * rate)
    delays = Delays(warm, warm + count)
    try:
        _answers_first(kafka, source, target, process)
        _exchange(kafka, source, target, delays, rate, warm + count)
    finally:
        if isinstance(runner, Service):
            stop(process)
        else:
            process.kill()
            process.wait()
        kafka.delete(source)
    return [*delays.delays_ms.values()]


def _answers_first(kafka: BenchKafka, source: str, target: str, process: Any) -> None:
    """Wait until a first event is answered: then the runner stands."""
    event = orjson.loads(next(events(1, seed=2)))
    kafka.fill(source, [orjson.dumps(event | {"id": "e999999999"})])
    outputs = kafka.outputs(target)
    until_s = time.monotonic() + START_S
    try:
        while not [*outputs.read(0.1)]:
            if process.poll() is not None or time.monotonic() > until_s:
                raise RunnerFailedError("it did not answer its first event")
    finally:
        outputs.close()


def _exchange(kafka: BenchKafka, source: str, target: str, delays: Delays, rate: float, count: int) -> None:
    """Send all events at the rate, and note when their predictions come."""
    values = [*events(count, seed=1)]
    producer = kafka.producer(**{"linger.ms": 0})

    def send() -> None:
        began_s = time.monotonic()
        for number, value in enumerate(values):
            due_s = began_s + number / rate
            if (left_s := due_s - time.monotonic()) > 0:
                time.sleep(left_s)
            delays.sent_s[number] = time.monotonic()
            producer.produce(source, value, partition=0)
            producer.poll(0)
        producer.flush(START_S)

    sender = threading.Thread(target=send, daemon=True)
    outputs = kafka.outputs(target)
    until_s = time.monotonic() + count / rate + START_S
    sender.start()
    try:
        while not delays.is_whole:
            for value in outputs.read(0.1):
                delays.received(value, time.monotonic())
            if time.monotonic() > until_s:
                raise RunnerFailedError(f"only {len(delays.delays_ms)} predictions of {count} came in time")
    finally:
        outputs.close()
        sender.join(START_S)


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """Run it: p50 and p99 of each runner."""
    names = [name for name in chosen(args.runners, list(RUNNERS), DEFAULT) if RUNNERS[name].needs_kafka]
    count = args.events or int(10 * args.rate)
    left_out: dict[str, str] = {}
    rounds: dict[str, list[list[float]]] = {}
    with a_broker(True) as kafka, tempfile.TemporaryDirectory() as folder:
        names = ready(names, kafka, args.cache, left_out)
        assert kafka is not None or not names
        for number in range(args.rounds):
            for name in names[:: -1 if number % 2 else 1]:
                file = Path(folder)
                made = Heat(file, args.cache, MODEL, MODELS[MODEL], count, file, kafka, _prefix(), args.limit)
                found = measured(made, kafka, name, number, args.rate, count)
                rounds.setdefault(name, []).append(found)
                print(
                    f"round {number + 1}: {name:13} p50 {percentile(found, 0.5):.1f}, "
                    f"p99 {percentile(found, 0.99):.1f} ms",
                    file=sys.stderr,
                    flush=True,
                )
    return {
        "machine": bench_page.machine(),
        "rate": args.rate,
        "rounds": args.rounds,
        "runners": {name: _quietest(rounds[name]) for name in names},
        "left_out": left_out,
    }


def _prefix() -> str:
    return f"bench-{time.time_ns()}"


def _quietest(rounds: list[list[float]]) -> dict[str, float]:
    best = min(rounds, key=lambda found: percentile(found, 0.5))
    return {
        "p50_ms": round(percentile(best, 0.5), 2),
        "p99_ms": round(percentile(best, 0.99), 2),
        "events": len(best),
    }


def command(words: list[str]) -> None:
    """`scripts/bench latency`."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency", description=__doc__)
    arguments(parser)
    parser.add_argument("--rate", type=float, default=500.0, help="events per second")
    args = parser.parse_args(words)
    result = latency(args)
    bench_page.deliver("latency", result, args)

"""`scripts/bench stages`: the CPU of each stage of an event in the real service, and Python calls per event.

Each service runs with the sampler of `bench_sampler.py` inside, between the same marks as in a race. The
shares of the stages are those of all rounds together; they are shares of the quietest round's CPU. Calls are
counted in the core alone (records to output bytes, no log), streamlearn's own without those of a preset's
parts: river's own are not among them.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import bench_page
from bench_app import events
from bench_models import MODELS
from bench_peers.memory import core
from bench_race import a_broker, arguments, chosen, ready
from bench_runners import RUNNERS, Heat, Service, heat
from bench_sampler import PACKAGE, module_name
from bench_stage_map import STAGES

SERVICES = ("embedded", "kafka-python", "confluent")
WARM, COUNTED = 3_000, 2_000
"""Events that are stepped before calls are counted, and those that are; both hold two messages of scores."""


def sampled(made: Heat, name: str, number: int) -> tuple[int, dict[str, Any]]:
    """One round of a service: the number of events, and what its sampler has written."""
    service = RUNNERS[name]
    assert isinstance(service, Service)
    file = made.folder / f"stages-{name}-{number}.json"
    signals = iter((signal.SIGUSR1, signal.SIGUSR2))

    def at_mark(pid: int) -> None:
        os.kill(pid, next(signals))

    script = Path(__file__).with_name("bench_sampler.py")
    measured = service.run(made, number, str(script), str(file), at_mark=at_mark)
    return measured.events, json.loads(file.read_text())


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Run it: by service and model the microseconds of each stage; calls by model."""
    models = chosen(args.models, list(MODELS), ["scaler|logistic"])
    names = chosen(args.runners, SERVICES, SERVICES)
    left_out: dict[str, str] = {}
    runs: dict[str, Any] = {}
    with a_broker(any(RUNNERS[name].needs_kafka for name in names)) as kafka:
        names = ready(names, kafka, args.cache, left_out)
        for model in models:
            count = min(args.events or MODELS[model].events, MODELS[model].events)
            with (
                tempfile.TemporaryDirectory() as folder,
                heat(Path(folder), args.cache, model, count, kafka, args.limit) as made,
            ):
                for name in names:
                    rounds = [sampled(made, name, number) for number in range(args.rounds)]
                    label = name if len(models) == 1 else f"{model}, {name}"
                    runs[label] = _pooled(rounds)
                    print(f"{label}: {runs[label]['cpu_us']} us/event", file=sys.stderr, flush=True)
    return {
        "machine": bench_page.machine(),
        "rounds": args.rounds,
        "models": models,
        "runs": runs,
        "calls": {model: calls(model) for model in models},
        "left_out": left_out,
    }


def _pooled(rounds: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Shares over all rounds, of the quietest round's CPU per event."""
    stages_us: Counter[str] = Counter()
    functions_us: Counter[str] = Counter()
    quietest_us = float("inf")
    for count, found in rounds:
        own = Counter(found["stages_us"])
        own["other"] += found["native_us"]
        stages_us.update(own)
        functions_us.update(found["functions_us"])
        quietest_us = min(quietest_us, own.total() / count)
    scale = quietest_us / stages_us.total()
    return {
        "cpu_us": round(quietest_us, 2),
        "stages": {name: round(stages_us[name] * scale, 2) for name in STAGES},
        "functions": {name: round(us * scale, 2) for name, us in functions_us.most_common(40)},
        "samples": sum(found["samples"] for _, found in rounds),
    }


def calls(name: str) -> dict[str, Any]:
    """Calls of streamlearn's own Python functions per event, in the core."""
    model = MODELS[name]
    values = [*events(WARM + COUNTED, seed=1, task=model.task)]
    work = core(model, values, {})
    work(0, WARM)
    counted: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code.co_filename.startswith("<fused "):  # code that streamlearn has generated
            counted[f"generated:{code.co_filename}"] += 1
        elif code.co_filename.startswith(PACKAGE):
            counted[f"{module_name(code.co_filename)}:{code.co_name}"] += 1

    sys.setprofile(note)
    try:
        work(WARM, WARM + COUNTED)
    finally:
        sys.setprofile(None)
    own = {words: number for words, number in counted.items() if not words.startswith("features.")}
    by_function = {words: round(number / COUNTED, 3) for words, number in Counter(own).most_common(60)}
    return {"per_event": round(sum(own.values()) / COUNTED, 2), "functions": by_function}


def command(words: list[str]) -> None:
    """`scripts/bench stages`."""
    parser = argparse.ArgumentParser(prog="scripts/bench stages", description=__doc__)
    arguments(parser)
    args = parser.parse_args(words)
    result = stages(args)
    bench_page.deliver("stages", result, args)

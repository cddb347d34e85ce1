"""A runner without a log: `bare` (river and orjson), `model` (predict and learn alone), `core` (the shard).

    memory.py MODE VALUES MODEL FIRST LAST     prints {"wall_us", "cpu_us", "answers"} of events FIRST to LAST

`core` is the pure function of the service with its scores, records to output bytes, in batches of 1,000.
`answers`: of `bare`, the predictions at the offsets that are asked for with --answer N.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_models import MODELS, BenchModel, answerer, built, model_step

BATCH = 1_000

Work = Callable[[int, int], None]
"""The work on the events from one offset to another."""


def bare(model: BenchModel, values: list[bytes], answers: dict[int, str]) -> Work:
    answer = answerer(built(model.source), model.task, "events")

    def work(first: int, last: int) -> None:
        for offset in range(first, last):
            value = answer(values[offset], offset)
            if offset in answers:
                answers[offset] = value.decode()

    return work


def model_alone(model: BenchModel, values: list[bytes], _answers: dict[int, str]) -> Work:
    rows = [(event["features"], event["label"]) for event in map(orjson.loads, values)]
    step = model_step(built(model.source), model.task)

    def work(first: int, last: int) -> None:
        for x, y in rows[first:last]:
            step(x, y)

    return work


def core(model: BenchModel, values: list[bytes], _answers: dict[int, str]) -> Work:
    from streamlearn.core.records import Output, Record
    from streamlearn.core.scores.scores import ScoresSpec
    from streamlearn.core.shard.snapshot import fresh_state, load_state
    from streamlearn.core.shard.state import ShardSpec
    from streamlearn.engine.driver import ShardDriver
    from streamlearn.engine.model import model_template

    template = model_template("bench_model:build", "", {}, [], built(model.source), 1)
    spec = ShardSpec(template.name, template.version, 1, scores=ScoresSpec())
    driver = ShardDriver(
        load_state(spec, fresh_state(template.pickled), template.trusted), None, time.monotonic
    )
    driver.accelerate()  # as the service does
    records = [Record("events", 0, n, 1_795_000_000_000 + n, None, value) for n, value in enumerate(values)]

    def work(first: int, last: int) -> None:
        for at in range(first, last, BATCH):
            outputs: list[Output] = []
            end = min(at + BATCH, last)
            index = at
            while index < end:
                index, failure = driver.run(records, index, end, outputs)
                assert failure is None, failure
            driver.advance()

    return work


MODES = {"bare": bare, "model": model_alone, "core": core}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=list(MODES))
    parser.add_argument("values", type=Path)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--answer", type=int, action="append", default=[])
    args = parser.parse_args()
    values = args.values.read_bytes().splitlines()[: args.last]
    answers: dict[int, str] = dict.fromkeys(args.answer, "")
    work = MODES[args.mode](MODELS[args.model], values, answers)
    gc.collect()
    gc.freeze()  # The events of the whole run must not cost the loop any collections.
    work(0, args.first)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work(args.first, args.last)
    count = args.last - args.first
    found = {
        "wall_us": (time.perf_counter() - wall_s) / count * 1e6,
        "cpu_us": (time.process_time() - cpu_s) / count * 1e6,
        "answers": answers,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

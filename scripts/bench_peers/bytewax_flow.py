"""Bytewax, Kafka in and out, the model in memory, no recovery: outputs repeat after a crash.

bytewax_flow.py BROKER INPUT OUTPUT MODEL
"""

import sys
from pathlib import Path

from bytewax import operators
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kafka
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_models import MODELS, answerer, built


def main(broker: str, source: str, target: str, name: str) -> None:
    answer = answerer(built(MODELS[name].source), MODELS[name].task, source)
    flow = Dataflow("bench")
    events = kafka.input("events", flow, brokers=[broker], topics=[source])
    answers = operators.map(
        "answer", events.oks, lambda event: KafkaSinkMessage(None, answer(event.value, event.offset))
    )
    kafka.output("answers", answers, brokers=[broker], topic=target)
    run_main(flow)


if __name__ == "__main__":
    main(*sys.argv[1:])

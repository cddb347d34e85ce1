"""The loop that everybody writes first: kafka-python, offsets committed after each poll; outputs may repeat.

naive.py BROKER INPUT OUTPUT GROUP MODEL
"""

import sys
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_models import MODELS, answerer, built


def main(broker: str, source: str, target: str, group: str, name: str) -> None:
    answer = answerer(built(MODELS[name].source), MODELS[name].task, source)
    consumer = KafkaConsumer(
        source,
        bootstrap_servers=broker,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = KafkaProducer(bootstrap_servers=broker)
    while True:
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                producer.send(target, answer(record.value, record.offset))
            producer.flush()
            consumer.commit()


if __name__ == "__main__":
    main(*sys.argv[1:])

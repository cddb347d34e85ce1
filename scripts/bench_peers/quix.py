"""Quix Streams, exactly once, with the model in memory (wrong after a crash) or pickled in its State.

quix.py BROKER INPUT OUTPUT GROUP MODEL COMMIT_S memory|state FOLDER
"""

import pickle
import sys
from pathlib import Path
from typing import Any

from quixstreams import Application, message_context

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_models import MODELS, answerer, built


def main(
    broker: str, source: str, target: str, group: str, name: str, commit_s: str, where: str, folder: str
) -> None:
    app = Application(
        broker_address=broker,
        consumer_group=group,
        auto_offset_reset="earliest",
        commit_interval=float(commit_s),
        processing_guarantee="exactly-once",
        state_dir=folder,
        loglevel="WARNING",
    )
    events = app.topic(source, value_deserializer="bytes")
    answers = app.topic(target, value_serializer="bytes")
    frame = app.dataframe(events)
    model, task = MODELS[name].source, MODELS[name].task
    if where == "memory":
        answer = answerer(built(model), task, source)
        frame = frame.apply(lambda value: answer(value, message_context().offset))
    else:

        def answered(value: bytes, state: Any) -> bytes:
            pickled = state.get_bytes("model")
            learner = built(model) if pickled is None else pickle.loads(pickled)
            out = answerer(learner, task, source)(value, message_context().offset)
            state.set_bytes("model", pickle.dumps(learner))
            return out

        frame = frame.apply(answered, stateful=True)
    frame.to_topic(answers)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])

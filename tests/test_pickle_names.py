"""The closed list of what a model is made of covers every model of river that can be served."""

from itertools import islice
from typing import Any

import zoo

from streamlearn.core.model.learner import Learner
from streamlearn.core.model.pickle_names import CLASSES, NAMED
from streamlearn.core.model.pickles import _Collector, dump_model, trusted_by

EVENTS = 120


def asked(pickled: bytes) -> set[str]:
    collector = _Collector(pickled)
    collector.load()
    return {f"{module}:{name}" for module, name in collector.requested}


def test_the_list_covers_what_every_model_of_the_zoo_has_learned() -> None:
    missing: dict[str, Any] = {}
    for name in zoo.MAKERS:
        model = zoo.made(name, "zoo")
        fresh = trusted_by(dump_model(model))
        learner = Learner(model, zoo.HORIZONS.get(name, 1))
        for x, y in islice(zoo.events(model), EVENTS):
            learner.predict(x, y)
            learner.learn(x, y)
        found = asked(dump_model(model)) - CLASSES - NAMED
        if unknown := found - fresh - {key for key in found if f"()::{key}" in fresh}:
            missing[name] = unknown
    assert missing == {}

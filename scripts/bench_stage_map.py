"""The stage of the service that a function belongs to, by its module: what `scripts/bench stages` reports.

A sample belongs to the innermost function that has a stage: river's code and a preset's parts to the call
that predicts or learns, a library's to the module that called it. A new module of the hot path has no stage
until it is named here; `tests/test_bench.py` sees to that.
"""

from typing import Final

CALLER: Final = ""
"""The stage is that of the function which called this module."""

STAGES: Final = (
    "client in",
    "records",
    "merge",
    "decode",
    "guard",
    "predict",
    "learn",
    "join",
    "scores",
    "encode",
    "digest",
    "client out",
    "commit",
    "GC",
    "step",
    "loop",
    "checkpoint",
    "other",
)
"""`guard` has the checks of time and label too; `step` is the control flow between the stages of an event;
`loop` the task around transactions, membership and health; `other` is what no function claims.
"""

HOT: Final = ("core", "engine", "features", "log.kafka", "log.embedded", "service")
"""The rooms in which every module must have a stage."""

FOLDERS: Final[dict[str, str]] = {
    "core.events": "decode",
    "core.labels": "join",
    "core.scores": "scores",
    "features": CALLER,
    "log.embedded": "client out",
    "log.kafka": "loop",
    "log.kafka.kafka_python": CALLER,
    "log.kafka.confluent": CALLER,
    "service.health": "loop",
}
"""Stages of whole folders; a module's own line goes before."""

MODULES: Final[dict[str, str]] = {
    "core": CALLER,
    "core.records": CALLER,
    "core.journal": "commit",
    "core.turns": "commit",
    "core.events.clocks": "guard",
    "core.labels.stats": CALLER,
    "core.model": CALLER,
    "core.model.fingerprint": "checkpoint",
    "core.model.acceleration": CALLER,
    "core.model.fused": CALLER,
    "core.model.fused_source": CALLER,
    "core.model.learner": "predict",
    "core.model.pickle_load": "checkpoint",
    "core.model.pickle_names": "checkpoint",
    "core.model.pickle_parts": "checkpoint",
    "core.model.pickle_scan": "checkpoint",
    "core.model.pickles": "checkpoint",
    "core.shard": CALLER,
    "core.shard.commands": "step",
    "core.shard.dead_letter_rate": "step",
    "core.shard.encode": "encode",
    "core.shard.facts": "step",
    "core.shard.guard": "guard",
    "core.shard.joined": "join",
    "core.shard.label_rules": "guard",
    "core.shard.run": "step",
    "core.shard.shard": "step",
    "core.shard.snapshot": "checkpoint",
    "core.shard.state": CALLER,
    "core.shard.time_units": "guard",
    "core.shard.trials": "learn",
    "core.shard.work": "step",
    "engine": CALLER,
    "engine.checkpoint_file": "checkpoint",
    "engine.checkpoints": "checkpoint",
    "engine.cursor": "commit",
    "engine.driver": "step",
    "engine.era": "loop",
    "engine.in_memory": "loop",
    "engine.journal_end": "loop",
    "engine.model": "loop",
    "engine.offline": "step",
    "engine.presets": "loop",
    "engine.registry": "decode",
    "engine.self_check": "loop",
    "engine.warm_start": "loop",
    "engine.witnesses": "loop",
    "log.embedded.file": "commit",
    "log.embedded.journal": "commit",
    "log.embedded.log": "commit",
    "log.embedded.owners": "commit",
    "log.kafka.journal": "commit",
    "log.kafka.confluent.consumer": "records",
    "log.kafka.confluent.producer": "client out",
    "log.kafka.kafka_python.consumer": "records",
    "log.kafka.kafka_python.producer": "client out",
    "log.kafka.reader": "records",
    "log.kafka.shard": "commit",
    "log.kafka.store": "checkpoint",
    "log.kafka.writer": "client out",
    "service": "loop",
    "service.adopt": "loop",
    "service.batch": "step",
    "service.loading": "loop",
    "service.merge": "merge",
    "service.one_by_one": "loop",
    "service.ownership": "loop",
    "service.process": "loop",
    "service.recovery": "loop",
    "service.refusals": "loop",
    "service.starting_states": "loop",
    "service.stepping": "step",
    "service.task": "loop",
}

FUNCTIONS: Final[dict[tuple[str, str], str]] = {
    ("core.journal", "chain"): "digest",
    ("core.journal", "preimage"): "digest",
    ("core.journal", "_prefixed"): "digest",
    ("core.model.fused", "learn"): "learn",
    ("core.model.fused", "predict"): "predict",
    ("core.model.fused", "step"): "learn",  # it predicts, too: the two cannot be told apart
    ("core.model.learner", "__init__"): "learn",
    ("core.model.learner", "_forecast_learner"): "learn",
    ("core.shard.encode", "scores"): "scores",
    ("core.shard.encode", "scores_report"): "scores",
    ("core.shard.shard", "_check"): "guard",
    ("core.shard.run", "_ask_and_teach"): "learn",
    ("core.shard.run", "_publish"): "encode",
    ("core.shard.run", "_read_common"): "guard",
    ("core.shard.shard", "report"): "scores",
    ("core.shard.trials", "ask"): "predict",
    ("core.shard.trials", "is_extreme"): "guard",
    ("engine.driver", "snapshot"): "checkpoint",
    ("engine.driver", "take_snapshot"): "checkpoint",
    ("log.embedded.log", "poll"): "client in",
    ("log.embedded.log", "_placed"): "client out",
    ("log.embedded.topics", "poll"): "client in",
    ("log.embedded.topics", "_poll_once"): "client in",
    ("log.embedded.topics", "_end"): "client in",
    ("log.embedded.topics", "_take"): "client in",
    ("log.kafka.confluent.producer", "begin"): "commit",
    ("log.kafka.confluent.producer", "commit"): "commit",
    ("log.kafka.kafka_python.producer", "begin"): "commit",
    ("log.kafka.kafka_python.producer", "commit"): "commit",
    ("log.kafka.shard", "_placed"): "client out",
    ("service.task", "_publish"): "commit",
}
"""Functions, with those inside them, of another stage than their module."""

BELOW: Final[dict[str, str]] = {"log.kafka.kafka_python.consumer": "client in"}
"""The stage of Kafka's own client, called by these modules, where it is not theirs."""

THREADS: Final = (
    ("producer", "client out"),
    ("checkpoint", "checkpoint"),
    ("heartbeat", "loop"),
    ("coordinator", "loop"),
    ("kafka", "client in"),
)
"""Stages of threads in which no function of ours runs, by a part of their names."""


def stage(module: str, function: str = "") -> str | None:
    """The stage of a module's function (its qualified name), `CALLER`, or None when the map does not know the
    module.
    """
    for name in reversed(function.split(".")):
        if (module, name) in FUNCTIONS:
            return FUNCTIONS[module, name]
    if module in MODULES:
        return MODULES[module]
    folders = [name for name in FOLDERS if f"{module}.".startswith(f"{name}.")]
    return FOLDERS[max(folders, key=len)] if folders else None

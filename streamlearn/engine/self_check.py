"""Does this model come back the same from its own pickle? Asked before it is trusted with a stream.

Two shards step the same records, one of them through a checkpoint every few records. If their outputs
differ, no recovery could ever be right, and the service refuses to go on.
"""

from collections.abc import Iterable, Sequence

import msgspec

from streamlearn.core.journal import Era
from streamlearn.core.records import Output, Record
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_state, load_state
from streamlearn.core.shard.state import Memory
from streamlearn.core.shard.work import Failure
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import spec_of
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Schemas
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, ConfigError

ENOUGH_RECORDS = 1000
BUDGET_S = 2.0
_CHECKPOINTS = 8


def events_of(records: Iterable[Record], control: str) -> list[Record]:
    """What of `records` a model can be checked on, events and labels: no tombstones, no commands."""
    return [r for r in records if r.value is not None and r.topic != control]


def check_model(
    env: Env, template: ModelTemplate, era: Era, records: Sequence[Record], schemas: Schemas | None = None
) -> None:
    """Check on `records` (the stream's own), or on made-up events when there are few.

    Raises `ConfigError` saying what to change in the model.
    """
    if len(records) < 50:
        era, records = _made_up(era, template.learner().task)
    labels = spec_of(era).labels
    apart = "" if labels is None else labels.topic
    records = [
        Record(
            apart if record.topic == apart else "self-check",
            0,
            n,
            1 << 50,
            record.key,
            record.value,
            record.headers,
        )
        for n, record in enumerate(records)
    ]
    straight = _straight(env, template, era, records[:ENOUGH_RECORDS], schemas)
    n = len(straight)
    if _through_checkpoints(template, era, records[:n], schemas) == straight:
        return
    again = _straight(env, template, era, records[:n], schemas)
    if again != straight[: len(again)]:  # a slow moment may cut the second run short
        raise ConfigError(
            f"the model {template.name} does not give the same answers twice for the same {n} events. Give "
            "every part a seed, and draw from no global generator (random, numpy.random), clock or file."
        )
    raise ConfigError(
        f"the model {template.name} does not come back the same from a checkpoint: after saving and loading "
        f"it, the answers to the same {n} events differ. Keep all of its state in attributes that pickle "
        "(see __getstate__, __reduce__ and class or module variables)."
    )


def _shard(template: ModelTemplate, era: Era) -> Shard:
    return Shard(spec_of(era), template.learner(), Memory())


def _stepped(driver: ShardDriver, record: Record) -> tuple[Output, ...] | None:
    """The outputs of a record, none where its schema is unknown: no model gets to see it. None when the model
    raised: the loop's undo deals with that, and there is nothing to compare from here on.
    """
    facts = driver.step(record)
    if isinstance(facts, Failure):
        return None if facts.undoes else ()
    return published(facts)


def _straight(
    env: Env, template: ModelTemplate, era: Era, records: Sequence[Record], schemas: Schemas | None
) -> list[tuple[Output, ...]]:
    """Outputs record by record, until the model raises or the time for the check is up."""
    driver = ShardDriver(_shard(template, era), schemas)
    outputs: list[tuple[Output, ...]] = []
    deadline_s = env.monotonic() + BUDGET_S
    for record in records:
        stepped = _stepped(driver, record)
        if stepped is None:
            break
        outputs.append(stepped)
        if env.monotonic() > deadline_s:
            break
    return outputs


def _through_checkpoints(
    template: ModelTemplate, era: Era, records: Sequence[Record], schemas: Schemas | None
) -> list[tuple[Output, ...]]:
    driver = ShardDriver(_shard(template, era), schemas)
    outputs: list[tuple[Output, ...]] = []
    every = max(1, len(records) // _CHECKPOINTS)
    for n, record in enumerate(records):
        if n % every == every - 1:
            driver.load(_reloaded(template, driver.shard))
        stepped = _stepped(driver, record)
        if stepped is None:
            break
        outputs.append(stepped)
    return outputs


def _reloaded(template: ModelTemplate, shard: Shard) -> Shard:
    try:
        return load_state(shard.spec, dump_state(shard), template.trusted)
    except BadCheckpoint as error:
        raise ConfigError(
            f"the model {template.name} cannot be restored from a checkpoint: {error}."
        ) from error
    except Exception as error:  # pickling runs the user's code: whatever it raises, it cannot be saved
        raise ConfigError(
            f"the model {template.name} cannot be saved once it has learned: {type(error).__name__}: {error}."
            " Keep lambdas, open files, locks and clients out of it."
        ) from error


def _made_up(era: Era, task: str) -> tuple[Era, list[Record]]:
    """Events with eight numbers, and a label that follows from them; and an era that takes plain events."""
    time_as = spec_of(era).event.time_as
    plain = msgspec.structs.replace(era, config={**era.config, "event": {"time_as": time_as}})
    records = []
    for n in range(400):
        x = {f"x{i}": ((n * (i + 3) * 7919) % 997) / 997 for i in range(8)}
        label: object = x["x0"] + x["x1"] > 1
        if task != "classification":
            label = 3 * x["x0"] - x["x1"]
        value = msgspec.json.encode({"features": x, "label": label})
        records.append(Record("self-check", 0, n, 0, None, value))
    return plain, records

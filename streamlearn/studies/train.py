"""From history to a checkpoint that `serve` starts from: the very shard of `serve`, fed from a source.

Invariants:
- The state is that of a service which has read the same events in the same order; a record that it would
  have refused is refused here, and counted.
- The checkpoint is written once, at the end, whole.
"""

from typing import Any, NamedTuple

import msgspec

from streamlearn.config.schema import Config
from streamlearn.core.events.event import REASONS
from streamlearn.core.journal import GENESIS, Era
from streamlearn.core.shard.guard import withheld
from streamlearn.core.shard.snapshot import Header, fresh_state
from streamlearn.core.shard.state import BROKEN, Memory
from streamlearn.engine.checkpoint_file import TRAINED, write_trained
from streamlearn.engine.era import era_now, spec_of
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.offline import Offline
from streamlearn.engine.registry import Schemas
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.port import TopicInfo
from streamlearn.studies.feed_run import FeedRun


class Training(NamedTuple):
    """The result of training. `checkpoint`: how to name it; `records`: all that were read, of which `events`
    are no labels; `outcomes`: records by outcome; `withheld`: features that the model does without.
    """

    checkpoint: str
    model: str
    version: str
    records: int
    learned: int
    outcomes: dict[str, int]
    events: int
    withheld: list[str]


def train(
    env: Env,
    config: Config,
    template: ModelTemplate,
    run: FeedRun,
    out: str,
) -> Training:
    """Learn from all of a feed and write one checkpoint, as `streamlearn train` does (docs/offline.md).

    Args:
        env: Clocks and chance.
        config: The configuration of the service that will begin from the checkpoint.
        template: The model to train, from `engine.model.configured_model`.
        run: The feed, and the flag that ends it early.
        out: `file:DIR`, the folder of numbered checkpoints.

    Returns:
        The checkpoint's name and the counts of records by outcome.

    Raises:
        ConfigError: Nothing was learned; the message has the commonest reason.
        Stop: The model cannot be trained, or the flag was set; no checkpoint was written.
    """
    feed = run.feed
    era = offline_era(config, template, feed.source.name)
    sections = fresh_state(template.pickled)
    spec = msgspec.structs.replace(feed.spec(spec_of(era)), scores=None)
    offline = Offline(spec, sections, template.trusted, Schemas(env, config.event.schema_registry))
    records = events = 0
    for record, _ in run.steps(offline, ": no checkpoint was written"):
        records += 1
        events += record.topic != feed.labels
    memory = offline.shard.memory
    _need_learning(memory, records, feed.source.name)
    header = Header(0, GENESIS, 0, era, [], memory.learned)
    state = {name: data for name, data in offline.take_snapshot().items() if name in ("model", "memory")}
    checkpoint = write_trained(env, out, header, state, config.checkpoint.key)
    return Training(
        checkpoint,
        template.name,
        template.version,
        records,
        memory.learned,
        dict(memory.outcomes),
        events,
        withheld(memory.types, spec.event.types),
    )


def offline_era(config: Config, template: ModelTemplate, source: str) -> Era:
    """The era of the checkpoint: that which `serve` would make, without a journal's topics."""
    nowhere = TopicInfo("", (0,), (0,))
    era = era_now(config, template, dict.fromkeys(config.names().sources, nowhere), TRAINED)
    rules: dict[str, Any] = {**era.config, "app": config.app.name, "source": source}
    return msgspec.structs.replace(era, config=rules, topics={})


def _need_learning(memory: Memory, records: int, name: str) -> None:
    if memory.frozen == BROKEN:
        raise Stop(
            f"learning stopped at record {memory.frozen_at:,} of {name}: the model has no good answer any"
            " more to what it answered before, so its state is broken. No checkpoint was written; mend the"
            " model or the data"
        )
    if not memory.learned:
        refused = {name: count for name, count in memory.outcomes.items() if name.startswith("dlq.")}
        worst = max(refused, key=lambda outcome: refused[outcome], default="")
        advice = "Name the column that holds the label with --label"
        if worst:
            reason = worst.rpartition(".")[2]
            advice = f"{refused[worst]:,} of them were refused: {REASONS[reason]}"
            if worst.startswith("dlq.label."):
                advice += ". Declare the type of the label's column, like --types COLUMN=bool"
        raise ConfigError(
            f"nothing was learned from {name}: none of its {records:,} records had a label that the model"
            f" could take. {advice}"
        )

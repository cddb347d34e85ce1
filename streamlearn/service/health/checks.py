"""Health checks: before a process joins, if it may; after each transaction, if the loop may go on.

Invariant: nothing here changes the state; it reads the shard's memory, logs, and raises `Stop`.
"""

from itertools import islice
from typing import Final

import structlog

from streamlearn.config.schema import Config
from streamlearn.core.events.envelopes import look_like_decimals
from streamlearn.core.events.values import is_coated
from streamlearn.core.records import SHARD, Record
from streamlearn.core.shard.dead_letter_rate import stop_message
from streamlearn.core.shard.guard import withheld
from streamlearn.core.shard.shard import FAILING_LIMIT
from streamlearn.engine.checkpoints import newest_header
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import era_now
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Schemas
from streamlearn.engine.self_check import ENOUGH_RECORDS, check_model, events_of
from streamlearn.env import Env, Flag
from streamlearn.errors import Stop
from streamlearn.log.port import CheckpointStore, Log
from streamlearn.service.health.topics import TopicWatch

log = structlog.get_logger()

REPORT_S: Final = 10.0
WAIT_S: Final = 0.5
PROBATION_BYTES: Final = 1 << 24
_NAMED: Final = 20
_ENOUGH_TEXTS: Final = 10
_LOOKED_AT: Final = 1000


def _are_coated(texts: set[str]) -> bool:
    sample = list(islice(texts, _LOOKED_AT))
    return sum(map(is_coated, sample)) > 0.9 * len(sample) or look_like_decimals(sample)


class HealthChecks:
    """Checks of one opened shard. The first records of an app are kept until there are enough to check on
    them that the model comes back the same.
    """

    def __init__(
        self,
        env: Env,
        config: Config,
        template: ModelTemplate,
        driver: ShardDriver,
        schemas: Schemas,
        topics: TopicWatch,
    ) -> None:
        self._env = env
        self._config = config
        self._topics = topics
        self._template = template
        self._driver = driver
        self._schemas = schemas
        memory = driver.shard.memory
        self._opened_at = memory.records
        self._reported = (self._env.monotonic(), memory.records)
        self._withheld: set[str] = set()
        self._coated: set[str] = set()
        self._probation: list[Record] | None = [] if memory.records < ENOUGH_RECORDS else None

    def after(self, records: list[Record]) -> None:
        """Look at the state after a transaction over `records`. Raises `Stop`."""
        if self._probation is not None:
            self._probation += events_of(records, self._config.topics.control)
            enough = len(self._probation) >= ENOUGH_RECORDS
            if enough or sum(len(record.value or b"") for record in self._probation) > PROBATION_BYTES:
                self._check()
        self._refuse_to_go_on()
        self._topics.after_commit()
        self._tell()

    def close(self) -> None:
        """Check the model on the records there are, if it was not checked yet, and say what was not said."""
        self._check()
        self._tell_withheld()
        self._tell_coated()

    def _check(self) -> None:
        if self._probation:
            check_model(self._env, self._template, self._driver.cursor.era, self._probation, self._schemas)
        self._probation = None

    def storm(self) -> str:
        """Why so many dead letters must end the work, or ""."""
        memory = self._driver.shard.memory
        return stop_message(memory.letters, memory.records, self._opened_at, self._config.dlq.max_share)

    def _refuse_to_go_on(self) -> None:
        memory = self._driver.shard.memory
        if memory.failing >= FAILING_LIMIT:
            raise Stop(
                f"the model failed to predict {memory.failing} times in a row; the last ones are in "
                f"{self._config.topics.dlq}. Look at them with `streamlearn dlq list`, mend the model, and "
                "start with --model-change fresh."
            )
        if message := self.storm():
            raise Stop(
                f"{message}\nLook at them with `streamlearn dlq list`, mend the source, [event] or [guard], "
                "and start again: it goes on where it stopped, and `streamlearn dlq retry` sends them back. "
                "[dlq] max_share = 1 never stops."
            )

    def _tell(self) -> None:
        """Say now and then how fast it goes."""
        memory = self._driver.shard.memory
        since_s, records = self._reported
        now_s = self._env.monotonic()
        if now_s - since_s >= REPORT_S:
            rate = round((memory.records - records) / (now_s - since_s), 1)
            log.info("loop.progress", records=memory.records, records_per_s=rate, learned=memory.learned)
            self._reported = (now_s, memory.records)
            self._tell_withheld()
            self._tell_coated()

    def _tell_coated(self) -> None:
        """Name the features whose texts would be numbers but for how they are written, once each."""
        declared = self._config.event.types
        new = [
            name
            for name, feature_type in self._driver.shard.memory.types.items()
            if name not in self._coated and name not in declared and len(feature_type.texts) >= _ENOUGH_TEXTS
            if _are_coated(feature_type.texts)
        ]
        if new:
            self._coated.update(new)
            log.warning(
                "features.numbers_as_text",
                features=new[:_NAMED],
                more=len(new[_NAMED:]),
                reason="nearly all of their texts would be numbers without signs for thousands, money or"
                " percent, or are base 64, as decimals of Kafka Connect are without their schema: each is a"
                " category of its own to the model",
                remedy="write numbers (Connect: decimal.format=NUMERIC, or schemas.enable=true), or declare"
                " them as str in [event] types",
            )

    def _tell_withheld(self) -> None:
        memory, declared = self._driver.shard.memory, self._config.event.types
        new = [name for name in withheld(memory.types, declared) if name not in self._withheld]
        if new:
            self._withheld.update(new)
            log.warning(
                "features.withheld",
                features=new[:_NAMED],
                more=len(new[_NAMED:]),
                reason="the model saw values of another type under these names, or raised at their texts",
                remedy="declare what they are in [event] types and begin with --model-change fresh",
            )


def wait_for_config_owner(
    config: Config, template: ModelTemplate, log_: Log, store: CheckpointStore, stop: Flag
) -> None:
    """Wait, with another configuration than the running service's, until that service has ended: a laptop
    must not take over production.
    """
    topics, journal = log_.topics(), config.topics.journal
    if journal not in topics:
        return
    newest = newest_header(store, config.checkpoint.key.encode(), topics[journal].id, SHARD)
    if newest is None:
        return
    era = newest.under
    now = era_now(config, template, topics, "", log_.record_limit("predictions"))
    if (era.config_hash, era.model_version) == (now.config_hash, now.model_version):
        return
    is_told = False
    while not stop.is_set() and (others := log_.others()):
        if not is_told:
            log.warning(
                "config.differs",
                app=config.app.name,
                members=others,
                action="waiting until no process of this app with the other configuration is left",
            )
            is_told = True
        stop.wait(WAIT_S)

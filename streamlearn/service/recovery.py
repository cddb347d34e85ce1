"""Recovery: the one way to a shard's state, taken after a start, a crash, a rebalance and a hand-over.

The steps are those of docs/design/journal-and-recovery.md: the shard was opened (1) and its journal's end is
known (2); take the newest of the checkpoints that the journal names whose bytes are those that it names (3);
step the ranges of each later entry again and compare digests (4); go on from the ends of the ranges (5).

Invariants:
- Nothing is rolled back and nothing is guessed: whatever contradicts the journal stops the service.
- A changed model never replaces the old one unless the user said so.
- A revision begins with a checkpoint: the entry of its birth names it, so that it is durable before.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import structlog

from streamlearn.config.schema import Config
from streamlearn.core.journal import GENESIS, Entry, Era, chain
from streamlearn.core.records import SHARD, Positions, Record
from streamlearn.core.shard.shard import FAILING_LIMIT
from streamlearn.core.shard.snapshot import Sections
from streamlearn.core.shard.state import Memory
from streamlearn.engine.checkpoints import BlobName, write_birth
from streamlearn.engine.cursor import JournalCursor, positions_under
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import check_app, check_journal, check_topics, era_now, what_changed, with_start
from streamlearn.engine.journal_end import JournalEnd, checkpoints_at, entries, find_birth, read_end
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Alive, Schemas
from streamlearn.engine.self_check import check_model, events_of
from streamlearn.engine.warm_start import WarmStart
from streamlearn.engine.witnesses import check_witnesses, predictions_now
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, Gone, Reopen, Stop
from streamlearn.log.port import CheckpointStore, Log, ShardLog, TopicInfo
from streamlearn.service.one_by_one import CLAIMS
from streamlearn.service.refusals import (
    refuse_answered_input,
    refuse_lost_journal,
    refuse_other_bits,
    refuse_silent_change,
)
from streamlearn.service.starting_states import StartingState, StartingStates

log = structlog.get_logger()


class Resources(NamedTuple):
    """Connections and configuration: the same for all tasks of a process."""

    env: Env
    config: Config
    template: ModelTemplate
    log: Log
    store: CheckpointStore
    schemas: Schemas


class Recovered(NamedTuple):
    """A shard that stands at its journal's end.

    Attributes:
        driver: It, and its place.
        saved_at: The positions of the newest checkpoint of this state; None when there is none.
        saved_seq: The entry of that checkpoint.
        saving_s: How long writing it took, where this process wrote it.
        era_began: True when this process wrote the era's entry: a checkpoint of it is due at once.
    """

    driver: ShardDriver
    saved_at: Positions | None = None
    saved_seq: int | None = None
    saving_s: float = 0.0
    era_began: bool = False


class Recovery:
    """What recovery needs to know, and the journal's end that it works towards."""

    def __init__(
        self, resources: Resources, shard_log: ShardLog, alive: Alive, last: StartingState | None = None
    ) -> None:
        """`last`: what this process itself last knew to be committed, None at its first start."""
        self._env, config, template, service_log, self._store, self._schemas = resources
        self._config = config
        self._template = template
        self._log = service_log
        self._shard_log = shard_log
        self._alive = alive
        self._journal = config.topics.journal
        self._topics: dict[str, TopicInfo] = service_log.topics()
        ident = self._topics[self._journal].id if self._journal in self._topics else ""
        self.birth_name = BlobName(0, ident, SHARD, shard_log.claim, 0)
        """The name of the checkpoint of a birth, once it has the number of its entry."""
        self._checkpoints = checkpoints_at(shard_log.end, shard_log.entries)
        self._states = StartingStates(config, self._store, shard_log, ident, self._checkpoints, last)
        self._prediction_bytes = service_log.record_limit("predictions")
        self._warm_start = WarmStart(config, template)

    def run(self, model_change: str = "", begin: bool = False) -> Recovered:
        """Stand at the journal's end, under the era of today's configuration. `begin`: a journal may begin
        although there are predictions already.

        Raises `Stop` when the log contradicts itself, `ConfigError` when the user must choose, and
        `Fenced` or `Unknown` as `publish` does.
        """
        if self._shard_log.end is None:
            return self._genesis(begin)
        candidates = self.candidates(self._shard_log.end)  # read and checked one by one, each once
        newest = next(candidates, None)
        end = read_end(
            self._shard_log, self._journal, self._shard_log.end, newest and newest.header, self._alive
        )
        now = self._compared(end)
        if end.era.model_version != now.model_version:
            refuse_silent_change(model_change, self._journal, end.era, now)
            return self._replaced(end, now)
        refuse_other_bits(end, now, newest)
        recovered = self.redone(end, itertools.chain([newest] if newest else [], candidates))
        driver = recovered.driver
        if model_change and self._may_begin_anew(driver.shard.memory, end.era):
            return self._replaced(end._replace(positions=driver.cursor.positions), now)
        if model_change:
            log.warning("model.unchanged", hint="it learns and predicts: --model-change has nothing to do")
        elif self._config.model.start_from:
            log.info("model.goes_on", hint="start_from is for a first start, or with --model-change fresh")
        return recovered._replace(era_began=self._renew_era(driver, end, now))

    def _may_begin_anew(self, memory: Memory, era: Era) -> bool:
        """True if `--model-change` replaces the model though it is the configured one: because it neither
        learns nor predicts any more, or began from another state than is configured.
        """
        useless = bool(memory.frozen) or memory.failing >= FAILING_LIMIT
        return useless or self._warm_start.differs_from(era)

    # --- eras -----------------------------------------------------------------------------------------

    def _compared(self, end: JournalEnd) -> Era:
        """The era of today's configuration, once all that is outside the journal was found to agree."""
        now = era_now(self._config, self._template, self._topics, "", self._prediction_bytes)
        check_app(self._config, end.era, now)
        check_journal(self._config, end.era, now)
        check_topics(end.era, now)
        versions = frozenset((end.era.model_version, now.model_version))
        check_witnesses(self._shard_log, self._journal, end.era, versions, end.positions, self._topics)
        predictions = end.era.predictions
        same = predictions is not None and predictions.topic == self._config.topics.predictions
        if same and all(end.ids.get(name) == ident for name, (ident, _) in now.topics.items()):
            return msgspec.structs.replace(now, predictions=predictions)
        return msgspec.structs.replace(now, predictions=predictions_now(self._config, self._topics))

    def _renew_era(self, driver: ShardDriver, end: JournalEnd, now: Era) -> bool:
        """Begin a new era when something has changed since the last one: True if it did."""
        era = end.era
        why = what_changed(era, now)
        if not why:
            return False
        cursor = driver.cursor
        for name in now.topics:
            if cursor.ids.get(name, now.topics[name][0]) != now.topics[name][0]:
                log.warning(
                    "topic.replaced",
                    topic=name,
                    reason="it was deleted and made again while it was no input",
                    action="it is read from its first record on",
                )
        resets = driver.shard.memory.resets
        now = msgspec.structs.replace(
            now, why=why, revision=era.revision, warm_start_sha256=era.warm_start_sha256, resets=resets
        )
        positions = positions_under(now, cursor.positions, cursor.ids)
        now = with_start(self._env, self._log, self._config, now, self._topics, positions)
        entry = cursor.next_entry(change=now)
        self._shard_log.publish(entry, (), positions_under(now, cursor.positions, cursor.ids))
        driver.begin_era(entry)
        log.info("era.began", era=entry.era, why=now.why)
        return True

    def _genesis(self, begin: bool) -> Recovered:
        """The first start of this app: nothing may speak of an earlier one."""
        era = era_now(self._config, self._template, self._topics, "genesis", self._prediction_bytes)
        era = with_start(self._env, self._log, self._config, era, self._topics, {})
        refuse_lost_journal(self.birth_name, self._journal, self._store.names(), self._shard_log.seen)
        if not begin:
            refuse_answered_input(self._config, self._shard_log, self._topics, positions_under(era, {}, {}))
        before = predictions_now(self._config, self._topics)
        era = msgspec.structs.replace(era, warm_start_sha256=self._warm_start.sha256, predictions=before)
        if self._shard_log.unfinished.claims < CLAIMS:  # else one of them may have killed the processes
            check_model(self._env, self._template, era, self._first_records(era), self._schemas)
        recovered = self._begun(Entry(0, 0, chain(GENESIS, ()), change=era))
        log.info(
            "journal.started",
            app=self._config.app.name,
            model_version=era.model_version,
            learned=recovered.driver.shard.memory.learned,
        )
        return recovered

    def _first_records(self, era: Era) -> list[Record]:
        """Records that wait already at the start: the best there is to check the model on."""
        try:
            fetched = self._shard_log.poll(positions_under(era, {}, {}), 1000, 1 << 24, 0.3)
        except Gone as error:
            raise Reopen(f"retention went on while the first records were looked at ({error})") from error
        records = [record for run in fetched.records.values() for record in run]
        return events_of(records, self._config.topics.control)

    def _replaced(self, end: JournalEnd, now: Era) -> Recovered:
        """Begin with a fresh model where the old one stopped. Its era entry holds every position, so that
        nothing before it is needed any more.
        """
        before = end.era.model_version
        now = msgspec.structs.replace(now, why="model", revision=end.era.revision + 1)
        positions = positions_under(now, end.positions, end.ids)
        now = with_start(self._env, self._log, self._config, now, self._topics, positions)
        kept_positions = [(topic, partition, offset) for (topic, partition), offset in positions.items()]
        warm_start_sha256 = self._warm_start.sha256
        left = {topic: ident for topic, ident in end.ids.items() if topic not in now.topics}
        start = sorted([*now.start, *kept_positions])
        now = msgspec.structs.replace(now, start=start, warm_start_sha256=warm_start_sha256, ids=left)
        recovered = self._begun(
            Entry(end.entry.seq + 1, end.number + 1, chain(end.entry.digest, ()), change=now)
        )
        log.warning("model.replaced", before=before, after=now.model_version, revision=now.revision)
        return recovered

    def _begun(self, birth: Entry) -> Recovered:
        """Begin a revision: its checkpoint is written first, then the entry that names it."""
        driver = self._born(birth)
        began_s = self._env.monotonic()
        sections = driver.take_snapshot()
        header = msgspec.structs.replace(driver.header(), app=self._config.app.name)
        name = self.birth_name._replace(seq=birth.seq)
        try:
            checkpoint = write_birth(
                self._store, name, header, sections, self._config.checkpoint.key.encode()
            )
        except Exception as error:  # whatever ended the write
            raise Stop(
                f"the first checkpoint cannot be written: {error}. Nothing was read or predicted yet. Make "
                "the folder of [checkpoint] url (on Kafka: the checkpoints topic) writable, and start again."
            ) from error
        entry = msgspec.structs.replace(birth, checkpoints=[checkpoint], named=birth.seq)
        cursor = driver.cursor
        self._shard_log.publish(entry, (), cursor.positions)
        cursor.stand_by(entry.checkpoints, entry.named)
        saving_s = self._env.monotonic() - began_s
        log.info("checkpoint.saved", seq=birth.seq, size_bytes=checkpoint.size, oldest_seq=birth.seq)
        return Recovered(driver, dict(cursor.positions), birth.seq, saving_s)

    def _born(self, birth: Entry) -> ShardDriver:
        """The state with which the revision of an era entry begins."""
        assert birth.change is not None
        return self._driver_at(JournalCursor.at_birth(birth), self._warm_start.sections(birth.change))

    def _driver_at(self, cursor: JournalCursor, sections: Sections) -> ShardDriver:
        trusted = self._template.trusted
        driver = ShardDriver.at_cursor(cursor, sections, trusted, self._schemas, self._shard_log)
        if self._config.model.accelerate:
            driver.accelerate()
        return driver

    # --- checkpoints and redo -------------------------------------------------------------------------

    def candidates(self, end: Entry) -> Iterator[StartingState]:
        """The states that can be used, newest first."""
        return self._states.newest_first(end)

    def redone(self, end: JournalEnd, candidates: Iterable[StartingState]) -> Recovered:
        """The state at the journal's end, from the newest checkpoint from which the digests come out; else
        from the birth of the model, the era entry with which its revision began.
        """
        diverged = -1
        try:
            for candidate in candidates:
                if candidate.header.under.revision != end.era.revision:
                    break  # the state of a model that was replaced since
                driver = self._loaded(candidate)
                if driver is None:
                    continue
                failed = self._redo_all(driver)
                if failed is None:
                    driver.cursor.stand_by(self._checkpoints, end.entry.named)
                    return Recovered(driver, candidate.saved_at, candidate.header.seq)
                diverged = max(diverged, failed)
                log.warning(
                    "redo.diverged", seq=failed, checkpoint=candidate.name, action="the one before it"
                )
            log.warning("redo.from_birth", reason="no checkpoint leads to the journal's end")
            birth = find_birth(self._shard_log, self._journal, end.era.revision, self._alive)
            if birth is not None:
                driver = self._born(birth)
                failed = self._redo_all(driver)
                if failed is None:
                    driver.cursor.stand_by(self._checkpoints, end.entry.named)
                    return Recovered(driver)
                diverged = max(diverged, failed)
        except Gone as error:
            self._check_same_topics()
            if diverged < 0:
                raise Stop(
                    f"the input that the journal covers is no longer retained ({error}), and no usable "
                    "checkpoint stands later: the state cannot be made again. Restore a checkpoint, or begin "
                    "a new journal: `streamlearn reset`."
                ) from error
        self._check_same_topics()
        raise self._cannot_redo(end.era.revision, diverged)

    def _cannot_redo(self, revision: int, diverged: int) -> Stop:
        """Why no way led to the journal's end. `diverged`: the last entry that came out different, or -1."""
        if diverged < 0:
            return Stop(
                f"the journal {self._journal} no longer holds the beginning of revision {revision}, and no "
                "usable checkpoint stands later: the state cannot be made again. Restore a checkpoint or the "
                "journal, or begin a new one: `streamlearn reset`."
            )
        return Stop(
            f"the journal {self._journal} cannot be redone: from entry {diverged} on, this process computes "
            "other outputs than those that were published. If versions changed, start the old version once "
            "and stop it gracefully (it leaves a checkpoint at the end), then start the new one. Otherwise "
            "the model is not deterministic: mend it, and begin a new journal: `streamlearn reset`."
        )

    def _check_same_topics(self) -> None:
        """Raise `Stop` when an input was made again while it was redone: that explains all the rest."""
        then, now = (
            era_now(self._config, self._template, topics, "") for topics in (self._topics, self._log.topics())
        )
        check_topics(then, now)

    def _loaded(self, candidate: StartingState) -> ShardDriver | None:
        """Stand where a checkpoint stands; None when its state cannot be loaded."""
        try:
            driver = self._driver_at(JournalCursor(candidate.header), candidate.sections)
        except BadCheckpoint as reason:
            log.warning(
                "checkpoint.refused", name=candidate.name, reason=str(reason), action="the one before it"
            )
            return None
        log.info("checkpoint.loaded", name=candidate.name, seq=driver.cursor.seq)
        return driver

    def _redo_all(self, driver: ShardDriver) -> int | None:
        """Redo every entry after the driver's place; the number of the one that came out different, if any.
        Raises `Gone` when input that is needed is not there.
        """
        records = 0
        for entry in entries(self._shard_log, self._journal, driver.cursor.seq, self._alive):
            if not driver.redo(entry, self._alive):
                return entry.seq
            records += sum(run.next - run.first for run in entry.ranges)
        log.info("redo.finished", seq=driver.cursor.seq, offsets=records)
        return None

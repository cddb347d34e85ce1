"""Recovery: the one way to a shard's state, taken after a start, a crash, a rebalance and a hand-over.

The steps are those of ARCHITECTURE.md, "Recovery": the shard was opened (1) and its journal's end is
known (2); take the newest checkpoint that is whole and that the journal confirms (3); step the ranges of
each later entry again and compare digests (4); go on from the ends of the ranges (5).

Invariants:
- Nothing is rolled back and nothing is guessed: whatever contradicts the journal stops the service.
- A changed model never replaces the old one unless the user said so.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import structlog

from streamlearn.core.records import GENESIS, Entry, Era, Positions, Record, chain
from streamlearn.core.shard import FAILING_LIMIT
from streamlearn.core.snapshot import Header, unseal
from streamlearn.errors import BadCheckpoint, ConfigError, Gone, Stop
from streamlearn.log.port import Log, ShardLog, Store, TopicInfo
from streamlearn.service.beginning import Beginning
from streamlearn.service.checkpoints import stored
from streamlearn.service.eras import check_topics, era_now, start_of, what_changed
from streamlearn.service.models import FreshModel
from streamlearn.service.schemas import Schemas
from streamlearn.service.selfcheck import check_model, events_of
from streamlearn.service.standing import Alive, Standing, positions_under
from streamlearn.settings import Config

log = structlog.get_logger()


class Candidate(NamedTuple):
    """A checkpoint that is whole and that the journal confirms."""

    name: str
    header: Header
    sections: dict[str, bytes]


class Recovery:
    """What recovery needs to know, and the journal's end that it works towards."""

    def __init__(
        self,
        config: Config,
        fresh: FreshModel,
        service_log: Log,
        store: Store,
        shard_log: ShardLog,
        alive: Alive,
        schemas: Schemas,
    ) -> None:
        self._config = config
        self._fresh = fresh
        self._log = service_log
        self._store = store
        self._shard_log = shard_log
        self._alive = alive
        self._schemas = schemas
        self._journal = config.topics.journal
        self._topics: dict[str, TopicInfo] = service_log.topics()
        self._beginning = Beginning(config, fresh)

    def run(self, model_change: str = "") -> Standing:
        """Stand at the journal's end, under the era of today's configuration.

        Raises `Stop` when the log contradicts itself, `ConfigError` when the user must choose, and
        `Fenced` or `Unknown` as `publish` does.
        """
        end = self._shard_log.end
        if end is None:
            return self._genesis()
        candidates = self._candidates(end)  # read and checked one by one, each once
        newest = next(candidates, None)
        era, number = self._era_at_end(newest)
        now = era_now(self._config, self._fresh, self._topics, "")
        check_topics(era, now)
        if era.model_version != now.model_version:
            self._refuse_silent_change(model_change, era, now)
            return self._replaced(end, era, number, now, self._positions_at_end(newest))
        at_end = newest is not None and newest.header.seq == end.seq
        if era.fingerprint != now.fingerprint and not at_end:
            raise Stop(
                f"this machine's floating point ({now.fingerprint}) differs from that of the machine which "
                f"wrote the journal ({era.fingerprint}), so it would not compute the same bits. Stop the "
                "old machine's service gracefully first (it leaves a checkpoint at the end), or set "
                "[app] portable_math = true on all machines."
            )
        standing = self._redone(era.revision, itertools.chain([newest] if newest else [], candidates))
        memory = standing.shard.memory
        useless = memory.frozen or memory.failing >= FAILING_LIMIT
        if model_change and (useless or self._beginning.differs_from(era)):
            return self._replaced(end, era, number, now, standing.positions)
        if model_change:
            log.warning("model.unchanged", hint="it learns and predicts: --model-change has nothing to do")
        elif self._config.model.start_from:
            log.info("model.goes_on", hint="start_from is for a first start, or with --model-change fresh")
        why = what_changed(era, now)
        if why:
            now = msgspec.structs.replace(now, why=why, revision=era.revision, began_from=era.began_from)
            self._begin_era(
                standing, start_of(self._log, self._config, now, self._topics, standing.positions)
            )
        return standing

    # --- eras -----------------------------------------------------------------------------------------

    def _genesis(self) -> Standing:
        """The first start of this app: nothing may speak of an earlier one."""
        witness = ", ".join(stored(self._store)) or ", ".join(
            f"{topic}-{partition} at {offset}" for (topic, partition), offset in self._shard_log.seen.items()
        )
        if witness:
            raise Stop(
                f"the journal {self._journal} is empty, but this app has run before (checkpoints or group "
                f"offsets: {witness}): the journal lost its data. Restore it, or begin again under "
                "another [app] name."
            )
        era = era_now(self._config, self._fresh, self._topics, "genesis")
        era = start_of(self._log, self._config, era, self._topics, {})
        era = msgspec.structs.replace(era, began_from=self._beginning.sha256)
        check_model(self._fresh, era, self._first_records(era), self._schemas)
        entry = Entry(0, 0, chain(GENESIS, ()), change=era)
        standing = self._standing_at(entry)
        self._shard_log.publish(entry, (), standing.positions)
        standing.era_began = True
        log.info(
            "journal.started",
            app=self._config.app.name,
            model_version=era.model_version,
            learned=standing.shard.memory.learned,
        )
        return standing

    def _first_records(self, era: Era) -> list[Record]:
        """Records that wait already at the start: the best there is to check the model on."""
        polled = self._shard_log.poll(positions_under(era, {}), 1000, 1 << 24, 0.3)
        records = [record for some in polled.records.values() for record in some]
        return events_of(records, self._config.topics.control)

    def _era_at_end(self, newest: Candidate | None) -> tuple[Era, int]:
        """The era of the journal's last entry, and its number."""
        era = newest.header.under if newest else None
        number = newest.header.era if newest else 0
        for entry in self._entries(newest.header.seq if newest else -1):
            if entry.change is not None:
                era, number = entry.change, entry.era
        if era is None:
            raise Stop(
                f"the journal {self._journal} does not begin with its genesis, and no checkpoint is usable."
            )
        return era, number

    def _begin_era(self, standing: Standing, era: Era) -> None:
        """Write and apply a new era that carries the state on."""
        entry = Entry(standing.seq + 1, standing.era_number + 1, chain(standing.digest, ()), change=era)
        self._shard_log.publish(entry, (), positions_under(era, standing.positions))
        standing.begin_era(entry)
        standing.era_began = True
        log.info("era.began", era=entry.era, why=era.why)

    def _refuse_silent_change(self, model_change: str, era: Era, now: Era) -> None:
        """A changed model is never replaced but on the user's word."""
        if model_change != "fresh":
            raise ConfigError(
                f"the model has changed: the journal {self._journal} was written by version "
                f"{era.model_version}, and [model] now builds version {now.model_version}. Choose: bring the "
                "old model back; or `--model-change fresh` to begin with the new one, untrained, at the "
                "place where the old one stopped. (`rival` and `relearn` come in a later version.)"
            )

    def _replaced(self, end: Entry, era: Era, number: int, now: Era, known: Positions) -> Standing:
        """Begin with a fresh model where the old one stopped. Its era entry holds every position, so that
        nothing before it is needed any more.
        """
        now = msgspec.structs.replace(now, why="model", revision=era.revision + 1)
        now = start_of(self._log, self._config, now, self._topics, known)
        kept = [(topic, partition, offset) for (topic, partition), offset in known.items()]
        began_from = self._beginning.sha256
        now = msgspec.structs.replace(now, start=sorted([*now.start, *kept]), began_from=began_from)
        entry = Entry(end.seq + 1, number + 1, chain(end.digest, ()), change=now)
        standing = self._standing_at(entry)
        self._shard_log.publish(entry, (), standing.positions)
        standing.era_began = True
        log.warning(
            "model.replaced", before=era.model_version, after=now.model_version, revision=now.revision
        )
        return standing

    def _standing_at(self, birth: Entry) -> Standing:
        """The state with which the revision of an era entry begins."""
        assert birth.change is not None
        return Standing.at_genesis(self._fresh, birth, self._schemas, self._beginning.sections(birth.change))

    def _positions_at_end(self, newest: Candidate | None) -> Positions:
        """The positions after the last entry, without stepping anything."""
        header = newest.header if newest else None
        positions: Positions = header.next_offsets() if header else {}
        for entry in self._entries(header.seq if header else -1):
            if entry.change is not None:
                positions = positions_under(entry.change, positions)
            for run in entry.ranges:
                positions[run.topic, run.partition] = run.next
        return positions

    # --- checkpoints and redo -------------------------------------------------------------------------

    def _candidates(self, end: Entry) -> Iterator[Candidate]:
        """The checkpoints that can be used, newest first; the others are logged with their reason."""
        for name in reversed(stored(self._store)):
            try:
                header, sections = unseal(self._store.read(name), self._config.checkpoint.key.encode())
                self._confirm(name, header, end)
            except BadCheckpoint as reason:
                log.warning("checkpoint.refused", name=name, reason=str(reason), action="the one before it")
                continue
            yield Candidate(name, header, sections)

    def _confirm(self, name: str, header: Header, end: Entry) -> None:
        """Whether the journal holds the checkpoint's entry with its digest."""
        if header.app != self._config.app.name:
            raise BadCheckpoint(f"it belongs to the app {header.app!r}")
        if header.seq > end.seq:
            raise Stop(
                f"checkpoint {name} stands at entry {header.seq}, but the journal {self._journal} ends at "
                f"{end.seq}: the journal lost data. Restore it, or begin again under another [app] name."
            )
        try:
            entry = end if header.seq == end.seq else next(self._shard_log.entries(header.seq - 1))
        except Gone as error:
            raise BadCheckpoint(f"the journal no longer holds its entry {header.seq}") from error
        if entry.digest != header.digest:
            raise Stop(
                f"checkpoint {name} and the journal {self._journal} disagree about entry {header.seq} "
                "(another digest): one of them belongs to another history. Move the checkpoints away to "
                "recover from the journal alone."
            )

    def _entries(self, after: int) -> Iterator[Entry]:
        try:
            yield from self._shard_log.entries(after)
        except Gone as error:
            raise Stop(
                f"the journal {self._journal} no longer holds entry {after + 1}, and no usable checkpoint "
                "stands later: the state cannot be made again. Restore a checkpoint or the journal, or "
                "begin again under another [app] name."
            ) from error

    def _redone(self, revision: int, candidates: Iterable[Candidate]) -> Standing:
        """The state at the journal's end, from the newest checkpoint from which the digests come out; else
        from the birth of the model, the era entry with which its revision began.
        """
        diverged = -1
        for candidate in candidates:
            if candidate.header.under.revision != revision:
                break  # the state of a model that was replaced since
            try:
                standing = Standing(self._fresh, candidate.header, candidate.sections, self._schemas)
            except BadCheckpoint as reason:
                log.warning(
                    "checkpoint.refused", name=candidate.name, reason=str(reason), action="the one before it"
                )
                continue
            log.info("checkpoint.loaded", name=candidate.name, seq=standing.seq)
            failed = self._redo_all(standing)
            if failed is None:
                return standing
            diverged = max(diverged, failed)
            log.warning("redo.diverged", seq=failed, checkpoint=candidate.name, action="the one before it")
        log.warning("redo.from_birth", reason="no checkpoint leads to the journal's end")
        standing = self._standing_at(self._birth(revision))
        failed = self._redo_all(standing)
        if failed is None:
            return standing
        raise Stop(
            f"the journal {self._journal} cannot be redone: from entry {max(diverged, failed)} on, this "
            "process computes other outputs than those that were published. If versions changed, start the "
            "old version once and stop it gracefully (it leaves a checkpoint at the end), then start the new "
            "one. Otherwise the model is not deterministic."
        )

    def _birth(self, revision: int) -> Entry:
        for entry in self._entries(-1):
            if entry.change is not None and entry.change.revision == revision:
                return entry
        raise Stop(f"the journal {self._journal} does not hold the beginning of revision {revision}.")

    def _redo_all(self, standing: Standing) -> int | None:
        """Redo every entry after `standing`; the number of the one that came out different, if any."""
        records = 0
        for entry in self._entries(standing.seq):
            if entry.change is not None:
                standing.begin_era(entry)
                continue
            try:
                if not standing.redo(entry, self._shard_log, self._alive):
                    return entry.seq
            except Gone as error:
                raise Stop(
                    f"the input that entry {entry.seq} covers is no longer retained ({error}), and no "
                    "usable checkpoint stands later: the state cannot be made again."
                ) from error
            records += sum(run.next - run.first for run in entry.ranges)
        log.info("redo.finished", seq=standing.seq, offsets=records)
        return None

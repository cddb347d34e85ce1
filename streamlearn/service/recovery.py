"""Recovery: the one way to a shard's state, taken after a start, a crash, a rebalance and a hand-over.

The steps are those of ARCHITECTURE.md, "Recovery": the shard was opened (1) and its journal's end is
known (2); take the newest checkpoint that is whole and that the journal confirms (3); step the ranges of
each later entry again and compare digests (4); go on from the ends of the ranges (5).

Invariants:
- Nothing is rolled back and nothing is guessed: whatever contradicts the journal stops the service.
- A changed model never replaces the old one unless the user said so.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import structlog

from streamlearn.core.records import GENESIS, Entry, Era, Positions, chain
from streamlearn.core.snapshot import Header, unseal
from streamlearn.errors import BadCheckpoint, ConfigError, Gone, Stop
from streamlearn.log.port import Log, ShardLog, Store, TopicInfo
from streamlearn.service.eras import check_topics, era_now, start_of, what_changed
from streamlearn.service.models import FreshModel
from streamlearn.service.selfcheck import check_model, event_values
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
    ) -> None:
        self._config = config
        self._fresh = fresh
        self._log = service_log
        self._store = store
        self._shard_log = shard_log
        self._alive = alive
        self._journal = config.topics.journal
        self._topics: dict[str, TopicInfo] = service_log.topics()

    def run(self, model_change: str = "") -> Standing:
        """Stand at the journal's end, under the era of today's configuration.

        Raises `Stop` when the log contradicts itself, `ConfigError` when the user must choose, and
        `Fenced` or `Unknown` as `publish` does.
        """
        end = self._shard_log.end
        if end is None:
            return self._genesis()
        newest = next(self._candidates(end), None)
        era, number = self._era_at_end(newest)
        now = era_now(self._config, self._fresh, self._topics, "")
        check_topics(era, now)
        if era.model_version != now.model_version:
            return self._changed_model(model_change, end, era, number, now)
        if model_change:
            log.warning("model.unchanged", hint="--model-change has nothing to do")
        at_end = newest is not None and newest.header.seq == end.seq
        if era.fingerprint != now.fingerprint and not at_end:
            raise Stop(
                f"this machine's floating point ({now.fingerprint}) differs from that of the machine which "
                f"wrote the journal ({era.fingerprint}), so it would not compute the same bits. Stop the "
                "old machine's service gracefully first (it leaves a checkpoint at the end), or set "
                "[app] portable_math = true on all machines."
            )
        standing = self._redone(end)
        why = what_changed(era, now)
        if why:
            now = msgspec.structs.replace(now, why=why, revision=era.revision)
            self._begin_era(
                standing, start_of(self._log, self._config, now, self._topics, standing.positions)
            )
        return standing

    # --- eras -----------------------------------------------------------------------------------------

    def _genesis(self) -> Standing:
        """The first start of this app: nothing may speak of an earlier one."""
        witness = ", ".join(self._store.names()) or ", ".join(
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
        check_model(self._fresh, era, self._first_records(era))
        entry = Entry(0, 0, chain(GENESIS, ()), change=era)
        standing = Standing.at_genesis(self._fresh, entry)
        self._shard_log.publish(entry, (), standing.positions)
        standing.era_began = True
        log.info("journal.started", app=self._config.app.name, model_version=era.model_version)
        return standing

    def _first_records(self, era: Era) -> list[bytes]:
        """Values that wait already at the start: the best there is to check the model on."""
        polled = self._shard_log.poll(positions_under(era, {}), 1000, 1 << 24, 0.3)
        records = [record for some in polled.records.values() for record in some]
        return event_values(records, self._config.topics.control)

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

    def _changed_model(self, model_change: str, end: Entry, era: Era, number: int, now: Era) -> Standing:
        """Another model than the journal's: only on the user's word, and then from the same positions."""
        if model_change != "fresh":
            raise ConfigError(
                f"the model has changed: the journal {self._journal} was written by version "
                f"{era.model_version}, and [model] now builds version {now.model_version}. Choose: bring the "
                "old model back; or `--model-change fresh` to begin with the new one, untrained, at the "
                "place where the old one stopped. (`rival` and `relearn` come in a later version.)"
            )
        known = self._positions_at_end()
        now = msgspec.structs.replace(now, why="model", revision=era.revision + 1)
        now = start_of(self._log, self._config, now, self._topics, known)
        kept = [(topic, part, offset) for (topic, part), offset in known.items() if topic in now.topics]
        now = msgspec.structs.replace(now, start=sorted([*now.start, *kept]))
        entry = Entry(end.seq + 1, number + 1, chain(end.digest, ()), change=now)
        standing = Standing.at_genesis(self._fresh, entry)
        self._shard_log.publish(entry, (), standing.positions)
        standing.era_began = True
        log.warning(
            "model.replaced", before=era.model_version, after=now.model_version, revision=now.revision
        )
        return standing

    def _positions_at_end(self) -> Positions:
        """The positions after the last entry, without stepping anything."""
        header = next((c.header for c in self._candidates(self._shard_log.end)), None)
        positions: Positions = header.next_offsets() if header else {}
        for entry in self._entries(header.seq if header else -1):
            if entry.change is not None:
                positions = positions_under(entry.change, positions)
            for run in entry.ranges:
                positions[run.topic, run.partition] = run.next
        return positions

    # --- checkpoints and redo -------------------------------------------------------------------------

    def _candidates(self, end: Entry | None) -> Iterator[Candidate]:
        """The checkpoints that can be used, newest first; the others are logged with their reason."""
        assert end is not None
        for name in reversed(self._store.names()):
            try:
                header, sections = unseal(self._store.read(name), self._config.checkpoint.key.encode())
                self._confirm(name, header, end)
            except BadCheckpoint as reason:
                log.warning("checkpoint.refused", name=name, reason=str(reason), action="the one before it")
                continue
            yield Candidate(name, header, sections)

    def _confirm(self, name: str, header: Header, end: Entry) -> None:
        """Whether the journal holds the checkpoint's entry with its digest."""
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

    def _redone(self, end: Entry) -> Standing:
        """The state at the journal's end, from the newest checkpoint from which the digests come out."""
        diverged = -1
        for candidate in self._candidates(end):
            try:
                standing = Standing(self._fresh, candidate.header, candidate.sections)
            except BadCheckpoint as reason:
                log.warning(
                    "checkpoint.refused", name=candidate.name, reason=str(reason), action="the one before it"
                )
                continue
            log.info("checkpoint.loaded", name=candidate.name, seq=standing.seq)
            standing, failed = self._redo_all(standing)
            if failed is None:
                return standing
            diverged = max(diverged, failed)
            log.warning("redo.diverged", seq=failed, checkpoint=candidate.name, action="the one before it")
        log.warning("redo.from_genesis", reason="no checkpoint leads to the journal's end")
        genesis = next(self._entries(-1))
        if genesis.change is not None and genesis.change.model_version == self._fresh.version:
            standing, failed = self._redo_all(Standing.at_genesis(self._fresh, genesis))
            if failed is None:
                return standing
            diverged = max(diverged, failed)
        raise Stop(
            f"the journal {self._journal} cannot be redone: "
            + (f"from entry {diverged} on, " if diverged >= 0 else "")
            + "this process computes other outputs than those that were published. If versions changed, "
            "start the old version once and stop it gracefully (it leaves a checkpoint at the end), then "
            "start the new one. Otherwise the model is not deterministic."
        )

    def _redo_all(self, standing: Standing) -> tuple[Standing, int | None]:
        """Redo every entry after `standing`: where that leads, and the entry that came out different."""
        records = 0
        for entry in self._entries(standing.seq):
            if entry.change is not None:
                if entry.change.model_version != standing.era.model_version:
                    if entry.change.model_version != self._fresh.version:
                        return standing, entry.seq
                    standing = Standing.at_genesis(self._fresh, entry)
                else:
                    standing.begin_era(entry)
                continue
            try:
                if not standing.redo(entry, self._shard_log, self._alive):
                    return standing, entry.seq
            except Gone as error:
                raise Stop(
                    f"the input that entry {entry.seq} covers is no longer retained ({error}), and no "
                    "usable checkpoint stands later: the state cannot be made again."
                ) from error
            records += sum(run.next - run.first for run in entry.ranges)
        log.info("redo.finished", seq=standing.seq, offsets=records)
        return standing, None

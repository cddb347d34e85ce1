"""The very model that made a prediction, made again beside a running service from checkpoint and journal.

Invariants:
- Read only: topics are read as anybody may, checkpoints from the store; no shard is opened, so nobody is
  fenced.
- A model is called exact only when its prediction came out as the published one, byte for byte.
"""

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple

from streamlearn.config.schema import Config
from streamlearn.core.journal import Entry, Era
from streamlearn.core.records import SHARD, Positions, Record
from streamlearn.core.shard.facts import Facts, Predicted
from streamlearn.core.shard.snapshot import Header, Sections, dump_model, load_model, unseal
from streamlearn.core.shard.work import Failure
from streamlearn.engine.checkpoints import named_bytes
from streamlearn.engine.cursor import JournalCursor, in_order, skips_by_place
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.journal_end import named_checkpoints
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Schemas
from streamlearn.errors import BadCheckpoint, Gone, StreamlearnError
from streamlearn.log.port import CheckpointStore, Reader
from streamlearn.studies.explain.find_label import Joins

Tell = Callable[[str], None]


class ReconstructedModel(NamedTuple):
    """A model, and the features that it was given. `exact`: it made this very prediction; else it is that of
    an older checkpoint, and `why` says what kept it from being made again. `learned` is this model's.
    """

    model: Any
    x: dict[str, Any]
    exact: bool
    learned: int
    seq: int
    redone: int
    why: str = ""


class Reconstructor:
    """Reconstructs models of one service, from its log, its journal, and its signed checkpoints."""

    def __init__(
        self,
        config: Config,
        template: ModelTemplate,
        reader: Reader,
        store: CheckpointStore,
        schemas: Schemas,
        tell: Tell,
    ) -> None:
        self._reader = reader
        self._store = store
        self._key = config.checkpoint.key.encode()
        self._template = template
        self._journal = (config.topics.journal, SHARD)
        self._schemas = schemas
        self._tell = tell

    def model_for(self, record: Record, published: bytes, entry: Entry) -> ReconstructedModel | None:
        """The model that predicted `record`, which `entry` covers. None when no checkpoint is as old."""
        for header, sections in self.older(entry.seq):
            try:
                driver = self._driver(header, sections)
            except BadCheckpoint as reason:
                self._tell(f"checkpoint {header.seq} is passed over: {reason}")
                continue
            try:
                return self._redone(driver, header, record, published, entry)
            except (Gone, StreamlearnError) as error:
                why = str(error)
            driver = self._driver(header, sections)  # the other one was stepped
            shard = driver.shard
            event = driver.peek(record)
            if event is None:
                return None
            learned = shard.memory.learned
            return ReconstructedModel(shard.learner.model, event.x, False, learned, header.seq, 0, why)
        return None

    def joins(self, record: Record, seq: int) -> dict[str, Any]:
        """The fate of the label of `record`'s event, which entry `seq` covers: `Joins.result`, from the
        newest checkpoint that leads there and is older than all labels that name it. Raises `Gone`.
        """
        joins, entries = self._oldest_needed(record, seq)
        if joins.labelled or any("labels" in entry.change.config for entry in entries if entry.change):
            joins.follow(entries)
        return joins.result()

    def _oldest_needed(self, record: Record, seq: int) -> tuple[Joins, list[Entry]]:
        newest: tuple[Joins, list[Entry]] | None = None
        first: Positions = {}
        for header, sections in self.older(seq):
            try:
                entries = [*self._reader.entries(self._journal, header.seq)]
                joins = Joins(self._template, header, sections, self._schemas, self._reader, record)
            except BadCheckpoint as reason:
                self._tell(f"checkpoint {header.seq} is passed over: {reason}")
                continue
            except Gone:
                break
            if newest is None:
                first = joins.first_labels(self._reader)
            newest = joins, entries
            if joins.tells_all and _is_before(header.next_offsets(), first):
                break
        if newest is None:
            raise Gone("no checkpoint is old enough, or the journal no longer leads on from it")
        return newest

    def _driver(self, header: Header, sections: Sections) -> ShardDriver:
        """A driver where a checkpoint stands. Raises `BadCheckpoint`."""
        cursor = JournalCursor(header)
        return ShardDriver.at_cursor(cursor, sections, self._template.trusted, self._schemas, self._reader)

    def older(self, seq: int) -> Iterator[tuple[Header, dict[str, bytes]]]:
        """Whole checkpoints that the journal names and that stand before entry `seq`, newest first."""
        for named in reversed(named_checkpoints(self._reader, self._journal)):
            if named.seq < seq:
                try:
                    yield unseal(named_bytes(self._store, named), self._key)
                except BadCheckpoint as reason:
                    self._tell(f"checkpoint {named.name} is passed over: {reason}")

    def _redone(
        self, driver: ShardDriver, header: Header, record: Record, published: bytes, entry: Entry
    ) -> ReconstructedModel:
        """Step what lies between, and then the record itself. Raises `Gone` or `_Differs`."""
        try:
            between = takewhile(
                lambda past: past.seq < entry.seq, self._reader.entries(self._journal, header.seq)
            )
            entries = [*between]
        except Gone as error:
            raise Gone(f"the journal no longer holds the entries from {header.seq + 1} on") from error
        redone = sum(run.next - run.first for past in entries for run in past.ranges)
        if redone > 10_000:
            self._tell(f"stepping {redone:,} records again from checkpoint {header.seq} on ...")
        for past in entries:
            if past.change is not None:
                _same_revision(past.change, driver.cursor.era)
            if not driver.redo(past):
                raise _Differs(f"entry {past.seq} comes out different in this process")
        return self._last(driver, record, published, entry, header.seq, redone)

    def _last(
        self, driver: ShardDriver, record: Record, published: bytes, entry: Entry, seq: int, redone: int
    ) -> ReconstructedModel:
        """Step the entry up to the record, and the record itself."""
        skips = skips_by_place(entry.skips)
        _need(driver.carry_on(entry))
        for again in in_order(entry, self._reader):
            if again.place == record.place:
                return self._answered(driver, again, published, seq, redone)
            redone += 1
            _need(driver.again(again, skips.get(again.place)))
        raise Gone("the record is not in the entry that covers it")

    def _answered(
        self, driver: ShardDriver, record: Record, published: bytes, seq: int, redone: int
    ) -> ReconstructedModel:
        """Step the record; the model is kept as it was before it learned."""
        learned = driver.shard.memory.learned
        pickled = dump_model(driver.shard.learner.model)
        for fact in _need(driver.again(record, None)):
            if isinstance(fact, Predicted) and fact.output.value == published:
                model = load_model(pickled, self._template.trusted)
                return ReconstructedModel(model, fact.event.x, True, learned, seq, redone)
        raise _Differs("the prediction comes out different in this process")


class _Differs(StreamlearnError):
    """The redone outputs differ from the published ones."""


def _need(facts: Facts | Failure) -> Facts:
    """The facts of a record that was stepped before. Raises `_Differs` when the model fails at it now."""
    if isinstance(facts, Failure):
        raise _Differs("the model raised")
    return facts


def _is_before(positions: Positions, first: Positions) -> bool:
    """True if no position is beyond the first record that matters of its partition."""
    return all(positions.get(source, 0) <= offset for source, offset in first.items())


def _same_revision(change: Era, era: Era) -> None:
    if change.revision != era.revision:
        raise _Differs("the model was replaced between the checkpoint and this prediction")

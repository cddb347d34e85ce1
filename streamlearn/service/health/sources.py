"""Whether the input topics are still those that the journal speaks of.

Invariants:
- Nothing is committed whose records were fetched after the last look: the question is sent after a batch's
  last fetch, is in flight while the batch is stepped, and its answer is compared before the commit.
- An idle stream is looked at every `LOOK_S`, so that a topic that was deleted or has grown is noticed.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from streamlearn.core.journal import Era
from streamlearn.engine.era import check_topics
from streamlearn.env import Env
from streamlearn.errors import Reopen, Stop
from streamlearn.log.port import ShardLog

LOOK_S: Final = 10.0


class SourceWatch:
    """The looks of one ownership."""

    def __init__(self, env: Env, era: Era) -> None:
        self._env = env
        self._asked = False
        self._looked_s = self._env.monotonic()
        self._now: Mapping[str, tuple[str, int]] = era.topics

    def fetched(self, shard_log: ShardLog) -> None:
        """Records have come: ask what they came from. Does not wait."""
        shard_log.ask_sources()
        self._asked = True

    def compare(self, shard_log: ShardLog, era: Era) -> None:
        """Before a commit and between transactions. Raises `Stop` when an input is another topic or none."""
        if not self._asked and self._env.monotonic() - self._looked_s <= LOOK_S:
            return
        if not self._asked:
            shard_log.ask_sources()
        self._asked = False
        self._looked_s = self._env.monotonic()
        self._now = shard_log.sources()
        check_live(era, self._now)

    def look(self, shard_log: ShardLog, era: Era) -> None:
        """Compare now: before anybody draws conclusions from what a fetch has met."""
        self.fetched(shard_log)
        self.compare(shard_log, era)

    def check_grown(self, era: Era) -> None:
        """Raise `Reopen` when an input had more partitions at the last look than the era reads."""
        grown = [name for name, (_, count) in era.topics.items() if self._now[name][1] > count]
        if grown:
            raise Reopen(f"the input topic {', '.join(grown)} has more partitions than before")


def check_live(era: Era, topics: Mapping[str, tuple[str, int]]) -> None:
    """Raise `Stop` when an input of `era` is gone or another topic. `topics`: id and partitions by name."""
    for name in era.topics:
        if name not in topics:
            raise Stop(
                f"the input topic {name} was deleted while this service read it. What was published of it "
                "stays right. Take it out of [topics]; or make it again, and begin a new journal on it: "
                "`streamlearn reset`."
            )
    check_topics(era, msgspec.structs.replace(era, topics={name: topics[name] for name in era.topics}))

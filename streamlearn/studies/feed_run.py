"""A whole feed through a shard that no journal stands behind, as `train` and `score` step it."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from streamlearn.core.records import Record
from streamlearn.core.shard.facts import Facts
from streamlearn.engine.offline import Offline
from streamlearn.env import Flag
from streamlearn.errors import Stop
from streamlearn.history.feed import Feed
from streamlearn.history.sinks import Letters

PROGRESS_RECORDS: Final = 500


class FeedRun(NamedTuple):
    """One pass of a feed: until its end or until `stop` is set. `progress` is told how many records are done
    since it was told last; `letters` takes what was refused.
    """

    feed: Feed
    stop: Flag
    progress: Callable[[int], None]
    letters: Letters | None = None

    def steps(self, offline: Offline, ending: str = "") -> Iterator[tuple[Record, Facts]]:
        """Each record with its facts. Raises `Stop` when `stop` was set, which ends with `ending`, or when
        the model cannot go on.
        """
        count = 0
        for record in self.feed.records():
            if self.stop.is_set():
                raise Stop(f"interrupted after {count:,} records{ending}")
            if record is None:
                continue
            facts = offline.step(record)
            count += 1
            if self.letters is not None:
                self.letters.take(facts)
            if count % PROGRESS_RECORDS == 0:
                self.progress(PROGRESS_RECORDS)
            yield record, facts
        self.progress(count % PROGRESS_RECORDS)

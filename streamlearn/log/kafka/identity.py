"""Identity of the input topics: asked of the brokers whose records are at stake.

Fetches name topics, not their ids (kafka-python 3.0.12 speaks Fetch up to version 12), so a topic that was
deleted and made again is read on at the old offset without a word. A metadata answer holds the id.

Invariants:
- What a leader answers after it handed out records is about those records: an id never comes back. Another
  broker may be behind, so each topic is asked of the leaders of its partitions, and of nobody else.
- Leaders that disagree, as in the middle of a deletion, are asked again until they agree.
"""

from collections.abc import Sequence
from typing import Any

from streamlearn.errors import Unreachable
from streamlearn.log.kafka.client import CONNECT_S, ClientError, Code
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.errors import explained
from streamlearn.log.kafka.reader import RecordReader

_AGAIN_S = 0.05
_GONE_S = 3.0
"""A broker that has just started may not know a topic yet: so long it is asked again before that counts."""

Identities = dict[str, tuple[str, int]]
"""Id and number of partitions by topic; a topic that does not exist is not in it."""


class SourceIdentities:
    """The question about `topics`, which `reader` reads; one at a time, in flight while others work."""

    def __init__(self, cluster: Cluster, reader: RecordReader, topics: Sequence[str]) -> None:
        self._env = cluster.env
        self._cluster = cluster
        self._reader = reader
        self._topics = topics
        self._asked: list[Any] = []

    def ask(self) -> None:
        """Send the question; do not wait."""
        self._asked = [
            self._cluster.admin.ask_identities(topics, broker)
            for broker, topics in self._reader.leaders(self._topics).items()
        ]

    def answer(self) -> Identities:
        """The answer to the last question. Raises `Unreachable` when no answer comes in time."""
        began_s = self._env.monotonic()
        while True:
            try:
                return self._agreed_since(began_s)
            except ClientError as error:
                if not error.retriable and error.code != Code.NO_BROKER:
                    raise explained(self._cluster.bootstrap, "asking for topic ids", error) from error
                if self._env.monotonic() - began_s > CONNECT_S:
                    raise Unreachable(
                        f"Kafka at {self._cluster.bootstrap}: asking for topic ids: {error}. Check that the "
                        "brokers run and can be reached."
                    ) from error
            self._env.sleep(_AGAIN_S)
            self.ask()

    def _agreed_since(self, began_s: float) -> Identities:
        """The answer on which the brokers agree; one that lacks a topic counts only after a while. Raises
        `ClientError`.
        """
        agreed = _agreed([self._cluster.admin.identities(question) for question in self._asked])
        may_lack = self._env.monotonic() - began_s >= _GONE_S
        if agreed is None or (len(agreed) < len(self._topics) and not may_lack):
            raise ClientError("brokers disagree about the ids of the input topics", retriable=True)
        return agreed


def _agreed(answers: Sequence[dict[str, tuple[str, int] | None]]) -> Identities | None:
    """The identities on which all answers agree; None when they contradict each other."""
    agreed: dict[str, tuple[str, int] | None] = {}
    for answer in answers:
        for name, identity in answer.items():
            if agreed.setdefault(name, identity) != identity:
                return None
    return {name: identity for name, identity in agreed.items() if identity is not None}

"""What a broker refuses for good, told apart from what nobody can know.

Invariants:
- A refusal is the broker's answer to records that were sent: they are not in the log, the same bytes will be
  refused again, and only a person can change that. Hence `Stop`, with the broker's word and the setting.
- No answer, a late answer, and an answer that trying again may change (`RetriableError`: too few in-sync
  replicas, a leader that moves) are no refusals.
"""

from collections.abc import Iterable, Iterator

from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RetriableError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)

from streamlearn.errors import Stop

_RIGHTS = "Give this principal the right, see `streamlearn topics --print`"
_REMEDIES: dict[type[KafkaError], str] = {
    MessageSizeTooLargeError: "Raise max.message.bytes of that topic",
    RecordListTooLargeError: "Raise segment.bytes of that topic, or lower [transaction] max_bytes",
    InvalidTimestampError: "Set message.timestamp.type=LogAppendTime on that topic",
    TopicAuthorizationFailedError: _RIGHTS,
    ClusterAuthorizationFailedError: _RIGHTS,
    TransactionalIdAuthorizationFailedError: _RIGHTS,
    PolicyViolationError: "Ask whoever set that policy on the cluster",
    InvalidRecordError: "Ask whoever set a check of records (a schema, compaction) on that topic",
    UnsupportedForMessageFormatError: "Raise message.format.version of that topic to 0.11 or newer",
    UnsupportedCompressionTypeError: "Choose another [log.options] compression.type",
    InvalidTopicError: "Choose another name for it in [topics]",
}


def refusal(topics: Iterable[str], errors: Iterable[BaseException | None]) -> Stop | None:
    """The `Stop` for the first refusal among `errors`, what caused them and what they carry; else None.

    `topics` are those that were written to, for an answer that names none.
    """
    for error in errors:
        for link in _links(error):
            remedy = next((text for kind, text in _REMEDIES.items() if isinstance(link, kind)), None)
            if remedy is not None and not isinstance(link, RetriableError):
                word = f"{type(link).__name__.removesuffix('Error')}: {link}"
                return Stop(
                    f"Kafka refuses what is written to {', '.join(sorted(set(topics)))} ({word}), and would "
                    f"refuse it again. Nothing of it was committed. {remedy}, then start again."
                )
    return None


def _links(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and all that it was made of."""
    if error is not None:
        yield error
        for carried in (error.__cause__, *error.args):
            if isinstance(carried, BaseException):
                yield from _links(carried)

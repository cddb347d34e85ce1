"""The meaning of a client's error for the user and for the loop: said once, for every client.

Invariants:
- A refusal is the broker's answer to records that were sent: they are not in the log, the same bytes will be
  refused again, and only a person can change that. Hence `Stop`, with the broker's word and the setting.
- No answer, a late answer, and an answer that trying again may change (`retriable`: too few in-sync
  replicas, a leader that moves) are no refusals.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from streamlearn.env import Env
from streamlearn.errors import ConfigError, Stop, Unreachable
from streamlearn.log.kafka.client import CONNECT_S, ClientError, Code

Answer = TypeVar("Answer")

_RIGHTS = "Give this principal the right, see `streamlearn topics --print`"
_DENIED = (
    *(Code.TOPIC_DENIED, Code.GROUP_DENIED, Code.CLUSTER_DENIED, Code.TRANSACTIONAL_ID_DENIED),
    *(Code.TOKEN_DENIED, Code.SASL_FAILED),
)
_REMEDIES: dict[int, str] = {
    Code.MESSAGE_TOO_LARGE: "Raise max.message.bytes of that topic",
    Code.RECORD_LIST_TOO_LARGE: "Raise segment.bytes of that topic, or lower [transaction] max_bytes",
    Code.INVALID_TIMESTAMP: "Set message.timestamp.type=LogAppendTime on that topic",
    Code.TOPIC_DENIED: _RIGHTS,
    Code.CLUSTER_DENIED: _RIGHTS,
    Code.TRANSACTIONAL_ID_DENIED: _RIGHTS,
    Code.POLICY_VIOLATION: "Ask whoever set that policy on the cluster",
    Code.INVALID_RECORD: "Ask whoever set a check of records (a schema, compaction) on that topic",
    Code.UNSUPPORTED_FOR_MESSAGE_FORMAT: "Raise message.format.version of that topic to 0.11 or newer",
    Code.UNSUPPORTED_COMPRESSION: "Choose another [log.options] compression.type",
    Code.INVALID_TOPIC: "Choose another name for it in [topics]",
}


def ask(
    env: Env, bootstrap: str, purpose: str, question: Callable[[], Answer], deadline_s: float = CONNECT_S
) -> Answer:
    """The answer to `question`, asked again while the cluster is moving, for at most `deadline_s`.

    Raises `ConfigError` when the cluster denies it, `Unreachable` when no answer came in time, else `Stop`.
    """
    until = env.monotonic() + deadline_s
    while True:
        try:
            return question()
        except ClientError as error:
            if env.monotonic() >= until or not error.retriable:
                raise explained(bootstrap, purpose, error) from error
        env.sleep(0.05)


def explained(bootstrap: str, purpose: str, error: ClientError) -> ConfigError | Unreachable | Stop:
    """`error` as the error that tells the user, or the loop, what to do."""
    text = f"Kafka at {bootstrap}: {purpose}: {error}"
    if is_denied(error):
        return ConfigError(f"{text}. {_RIGHTS}.")
    if error.code == Code.NO_CODEC:
        return ConfigError(f"{text}. Install the codec's Python package.")
    if error.retriable:
        return Unreachable(f"{text}. Check that the brokers run and can be reached.")
    return Stop(f"{text}. streamlearn cannot go on without it.")


def is_denied(error: ClientError) -> bool:
    """True when this principal may not do that, or is not who it says."""
    return error.code in _DENIED


def refusal(topics: Iterable[str], errors: Iterable[ClientError | None]) -> Stop | None:
    """The `Stop` for the first refusal among `errors`, what caused them and what they carry; else None.

    `topics` are those that were written to, for an answer that names none.
    """
    for error in errors:
        for link in error.links() if error is not None else ():
            remedy = None if link.retriable else _REMEDIES.get(link.code)
            if remedy is not None:
                written = ", ".join(sorted(set(topics)))
                return Stop(
                    f"Kafka refuses what is written to {written} ({link.name}: {link}), and would "
                    f"refuse it again. Nothing of it was committed. {remedy}, then start again."
                )
    return None

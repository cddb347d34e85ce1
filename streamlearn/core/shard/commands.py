"""A record of the control topic is a command to the shard, and just one more record: journalled and redone.

Invariant: like a dead letter's, a command's name comes from the closed list below.
"""

from typing import Final, NamedTuple

import msgspec

from streamlearn.core.events.event import Refusal
from streamlearn.core.records import Record

GUARD_RESET: Final = "guard-reset"
FREEZE: Final = "freeze"
THAW: Final = "thaw"
RESET_TIME: Final = "reset-time"
RESET_LABEL: Final = "reset-label"
COMMANDS: Final = frozenset((GUARD_RESET, FREEZE, THAW, RESET_TIME, RESET_LABEL))
_ABOUT_A_FEATURE: Final = frozenset((GUARD_RESET,))
MAX_COMMAND_BYTES: Final = 65_536


class Command(NamedTuple):
    """`guard-reset` forgets what the guard has learned of `feature`; `freeze` lets learning stand still, and
    `thaw` lets it go on, whatever stopped it. `reset-time` and `reset-label` forget what the stream's time
    unit and the type of its labels were taken for, and an era follows.
    """

    name: str
    feature: str = ""


class _Shape(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    command: str
    feature: str = ""


_decoder: Final = msgspec.json.Decoder(_Shape)


def command_in(record: Record) -> Command | Refusal:
    """The command in `record.value`, which must not be None, or why there is none."""
    assert record.value is not None, "a tombstone is a skip and never decoded"
    if len(record.value) > MAX_COMMAND_BYTES:
        return Refusal("control", "bad_command")
    try:
        shape = _decoder.decode(record.value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Refusal("control", "bad_command")
    if shape.command not in COMMANDS:
        return Refusal("control", "unknown_command")
    if bool(shape.feature) != (shape.command in _ABOUT_A_FEATURE):
        return Refusal("control", "bad_command")
    return Command(shape.command, shape.feature)


def encode_command(command: Command) -> bytes:
    """The inverse of `command_in`, for the sender.

    >>> encode_command(Command("guard-reset", "temp"))
    b'{"command":"guard-reset","feature":"temp"}'
    """
    return msgspec.json.encode(_Shape(command.name, command.feature))

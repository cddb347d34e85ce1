"""Every error streamlearn raises on purpose, named by what happens next.

Two audiences read these names. The *user* reads the message: it says what happened, where, and what
to do. The *loop* reads the class: it decides between dropping a shard, asking the journal, and
stopping. This module lies below everything else and imports nothing.
"""


class StreamlearnError(Exception):
    """Base of the errors that end a command with one clear message and an exit code.

    Attributes:
        exit_code: The exit code of the command that ends with this error.

    Example:
        >>> [kind.exit_code for kind in (Stop, ConfigError, CheckFailed, Unreachable)]
        [1, 2, 3, 4]
    """

    exit_code = 1


class Stop(StreamlearnError):
    """A guarantee can no longer be kept: stop, and let a person decide. Never go on with a guess.

    The message says what happened, where, and what to do next. A process that is supervised and started again
    stops again: the state that it found has not changed.
    """

    exit_code = 1


class Full(Stop):
    """A disk or a quota is full: no process can go on before a person has made room.

    Example:
        >>> issubclass(Full, Stop), Full.exit_code
        (True, 4)
    """

    exit_code = 4


class ConfigError(StreamlearnError):
    """The configuration or the command line must be changed before this can run.

    The message names every key that is wrong, its value, its source, and a value that would be right.

    Example:
        >>> ConfigError("topics.input is not given: name the topic to read, with -i TOPIC").exit_code
        2
    """

    exit_code = 2


class CheckFailed(StreamlearnError):
    """A check that the user asked for said no, such as `streamlearn backtest --fail-under`."""

    exit_code = 3


class Unreachable(StreamlearnError):
    """A broker, a file or a store that is needed could not be reached in time; trying later may help."""

    exit_code = 4


class Fenced(Exception):
    """A newer owner holds this shard: drop it, then ask the election again.

    The state of the shard, and every conclusion about its journal, is worthless from then on.
    """


class NotOwner(Exception):
    """The election does not confirm that this process holds the shard: drop it, and ask again."""


class Stopping(Exception):
    """The process was asked to stop in the middle of work that nothing depends on yet: drop it, and end."""


class Unknown(Exception):
    """Nobody can say yet if the last publish was committed: open the shard again and read the journal.

    Args:
        words: A sentence for a person.
        full: True when the log has no room for the transaction.

    Example:
        >>> Unknown("the answer to EndTxn was lost").full
        False
    """

    def __init__(self, words: str = "", full: bool = False) -> None:
        super().__init__(words)
        self.full = full


class Reopen(Exception):
    """An input of the open shard has more partitions than before: drop the shard and open it again."""


class Gone(Exception):
    """Records or entries that are needed are no longer retained."""


class BadCheckpoint(Exception):
    """A checkpoint must not be loaded; the message is the reason. Take the checkpoint before it."""


class ModelRaised(Exception):
    """The model raised in the middle of a step, or has no good answer after it: undo the step.

    The state can no longer be trusted. The original exception is the cause (`__cause__`), if there is one; it
    never reaches an output.

    Args:
        stage: `predict`, `learn`, or `expire` (learning `[labels] default` when an event's time is up).
        reason: The dead letter's reason: `raised`, or `output_not_finite`.

    Example:
        >>> ModelRaised("learn").reason
        'raised'
    """

    def __init__(self, stage: str, reason: str = "raised") -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason


class NeedSchema(Exception):
    """The record's schema is not at hand: fetch it from the registry and step the record again.

    Nothing was changed by the step that raised this.

    Args:
        ident: The schema's id in the registry: the text of a number, or a GUID.

    Example:
        >>> NeedSchema("42").ident
        '42'
    """

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.ident = ident

"""Every error streamlearn raises on purpose, named by what happens next.

Two audiences read these names. The *user* reads the message: it says what happened, where, and what
to do. The *loop* reads the class: it decides between dropping a shard, asking the journal, and
stopping. This module lies below everything else and imports nothing.
"""


class StreamlearnError(Exception):
    """Base of the errors that end a command with one clear message and an exit code."""

    exit_code = 1


class Stop(StreamlearnError):
    """A guarantee can no longer be kept: stop, and let a person decide. Never go on with a guess."""

    exit_code = 1


class Full(Stop):
    """A disk or a quota is full: no process can go on before a person has made room."""

    exit_code = 4


class ConfigError(StreamlearnError):
    """The configuration or the command line must be changed before this can run."""

    exit_code = 2


class CheckFailed(StreamlearnError):
    """A check that the user asked for said no."""

    exit_code = 3


class Unreachable(StreamlearnError):
    """Something that is needed (a broker, a file, a store) could not be reached in time."""

    exit_code = 4


class Fenced(Exception):
    """A newer owner holds this shard: drop it, then ask the election again."""


class NotOwner(Exception):
    """The election does not confirm that this process holds the shard: drop it, and ask again."""


class Stopping(Exception):
    """The process was asked to stop in the middle of work that nothing depends on yet: drop it, and end."""


class Unknown(Exception):
    """Nobody can say yet whether the last publish was committed: read the journal, which can. `full`: there
    is no room for it.
    """

    def __init__(self, words: str = "", full: bool = False) -> None:
        super().__init__(words)
        self.full = full


class Reopen(Exception):
    """An input of the open shard has changed (more partitions): drop the shard and open it again."""


class Gone(Exception):
    """Records or entries that are needed are no longer retained."""


class BadCheckpoint(Exception):
    """A checkpoint that must not be loaded; the message is the reason. Take the one before it."""


class ModelRaised(Exception):
    """The model raised in the middle of a step, or has no good answer after it; its state can no longer be
    trusted: undo.

    `stage` is `predict`, `learn` or `expire`, `reason` that of the dead letter: `raised`, or
    `output_not_finite`. The original exception is the cause, if there is one; it never reaches an output.
    """

    def __init__(self, stage: str, reason: str = "raised") -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason


class NeedSchema(Exception):
    """The record's schema is not at hand: fetch `ident` from the registry and step the record again.

    Nothing was changed by the step that raised this. `ident` is a number's text or a GUID.
    """

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.ident = ident

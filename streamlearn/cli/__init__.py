"""The command line: words to calls, and nothing else.

Invariants:
- Data goes to standard output; progress, notes and errors to standard error.
- Nothing heavy is imported before a command needs it, so that `--help` is instant.
- Exit codes: 0 ok, 1 failed at run time, 2 usage or configuration, 3 a check said no, 4 something needed
  cannot be reached, 130 interrupted, 141 the reader of standard output has left.
"""

import contextlib
import os
import sys
import traceback
from pathlib import Path

from streamlearn.cli import streams
from streamlearn.errors import StreamlearnError

DEBUG = "STREAMLEARN_DEBUG"


def main() -> None:
    """The console script: run the command in `sys.argv`, and exit with its code."""
    streams.prepare()
    code = _code()
    streams.drop()
    sys.exit(code)


def _code() -> int | str | None:
    """Run the command; the exit code."""
    from streamlearn.cli.app import app

    try:
        try:
            app(prog_name="streamlearn")
        except SystemExit as ended:
            streams.flush()
            return ended.code
    except streams.ClosedPipe:
        return streams.CLOSED_PIPE
    except StreamlearnError as error:
        return _failed(error, error)
    except OSError as error:
        if (explained := streams.explained(error)) is not None:
            return _failed(error, explained)
        return _bug(error)
    # The edge of the process: whatever nobody expected becomes one line and an exit code here.
    except Exception as error:  # noqa: BLE001
        return _bug(error)
    return 0


def _bug(error: Exception) -> int:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    message = f"error: {type(error).__name__} at {where}: {error}"
    return _tell(error, f"{message}\nThis is a bug; set {DEBUG}=1 to see the whole traceback.", 1)


def _failed(error: Exception, explained: StreamlearnError) -> int:
    gone = streams.folder_gone()
    also = f" ({gone})" if gone and gone != str(explained) else ""
    return _tell(error, f"error: {explained}{also}", explained.exit_code)


def _tell(error: Exception, message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        if os.environ.get(DEBUG):
            traceback.print_exception(error)
        print(message, file=sys.stderr)
    return code

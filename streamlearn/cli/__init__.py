"""The command line: words to calls, and nothing else.

Invariants:
- Data goes to standard output; progress, notes and errors to standard error.
- Nothing heavy is imported before a command needs it, so that `--help` is instant.
- Exit codes: 0 ok, 1 failed at run time, 2 usage or configuration, 3 a check said no, 4 something needed
  cannot be reached, 130 interrupted.
"""

import os
import sys
import traceback
from pathlib import Path

from streamlearn.errors import StreamlearnError

DEBUG = "STREAMLEARN_DEBUG"


def main() -> None:
    """The console script: run the command in `sys.argv`, and exit with its code."""
    from streamlearn.cli.app import app

    try:
        app(prog_name="streamlearn")
    except StreamlearnError as error:
        _fail(error, f"error: {error}", error.exit_code)
    # The edge of the process: whatever nobody expected becomes one line and an exit code here.
    except Exception as error:  # noqa: BLE001
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        message = f"error: {type(error).__name__} at {where}: {error}"
        _fail(error, f"{message}\nThis is a bug; set {DEBUG}=1 to see the whole traceback.", 1)


def _fail(error: Exception, message: str, code: int) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    print(message, file=sys.stderr)
    sys.exit(code)

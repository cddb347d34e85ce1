"""Schemas from a registry: what answers a `NeedSchema`, in live work and in redo alike.

Invariants:
- A schema never changes under its id, so it is fetched once per process and is no part of the state.
- Only the registry's own word makes an id unknown; the record's dead letter is then noted in the entry's
  skips, so that redo does not ask again. A registry that cannot be asked is waited for, then an error.
"""

import base64
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog

from streamlearn.core.events.registry import MAX_SCHEMAS, Schema
from streamlearn.core.records import Record
from streamlearn.core.shard.shard import Shard
from streamlearn.env import Env
from streamlearn.errors import Stop, Unreachable

log = structlog.get_logger()

PATIENCE_S: Final = 60.0
TIMEOUT_S: Final = 5.0
UNKNOWN_FOR_S: Final = 60.0
"""So long an unknown id is believed to stay unknown: a broken producer is no storm of questions."""

MAX_ANSWER_BYTES: Final = 4 << 20
MAX_REFERENCES: Final = 100
_NOT_FOUND: Final = frozenset((40401, 40402, 40403))
"""The registry's own codes for what it does not have; a bare 404 may come from anybody on the way."""

Alive = Callable[[], None]
"""Called at every part of long work, so it is quick: keeps the membership, raises `NotOwner` without it."""


def unwatched() -> None:
    """Do nothing: nobody's membership depends on this work."""


class Schemas:
    """The schemas of one registry. `url` is "" where the configuration names none; `alive` is called while
    the registry is waited for, and may raise.
    """

    def __init__(self, env: Env, url: str, alive: Alive = unwatched) -> None:
        self.env = env
        parts = urllib.parse.urlsplit(url)
        self._url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip(
            "/"
        )
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        self._alive = alive
        self._known: dict[str, Schema] = {}
        self._unknown_since_s: dict[str, float] = {}

    def lost(self, ident: str, record: Record) -> Stop:
        """A schema with which a record was read before, and which the registry has no more."""
        return Stop(
            f"the schema registry {self._url} no longer has the schema {ident}, with which "
            f"record {record.offset} of {record.topic}-{record.partition} was read before. "
            "Restore it there: without it the state cannot be made again."
        )

    def supply(self, shard: Shard, ident: str) -> bool:
        """Give the shard the schema `ident`. False when the registry says that there is none.

        Raises `Unreachable` when it cannot be asked for a minute, and `Stop` when it refuses to answer.
        """
        if not self._url:
            raise Stop(
                "the era being redone read a schema registry, and the configuration no longer names one: "
                "set [event] schema_registry again for this start."
            )
        schema = self._known.get(ident)
        if schema is None:
            if self.env.monotonic() - self._unknown_since_s.get(ident, float("-inf")) < UNKNOWN_FOR_S:
                return False
            kind = "guids" if "-" in ident else "ids"
            answer = self._asked(f"/schemas/{kind}/{ident}")
            if answer is None:
                if len(self._unknown_since_s) >= MAX_SCHEMAS:
                    self._unknown_since_s.clear()
                self._unknown_since_s[ident] = self.env.monotonic()
                log.warning("schema.unknown", id=ident, action="its records become dead letters")
                return False
            references: dict[str, str] = {}
            self._gather(answer, references)
            schema = Schema(_kind(answer), str(answer.get("schema")), tuple(references.values()))
            if len(self._known) >= MAX_SCHEMAS:
                self._known.clear()
            self._known[ident] = schema
            log.info("schema.fetched", id=ident, kind=schema.kind)
        if len(shard.schemas) >= MAX_SCHEMAS:
            shard.schemas.clear()
        shard.schemas[ident] = schema
        return True

    def _gather(self, answer: dict[str, Any], parsed: dict[str, str]) -> None:
        """The texts of what a schema refers to, each after those it needs itself."""
        for reference in answer.get("references") or ():
            subject = urllib.parse.quote(str(reference["subject"]), safe="")
            path = f"/subjects/{subject}/versions/{reference['version']}"
            if path in parsed:
                continue
            if len(parsed) >= MAX_REFERENCES:
                raise Stop(f"a schema of {self._url} refers to more than {MAX_REFERENCES} others.")
            parsed[path] = ""  # a reference back to it ends here
            inner = self._asked(path)
            if inner is None:
                raise Stop(f"the schema registry {self._url} has no {path}, which another schema refers to.")
            self._gather(inner, parsed)
            del parsed[path]
            parsed[path] = str(inner.get("schema"))

    def _asked(self, path: str) -> dict[str, Any] | None:
        """The registry's answer; None when it says that there is no such thing."""
        deadline_s = self.env.monotonic() + PATIENCE_S
        pause_s = 0.1
        while True:
            try:
                return self._answer(path)
            except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: it was no JSON
                if self.env.monotonic() + pause_s > deadline_s:
                    raise Unreachable(
                        f"the schema registry {self._url} cannot be asked for {path}: {error}. Nothing is "
                        "lost; start again when it answers."
                    ) from error
                log.warning("schema.waiting", registry=self._url, reason=str(error))
            self._alive()
            self.env.sleep(pause_s)
            pause_s = min(2.0, 2 * pause_s)

    def _answer(self, path: str) -> dict[str, Any] | None:
        request = urllib.request.Request(self._url + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                data = response.read(MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            if error.code == 404 and _error_code(error.read(MAX_ANSWER_BYTES)) in _NOT_FOUND:
                return None
            if error.code in (408, 429) or error.code >= 500:
                raise
            raise Stop(
                f"the schema registry {self._url} answered {error.code} {error.reason} to {path}: check its "
                "address and credentials in [event] schema_registry."
            ) from error
        parsed = orjson.loads(data)
        if not isinstance(parsed, dict):
            raise ValueError("its answer is no JSON object")
        return parsed


def _kind(answer: dict[str, Any]) -> str:
    return str(answer.get("schemaType") or "AVRO")


def _error_code(body: bytes) -> int:
    try:
        parsed = orjson.loads(body)
    except ValueError:
        return 0
    code = parsed.get("error_code") if isinstance(parsed, dict) else 0
    return code if isinstance(code, int) else 0

"""Find out what answers at a broker's address, after a client could not connect: a few bytes, no client.

`knock` only opens a connection; `protocol` sends requests that every broker since 0.10 answers before
anybody is known to it (https://kafka.apache.org/protocol): ApiVersions v0, and SaslHandshake v1, which a
listener without SASL refuses with ILLEGAL_SASL_STATE.

Invariants:
- Every step has a deadline; what is found is a fact about a listener, never a guess from a client's words.
- No secret is sent: the probe names a mechanism that does not exist, and ends there.
"""

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

STEP_S: Final = 2.0
_API_VERSIONS: Final = 18
_SASL_HANDSHAKE: Final = 17
_NO_MECHANISM: Final = "STREAMLEARN-PROBE"
_UNSUPPORTED_SASL_MECHANISM: Final = 33
_MAX_ANSWER_BYTES: Final = 1 << 20
_CERTIFICATE = re.compile(r"certificate|handshake|CERT_|tlsv1", re.IGNORECASE)


class Found(NamedTuple):
    """A listener. `protocol`: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, "HTTP", "" for others;
    `mechanisms`: those that a SASL listener offers.
    """

    address: str
    protocol: str
    mechanisms: tuple[str, ...] = ()


def addresses(bootstrap: str) -> Iterator[tuple[str, int]]:
    """Host and port of each part of `host:port,host:port`, without the brackets of IPv6."""
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        yield host.strip("[]"), int(port)


def knock(bootstrap: str, timeout_s: float = 1.0) -> str:
    """ "" when a connection to one of the addresses can be opened, else why not."""
    reason = ""
    for address in addresses(bootstrap):
        try:
            socket.create_connection(address, timeout_s).close()
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        else:
            return ""
    return reason


def protocol(bootstrap: str) -> Found | None:
    """The listener at the first address that can be connected to; None when nothing does."""
    for host, port in addresses(bootstrap):
        if knock(f"{host}:{port}"):
            continue
        address = f"{host}:{port}"
        for encrypted in (False, True):
            with contextlib.suppress(OSError, ValueError):  # ValueError: an answer that is no Kafka
                return _spoken(address, host, port, encrypted)
        return Found(address, "HTTP" if _is_http(host, port) else "")
    return None


def misunderstanding(heard: Found, ours: str, mechanism: str | None, last: str) -> str:
    """The reason why the broker and we do not understand each other; "" when both speak the same.

    Args:
        heard: The listener.
        ours: The protocol that we speak.
        mechanism: Our SASL mechanism, if any.
        last: The last network error of the client.
    """
    if heard.protocol == ours:
        return _not_admitted(heard, mechanism, last)
    if heard.protocol == "HTTP":
        return (
            f"What answers at {heard.address} is an HTTP server and no Kafka broker: check [log] "
            "bootstrap_servers (a REST proxy, a registry and a metrics page have ports of their own)."
        )
    if not heard.protocol:
        return ""
    offered = f" (mechanisms: {', '.join(heard.mechanisms)})" if heard.mechanisms else ""
    return (
        f"A broker answers at {heard.address}, but not in {ours}: this listener speaks {heard.protocol}"
        f'{offered}. Set [log.options] security.protocol = "{heard.protocol}" '
        f"(-X security.protocol={heard.protocol}), or take the port of the listener for {ours}."
    )


def _not_admitted(heard: Found, mechanism: str | None, last: str) -> str:
    """The reason why a broker that speaks our protocol does not let us in; "" when none is known."""
    ours = heard.protocol
    if heard.mechanisms and mechanism not in heard.mechanisms:
        return (
            f"A broker answers at {heard.address} in {ours}, but without SASL mechanism {mechanism}: it "
            f"offers {', '.join(heard.mechanisms)}. Set [log.options] sasl.mechanism."
        )
    if heard.mechanisms and "disconnected" in last:
        return (
            f"A broker answers at {heard.address} in {ours}, and closes the connection after {mechanism}: "
            "check [log.options] sasl.username and sasl.password."
        )
    if ours.endswith("SSL") and _CERTIFICATE.search(last):
        return (
            f"A broker answers at {heard.address} in {ours}, but the certificates do not agree: {last}. "
            "Check [log.options] ssl.ca.location, ssl.certificate.location and ssl.key.location."
        )
    return ""


def _spoken(address: str, host: str, port: int, encrypted: bool) -> Found:
    """Ask as a Kafka client would. Raises `OSError` or `ValueError` when no broker speaks so there."""
    with _connection(host, port, encrypted) as line:
        _ask(line, _API_VERSIONS, 0, b"")
        name = _NO_MECHANISM.encode()
        answer = _ask(line, _SASL_HANDSHAKE, 1, struct.pack(">h", len(name)) + name)
    (code,) = struct.unpack_from(">h", answer)
    sasl = code == _UNSUPPORTED_SASL_MECHANISM
    secure = "SSL" if encrypted else "PLAINTEXT"
    return Found(address, f"SASL_{secure}" if sasl else secure, tuple(_names(answer[2:])) if sasl else ())


@contextlib.contextmanager
def _connection(host: str, port: int, encrypted: bool) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), STEP_S) as plain:
        if not encrypted:
            yield plain
            return
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # who it is does not matter: nothing of ours is sent
        with context.wrap_socket(plain, server_hostname=host) as line:
            yield line


def _ask(line: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """Send one request; the answer after its correlation id."""
    head = struct.pack(">hhih", api, version, api, -1)
    line.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    (size,) = struct.unpack(">i", _exactly(line, 4))
    if not 6 <= size <= _MAX_ANSWER_BYTES:
        raise ValueError(f"an answer of {size} bytes")
    answer = _exactly(line, size)
    if struct.unpack_from(">i", answer) != (api,):
        raise ValueError("an answer to something else")
    return answer[4:]


def _exactly(line: socket.socket, count: int) -> bytes:
    answer = b""
    while len(answer) < count:
        more = line.recv(count - len(answer))
        if not more:
            raise ValueError("the connection was closed")
        answer += more
    return answer


def _names(data: bytes) -> Iterator[str]:
    """The strings of a Kafka array of strings."""
    (count,) = struct.unpack_from(">i", data)
    pos = 4
    for _ in range(count):
        (size,) = struct.unpack_from(">h", data, pos)
        yield data[pos + 2 : pos + 2 + size].decode(errors="replace")
        pos += 2 + size


def _is_http(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), STEP_S) as line:
        line.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        return line.recv(5) == b"HTTP/"
    return False

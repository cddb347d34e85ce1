"""The first words of a newcomer: misspelt files, no broker, a broker in another protocol, names from Java."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from command import Command, command

from streamlearn.errors import ConfigError
from streamlearn.log.kafka import probe as kafka_probe
from streamlearn.log.kafka.kafka_python import connect as kafka_client
from streamlearn.log.kafka.kafka_python.options import client_options

__all__ = ["command"]

ROOT = Path(__file__).parent.parent
DEFAULT = "127.0.0.1:9092 (the default; no streamlearn.toml here)"


@pytest.fixture(autouse=True)
def in_doubt_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_client, "DOUBT_MS", 300)


def nobody_at_the_default() -> None:
    if not kafka_probe.knock("127.0.0.1:9092"):
        pytest.skip("somebody listens at the default address")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "words", [("tail", "x"), ("scores",), ("control", "guard-reset", "x"), ("dlq", "list")]
)
def test_without_a_configuration_and_a_broker_it_is_said_at_once(
    command: Command, words: tuple[str, ...]
) -> None:
    nobody_at_the_default()
    began_s = time.monotonic()
    result = command(*words)
    assert (result.code, len(result.err.splitlines())) == (4, 1)
    assert f"no Kafka broker answers at {DEFAULT}: Connection refused" in result.err
    assert "--db FILE" in result.err
    assert time.monotonic() - began_s < kafka_client.CONNECT_S / 2  # it was 12 s of silence


def test_a_misspelt_file_is_told_with_those_of_a_like_name(command: Command) -> None:
    nobody_at_the_default()
    Path("logger.csv").write_text("a,b\n1,2\n")
    result = command("look", "loger")
    assert (result.code, len(result.err.splitlines())) == (4, 1)
    assert "loger is no file here (did you mean logger.csv?). As a topic it was looked for: " in result.err
    assert DEFAULT in result.err
    for words in (("look", "loger.csv"), ("replay", "loger.csv", "-t", "e", "--db", "s.db")):
        result = command(*words)
        assert (result.code, "(did you mean logger.csv?)" in result.err) == (2, True)
    command.ok("replay", "logger.csv", "-t", "e", "--db", "s.db")
    result = command("look", "loger", "--db", "s.db")
    assert "loger is no file here (did you mean logger.csv?)" in result.err
    assert "there is no topic 'loger'" in result.err


def test_brokers_that_were_named_are_waited_for_and_a_terminal_is_told(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    words = ("tail", "x", "-b", "127.0.0.1:1", "-X", "bootstrap.timeout.ms=500")
    assert "within 0.5 s" in command(*words).err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = command(*words)
    assert result.code == 4
    assert result.err.startswith("waiting for Kafka at 127.0.0.1:1: Connection refused\n")


@pytest.mark.kafka
@pytest.mark.parametrize("protocol", ["SSL", "sasl_plaintext", "SASL_SSL"])
def test_a_broker_in_another_protocol_is_a_broker(command: Command, kafka: str, protocol: str) -> None:
    options = ("-X", f"security.protocol={protocol}", "-X", "sasl.mechanism=PLAIN")
    result = command("tail", "x", "-b", kafka, *options, "-X", "sasl.username=a", "-X", "sasl.password=b")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert (
        f"A broker answers at {kafka}, but not in {protocol.upper()}: this listener speaks PLAINTEXT"
        in result.err
    )
    assert "No Kafka broker" not in result.err


def test_an_http_server_is_no_broker_and_called_by_its_name(command: Command) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = command("tail", "x", "-b", f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert result.code == 2
    assert "is an HTTP server and no Kafka broker" in result.err


@pytest.fixture
def encrypted(kafka: str, tmp_path: Path) -> Iterator[str]:
    """The address of a port that speaks TLS, and passes what it reads on to the broker."""
    words = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost"
    )
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    (broker,) = kafka_probe.addresses(kafka)

    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                inner = context.wrap_socket(plain, server_side=True)
            except OSError:
                continue
            outer = socket.create_connection(broker)
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


@pytest.mark.kafka
def test_plain_text_to_an_encrypted_port_and_a_certificate_of_a_stranger(
    command: Command, encrypted: str
) -> None:
    result = command("tail", "x", "-b", encrypted)
    assert (result.code, "but not in PLAINTEXT: this listener speaks SSL" in result.err) == (2, True)
    result = command("tail", "x", "-b", encrypted, "-X", "security.protocol=SSL")
    assert (result.code, "in SSL, but the certificates do not agree" in result.err) == (2, True)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_listener_that_asks_for_a_password(command: Command, kafka: str, tmp_path: Path) -> None:
    """A broker of its own, with one listener of each kind of authentication."""
    folder, port, controller, closed = tmp_path / "broker", free_port(), free_port(), free_port()
    folder.mkdir()
    (folder / "broker.json").write_text(json.dumps({"port": port, "controller_port": controller}))
    outside = f"PLAINTEXT://127.0.0.1:{port},CLOSED://127.0.0.1:{closed}"
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_a="b";'
    settings = (
        f"listeners={outside},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners={outside}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CLOSED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms=PLAIN",
        f"listener.name.closed.plain.sasl.jaas.config={login}",
    )
    script = [str(ROOT / "scripts" / "kafka")]
    sets = [word for one in settings for word in ("--set", one)]
    subprocess.run(
        [*script, "start", "--data", str(folder), *sets], check=True, capture_output=True, timeout=150
    )
    try:
        words = ("tail", "x", "-b", f"127.0.0.1:{closed}")
        sasl = ("-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.username=a")
        plain = (*sasl, "-X", "sasl.mechanism=PLAIN")
        assert "speaks SASL_PLAINTEXT (mechanisms: PLAIN)" in command(*words).err
        scram = command(*words, *sasl, "-X", "sasl.mechanism=SCRAM-SHA-256", "-X", "sasl.password=b")
        assert "without SASL mechanism SCRAM-SHA-256: it offers PLAIN" in scram.err
        wrong = command(*words, *plain, "-X", "sasl.password=wrong")
        assert "check [log.options] sasl.username and sasl.password" in wrong.err
        assert "there is no topic 'x'" in command(*words, *plain, "-X", "sasl.password=b").err
    finally:
        subprocess.run([*script, "stop", "--data", str(folder), "--wipe"], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("sasl.jaas.config", "sasl.mechanism, sasl.username and sasl.password"),
        ("ssl.truststore.location", "ssl.ca.location"),
        ("ssl.truststore.password", "ssl.ca.location"),
        ("ssl.keystore.location", "ssl.certificate.location and ssl.key.location"),
        ("key.serializer", "remove it"),
        ("value.deserializer", r"\[event\] says how values are read"),
        ("schema.registry.url", r"\[event\] schema_registry"),
        ("bootstrap.servers", r"\[log\] bootstrap_servers"),
        ("group.id", "streamlearn sets this itself"),
        ("security.protocol", "must be PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
    ],
)
def test_names_from_java_are_answered_with_ours(name: str, right: str) -> None:
    with pytest.raises(ConfigError, match=right) as refused:
        client_options({name: "x"})
    assert name in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_protocol_in_small_letters_is_that_protocol() -> None:
    """kafka-python takes what it does not know for PLAINTEXT, and would send everything in the clear."""
    assert client_options({"security.protocol": "ssl"}) == {"security_protocol": "SSL"}

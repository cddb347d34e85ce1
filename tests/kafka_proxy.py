"""A proxy before a real broker that loses an answer: the request gets there, then the connection breaks."""

import socket
import struct
from contextlib import suppress
from threading import Thread

PRODUCE, END_TXN = 0, 26
"""The numbers of the requests that bring records, and that end a transaction."""


class Proxy:
    """Listens on `port` and forwards to the broker at `target`, once there is one."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.target = 0
        self._lose: set[int] = set()
        self.lost = 0
        Thread(target=self._accept, daemon=True).start()

    def lose_the_answer_to_the_next(self, request: int) -> None:
        self._lose.add(request)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self.target))
                Thread(target=self._requests, args=(client, broker), daemon=True).start()
                Thread(target=self._answers, args=(broker, client), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError), client, broker, client.makefile("rb") as requests:
            while head := requests.read(4):
                body = requests.read(*struct.unpack(">i", head))
                broker.sendall(head + body)
                if (request := struct.unpack(">h", body[:2])[0]) in self._lose:
                    self._lose.remove(request)
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return

    def _answers(self, broker: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := broker.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

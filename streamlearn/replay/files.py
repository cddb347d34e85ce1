"""The bytes of a source: a file, plain or compressed, or standard input, in pieces of bounded size.

Invariants:
- A compressed file that was cut short is an error that names it; it never ends early in silence.
- A piece is given as soon as it has arrived, so that a slow pipe is not waited for.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from streamlearn.errors import ConfigError

CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 16 << 20
PACKED = (".gz", ".zst")


def suffix_of(name: str) -> str:
    """What kind of file it is, without the compression: `.csv` for `a.csv.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def shown(name: str) -> str:
    """How messages call a source."""
    return "standard input" if name == "-" else name


def chunks(name: str) -> Iterator[bytes]:
    """The unpacked bytes, in pieces. Raises `ConfigError` when the file is damaged or cut short."""
    if name == "-":
        yield from _read(sys.stdin.buffer)
        return
    unpack = {".gz": _gunzip, ".zst": _unzstd}.get(Path(name.lower()).suffix, _read)
    try:
        with Path(name).open("rb") as file:
            yield from unpack(file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(
            f"{name} is damaged or was cut short ({error}): copy it again whole, and test it with"
            f" `{'gzip' if name.lower().endswith('.gz') else 'zstd'} -t {name}`"
        ) from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}; check the file and its disk") from error


def whole_lines(name: str) -> Iterator[bytes]:
    """The bytes again, cut after line ends; only the last piece may lack one."""
    rest: list[bytes] = []
    waiting = 0
    for chunk in chunks(name):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield b"".join((*rest, chunk[:cut]))
            rest, waiting = [], 0
        rest.append(chunk[cut:])
        waiting += len(chunk) - cut
        if waiting > MAX_LINE_BYTES:
            raise ConfigError(
                f"{shown(name)} has a line longer than {MAX_LINE_BYTES} bytes: are its lines ended by"
                " line feeds, and is it the kind of file it is read as (--format)?"
            )
    if waiting:
        yield b"".join(rest)


def _read(file: BinaryIO) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)
    while chunk := read(CHUNK_BYTES):
        yield chunk


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while chunk := unpacked.read(CHUNK_BYTES):
            yield chunk


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Frame by frame, because the library's own reader takes a frame cut short for the end."""
    import zstandard

    packed = b""
    while packed := packed or file.read(CHUNK_BYTES):
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            try:
                chunk = frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from error
            for at in range(0, len(chunk), CHUNK_BYTES):
                yield chunk[at : at + CHUNK_BYTES]
            packed = b"" if frame.eof else file.read(CHUNK_BYTES)
            if not frame.eof and not packed:
                raise EOFError("the last frame is not complete")
        packed = frame.unused_data

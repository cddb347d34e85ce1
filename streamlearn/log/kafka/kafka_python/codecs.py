"""The codecs of record batches, with a bound on the bytes that a batch unpacks to.

Invariant: of one batch at most `UNPACKED_BYTES` are unpacked, whatever its codec and whoever packed it.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final

import lz4.frame
import snappy
import zstandard
from kafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from kafka.errors import CorruptRecordError, UnsupportedCodecError

UNPACKED_BYTES: Final = 64 << 20
"""Producers pack about a megabyte at once, so no honest batch comes near."""

_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD: Final = 16
_READ_BYTES: Final = 1 << 20


class TooLargeInsideError(Exception):
    """A batch would unpack to more than a machine should hold."""


def pack(codec: int, data: bytes) -> bytes:
    """`data` packed, by Kafka's number of the codec, by kafka-python: Kafka does not read lz4 frames whose
    blocks depend on each other, and wants snappy in the framing of a Java library.
    """
    return bytes(_ENCODERS[codec](data))


def unpack(codec: int, data: bytes) -> bytes:
    """`data` unpacked, by Kafka's number of the codec.

    Raises `TooLargeInsideError` before more than `UNPACKED_BYTES` are held, `CorruptRecordError` for what is
    not of that codec, `UnsupportedCodecError` for a number that no codec has.
    """
    if codec not in _DECODERS:
        raise UnsupportedCodecError(f"no codec has the number {codec}")
    try:
        return b"".join(_bounded(_DECODERS[codec](data)))
    except (zlib.error, zstandard.ZstdError, RuntimeError, EOFError, snappy.UncompressError) as error:
        raise CorruptRecordError(f"the batch does not unpack: {error}") from error


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > UNPACKED_BYTES:
            raise TooLargeInsideError
        yield piece


def _gzip(data: bytes) -> Iterator[bytes]:
    while data:  # members follow each other
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = member.decompress(data, _READ_BYTES)
            if not piece and not member.eof:
                raise EOFError("the end of a gzip member is missing")
            data = member.unconsumed_tail
            yield piece
        data = member.unused_data


def _snappy(data: bytes) -> Iterator[bytes]:
    if not data.startswith(_XERIAL):
        yield _snappy_block(data)
        return
    pos = _XERIAL_HEAD
    while pos < len(data):
        size = int.from_bytes(data[pos : pos + 4], "big")
        pos += 4
        yield _snappy_block(data[pos : pos + size])
        pos += size


def _snappy_block(block: bytes) -> bytes:
    """A block begins with its size inside, seven bits a byte, the lowest first."""
    size = 0
    for index, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    if size > UNPACKED_BYTES:
        raise TooLargeInsideError
    return bytes(snappy.decompress(block))


def _lz4(data: bytes) -> Iterator[bytes]:
    while data:  # frames follow each other
        frame = lz4.frame.LZ4FrameDecompressor()
        piece = frame.decompress(data, max_length=_READ_BYTES)
        yield piece
        while not frame.eof:
            if not piece and frame.needs_input:
                raise EOFError("the end of an lz4 frame is missing")
            piece = frame.decompress(b"", max_length=_READ_BYTES)
            yield piece
        data = frame.unused_data or b""


def _zstd(data: bytes) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        while piece := reader.read(_READ_BYTES):
            yield piece


_DECODERS: Final[dict[int, Callable[[bytes], Iterator[bytes]]]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
_ENCODERS: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: gzip_encode,
    2: snappy_encode,
    3: lz4_encode,
    4: zstd_encode,
}

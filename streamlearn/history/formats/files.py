"""The bytes of a source: a file, plain or compressed, or standard input, in pieces of bounded size.

Invariants:
- A compressed file that was cut short is an error that names it; it never ends early in silence.
- A piece is given as soon as it has arrived, so that a slow pipe is not waited for.
"""

import bz2
import gzip
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from streamlearn.errors import ConfigError

CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 16 << 20
PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
_MAGIC = (
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"BZh9", "bzip2", ".bz2"),
    (b"\xfd7zXZ\0", "xz", ".xz"),
    (b"PK\x03\x04", "zip (or Excel: save the sheet as CSV)", ".zip"),
    (b"PAR1", "Parquet", ".parquet"),
    (b"ARROW1", "Arrow", ".arrow"),
    (b"SQLite format 3", "SQLite", ".db"),
)
_OFFICE = b"[Content_Types].xml"
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LOOKED_AT_BYTES = 4096


def file_suffix(name: str) -> str:
    """The kind of a file, without the compression: `.csv` for `a.csv.gz`."""
    path = Path(name.lower())
    if path.suffix == ".zip" and not Path(path.stem).suffix and Path(name).is_file():
        with _opened(name) as archive:
            return Path(_member(name, archive).filename.lower()).suffix
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def shown(name: str) -> str:
    """A source's name in messages."""
    return "standard input" if name == "-" else name


def chunks(name: str) -> Iterator[bytes]:
    """The unpacked bytes, in pieces. Raises `ConfigError` when the file is damaged or cut short."""
    if name == "-":
        yield from _read(sys.stdin.buffer)
        return
    unpack = _UNPACK.get(Path(name.lower()).suffix, _read)
    try:
        with Path(name).open("rb") as file:
            yield from unpack(file) if unpack is not _read else _checked(name, file)
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        tool = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "unzip"}
        raise ConfigError(
            f"{name} is damaged or was cut short ({error}): copy it again whole, and test it with"
            f" `{tool[Path(name.lower()).suffix]} -t {name}`"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{name} cannot be read: {reason}; check the file and its disk") from error


def check_text(name: str, head: bytes) -> None:
    """Refuse a file whose beginning is no text in UTF-8 or like it. Raises `ConfigError`."""
    start = head[:_LOOKED_AT_BYTES]
    if start.startswith(_UTF16):
        raise ConfigError(
            f"{shown(name)} is UTF-16, and JSON is read as UTF-8: iconv -f UTF-16 -t UTF-8 {name} > new.jsonl"
        )
    if start.partition(b"\n")[0].count(0) or start.count(0) > len(start) // 3:
        raise ConfigError(
            f"{shown(name)} is no text: it holds NUL bytes at its beginning. If it is UTF-16 without a mark,"
            " convert it (iconv -f UTF-16LE -t UTF-8); if it is a table of another program, save it as CSV"
        )


def _checked(name: str, file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file that is not packed, and no other kind of file by its first bytes."""
    pieces = _read(file)
    for piece in pieces:
        if piece.startswith(b"PK\x03\x04") and _OFFICE in piece[:_LOOKED_AT_BYTES]:
            raise ConfigError(f"{name} is an Excel workbook or another document of Office: save it as CSV")
        for magic, kind, suffix in _MAGIC:
            if piece.startswith(magic):
                raise ConfigError(
                    f"{name} is {kind} by its first bytes, and its name says otherwise: call it"
                    f" {Path(name).name}{suffix}, or unpack it"
                )
        yield piece
        break
    yield from pieces


def whole_lines(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes again, cut after line ends; only the last piece may lack one."""
    rest: list[bytes] = []
    waiting = 0
    for chunk in pieces:
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
        yield from _pieces(unpacked)


def _bunzip(file: BinaryIO) -> Iterator[bytes]:
    with bz2.BZ2File(file) as unpacked:
        yield from _pieces(unpacked)


def _unxz(file: BinaryIO) -> Iterator[bytes]:
    with lzma.LZMAFile(file) as unpacked:
        yield from _pieces(unpacked)


def _pieces(unpacked: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := unpacked.read(CHUNK_BYTES):
        yield chunk


def _unzip(file: BinaryIO) -> Iterator[bytes]:
    """The one file in an archive, piece by piece, so that no bomb fills the memory."""
    name = file.name
    with _opened(name) as archive, archive.open(_member(name, archive)) as unpacked:
        yield from _pieces(unpacked)


def _opened(name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(name)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{name} is no whole zip archive ({error}): copy it again") from error


def _member(name: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file in an archive; what a Mac adds is none. Raises `ConfigError`."""
    members = [member for member in archive.infolist() if _is_file(member)]
    if len(members) != 1:
        raise ConfigError(_not_one_file(name, [member.filename for member in members]))
    (member,) = members
    if member.flag_bits & 1 or member.compress_type not in _ZIP_METHODS:
        why = "encrypted" if member.flag_bits & 1 else f"packed by method {member.compress_type}"
        raise ConfigError(
            f"{name}: {member.filename} is {why}, which cannot be read here: unpack it before (7z x {name})"
        )
    return member


def _not_one_file(name: str, files: list[str]) -> str:
    if not files:
        return f"{name} holds no file: look into it, like unzip -p {name} FILE > FILE"
    names = ", ".join(files[:10]) + (", ..." if len(files) > 10 else "")
    return (
        f"{name} holds {len(files)} files ({names}): take one out, like unzip -p {name} {files[0]} >"
        f" {Path(files[0]).name}"
    )


def _is_file(member: zipfile.ZipInfo) -> bool:
    hidden = member.filename.startswith("__MACOSX/") or Path(member.filename).name[:1] == "."
    return not member.is_dir() and not hidden


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
            for first in range(0, len(chunk), CHUNK_BYTES):
                yield chunk[first : first + CHUNK_BYTES]
            packed = b"" if frame.eof else file.read(CHUNK_BYTES)
            if not frame.eof and not packed:
                raise EOFError("the last frame is not complete")
        packed = frame.unused_data


_UNPACK = {".gz": _gunzip, ".zst": _unzstd, ".bz2": _bunzip, ".xz": _unxz, ".zip": _unzip}

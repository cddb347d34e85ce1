"""CSV as it comes: encoding, delimiter and header found out or told; blocks of cells, column by column.

Invariants:
- A row has as many cells as the header, or is refused with its number. Rows are numbered as a spreadsheet
  shows them: the header is row 1, blank lines count, a cell with line feeds is still in one row.
- A block without quotes is split in one go, any other by the standard library's strict reader; both give
  the same cells.
"""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from streamlearn.errors import ConfigError
from streamlearn.replay.files import CHUNK_BYTES, MAX_LINE_BYTES, chunks, shown
from streamlearn.replay.mapping import Batch, Encoded, Layout, Meaning, addresses, batch_of

_DELIMITERS = ",;\t|"
_SNIFFED_ROWS = 50
_NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)


class Dialect(NamedTuple):
    """What was told about the file; "" and () = find it out."""

    delimiter: str = ""
    encoding: str = ""
    header: tuple[str, ...] = ()


class Block(NamedTuple):
    """Cells by column, the row number of each row, and how many rows were there, blank ones included."""

    columns: Sequence[list[str]]
    places: Sequence[int]
    rows: int


class Head(NamedTuple):
    """The columns' names ("" = has none) and the delimiter between them."""

    names: tuple[str, ...]
    delimiter: str


def head_of(name: str, dialect: Dialect) -> Head:
    """The head of a CSV file. Raises `ConfigError` when it cannot be a table's."""
    texts = _texts(name, dialect.encoding)
    head, _, _ = _begin(name, dialect, texts)
    return head


def batches(name: str, dialect: Dialect, meaning: Meaning, numbered: int) -> Iterator[Batch]:
    """The table's rows as events; rows without an id are numbered from `numbered` on."""
    for found, places in encoded(name, dialect, meaning, numbered):
        yield batch_of(found, places, pause=name == "-")


def encoded(
    name: str, dialect: Dialect, meaning: Meaning, numbered: int
) -> Iterator[tuple[Encoded, Sequence[int]]]:
    """The same as bytes, with the row numbers."""
    texts = _texts(name, dialect.encoding)
    head, text, row = _begin(name, dialect, texts)
    layout = layout_of(name, head, meaning)
    layout.begin(numbered)
    for block in _blocks(name, head, text, row, texts):
        yield layout.encoded(block.columns, block.places), block.places


def layout_of(name: str, head: Head, meaning: Meaning) -> Layout:
    """What becomes of the columns. Raises `ConfigError` when one that was named is not there."""
    return Layout(shown(name), head.names, meaning, text=True, commas=head.delimiter != ",")


def unnamed(name: str, head: Head, meaning: Meaning) -> list[str]:
    """A note about columns without a name, which are left out unless they are used by their place."""
    used = meaning.roles.named()
    columns = enumerate(zip(head.names, addresses(head.names), strict=True), 1)
    places = [str(index) for index, (column, address) in columns if not column and address not in used]
    if not places:
        return []
    return [f"{shown(name)}: column {', '.join(places)} has no name and is left out (--header names columns)"]


def _texts(name: str, encoding: str) -> Iterator[str]:
    """The decoded text in pieces. A byte order mark decides, where no encoding was told."""
    decoder: codecs.IncrementalDecoder | None = None
    lines = 0
    for chunk in chunks(name):
        if decoder is None:
            marked = chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            used = encoding or ("utf-16" if marked else "utf-8-sig")
            decoder = _decoder(used)
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            lines += _line_ends(error)
            raise ConfigError(
                f"{shown(name)} row {lines + 1} is not {encoding or 'UTF-8'}: name the file's encoding,"
                " for example --encoding cp1252 or latin-1"
            ) from None
        lines += text.count("\n")
        yield text
    if decoder is not None:
        try:
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise ConfigError(
                f"{shown(name)} row {lines + 1} ends in the middle of a character: the file was cut short"
            ) from None


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        return codecs.getincrementaldecoder(
            "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
        )()
    except LookupError:
        raise ConfigError(
            f"--encoding {encoding}: there is none of this name; try cp1252 or latin-1"
        ) from None


def _line_ends(error: UnicodeDecodeError) -> int:
    step = b"\n\0" if "16" in error.encoding and "be" not in error.encoding else b"\n"
    return error.object[: error.start].count(step)


def _begin(name: str, dialect: Dialect, texts: Iterator[str]) -> tuple[Head, str, int]:
    """The head, the text after it that has been read already, and the number of the next row."""
    delimiter = dialect.delimiter or ("\t" if ".tsv" in name.lower() else "")
    text = ""
    for more in texts:
        text += more
        if text.count("\n") > 1 and (len(text) >= CHUNK_BYTES // 2 or name == "-"):
            break
        if len(text) > MAX_LINE_BYTES:
            raise ConfigError(f"{shown(name)} has no line end within {MAX_LINE_BYTES} signs: is it CSV?")
    if not text.strip():
        raise ConfigError(f"{shown(name)} is empty: a CSV file begins with a row of column names")
    delimiter = delimiter or _sniff(text)
    if dialect.header:
        return Head(dialect.header, delimiter), text, 1
    lines = io.StringIO(text, newline="")
    rows, names = next(found for found in enumerate(csv.reader(lines, delimiter=delimiter), 1) if found[1])
    _check_names(name, names, delimiter)
    return Head(tuple(column.strip() for column in names), delimiter), lines.read(), rows + 1


def _sniff(text: str) -> str:
    """The delimiter that cuts the header and the most rows after it into the same number of cells."""
    sample = text if len(text) < CHUNK_BYTES else text[: text.rfind("\n") + 1]
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        reader = _reader(sample, delimiter, strict=False)
        widths = [len(row) for row, _ in zip(reader, range(_SNIFFED_ROWS), strict=False) if row]
        if widths[0] > 1 and (score := (widths.count(widths[0]) / len(widths), widths[0])) > best_score:
            best, best_score = delimiter, score
    return best


def _check_names(name: str, names: list[str], delimiter: str) -> None:
    numbers = [cell for cell in names if _NUMBER.fullmatch(cell)]
    named = [cell.strip() for cell in names if cell.strip()]
    counted = all(cell.strip().isdigit() for cell in numbers) and [
        int(cell) - int(numbers[0]) for cell in numbers
    ] == list(range(len(numbers)))
    if (numbers and not counted) or not named or (len(numbers) == 1 and len(named) > 1):
        raise ConfigError(
            f"{shown(name)} row 1 holds data and no column names ({delimiter.join(names)[:60]!r}):"
            " name the columns with --header A,B,C"
        )
    twice = sorted({cell for cell in named if named.count(cell) > 1}) if len(set(named)) < len(named) else []
    if twice:
        raise ConfigError(
            f"{shown(name)} row 1 names {', '.join(map(repr, twice[:5]))} more than once: columns need names"
            " of their own; correct the header, or cut it off and give --header A,B,C"
        )


def _blocks(name: str, head: Head, text: str, row: int, texts: Iterator[str]) -> Iterator[Block]:
    """`text` and then `texts` as blocks, cut at line ends that are not inside a quoted cell."""
    least = min(MAX_LINE_BYTES // 4, max(CHUNK_BYTES, len(head.names) * 256)) if name != "-" else 0
    texts = itertools.chain([text], texts)
    rest, size, enough, ended = [""], 0, least, False
    while not ended:
        more = next(texts, None)
        ended = more is None
        rest.append(more or "")
        size += len(more or "")
        if not ended and size < enough:
            continue
        whole = "".join(rest)
        cut = len(whole) if ended else whole.rfind("\n") + 1
        block = _split(name, head, whole[:cut], row, ended) if cut else None
        if block is not None:
            if block.places:
                yield block
            row += block.rows
            rest, size, enough = [whole[cut:]], len(whole) - cut, least
            continue
        if size > MAX_LINE_BYTES:
            raise ConfigError(
                f"{shown(name)} row {row}: no end of the row, or of a row soon after it, within {size}"
                " signs; look for a quote that is opened there and never closed"
            )
        rest, enough = [whole], 2 * size


def _split(name: str, head: Head, text: str, row: int, final: bool) -> Block | None:
    """The cells of whole lines; None when a quoted cell goes on after them, so that more is needed."""
    width = len(head.names)
    if width > 1 and '"' not in text and (columns := _cut(text, head.delimiter, width)):
        return Block(columns, range(row, row + len(columns[0])), len(columns[0]))
    rows: list[list[str]] = []
    places = []
    number = row
    try:
        for number, cells in enumerate(_reader(text, head.delimiter), row):
            if len(cells) == width:
                rows.append(cells)
                places.append(number)
            elif cells:
                raise _ragged(name, number, width, len(cells), head.delimiter)
    except csv.Error as error:
        if not final and "end of data" in str(error):
            return None
        raise ConfigError(
            f"{shown(name)} row {number + bool(places)} is not CSV ({error}): look for a quote that is opened"
            " and never closed, or not doubled inside a quoted cell"
        ) from None
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Block(columns, places, number + 1 - row if text else 0)


def _cut(text: str, delimiter: str, width: int) -> list[list[str]] | None:
    """The columns of rows without quotes, or None when that cannot be done at one stroke: a line is ragged or
    blank, or line ends are mixed.

    Cut at the delimiter, a row's last cell and the next row's first stand together, at equal distances.
    """
    ends = "\r\n" if "\r" in text else "\n"
    count = text.count("\n")
    if ends == "\r\n" and not (count == text.count("\r\n") == text.count("\r")):
        return None
    if text.endswith(ends):
        text = text[: -len(ends)]
    else:
        count += 1
    flat = text.split(delimiter)
    step = width - 1
    joints = flat[::step]
    if len(flat) != count * step + 1 or any(joint.count("\n") != 1 for joint in joints[1:-1]):
        return None
    outer = ends.join(joints).split(ends)
    if len(outer) != 2 * count:
        return None
    return [outer[::2], *(flat[at::step] for at in range(1, step)), outer[1::2]]


def _ragged(name: str, row: int, width: int, found: int, delimiter: str) -> ConfigError:
    return ConfigError(
        f"{shown(name)} row {row} has {found} cells, and the header has {width}: correct the row; if the"
        f" delimiter is not {delimiter!r}, name it with --delimiter"
    )


def _reader(text: str, delimiter: str, strict: bool = True) -> "Iterator[list[str]]":
    csv.field_size_limit(MAX_LINE_BYTES + CHUNK_BYTES)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)

"""CSV as it comes: encoding, delimiter and header found out or told; blocks of cells, column by column.

Invariants:
- A row has as many cells as the header, or is refused with its number. Rows are numbered as a spreadsheet
  shows them: the header is row 1, blank lines count, a cell with line feeds is still in one row.
- A row that repeats the header is none, and counted: files that were put together have them.
- A block without quotes is split in one go, any other by the standard library's strict reader; both give
  the same cells.
"""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from streamlearn.core.convert import is_number
from streamlearn.errors import ConfigError
from streamlearn.replay.files import CHUNK_BYTES, MAX_LINE_BYTES, check_text, chunks, shown
from streamlearn.replay.mapping import Batch, Encoded, Layout, Meaning, addresses, batch_of

_DELIMITERS = ",;\t|"
_SNIFFED_ROWS = 50


class Dialect(NamedTuple):
    """What was told about the file; "" and () = find it out. `skip`: lines above the header."""

    delimiter: str = ""
    encoding: str = ""
    header: tuple[str, ...] = ()
    skip: int = 0


class Block(NamedTuple):
    """Cells by column, the row number of each row, and how many rows were there, blank ones included.
    `headers`: how many of them repeat the header.
    """

    columns: Sequence[list[str]]
    places: Sequence[int]
    rows: int
    headers: int = 0


class Head(NamedTuple):
    """The columns' names ("" = has none) and the delimiter between them. `spaced`: with a blank after it."""

    names: tuple[str, ...]
    delimiter: str
    spaced: bool = False


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
        found = layout.encoded(block.columns, block.places)
        yield found._replace(headers=block.headers) if block.headers else found, block.places


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
            if not marked and not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
                check_text(name, chunk)
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
    for _ in range(dialect.skip):
        text = text.partition("\n")[2]
    if not text.strip():
        empty = f"has nothing after {dialect.skip} lines (--skip-rows)" if dialect.skip else "is empty"
        raise ConfigError(f"{shown(name)} {empty}: a CSV file begins with a row of column names")
    delimiter = delimiter or _sniff(text)
    spaced = _is_spaced(text, delimiter)
    row = dialect.skip + 1
    if dialect.header:
        return Head(dialect.header, delimiter, spaced), text, row
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced)
    row, names = next(found for found in enumerate(reader, row) if found[1])
    _check_names(name, names, delimiter, row)
    return Head(tuple(column.strip() for column in names), delimiter, spaced), lines.read(), row + 1


def _is_spaced(text: str, delimiter: str) -> bool:
    """Whether each delimiter of the first rows is followed by a blank, which then belongs to it."""
    rows = [row for row, _ in zip(_reader(text, delimiter, strict=False), range(_SNIFFED_ROWS), strict=False)]
    after = [cell for row in rows[: max(2, len(rows) - 1)] for cell in row[1:]]
    return (
        delimiter != " " and bool(after) and all(cell[:1] == " " or not cell for cell in after) and any(after)
    )


def _sniff(text: str) -> str:
    """The delimiter that cuts the header and the most rows after it into the same number of cells."""
    sample = text if len(text) < CHUNK_BYTES else text[: text.rfind("\n") + 1]
    best, best_score = ",", (0.0, 0)
    below, below_score = ",", (0.8, 1)
    for delimiter in _DELIMITERS:
        reader = _reader(sample, delimiter, strict=False)
        widths = [len(row) for row, _ in zip(reader, range(_SNIFFED_ROWS), strict=False) if row]
        if widths[0] > 1 and (score := (widths.count(widths[0]) / len(widths), widths[0])) > best_score:
            best, best_score = delimiter, score
        width = max(set(widths[1:]), key=widths[1:].count, default=1)
        if width > 1 and (score := (widths[1:].count(width) / len(widths[1:]), width)) > below_score:
            below, below_score = delimiter, score
    return best if best_score[1] else below  # a title above the header has one cell


def _check_names(name: str, names: list[str], delimiter: str, row: int) -> None:
    numbers = [cell for cell in names if is_number(cell.replace(",", ".", 1))]
    named = [cell.strip() for cell in names if cell.strip()]
    counted = all(cell.strip().isdigit() for cell in numbers) and [
        int(cell) - int(numbers[0]) for cell in numbers
    ] == list(range(len(numbers)))
    if (numbers and not counted) or not named or (len(numbers) == 1 and len(named) > 1):
        raise ConfigError(
            f"{shown(name)} row {row} holds data and no column names ({delimiter.join(names)[:60]!r}):"
            " name the columns with --header A,B,C, or, if their names stand further below, leave the lines"
            f" above out with --skip-rows {row}"
        )
    twice = sorted({cell for cell in named if named.count(cell) > 1}) if len(set(named)) < len(named) else []
    if twice:
        raise ConfigError(
            f"{shown(name)} row {row} names {', '.join(map(repr, twice[:5]))} more than once: columns need"
            " names of their own; correct the header, or cut it off and give --header A,B,C"
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
        whole = "".join(rest).removeprefix("\ufeff").replace("\n\ufeff", "\n")
        cut = len(whole) if ended else whole.rfind("\n") + 1
        block = _split(name, head, whole[:cut], row, ended) if cut else None
        if block is not None:
            if block.places or block.headers:
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
    plain = width > 1 and '"' not in text and "\0" not in text and not head.spaced
    if plain and (columns := _cut(text, head.delimiter, width)):
        count = len(columns[0])
        return _without_headers(head, Block(columns, range(row, row + count), count))
    rows: list[list[str]] = []
    places = []
    number = row
    try:
        for number, cells in enumerate(_reader(text, head.delimiter, skip_blanks=head.spaced), row):
            if "\0" in text and any("\0" in cell for cell in cells):
                raise ConfigError(
                    f"{shown(name)} row {number} holds NUL bytes, as a file does that was being written when"
                    " the power failed: take the row out, or all such bytes with"
                    f" tr -d '\\000' < {name} > new.csv"
                )
            if len(cells) == width:
                rows.append(cells)
                places.append(number)
            elif cells and not (len(cells) == 1 and cells[0].isspace()):
                raise _ragged(name, number, head, cells)
    except csv.Error as error:
        if not final and "end of data" in str(error):
            return None
        raise ConfigError(
            f"{shown(name)} row {number + bool(places)} is not CSV ({error}): look for a quote that is opened"
            " and never closed, or not doubled inside a quoted cell"
        ) from None
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in head.names]
    return _without_headers(head, Block(columns, places, number + 1 - row if text else 0))


def _without_headers(head: Head, block: Block) -> Block:
    """The block without the rows that repeat the header."""
    first = head.names[0]
    if {first, f" {first}", f"{first} ", f" {first} "}.isdisjoint(block.columns[0]):
        return block
    rows = list(zip(*block.columns, strict=True))
    kept = [at for at, row in enumerate(rows) if tuple(cell.strip() for cell in row) != head.names]
    columns = [[column[at] for at in kept] for column in block.columns]
    return Block(columns, [block.places[at] for at in kept], block.rows, len(rows) - len(kept))


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


def _ragged(name: str, row: int, head: Head, cells: list[str]) -> ConfigError:
    """What is wrong with a row of another number of cells, and what it most likely is."""
    width, found = len(head.names), len(cells)
    said = f"{shown(name)} row {row} has {found} cells, and the header has {width}: "
    if width == 1 or (head.names[0].startswith("#") and found > width):
        likely = (
            f"what was taken for the header ({head.delimiter.join(head.names)[:40]!r}) is perhaps a comment"
            f" or a title above it; leave such lines out with --skip-rows {row - 1}. If the"
        )
    elif cells[0].lstrip().startswith(("#", "//")):
        likely = f"it is perhaps a comment ({cells[0][:40]!r}); take such lines out. If the"
    elif found == width + 1 and not cells[-1].strip():
        likely = (
            "its last cell is empty: if every row ends with a delimiter, end the header with one, too"
            f" (sed '1s/$/{head.delimiter}/' {name} > new.csv). If the"
        )
    else:
        likely = "correct the row; if the"
    return ConfigError(f"{said}{likely} delimiter is not {head.delimiter!r}, name it with --delimiter")


def _reader(
    text: str, delimiter: str, strict: bool = True, skip_blanks: bool = False
) -> "Iterator[list[str]]":
    csv.field_size_limit(MAX_LINE_BYTES + CHUNK_BYTES)
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=skip_blanks)

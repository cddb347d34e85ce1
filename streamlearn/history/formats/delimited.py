"""CSV as it comes: encoding, delimiter and header found out, or as the options say.

Invariants:
- A row has as many cells as the header, or is refused with its number. Rows are numbered as a spreadsheet
  shows them: the header is row 1, blank lines count, a cell with line feeds is still in one row.
- A row that repeats the header is no event, and counted: files that were put together have such rows.
- A row is given as soon as it has arrived whole, so that a slow pipe is not waited for.
"""

import codecs
import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from streamlearn.core.events.values import is_number
from streamlearn.errors import ConfigError
from streamlearn.history.formats.column_mapping import ColumnMapping, SourceRecord, TableEncoder, addresses
from streamlearn.history.formats.files import CHUNK_BYTES, MAX_LINE_BYTES, check_text, chunks, shown

HEADERS = "headers"
"""Counts the rows that repeat the header."""

_DELIMITERS = ",;\t|"
_SNIFFED_ROWS = 50

NumberedRow = tuple[int, list[str]]


class Dialect(NamedTuple):
    """Options of CSV; "" and () = find it out. `skip`: lines above the header."""

    delimiter: str = ""
    encoding: str = ""
    header: tuple[str, ...] = ()
    skip: int = 0


class Head(NamedTuple):
    """The columns' names ("" = has none) and the delimiter between them. `spaced`: with a blank after it."""

    names: tuple[str, ...]
    delimiter: str
    spaced: bool = False


def read_head(name: str, dialect: Dialect) -> Head:
    """The head of a CSV file. Raises `ConfigError` when it cannot be a table's."""
    head, _, _ = _begin(name, dialect, _texts(name, dialect.encoding))
    return head


def records(
    name: str, dialect: Dialect, mapping: ColumnMapping, numbered: int, tally: Counter[str]
) -> Iterator[SourceRecord | None]:
    """The table's rows as events, None where nothing more has arrived yet; rows without an id are numbered
    from `numbered` on. `tally` counts `HEADERS`.
    """
    texts = _texts(name, dialect.encoding)
    head, text, row = _begin(name, dialect, texts)
    encoder = encoder_for(name, head, mapping)
    for rows in _rows(name, head, text, row, texts):
        for number, cells in rows:
            if not cells:
                continue
            if cells[0].strip() == head.names[0] and tuple(map(str.strip, cells)) == head.names:
                tally[HEADERS] += 1
                continue
            yield encoder.record(cells, number, numbered)
            numbered += 1
        if name == "-":
            yield None


def encoder_for(name: str, head: Head, mapping: ColumnMapping) -> TableEncoder:
    """The encoder of the table's rows. Raises `ConfigError` when a column that was named is not there."""
    return TableEncoder(shown(name), head.names, mapping, text=True, commas=head.delimiter != ",")


def unnamed(name: str, head: Head, mapping: ColumnMapping) -> list[str]:
    """A note about columns without a name, which are left out unless they are used by their place."""
    used = mapping.roles.named()
    columns = enumerate(zip(head.names, addresses(head.names), strict=True), 1)
    places = [str(index) for index, (column, address) in columns if not column and address not in used]
    if not places:
        return []
    return [f"{shown(name)}: column {', '.join(places)} has no name and is left out (--header names columns)"]


# --- text ---------------------------------------------------------------------------------------------


def _texts(name: str, encoding: str) -> Iterator[str]:
    """The decoded text in pieces. A byte order mark decides, where no encoding is given."""
    pieces = chunks(name)
    first = next(pieces, None)
    if first is None:
        return
    decoder = _decoder(name, encoding, first)
    lines = 0
    for chunk in itertools.chain([first], pieces):
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            row = lines + _line_ends(error) + 1
            raise ConfigError(
                f"{shown(name)} row {row} is not {encoding or 'UTF-8'}: name the file's encoding,"
                " for example --encoding cp1252 or latin-1"
            ) from None
        lines += text.count("\n")
        yield text
    try:
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise ConfigError(
            f"{shown(name)} row {lines + 1} ends in the middle of a character: the file was cut short"
        ) from None


def _decoder(name: str, encoding: str, first: bytes) -> codecs.IncrementalDecoder:
    """A decoder for the file whose first bytes are these. Raises `ConfigError` when it is no text."""
    marked = first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    chosen = encoding or ("utf-16" if marked else "utf-8-sig")
    try:
        make = codecs.getincrementaldecoder("utf-8-sig" if chosen.lower() in ("utf-8", "utf8") else chosen)
    except LookupError:
        raise ConfigError(
            f"--encoding {encoding}: there is none of this name; try cp1252 or latin-1"
        ) from None
    if not marked and not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
        check_text(name, first)
    return make()


def _line_ends(error: UnicodeDecodeError) -> int:
    step = b"\n\0" if "16" in error.encoding and "be" not in error.encoding else b"\n"
    return error.object[: error.start].count(step)


# --- head ---------------------------------------------------------------------------------------------


def _begin(name: str, dialect: Dialect, texts: Iterator[str]) -> tuple[Head, str, int]:
    """The head, the text after it that has been read already, and the number of the next row."""
    text = _first_text(name, dialect.skip, texts)
    delimiter = dialect.delimiter or ("\t" if ".tsv" in name.lower() else "") or _sniff(text)
    spaced = _is_spaced(text, delimiter)
    row = dialect.skip + 1
    if dialect.header:
        return Head(dialect.header, delimiter, spaced), text, row
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced)
    row, names = next(numbered for numbered in enumerate(reader, row) if numbered[1])
    _check_names(name, names, delimiter, row)
    return Head(tuple(column.strip() for column in names), delimiter, spaced), lines.read(), row + 1


def _first_text(name: str, skip: int, texts: Iterator[str]) -> str:
    """Text that tells how the file is written, without the `skip` lines above the header."""
    text = ""
    for more in texts:
        text += more
        if text.count("\n") > 1 and (len(text) >= CHUNK_BYTES // 2 or name == "-"):
            break
        if len(text) > MAX_LINE_BYTES:
            raise ConfigError(f"{shown(name)} has no line end within {MAX_LINE_BYTES} signs: is it CSV?")
    for _ in range(skip):
        text = text.partition("\n")[2]
    if not text.strip():
        empty = f"has nothing after {skip} lines (--skip-rows)" if skip else "is empty"
        raise ConfigError(f"{shown(name)} {empty}: a CSV file begins with a row of column names")
    return text


def _is_spaced(text: str, delimiter: str) -> bool:
    """True if each delimiter of the first rows is followed by a blank, which then belongs to it."""
    rows = list(itertools.islice(_reader(text, delimiter, strict=False), _SNIFFED_ROWS))
    after = [cell for row in rows[: max(2, len(rows) - 1)] for cell in row[1:]]
    return delimiter != " " and any(after) and all(cell[:1] == " " or not cell for cell in after)


def _sniff(text: str) -> str:
    """The delimiter that cuts the header and the most rows after it into the same number of cells."""
    sample = text if len(text) < CHUNK_BYTES else text[: text.rfind("\n") + 1]
    best, best_score = ",", (0.0, 0)
    below, below_score = ",", (0.8, 1)
    for delimiter in _DELIMITERS:
        reader = _reader(sample, delimiter, strict=False)
        widths = [len(row) for row in itertools.islice(reader, _SNIFFED_ROWS) if row]
        if widths[0] > 1 and (score := (widths.count(widths[0]) / len(widths), widths[0])) > best_score:
            best, best_score = delimiter, score
        width = max(set(widths[1:]), key=widths[1:].count, default=1)
        if width > 1 and (score := (widths[1:].count(width) / len(widths[1:]), width)) > below_score:
            below, below_score = delimiter, score
    return best if best_score[1] else below  # a title above the header has one cell


def _check_names(name: str, cells: list[str], delimiter: str, row: int) -> None:
    names = [cell.strip() for cell in cells if cell.strip()]
    if not names or _hold_data(cells, len(names)):
        raise ConfigError(
            f"{shown(name)} row {row} holds data and no column names ({delimiter.join(cells)[:60]!r}):"
            " name the columns with --header A,B,C, or, if their names stand further below, leave the lines"
            f" above out with --skip-rows {row}"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(
            f"{shown(name)} row {row} names {', '.join(map(repr, twice[:5]))} more than once: columns need"
            " names of their own; correct the header, or cut it off and give --header A,B,C"
        )


def _hold_data(cells: list[str], filled: int) -> bool:
    """True if numbers among the header's cells are data: they do not count the columns."""
    numbers = [cell for cell in cells if is_number(cell.replace(",", ".", 1))]
    if not numbers:
        return False
    if len(numbers) == 1 and filled > 1:
        return True
    if not all(cell.strip().isdigit() for cell in numbers):
        return True
    first = int(numbers[0])
    return [int(cell) for cell in numbers] != list(range(first, first + len(numbers)))


# --- rows ---------------------------------------------------------------------------------------------


def _rows(name: str, head: Head, text: str, row: int, texts: Iterator[str]) -> Iterator[list[NumberedRow]]:
    """The rows of `text` and then of `texts`, cut at line ends that are not inside a quoted cell."""
    rest, enough = "", 0
    for more in itertools.chain([text], texts, [None]):
        rest += more or ""
        if more is not None and len(rest) < enough:
            continue
        rest = rest.removeprefix("\ufeff").replace("\n\ufeff", "\n")
        end = len(rest) if more is None else rest.rfind("\n") + 1
        rows = _parsed(name, head, rest[:end], row, final=more is None) if end else None
        if rows is not None:
            yield list(enumerate(rows, row))
            row += len(rows)
            rest, enough = rest[end:], 0
        elif len(rest) > MAX_LINE_BYTES:
            raise ConfigError(
                f"{shown(name)} row {row}: no end of the row, or of a row soon after it, within {len(rest)}"
                " signs; look for a quote that is opened there and never closed"
            )
        else:
            enough = 2 * len(rest)


def _parsed(name: str, head: Head, text: str, row: int, final: bool) -> list[list[str]] | None:
    """The cells of whole lines, none of a blank one; None when a quoted cell goes on after them, so that more
    is needed.
    """
    width = len(head.names)
    rows: list[list[str]] = []
    try:
        for cells in _reader(text, head.delimiter, skip_blanks=head.spaced):
            if "\0" in text and "\0" in "".join(cells):
                raise _damaged(name, row + len(rows))
            if len(cells) == width:
                rows.append(cells)
            elif _is_blank(cells):
                rows.append([])
            else:
                raise _ragged(name, row + len(rows), head, cells)
    except csv.Error as error:
        if not final and "end of data" in str(error):
            return None
        raise ConfigError(
            f"{shown(name)} row {row + len(rows)} is not CSV ({error}): look for a quote that is opened"
            " and never closed, or not doubled inside a quoted cell"
        ) from None
    return rows


def _is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and cells[0].isspace())


def _damaged(name: str, row: int) -> ConfigError:
    return ConfigError(
        f"{shown(name)} row {row} holds NUL bytes, as a file does that was being written when the power"
        f" failed: take the row out, or all such bytes with tr -d '\\000' < {name} > new.csv"
    )


def _ragged(name: str, row: int, head: Head, cells: list[str]) -> ConfigError:
    """The error for a row of another number of cells, and its likely cause."""
    width, count = len(head.names), len(cells)
    problem = f"{shown(name)} row {row} has {count} cells, and the header has {width}: "
    if width == 1 or (head.names[0].startswith("#") and count > width):
        likely = (
            f"what was taken for the header ({head.delimiter.join(head.names)[:40]!r}) is perhaps a comment"
            f" or a title above it; leave such lines out with --skip-rows {row - 1}. If the"
        )
    elif cells[0].lstrip().startswith(("#", "//")):
        likely = f"it is perhaps a comment ({cells[0][:40]!r}); take such lines out. If the"
    elif count == width + 1 and not cells[-1].strip():
        likely = (
            "its last cell is empty: if every row ends with a delimiter, end the header with one, too"
            f" (sed '1s/$/{head.delimiter}/' {name} > new.csv). If the"
        )
    else:
        likely = "correct the row; if the"
    return ConfigError(f"{problem}{likely} delimiter is not {head.delimiter!r}, name it with --delimiter")


def _reader(
    text: str, delimiter: str, strict: bool = True, skip_blanks: bool = False
) -> "Iterator[list[str]]":
    csv.field_size_limit(MAX_LINE_BYTES + CHUNK_BYTES)
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=skip_blanks)

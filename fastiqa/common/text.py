"""Text of files, and names of files for terminals and spreadsheets.

A name may hold anything but "/": line breaks, sequences that move a terminal's cursor, bytes that are not UTF-8 (lone
surrogates in Python), formulas that a spreadsheet computes.

    decoded               the text of a file
    one_line              for people: unprintable characters are escaped, \\x1b
    csv_cell              for spreadsheets and programs, reversible: an escaped cell begins with an apostrophe
    from_csv_cell         the name again
    escape_unencodable    for all output of a process: no character raises an error

Formulas: OWASP, CSV Injection.
"""

from __future__ import annotations

import codecs
import io
import re
import sys

# The signs that begin a formula, wide ones too, also after a semicolon, which may separate columns.
_FORMULA = re.compile(r"(?:^|;)\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_ESCAPED = re.compile(r"\\(\\|n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def decoded(content: bytes) -> str:
    """Decode the text of a file: UTF-16 if it begins with its byte order mark, else UTF-8, with or without a mark.

    Raises: ValueError for other bytes.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    text = content.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("got zero bytes, want UTF-8, or UTF-16 with a byte order mark")
    return text


def one_line(text: str) -> str:
    """Escape line breaks and other unprintable characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def csv_cell(text: str, *, ascii_only: bool = False) -> str:
    r"""Turn a text into a cell that no spreadsheet takes for a formula and no terminal for a command.

    Most texts stay as they are. A text that begins as a formula or with an apostrophe, or holds unprintable characters,
    gets an apostrophe in front; its backslashes are doubled and those characters escaped: \n, \x1b or \udce9.

    Args:
        ascii_only: escape every character beyond ASCII, for a stream that is not UTF-8.

    Example:
        >>> csv_cell("photo.png"), csv_cell("=1+1.png"), from_csv_cell("'=1+1.png")
        ('photo.png', "'=1+1.png", '=1+1.png')
    """
    plain = text.isprintable() and not text.startswith("'") and not _FORMULA.search(text)
    if plain and (text.isascii() or not ascii_only):
        return text
    if ascii_only:
        return "'" + text.encode("unicode_escape").decode("ascii")  # doubles backslashes, too
    return "'" + one_line(text.replace("\\", "\\\\"))


def from_csv_cell(cell: str) -> str:
    """Turn a cell of `csv_cell` into its text. Without an apostrophe in front the cell is the text."""
    if not cell.startswith("'"):
        return cell
    return _ESCAPED.sub(lambda found: found[0].encode("ascii").decode("unicode_escape"), cell[1:])


def stdout_is_utf8() -> bool:
    """Whether stdout takes every character."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").replace("_", "") == "utf8"


def escape_unencodable() -> None:
    r"""Let stdout and stderr escape characters that their encoding lacks, as \u2713, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

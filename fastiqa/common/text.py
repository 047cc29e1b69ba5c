"""Text of files, and names of files on their way to terminals and spreadsheets.

A name may hold anything but "/": line breaks, sequences that move a terminal's cursor, bytes that are not UTF-8 (Python
has them as lone surrogates), formulas that a spreadsheet computes.

    decoded               the text of a file
    one_line              for people: what is unprintable is escaped, \\x1b
    csv_cell              for spreadsheets and programs, reversible: a cell that begins with an apostrophe is escaped
    from_csv_cell         the name again
    escape_unencodable    for all output of a process: no character ends it

Formulas: OWASP, CSV Injection.
"""

from __future__ import annotations

import codecs
import io
import re
import sys

# The signs that begin a formula, wide ones too; after a semicolon they do where that is what separates columns.
_FORMULA = re.compile(r"(?:^|;)\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_ESCAPED = re.compile(r"\\(\\|n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def decoded(content: bytes) -> str:
    """The text of a file: UTF-16 where it begins with the mark of that, else UTF-8, with such a mark or without.

    Raises: ValueError for neither.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    text = content.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("got zero bytes, want UTF-8, or UTF-16 with a byte order mark")
    return text


def one_line(text: str) -> str:
    """The text with line breaks and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def csv_cell(text: str, *, ascii_only: bool = False) -> str:
    r"""The text as a cell that no spreadsheet takes for a formula and no terminal for a command.

    Most texts are their own cells. One that begins as a formula does or with an apostrophe, or holds unprintable
    characters, is an apostrophe and the text, in which backslashes are doubled and those characters escaped, \n, \x1b
    or \udce9.

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
        return "'" + text.encode("unicode_escape").decode("ascii")  # which doubles backslashes, too
    return "'" + one_line(text.replace("\\", "\\\\"))


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` was given; a cell that begins with no apostrophe is the text."""
    if not cell.startswith("'"):
        return cell
    return _ESCAPED.sub(lambda found: found[0].encode("ascii").decode("unicode_escape"), cell[1:])


def stdout_is_utf8() -> bool:
    """Whether every character can be written to stdout as it is."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").replace("_", "") == "utf8"


def escape_unencodable() -> None:
    r"""From here on stdout and stderr escape what their encoding lacks, \u2713, and raise no UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

"""The sheets of a gMAD competition: a table of pairs, a page and a picture."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from fastiqa.common.text import csv_cell, one_line
from fastiqa.data import read_image

if TYPE_CHECKING:
    from fastiqa.evaluation.gmad import GmadPair, GmadRole

THUMBNAIL = 512  # pixels, the longer side, in the page
CELL = 256  # pixels, a side, in the picture
LINE = 20  # pixels, a line of text in the picture
GAP = 12

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.4 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 0 1rem 2rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
img { width: 100%; height: auto; background: #808080; }
figcaption { overflow-wrap: anywhere; font-size: 0.875rem; }
"""


def pairs_csv(roles: Sequence[GmadRole], images: Sequence[str]) -> bytes:
    """Return pairs.csv: a row a pair, with defender, attacker, level, better and worse image, and four scores."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    of_both = [f"{role}_{image}" for role in ("defender", "attacker") for image in ("better", "worse")]
    rows.writerow(["defender", "attacker", "level", "better", "worse", *of_both])
    for role in roles:
        for pair in role.pairs:
            shown = csv_cell(images[pair.better]), csv_cell(images[pair.worse])
            rows.writerow(
                [csv_cell(role.defender), csv_cell(role.attacker), pair.level, *shown, *pair.defender, *pair.attacker]
            )
    return stream.getvalue().encode()


def thumbnail(file: Path) -> Pillow.Image:
    """Return the image in 8 bits, reduced to at most THUMBNAIL pixels a side. Raises fastiqa.data.ImageError."""
    image = read_image(file)
    codes = (image.pixels >> (image.bit_depth - 8)).astype(np.uint8)
    picture = Pillow.fromarray(codes)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def sheet_html(
    roles: Sequence[GmadRole], images: Sequence[Path], pictures: Mapping[int, Pillow.Image], out: Path
) -> str:
    """Return sheet.html for the folder `out`: every role, every level that has a pair.

    The page stands alone: it holds the reduced images as JPEG of high quality, and each links to its file by a relative
    path. Names of files and metrics are escaped.

    Args:
        roles: from `gmad_competition`.
        images: files, by the indices in the roles' pairs.
        pictures: thumbnails of the images in a pair, by the same indices.
        out: the folder of the page, from which links start.
    """
    sections = "".join(_section(role, images, pictures, out) for role in roles)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>gMAD competition</title>\n<style>{STYLE}</style>\n"
        "<h1>gMAD competition</h1>\n<p>To the defender the two images of a pair are of about equal quality, to the "
        "attacker the first is the better one. Where you see no difference the attacker is wrong, where you see one "
        "the defender is. An image leads to its file in full size.</p>\n"
        f"{sections}</html>\n"
    )


def _section(role: GmadRole, images: Sequence[Path], pictures: Mapping[int, Pillow.Image], out: Path) -> str:
    title = html.escape(one_line(f"{role.defender} defends, {role.attacker} attacks"))
    parts = [f"<section>\n<h2>{title}</h2>\n"]
    for pair in role.pairs:
        parts.append(f'<h3>Level {pair.level} of {html.escape(one_line(role.defender))}</h3>\n<div class="pair">\n')
        for number, i in enumerate((pair.better, pair.worse)):
            link = quote(os.fsencode(os.path.relpath(images[i], out)))
            name = html.escape(one_line(images[i].name))
            scores = html.escape(_both_scores(role, pair, number))
            picture = f'<img src="{_data_uri(pictures[i])}" alt="{name}">'
            parts.append(f'<figure><a href="{link}">{picture}</a>')
            parts.append(f"<figcaption>{name}<br>{scores}</figcaption></figure>\n")
        parts.append("</div>\n")
    return "".join([*parts, "</section>\n"])


def sheet_png(roles: Sequence[GmadRole], images: Sequence[Path], pictures: Mapping[int, Pillow.Image]) -> bytes:
    """Return sheet.png: two columns a role, the better image at the left; a row a level.

    Arguments as for `sheet_html`.
    """
    levels = sorted({pair.level for role in roles for pair in role.pairs})
    width, height = 2 * (CELL + GAP) + GAP, CELL + 2 * LINE + GAP
    canvas = Pillow.new("RGB", (len(roles) * width, LINE + GAP + max(1, len(levels)) * height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for column, role in enumerate(roles):
        left = column * width + GAP
        draw.text((left, 4), one_line(f"{role.defender} defends, {role.attacker} attacks"), "black", font)
        for pair in role.pairs:
            top = LINE + GAP + levels.index(pair.level) * height
            for number, i in enumerate((pair.better, pair.worse)):
                x = left + number * (CELL + GAP)
                picture = pictures[i].copy()
                picture.thumbnail((CELL, CELL))
                canvas.paste(picture, (x, top))
                draw.text((x, top + CELL), f"{pair.level}: {one_line(images[i].name)[-36:]}", "black", font)
                draw.text((x, top + CELL + LINE), _both_scores(role, pair, number), "black", font)
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()


def _both_scores(role: GmadRole, pair: GmadPair, number: int) -> str:
    """Return both metrics' scores of the better (0) or worse (1) image."""
    values = ((role.defender, pair.defender[number]), (role.attacker, pair.attacker[number]))
    return ", ".join(f"{one_line(name)} {value:.4g}" for name, value in values)


def _data_uri(picture: Pillow.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

"""Code one photograph with four codecs at about equal size and say which decoded image is closest to the original.

    python examples/compare_codecs.py [OUT_DIR]

The photograph is scikit-image's bundled astronaut (NASA, public domain), 512×512. The size aimed at is that of JPEG at
quality 30; the others come near it by bisecting their quality, in JPEG 2000 the bits per pixel. OUT_DIR (by default
codec_comparison) receives the coded files, their decoded pixels as PNG, and a picture with the SSIM maps.

A learned network compares the images too, the one that ``fastiqa compare`` uses, where it has published weights.

Needs fastiqa-kernels[cli,weights], scikit-image and matplotlib; takes about half a minute on two cores.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import PIL.Image
import skimage.data
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import fastiqa
from fastiqa.data import read_image
from fastiqa.data.images.codecs import CODECS, decode_image, encode_image
from fastiqa.evaluation.comparison import Comparison, compare_files
from fastiqa.metrics import luma, ssim
from fastiqa.models import Ranking, card_of
from fastiqa.models.published import DEFAULTS

mpl.use("Agg")  # before pyplot, which otherwise opens windows where it can
from matplotlib import pyplot as plt

TITLES = {"JPEG": "jpeg", "WebP": "webp", "AVIF": "avif", "JPEG 2000": "jpeg2000"}
METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}
NETWORK = DEFAULTS["comparison"]


def coded_to_size(pixels: NDArray[np.uint8], codec: str, target: int) -> bytes:
    """The bytes whose number is nearest to the target, found by bisecting the quality: more of it, more bytes."""
    bits = 8 * target / (pixels.shape[0] * pixels.shape[1])
    low, high = (0.0, 2 * bits) if codec == "jpeg2000" else (0.0, 100.0)
    tried = []
    for _ in range(9):
        middle = (low + high) / 2
        data = encode_image(pixels, codec, middle)
        tried.append(data)
        low, high = (middle, high) if len(data) < target else (low, middle)
    return min(tried, key=lambda data: abs(len(data) - target))


def write_codings(out: Path) -> tuple[Path, dict[str, Path], dict[str, int]]:
    """Write the reference, the coded files and their decoded PNGs; return the PNGs and the coded sizes in bytes."""
    pixels: NDArray[np.uint8] = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    reference = out / "reference.png"
    PIL.Image.fromarray(pixels).save(reference)
    jpeg = encode_image(pixels, "jpeg", 30)
    decoded, sizes = {}, {}
    for title, codec in TITLES.items():
        data = jpeg if codec == "jpeg" else coded_to_size(pixels, codec, len(jpeg))
        (out / f"coded{CODECS[codec].suffix}").write_bytes(data)
        sizes[title] = len(data)
        decoded[title] = out / f"decoded_{codec}.png"
        PIL.Image.fromarray(decode_image(data, codec)).save(decoded[title])
    return reference, decoded, sizes


def compare_all(reference: Path, decoded: dict[str, Path]) -> dict[tuple[str, str], Comparison]:
    """What ``fastiqa compare`` finds for every pair of codecs."""
    return {(a, b): compare_files(reference, decoded[a], decoded[b]) for a, b in itertools.combinations(decoded, 2)}


def compare_by_network(reference: Path, decoded: dict[str, Path]) -> tuple[Ranking | None, str]:
    """What the network's published weights say of all images at once, and how far to trust them, or why they do not."""
    try:
        card = card_of(NETWORK)
        images = [read_image(path).tensor()[0] for path in decoded.values()]
        return fastiqa.rank(card.name, read_image(reference).tensor(), images), card.line
    except (ImportError, ValueError) as error:
        return None, f"{NETWORK} was not run: {error}"


def print_table(comparisons: dict[tuple[str, str], Comparison], ranking: Ranking | None, sizes: dict[str, int]) -> None:
    """One row a codec: bytes, scores, and of how many pairs each metric and the network prefer it."""
    rivals = len(sizes) - 1
    table = Table(
        box=box.SIMPLE_HEAD, caption=f"wins: pairs, of {rivals}, in which a metric or network prefers the codec"
    )
    wins_titles = [f"wins\n{title.split(' (')[0]}" for title in METRICS.values()]
    wins_titles += [f"wins\n{NETWORK}"] * (ranking is not None)
    for title in ("codec", "bytes", *METRICS.values(), *wins_titles):
        table.add_column(title, justify="left" if title == "codec" else "right", no_wrap=True)
    for row, (codec, size) in enumerate(sizes.items()):
        scores, wins = {}, dict.fromkeys(METRICS, 0)
        for (a, b), comparison in comparisons.items():
            if codec not in (a, b):
                continue
            side = "a" if codec == a else "b"
            for metric, values in comparison.metrics.items():
                scores[metric] = values.a if side == "a" else values.b
                wins[metric] += values.prefers == side
        shown = [f"{scores[metric]:.2f}" if metric == "psnr" else f"{scores[metric]:.4f}" for metric in METRICS]
        counts = [wins[metric] for metric in METRICS]
        if ranking is not None:
            counts.append(int((ranking.probability[:, row] > 0.5).sum()))  # [i, j]: that j is closer than i
        table.add_row(codec, f"{size}", *shown, *map(str, counts))
    console = Console(highlight=False)
    Console(highlight=False, width=max(96, console.width)).print(table)


def ssim_map(reference: Path, decoded: Path) -> tuple[float, NDArray[np.float64]]:
    """SSIM on grey, as ``fastiqa compare`` prints it, and its value at every window (H-10, W-10)."""
    x, y = (luma(read_image(path).tensor(torch.float64)) for path in (reference, decoded))
    score, values = ssim(x, y, return_map=True)
    return score.item(), values[0, 0].numpy()


def save_picture(reference: Path, decoded: dict[str, Path], sizes: dict[str, int], target: Path) -> None:
    """The reference and the decoded images above their SSIM maps, which share one colour bar."""
    figure, axes = plt.subplots(2, len(decoded) + 1, figsize=(16, 7), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(read_image(reference).pixels)
    axes[0, 0].set_title("reference", fontsize=14)
    text = "SSIM maps:\nbright (1) where the structure\nis that of the reference,\ndark (0) where it is lost"
    axes[1, 0].text(0.5, 0.5, text, ha="center", va="center", fontsize=13, transform=axes[1, 0].transAxes)
    for column, (codec, path) in enumerate(decoded.items(), start=1):
        score, values = ssim_map(reference, path)
        axes[0, column].imshow(read_image(path).pixels)
        axes[0, column].set_title(f"{codec}, {sizes[codec]} bytes", fontsize=14)
        shown = axes[1, column].imshow(values, vmin=0, vmax=1, cmap="magma")
        axes[1, column].set_title(f"SSIM {score:.4f}", fontsize=14)
    figure.colorbar(shown, ax=axes[1, :], location="right", fraction=0.02, label="SSIM in an 11×11 window")
    figure.savefig(target, dpi=110)
    plt.close(figure)


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "codec_comparison")
    out.mkdir(parents=True, exist_ok=True)
    reference, decoded, sizes = write_codings(out)
    ranking, trust = compare_by_network(reference, decoded)
    print_table(compare_all(reference, decoded), ranking, sizes)
    print(trust)
    picture = out / "ssim_maps.png"
    save_picture(reference, decoded, sizes, picture)
    print(f"picture: {picture}")
    print(f"coded files and decoded PNGs: {out}")


if __name__ == "__main__":
    main()

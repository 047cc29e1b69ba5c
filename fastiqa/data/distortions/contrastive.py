"""ContrastiveDataset: two views of a distorted photograph and the class of its distortion.

    photograph → window of 2c×2c → distorted → ┬ window of c×c ─────┐
                                               └ 2×2 pixels averaged ┴→ each: colour space, mirrored

A network that groups views by class, whatever they show, has learnt to see distortions. Classes are positions in
``fastiqa.data.distortions.CLASSES``: 0 for the undistorted photograph, then five levels for each of 25 types. Each view
has its own random colour space and mirroring, and the order of the two scales is random.

Source: CONTRIQUE (Madhusudana, Birkbeck, Wang, Adsumilli, Bovik, IEEE TIP 2022). CONTRIQUE distorts a whole image and
crops its two scales independently; here one window holds both, and only that window is distorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastiqa.common import arguments
from fastiqa.data.distortions import CLASSES, SMALLEST_SIDE, distort
from fastiqa.data.images.colour_spaces import COLOUR_SPACES
from fastiqa.data.images.photographs import Photographs, random_window, torch_generator
from fastiqa.data.labelled import LabelledDataset, OnUnreadable


class ContrastiveDataset(LabelledDataset[Path, tuple[Tensor, Tensor]]):
    """Pairs of views of randomly distorted photographs, for contrastive pre-training.

    ``dataset[i]`` is (views, class): float32 (2, 3, crop, crop) in [0, 1], and an int64 scalar from 0 to 125, all
    equally likely. Item i shows photograph i modulo their number. All other choices of item i in epoch e depend on
    (seed, e, i) alone.

    Args:
        photographs: files for :func:`fastiqa.data.read_image`, undistorted, both sides at least 2 · crop pixels.
        crop: height and width of a view in pixels, at least 16.
        items: items per epoch; by default one for each photograph.
        colour_spaces: names in ``fastiqa.data.images.colour_spaces.COLOUR_SPACES`` to draw from.
        longest_side: shrink larger photographs until the longer side has this many pixels; None never shrinks.
        seed: for the random choices, 0 or more.
        keep: hold every photograph in memory after the first read, 3 bytes a pixel, in each worker of a DataLoader.
        on_unreadable: "raise" or "skip" a photograph that is unreadable or too small; see
            :class:`fastiqa.data.TripletDataset`.

    Raises:
        ValueError: an argument out of range. ``dataset[i]`` raises :class:`fastiqa.data.ImageError`, naming the file.

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "grey.png"
        ...     PIL.Image.new("RGB", (80, 70), (128, 128, 128)).save(path)
        ...     views, number = ContrastiveDataset([path], crop=32, items=10)[0]
        >>> views.shape, CLASSES[number]
        (torch.Size([2, 3, 32, 32]), ('impulse_noise', 4))
    """

    noun = "photographs"

    def __init__(
        self,
        photographs: Sequence[Path],
        crop: int = 256,
        *,
        items: int | None = None,
        colour_spaces: Sequence[str] = tuple(COLOUR_SPACES),
        longest_side: int | None = None,
        seed: int = 0,
        keep: bool = False,
        on_unreadable: OnUnreadable = "raise",
    ) -> None:
        self.crop = arguments.integer("crop", crop, minimum=SMALLEST_SIDE // 2)
        items = len(photographs) if items is None else arguments.integer("items", items)
        super().__init__(list(islice(cycle(photographs), items)), seed, on_unreadable)
        self.read = Photographs(2 * crop, keep, longest_side)
        if len(colour_spaces) == 0:
            raise ValueError("colour_spaces: got none, want at least one")
        for name in colour_spaces:
            arguments.one_of("colour_spaces", name, tuple(COLOUR_SPACES))
        self.colour_spaces = tuple(colour_spaces)

    def item(self, record: Path, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Two views of a photograph and their class. Raises ImageError."""
        both = random_window(self.read(record), 2 * self.crop, generator)
        number = int(generator.integers(len(CLASSES)))
        name, level = CLASSES[number]
        if level > 0:
            both = distort(both, name, level, torch_generator(generator))
        top, left = generator.integers(self.crop + 1, size=2)
        scales = [both[..., top : top + self.crop, left : left + self.crop], avg_pool2d(both, 2)]
        if generator.random() < 0.5:
            scales.reverse()
        return torch.cat([self._view(image, generator) for image in scales]), torch.tensor(number, device="cpu")

    def _view(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """An image (1, 3, crop, crop) in a random colour space, mirrored with probability one half."""
        view = COLOUR_SPACES[self.colour_spaces[int(generator.integers(len(self.colour_spaces)))]](image)
        return view.flip(-1) if generator.random() < 0.5 else view

"""ContrastiveDataset: two views of a distorted photograph and the class of its distortion.

    photograph → window of 2c×2c → distorted → ┬ window of c×c ─────┐
                                               └ 2×2 pixels averaged ┴→ each: colour space, mirrored

A network that puts views of one class beside each other, whatever they show, has learnt to see distortions. Classes are
the positions in ``fastiqa.data.distortions.CLASSES``: 0 for a photograph as it is, then five levels for each of 25
types. Colour space and mirroring are drawn for each view; which of the two scales comes first is drawn too.

Source: CONTRIQUE (Madhusudana, Birkbeck, Wang, Adsumilli, Bovik, IEEE TIP 2022), which crops the two scales of a whole
distorted image independently; here one window holds both, and only that window need be distorted.
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
    """Two views of a photograph with one distortion drawn at random, for contrastive pre-training.

    ``dataset[i]`` is (views, class): float32 (2, 3, crop, crop) in [0, 1], and an int64 scalar from 0 to 125, each
    equally likely. Item i shows photograph i modulo their number; every other choice of item i in epoch e is a function
    of (seed, e, i) alone.

    Args:
        photographs: files that :func:`fastiqa.data.read_image` reads, undistorted, both sides at least 2 · crop pixels.
        crop: height and width of a view in pixels, at least 16.
        items: number of items of an epoch; by default one for each photograph.
        colour_spaces: names of ``fastiqa.data.images.colour_spaces.COLOUR_SPACES`` to draw from.
        longest_side: photographs with a longer side are shrunk to this many pixels first; None leaves them as they are.
        seed: of the random choices, 0 or more.
        keep: hold every photograph in memory once it is read, 3 bytes a pixel (each worker of a DataLoader its own).
        on_unreadable: "raise" or "skip": what happens at a photograph that cannot be read or is too small; see
            :class:`fastiqa.data.TripletDataset`.

    Raises:
        ValueError: an argument out of its range. From ``dataset[i]``: :class:`fastiqa.data.ImageError`, naming the
            file.

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
        """An image (1, 3, crop, crop) as a colour space has it, perhaps mirrored."""
        view = COLOUR_SPACES[self.colour_spaces[int(generator.integers(len(self.colour_spaces)))]](image)
        return view.flip(-1) if generator.random() < 0.5 else view

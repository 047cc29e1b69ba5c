"""SynthOptions: what decides every byte that ``fastiqa data synth`` writes, together with the photographs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from fastiqa.data.images.codecs import CODECS, available
from fastiqa.data.synth.labels import METRICS, SMALLEST_SIDE

EXTRAS = ("resize", "blur", "noise")


class SynthError(ValueError):
    """Triplets that cannot be made. The message is one line: the option or file, and the reason."""


@dataclass(frozen=True)
class SynthOptions:
    """Options of :func:`fastiqa.data.synth.synthesis.synthesize`.

    Attributes:
        seed: not negative; with the content of a photograph it decides everything that is drawn for it.
        codecs: names of :mod:`fastiqa.data.images.codecs`, one ladder of qualities each.
        extras: of "resize", "blur", "noise": one more ladder each, of a codec drawn at random.
        levels: qualities in a ladder, at least 2.
        pairs: triplets a photograph at most, half of them labelled by quality and half by the metric; at least 2.
        metric: "ms-ssim" or "ssimulacra2".
        max_size: larger photographs are cropped, at a place drawn at random, to this many pixels in height and width;
            None leaves them whole.
        val, test: shares of the photographs, 0 or more, together less than 1; a share above 0 gets one at least.
    """

    seed: int = 0
    codecs: tuple[str, ...] = tuple(CODECS)
    extras: tuple[str, ...] = ("resize",)
    levels: int = 4
    pairs: int = 40
    metric: str = "ms-ssim"
    max_size: int | None = None
    val: float = 0.15
    test: float = 0.15

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SynthError(f"seed: got {self.seed}, want 0 or more")
        if not self.codecs or len(set(self.codecs)) < len(self.codecs):
            raise SynthError(f"codecs: got {self.codecs}, want at least one, each once")
        if set(self.extras) - set(EXTRAS) or len(set(self.extras)) < len(self.extras):
            raise SynthError(f"extras: got {self.extras}, want some of {', '.join(EXTRAS)}, each once")
        for name in ("levels", "pairs"):
            if getattr(self, name) < 2:
                raise SynthError(f"{name}: got {getattr(self, name)}, want 2 or more")
        if self.max_size is not None and self.max_size < SMALLEST_SIDE:
            raise SynthError(f"max_size: got {self.max_size}, want {SMALLEST_SIDE} or more")
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise SynthError(f"val, test: got {self.val}, {self.test}, want shares whose sum is less than 1")
        if self.metric not in METRICS:
            raise SynthError(f"metric: got {self.metric!r}, want one of {', '.join(METRICS)}")
        package = METRICS[self.metric].package
        if package is not None and importlib.util.find_spec(package) is None:
            raise SynthError(f"metric: {self.metric} needs {package}: pip install {package}")
        try:
            for codec in self.codecs:
                available(codec)
        except ValueError as error:
            raise SynthError(str(error)) from None

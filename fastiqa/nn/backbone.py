"""The interface of timm's feature extractors, under timm's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastiqa.common import arguments
from fastiqa.nn.recomputation import CheckpointedNetwork


class FeatureInfo(tuple[dict[str, Any], ...]):
    """A dict for each map of a backbone: ``num_chs``, ``reduction`` (pixels per element), ``module`` (its source).

    Equivalent to `timm.models.FeatureInfo` of a model made with ``features_only=True``.
    """

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of all maps, of one, or of several."""
        return self._column("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Pixels per element of all maps, of one, or of several."""
        return self._column("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Names of the submodules behind all maps, one, or several."""
        return self._column("module", idx)

    def _column(self, key: str, idx: int | Sequence[int] | None) -> Any:
        if isinstance(idx, int):
            return self[idx][key]
        return [self[i][key] for i in (range(len(self)) if idx is None else idx)]


class Backbone(CheckpointedNetwork):
    """Base, listed first, of a backbone.

    Attributes:
        last_modules: for each map the name of the submodule that computes its map.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    last_modules: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")

    @property
    def feature_info(self) -> FeatureInfo:
        """The maps that `forward` returns."""
        rows = zip(self.channels, self.strides, self.last_modules, strict=True)
        return FeatureInfo({"num_chs": width, "reduction": stride, "module": name} for width, stride, name in rows)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """`set_memory("lean")`, or "off"."""
        self.set_memory("lean" if arguments.flag("enable", enable) else "off")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """A normalised image (N, 3, H, W) → the last map, and the maps selected by `indices`.

        Args:
            x: the image.
            indices: of the maps; a number selects that many from the last backwards, None all.
            norm, stop_early: timm's arguments, without effect: the network normalises its maps, and computes all.
            output_fmt: "NCHW".
            intermediates_only: leave the last map out.

        Returns:
            (map, list of maps), or the list.

        Raises: ValueError for other formats, and for indices that do not exist.
        """
        arguments.one_of("output_fmt", output_fmt, ("NCHW",))
        maps: list[Tensor] = self(x)
        if indices is None:
            indices = range(len(maps))
        elif isinstance(indices, int):
            arguments.one_of("indices", indices, range(1, len(maps) + 1))
            indices = range(len(maps) - indices, len(maps))
        for i in indices:
            arguments.one_of("indices", i, range(-len(maps), len(maps)))
        chosen = [maps[i] for i in indices]
        return chosen if intermediates_only else (maps[-1], chosen)

"""LPIPS: the distance of two images in a trained network's features, weighted to agree with people.

    x, y          RGB in [0, data_range], scaled to [-1, 1], less (-0.030, -0.088, -0.188), by (0.458, 0.448, 0.450)
    lpips_l(p)    Σ_c w_lc (x̂_lc(p) − ŷ_lc(p))²           x̂_l: the network's map l, each place of unit length
    lpips         Σ_l mean_p lpips_l(p)                      x, y: (N, 3, H, W) → (N,)
    spatial       Σ_l up(lpips_l)                            bilinear to the images' size, (N, 1, H, W)

The trunk is AlexNet, VGG16 or SqueezeNet 1.1 trained on ImageNet; the heads w are the authors', version 0.1. This
package contains neither: AlexNet's come with the extra `weights`, others from your files.

Without gradients, both images run as one batch, a map is freed as soon as the next exists, and VGG16, whose first map
is 21 times its image, runs in bands of rows. With gradients for one image, the other keeps its tapped maps only. The
distance itself keeps nothing, see `fastiqa.metrics.lpips_distance`.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fastiqa.common import arguments
from fastiqa.common.hashing import sha256_of
from fastiqa.common.installed_weights import installed_weights
from fastiqa.common.weight_files import load_matching, read_weights
from fastiqa.metrics._metric import (
    DataRange,
    Reduction,
    check_data_range,
    check_pair,
    check_reduction,
    reduce_batch,
    require_finite,
    to_compute_dtype,
)
from fastiqa.metrics.lpips_distance import distance
from fastiqa.metrics.lpips_trunks import Trunk, create_trunk, halo, width_of

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
BAND_BYTES = 32 << 20
PACKAGED_NET = "alex"  # the net of the extra `weights`
# SHA-256 of the values of the authors' heads of version 0.0
VERSION_0_0 = {
    "8a9f071221953c589f32ea6727d04f800af07c3f4d97ef07514bcc3c4e82f687",  # alex
    "e60d8ee2c0926a5b9ea5353744a0b2d63f81e12b5df5365fbfe1375a034f8619",  # vgg
    "1a1c8db5a561a6810279754ae5f042398fc4cc02b0b8c64d48be743b450da288",  # squeeze
}


@overload
def lpips(
    x: Tensor,
    y: Tensor,
    *,
    trunk: Trunk,
    heads: Sequence[Tensor],
    data_range: DataRange = None,
    check_range: bool | None = None,
    spatial: bool = False,
    return_layers: Literal[False] = False,
    reduction: Reduction = "none",
) -> Tensor: ...


@overload
def lpips(
    x: Tensor,
    y: Tensor,
    *,
    trunk: Trunk,
    heads: Sequence[Tensor],
    data_range: DataRange = None,
    check_range: bool | None = None,
    spatial: bool = False,
    return_layers: Literal[True],
    reduction: Reduction = "none",
) -> tuple[Tensor, list[Tensor]]: ...


def lpips(
    x: Tensor,
    y: Tensor,
    *,
    trunk: Trunk,
    heads: Sequence[Tensor],
    data_range: DataRange = None,
    check_range: bool | None = None,
    spatial: bool = False,
    return_layers: bool = False,
    reduction: Reduction = "none",
) -> Tensor | tuple[Tensor, list[Tensor]]:
    """Perceptual distance of each pair of images by a network; 0 means equal, lower is better.

    Args:
        x: (N, 3, H, W), RGB, uint8 or any floating dtype, values in [0, data_range], sides of at least
            ``trunk.smallest`` pixels: 31 for AlexNet, 16 for VGG16, 17 for SqueezeNet.
        y: same shape and device as ``x``, and both floating or both uint8; the measure is symmetric. x or y may be a
            single image, (1, 3, H, W), against N of the other: it runs through the network once.
        trunk: from :func:`fastiqa.metrics.lpips_trunks.create_trunk`, on the images' device.
        heads: for each tapped map, a weight per channel, (C_l,).
        data_range: value of white, by default 1, and 255 for uint8; or (black, white): (-1, 1) for images as the
            authors' package takes them without ``normalize=True``.
        check_range: as for :func:`fastiqa.metrics.ssim`.
        spatial: return the map of distances instead of its mean.
        return_layers: also return the contribution of each tapped map; they add up to the distance.
        reduction: "none", or "mean" or "sum" over the batch; maps are not reduced.

    Returns:
        (N,), (), or with ``spatial`` (N, 1, H, W). With ``return_layers`` a pair: that, and a list of the same shape
        for each tapped map. float64 if an image is float64, otherwise float32, whatever the dtype of the weights.
        Inside autocast convolutions run in its dtype, lengths and distances in float32.

    Raises:
        TypeError, ValueError: naming the argument, "got X, want Y": dtype, shape, device, range, number of heads; for
            eager CPU tensors also NaN, infinity and values outside the range.

    Equivalent to ``lpips.LPIPS(net, spatial=spatial)(x, y, return_layers, normalize=True)`` of the authors' package in
    eval mode with the same weights, except for the gradient at images without features: it is 0 here, NaN there.

    Example:
        >>> import torch
        >>> from fastiqa.metrics import LPIPS, lpips
        >>> model = LPIPS("squeeze", pretrained=False)  # random weights
        >>> image = torch.rand(2, 3, 32, 32)
        >>> lpips(image, image, trunk=model.trunk, heads=model.heads.weights())
        tensor([0., 0.])
    """
    arguments.flag("spatial", spatial)
    arguments.flag("return_layers", return_layers)
    check_reduction(reduction)
    if not hasattr(trunk, "stages"):
        raise TypeError(f"trunk: got {type(trunk).__name__}, want one of fastiqa.metrics.lpips_trunks.create_trunk")
    if not all(isinstance(weight, Tensor) for weight in heads):
        raise TypeError("heads: got something else, want a tensor of weights for each tapped map")
    pair = check_pair(x, y, data_range, check_range, one_against_many=True)
    height, width = x.shape[-2:]
    if x.shape[1] != 3 or min(height, width) < trunk.smallest:
        raise ValueError(f"x: got shape {tuple(x.shape)}, want (N, 3, H, W), H and W of at least {trunk.smallest}")
    if [len(weight) for weight in heads] != list(trunk.channels):
        raise ValueError(f"heads: got {[len(weight) for weight in heads]} weights, want {list(trunk.channels)}")
    x, y = (_scaled(to_compute_dtype(image), pair.white) for image in (pair.x, pair.y))
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, *heads, *arguments.parameters_of(trunk)))
    if not graph and trunk.keeps_size and arguments.is_eager(x):
        maps = _distances_in_bands(torch.cat([x, y]), x.shape[0], trunk, heads)
    else:
        apart = graph and x.requires_grad != y.requires_grad
        maps = _distances([x, y] if apart else [torch.cat([x, y])], x.shape[0], trunk, heads)
    if spatial:
        layers = [interpolate(each, (height, width), mode="bilinear") for each in maps]
        score = require_finite(torch.stack(layers).sum(0), pair, None)
    else:
        layers = [each.mean((1, 2, 3)) for each in maps]
        score = reduce_batch(require_finite(torch.stack(layers).sum(0), pair, None), reduction)
        layers = [reduce_batch(each, reduction) for each in layers]
    return (score, layers) if return_layers else score


class LPIPS(nn.Module):
    """`lpips` as a module with the weights of trunk and heads, frozen by default.

    Args:
        net: "alex", "vgg" or "squeeze".
        pretrained: without files, whether to load the published weights of the extra `weights`, which has those of
            "alex"; False gives random weights, whose distances mean nothing.
        trunk: torchvision's file of AlexNet, VGG16 or SqueezeNet 1.1 (the classifier is ignored).
        heads: the authors' file of version 0.1 for this network, from their package's folder ``weights/v0.1``.
        weights: instead of both, a file of the authors' whole model, ``lpips.LPIPS(net).state_dict()``.
        data_range, check_range, spatial, reduction: see :func:`lpips`.

    Files are safetensors, or PyTorch's, read with ``weights_only=True``. `fastiqa.save_model` writes trunk and heads
    into one file, for `fastiqa.load_model` and the command line; the last four options are not saved.

    Raises:
        ValueError: another net; a net without published weights in the extra; one file without the other; naming the
            file: keys missing or left over, other shapes, heads of version 0.0, whose trunk saw unscaled images, or a
            packaged file that is not the published one.
        FileNotFoundError: no such file.
        ImportError: the extra `weights` is not installed.

    Example:
        >>> import torch
        >>> model = LPIPS("alex", pretrained=False)  # random weights; without the option those of the extra `weights`
        >>> image = torch.rand(2, 3, 64, 64, requires_grad=True)
        >>> distance = model(image, torch.rand(2, 3, 64, 64))
        >>> distance.sum().backward()
        >>> distance.shape, image.grad.shape
        (torch.Size([2]), torch.Size([2, 3, 64, 64]))
    """

    name = model_name = "lpips"
    higher_is_better = False
    score_range = (0.0, math.inf)

    def __init__(
        self,
        net: str = "alex",
        *,
        pretrained: bool = True,
        trunk: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        data_range: DataRange = None,
        check_range: bool | None = None,
        spatial: bool = False,
        reduction: Reduction = "none",
    ) -> None:
        super().__init__()
        if (trunk is None) != (heads is None):
            raise ValueError(f"trunk, heads: got {trunk!r} and {heads!r}, want two files or neither")
        if weights is not None and trunk is not None:
            raise ValueError(f"weights: got {weights!r} beside trunk and heads, want one file or these two")
        check_data_range(data_range)
        check_reduction(reduction)
        arguments.flag("spatial", spatial)
        arguments.flag("pretrained", pretrained)
        self.options = {"net": net}
        self.convention: dict[str, Any] = {"data_range": data_range, "spatial": spatial, "reduction": reduction}
        if check_range is not None:
            self.convention["check_range"] = arguments.flag("check_range", check_range)
        self.trunk = create_trunk(net)
        self.heads = Heads(self.trunk.channels)
        if trunk is not None and heads is not None:
            _load(self.trunk, trunk, "classifier.")
            _load(self.heads, heads)
        elif weights is not None:
            _load_whole(self, weights)
        elif pretrained:
            _load_packaged(self, net)
        self.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]

    def forward(self, x: Tensor, y: Tensor, return_layers: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Distances of two batches (N, 3, H, W), as `lpips` returns them: (N,), or (N, 1, H, W) with ``spatial``."""
        convention = {**self.convention, "return_layers": return_layers}
        result: Tensor | tuple[Tensor, list[Tensor]]
        result = lpips(x, y, trunk=self.trunk, heads=self.heads.weights(), **convention)
        return result


class Heads(nn.Module):
    """A weight per channel of each tapped map, with the keys of the authors' files: ``lin0.model.1.weight`` and so on.

    Initialised at random, from 0 to 1 / channels.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for k, width in enumerate(channels):
            head = nn.Conv2d(width, 1, 1, bias=False)
            nn.init.uniform_(head.weight, 0, 1 / width)
            # in the files, layer 0 is dropout, for the authors' training
            self.add_module(f"lin{k}", nn.ModuleDict({"model": nn.Sequential(nn.Identity(), head)}))

    def weights(self) -> list[Tensor]:
        """The weights (C_l,) for each map."""
        return [weight.flatten() for weight in arguments.parameters_of(self)]


def _load(model: nn.Module, path: str | os.PathLike[str], left_out: str | None = None) -> None:
    """Load a file's weights, except for keys that begin with `left_out`."""
    weights = read_weights(path)[0]
    kept = {key: weight for key, weight in weights.items() if left_out is None or not key.startswith(left_out)}
    load_matching(model, path, kept)
    _check_version(weights, path)


def _load_packaged(model: LPIPS, net: str) -> None:
    """Load the published weights of the extra `weights`."""
    if net != PACKAGED_NET:
        raise ValueError(
            f"net: no package has weights of {net!r}, want {PACKAGED_NET!r}, files (trunk and heads, or weights), or "
            "pretrained=False for random ones"
        )
    path = installed_weights(f"lpips_{net}")
    file = torch.load(path, map_location="cpu", weights_only=True)
    convolutions = [layer for layer in model.trunk.features if isinstance(layer, nn.Conv2d)]
    for layer, weights in zip(convolutions, file["trunk"], strict=True):
        layer.load_state_dict({"weight": weights["weight"], "bias": weights["bias"]})
    for parameter, weight in zip(arguments.parameters_of(model.heads), file["lin"], strict=True):
        parameter.data.copy_(weight)


def _load_whole(model: LPIPS, path: str | os.PathLike[str]) -> None:
    """Load the authors' whole model: net.slice2.3.weight, lin0.model.1.weight, and the latter again as lins.0."""
    weights = read_weights(path)[0]
    for name, values in (("shift", SHIFT), ("scale", SCALE)):
        given = weights.pop(f"scaling_layer.{name}", None)
        if given is not None and not torch.allclose(
            given.double().flatten(), torch.tensor(values, device="cpu").double()
        ):
            raise ValueError(f"{path}: scaling_layer.{name}: got {given.flatten().tolist()}, want {list(values)}")
    ours = {re.sub(r"^net\.slice\d+\.", "trunk.features.", key): weight for key, weight in weights.items()}
    ours = {re.sub(r"^lin(?=\d)", "heads.lin", key): w for key, w in ours.items() if not key.startswith("lins.")}
    load_matching(model, path, ours)
    _check_version(weights, path)


def _check_version(weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Raise ValueError if a file's weights include the authors' heads of version 0.0."""
    values = b"".join(weights[key].float().numpy().tobytes() for key in sorted(weights) if re.match(r"lin\d", key))
    if sha256_of(values) in VERSION_0_0:
        raise ValueError(f"{path}: got the authors' heads of version 0.0, want those of version 0.1")


def _scaled(image: Tensor, data_range: float) -> Tensor:
    """(2 image / data_range − 1 − shift) / scale, in channels-last memory, the fastest for the trunks."""
    shift, scale = (image.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE))
    scaled = torch.addcmul((-1 - shift) / scale, image, 2 / (data_range * scale))
    return scaled.contiguous(memory_format=torch.channels_last)


def _distances(images: list[Tensor], first: int, trunk: Trunk, heads: Sequence[Tensor]) -> list[Tensor]:
    """The distance map (N, 1, H_l, W_l) of each layer.

    Args:
        images: one batch with x, `first` images, before y; or x and y apart.
        first: number of images in x.
        trunk, heads: as for `lpips`.
    """
    found = []
    for (pool, layers), weight in zip(trunk.stages(), heads, strict=True):
        if pool is not None:
            images = [pool(image) for image in images]
        images = [layers(image) for image in images]
        x, y = _broadcast(*images) if len(images) == 2 else _split_batch(images[0], first)
        found.append(distance(x, y, weight))
        del x, y  # else the maps would stay alive while the next stage runs
    return found


def _distances_in_bands(images: Tensor, first: int, trunk: Trunk, heads: Sequence[Tensor]) -> list[Tensor]:
    """`_distances` of one batch, in bands of rows whose widest map has `BAND_BYTES`.

    A band extends by the rows that its results depend on, which are computed twice: 4 of 64 rows. These rows, wrong at
    ends inside the image, are dropped.
    """
    stages = trunk.stages()
    pools = [stage.pool for stage in stages[1:]]
    found = []
    for layers, next_pool, weight in zip([stage.layers for stage in stages], [*pools, None], heads, strict=True):
        height, beyond = images.shape[2], halo(layers)
        rows = _rows_of_a_band(images, layers)
        distances, pooled = [], []
        for top in range(0, height, rows):
            begin = max(top - beyond, 0)
            band = layers(images[:, :, begin : top + rows + beyond])[:, :, top - begin : top - begin + rows]
            x, y = _split_batch(band, first)
            distances.append(distance(x, y, weight))
            if next_pool is not None and band.shape[2] > 1:  # pooling drops an odd last row
                pooled.append(next_pool(band))
        found.append(torch.cat(distances, 2))
        if pooled:
            images = torch.cat(pooled, 2)
    return found


def _rows_of_a_band(images: Tensor, layers: nn.Sequential) -> int:
    """The rows per band: even, for pooling, and at least 16, so that few rows are computed twice."""
    bytes_of_a_row = images.shape[0] * width_of(layers) * images.shape[3] * images.element_size()
    return max(16, BAND_BYTES // max(bytes_of_a_row, 1) // 2 * 2)


def _split_batch(batch: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Split a batch into x, its `first` images, and y, both expanded to N."""
    x, y = batch.split([first, batch.shape[0] - first])
    return _broadcast(x, y)


def _broadcast(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    n = y.shape[0] if x.shape[0] == 1 else x.shape[0]
    return x.expand(n, -1, -1, -1), y.expand(n, -1, -1, -1)

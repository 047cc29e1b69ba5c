"""batches_by_source: batches whose items come from one data set, for images whose size differs between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastiqa.reference import arguments


def batches_by_source(
    lengths: Sequence[int], batch_size: int, *, seed: int = 0, epoch: int = 0, drop_last: bool = False
) -> list[list[int]]:
    """Shuffled batches of one epoch, each of items of one source only, in shuffled order.

    For ``RandomCrop(small="native")``, whose items have one size within BAPPS or PieAPP and another between them.

    Args:
        lengths: items of each source; item numbers go on from source to source, as in a concatenated list.
        batch_size: items of a batch; the last batch of a source may have fewer.
        seed, epoch: the order is a function of these alone.
        drop_last: leave out batches that are not full.

    Returns:
        Item numbers by batch, to pass to ``DataLoader(dataset, batch_sampler=...)``.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> sorted(sorted(batch) for batch in batches_by_source([2, 3], batch_size=3))
        [[0, 1], [2, 3, 4]]
    """
    lengths = arguments.integers("lengths", lengths)
    arguments.integer("batch_size", batch_size)
    generator = np.random.default_rng((arguments.integer("seed", seed, 0), arguments.integer("epoch", epoch, 0)))
    batches: list[list[int]] = []
    start = 0
    for length in lengths:
        items = (start + generator.permutation(length)).tolist()
        batches += [items[i : i + batch_size] for i in range(0, length, batch_size)]
        start += length
    if drop_last:
        batches = [batch for batch in batches if len(batch) == batch_size]
    return [batches[i] for i in generator.permutation(len(batches))]

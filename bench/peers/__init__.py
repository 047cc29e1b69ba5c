"""fastiqa's metrics beside those of other libraries: `python -m fastiqa.bench.peers`."""

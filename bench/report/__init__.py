"""Tables and figures from bench/data: `python -m fastiqa.bench.report`."""

"""Tables and figures from the measurements in bench/data: `python -m fastiqa.bench.report`."""

"""`python -m fastiqa.bench.report`."""

import sys

from .command import main

sys.exit(main())

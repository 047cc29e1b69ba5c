"""`python -m fastiqa.bench.peers`."""

import sys

from .measure import main

sys.exit(main())

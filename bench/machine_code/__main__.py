"""`python -m fastiqa.bench.machine_code`."""

import sys

from .tables import main

sys.exit(main())

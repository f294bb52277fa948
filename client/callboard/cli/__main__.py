"""`python -m callboard.cli` is `callboard`."""

import sys

from callboard.cli import main

sys.exit(main())

"""`python -m amodal` is the command line."""

import sys

from amodal.cli import main

sys.exit(main())

"""`python -m fragility` is the `fragility` command."""

import sys

from fragility.cli import main

sys.exit(main())

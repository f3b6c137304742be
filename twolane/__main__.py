"""`python -m twolane` is the `twolane` command."""

import sys

from twolane.cli import main

sys.exit(main())

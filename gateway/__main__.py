"""`python -m gateway` is `twolane`, the gateway's part of it."""

import sys

from gateway.cli import main

sys.exit(main())

"""`python -m gateway`: the gateway's commands of `twolane`."""

import sys

from gateway.cli import main

sys.exit(main())

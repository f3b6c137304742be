"""`python -m diffusion_worker`: the same as `twolane worker`."""

import sys

from diffusion_worker.cli import main

sys.exit(main())

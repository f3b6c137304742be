"""`python -m gateway`: the gateway's commands of `twolane`."""

import sys

if sys.argv[1:2] == ["serve"]:  # without the modules of the other commands
    from gateway import serve_command

    sys.exit(serve_command.main(sys.argv[1:]))

from gateway.cli import main

sys.exit(main())

"""``python -m resurgam``."""

import sys

try:
    from resurgam.cli.main import main

    sys.exit(main())
except KeyboardInterrupt:  # while the command line itself was being loaded: nothing had begun
    sys.exit(130)

"""``python -m resurgam``."""

import sys

from resurgam.cli.main import main

sys.exit(main())

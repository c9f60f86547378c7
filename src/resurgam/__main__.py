"""``resurgam`` and ``python -m resurgam``."""

import sys


def main() -> int:
    """Run the command line, which is loaded here, so that Ctrl-C while it loads is answered like any other."""
    try:
        from resurgam.cli.main import main as command_line

        return command_line()
    except KeyboardInterrupt:  # nothing had begun
        return 130


if __name__ == "__main__":
    sys.exit(main())

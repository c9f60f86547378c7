"""Our command line with all it writes in the page cache, flushed as always: the mode ``resurgam, buffered packs`` of the bench.

Packs and restored files go past the page cache where the file system lets them (``stores.disk``). Here the system says that it
knows no such thing, as some file systems do.
"""

from __future__ import annotations

import sys

from resurgam.stores import disk

disk.O_DIRECT = 0  # before anything asks

from resurgam.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

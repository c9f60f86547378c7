"""The small library for application code. It needs no extras, loads in milliseconds, and does nothing where Resurgam is not set up.

    from resurgam.sdk import barrier

    with barrier():                 # or: async with barrier():
        documents.insert(chunk)
        index.add(chunk.id, vector)

``docs/sdk.md`` tells more.
"""

from __future__ import annotations

from resurgam.barrier import barrier

__all__ = ["barrier"]

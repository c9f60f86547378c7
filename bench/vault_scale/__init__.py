"""The bench of large vaults: time and memory at 10^5, 10^6 and 10^7 chunks. ``python -m bench.vault_scale``.

    making.py     a synthetic vault: its metadata are real, its data are holes in sparse files
    tasks.py      what is timed: opening, looking up, listing, checking, planning
    __main__.py   each task of each vault in a process of its own, the table, JSON

What is real: keys, role table, signed and sealed segments, signed points, leases, verdicts and log entries, chunk lists with
their inner pages, documents, and their packs with trailers. What is not: packs of data are sparse files of the right sizes,
which only a listing ever looks at. So whatever reads metadata alone meets what it would meet in a vault of that size.
"""

"""``make bench``: Resurgam beside restic and borg on one machine, in one run, on data of fixed seeds.

    data.py      the five sets of data, each in two versions
    tools.py     the command lines of the tools, ours among them
    measure.py   one timed process: wall time, processor time, memory
    rounds.py    what is run in which order, and the byte-for-byte comparison of what was restored
    report.py    medians, ratios, goals, the table and ``results.json``
    buffered.py  our command line without writes past the page cache, which is a mode of its own

Method and figures are told in ``docs/benchmarks.md``.
"""

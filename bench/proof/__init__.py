"""The bench of verdicts: how often a verdict is right. ``make bench-proof SEED=7``, or ``python -m bench.proof --help``.

    build helpdesk and handbook --> vault, capture, first proof, reference approved     by the real commands, once
    for each case: lay out a copy of what was restored --> change it --> what simple checks say
                   --> ask the probes, judge                            in this process, asking through ``warm``
                   --> ask the oracle what has changed indeed           with its own questions and comparison
    --> a table of kinds, and totals; exit code 1 where a target is missed

*Faults* (``damage``, and the incidents of the helpdesk) and *harmless* changes are drawn from a seed (``changes``). A fault
strikes the restored copy, or, one in four, the live system before its capture: then witness, counts and checksums agree with the
damage, and only the owner's reference is left to judge by. *A/A runs* are copies that nothing happened to. The third system,
``worded``, is the helpdesk with a writer that says everything in other words each time.

What counts as a fault to be detected is said by the ``oracle``, which imports nothing of Resurgam: it asks the application itself,
before and after. A fault is *felt* where an exact answer to a question that the probes ask has changed, or a noisy one beyond its
margin; *felt elsewhere* where only one of the questions has changed that no probe asks; else it changed nothing. Detection is over
the first; the second says what more probes would see.

In this process and not behind the sandbox: laying out, judging, and asking. What is warm is only the import of libraries: each
command of a probe is the manifest's own, run by a child forked for it alone (``warm``).
"""

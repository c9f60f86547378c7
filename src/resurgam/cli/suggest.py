"""probes suggest: questions worth asking of what a system holds now."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from resurgam.capture import suggest as proposing
from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, ManifestOption
from resurgam.drivers.registry import driver_for
from resurgam.model.codec import to_plain
from resurgam.probes.runner import LiveRunner


def suggest(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    write: Annotated[
        bool, typer.Option("--write", help="Write the frozen queries and inputs into probes/ beside the manifest.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Propose probes from what the live system holds.

    Looks at every component at one cut, read-only: golden queries from all corners of each vector collection, models that
    can be loaded, tables and labels, digests of files. Prints YAML to paste under `probes`, with the reason for each, and what
    stays unprobed. The manifest is never edited; --write makes the files that the YAML names, and none where one is there.

    Examples:

        resurgam probes suggest

        resurgam probes suggest --write > suggested.yaml
    """
    context = Context(manifest)
    found = proposing.suggest(context.system, driver_for, LiveRunner(context.system.root), context.clock)
    written = proposing.write(found, context.system.root) if write else []
    if json:
        output.as_json({**to_plain(found), "yaml": found.yaml(), "written": written})
        return 0
    sys.stdout.write(found.yaml())
    for note in found.notes:
        output.note(f"{note.component}: {note.what}")
    for name, advice in found.unprobed.items():
        output.warning(f"{name} stays unprobed: {advice}")
    for path in written:
        output.note(f"wrote {path}")
    if found.files and not write:
        output.note(f"--write makes {', '.join(found.files)}, which these probes ask")
    return 0

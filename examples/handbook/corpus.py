"""The texts: help topics and docstrings of the Python that runs this, cut into chunks (PSF-2.0, see LICENCE.md).

Modules are read with ``ast`` from their source files, never imported. They are grouped in sections, roughly the chapters
of the Python Library Reference; the sections are what the router learns to tell apart. Same Python, same texts, same order.
"""

from __future__ import annotations

import ast
import os
import pydoc_data.topics
import re
import sysconfig
import warnings
from collections.abc import Iterator
from typing import NamedTuple

LICENCE = "PSF-2.0"
LONGEST, SHORTEST = 600, 80  # characters of a chunk

LANGUAGE = "language"
SECTIONS = {
    "text": "string re textwrap difflib codecs gettext locale tokenize shlex html",
    "numbers": "_pydecimal statistics random fractions numbers colorsys",
    "data-types": "collections datetime _pydatetime calendar zoneinfo dataclasses enum copy pprint graphlib weakref heapq bisect",
    "files": "os shutil pathlib tempfile glob fnmatch zipfile tarfile gzip bz2 lzma fileinput filecmp _pyio posixpath stat",
    "formats": "csv json configparser plistlib pickle pickletools shelve dbm xml tomllib sqlite3 base64 email mailbox mimetypes",
    "network": "socket ssl http urllib smtplib imaplib ftplib poplib socketserver ipaddress xmlrpc wsgiref webbrowser uuid",
    "concurrency": "threading multiprocessing asyncio concurrent subprocess queue sched selectors contextvars signal",
    "testing": "unittest doctest pdb bdb trace timeit cProfile profile pstats traceback tracemalloc faulthandler",
    "runtime": "inspect typing types abc ast dis importlib contextlib functools warnings runpy code codeop pkgutil platform",
    "interfaces": "argparse optparse getopt cmd logging getpass curses turtle tkinter",
}


class Document(NamedTuple):
    """One help topic, or one module with all its docstrings. ``parts`` are headings with their texts."""

    section: str
    title: str
    source: str
    parts: tuple[tuple[str, str], ...]

    def chunks(self) -> Iterator[tuple[str, str]]:
        """Heading and text of each chunk, in order."""
        for heading, text in self.parts:
            for chunk in cut(text):
                yield heading, chunk


def documents() -> Iterator[Document]:
    """All documents, in one order."""
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield Document(LANGUAGE, name, "pydoc_data.topics", ((name, text),))
    for section, names in SECTIONS.items():
        for name in names.split():
            for module, path in _sources(name):
                parts = tuple(_docstrings(module, path))
                if parts:
                    yield Document(section, module, f"docstrings of {module}", parts)


def cut(text: str) -> Iterator[str]:
    """Paragraphs joined up to ``LONGEST`` characters; what stays shorter than ``SHORTEST`` says too little alone."""
    chunk = ""
    for paragraph in (re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", text)):
        for piece in _pieces(paragraph):
            if chunk and len(chunk) + 1 + len(piece) > LONGEST:
                if len(chunk) >= SHORTEST:
                    yield chunk
                chunk = ""
            chunk = f"{chunk} {piece}".strip()
    if len(chunk) >= SHORTEST:
        yield chunk


def _pieces(paragraph: str) -> Iterator[str]:
    while len(paragraph) > LONGEST:
        end = paragraph.rfind(" ", 0, LONGEST)
        end = end if end > 0 else LONGEST
        yield paragraph[:end]
        paragraph = paragraph[end:].strip()
    if paragraph:
        yield paragraph


def _sources(name: str) -> Iterator[tuple[str, str]]:
    """The source files of a module, or of a package's own folder; none where this Python does not have it."""
    base = os.path.join(sysconfig.get_path("stdlib"), name)
    if os.path.isfile(f"{base}.py"):
        yield name, f"{base}.py"
    elif os.path.isdir(base):
        for file in sorted(os.listdir(base)):
            if file.endswith(".py") and file != "__main__.py":
                module = name if file == "__init__.py" else f"{name}.{file.removesuffix('.py')}"
                yield module, os.path.join(base, file)


def _docstrings(module: str, path: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in a standard library's source: not ours to mend
        tree = ast.parse(source)
    yield from _within(tree, module)


def _within(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and len(text) >= SHORTEST:
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _within(child, f"{name}.{child.name}")

"""What a file is taken for when a folder is looked at: by its name, and where names do not tell, by its text.

Two forms of text are known. Tool schemas in the style of the Model Context Protocol are named objects with a description and a
JSON Schema of their input (https://modelcontextprotocol.io/specification, *tools*); agent wiring is a mapping that names
agents, servers of tools or graphs. Everything else goes by its name.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Any

import msgspec
import yaml


class Kind(StrEnum):
    """What a file, or a folder that is one thing, is taken for."""

    DATABASE = "SQLite database"
    AGENT = "LangGraph's threads and memories"
    VECTORS = "Chroma folder"
    MODEL = "model file"
    REPOSITORY = "git working tree"
    ENVIRONMENT = "Python environment"
    PROMPT = "prompt or policy"
    TOOLS = "tool schemas or agent wiring"
    CONFIG = "configuration"
    DATASET = "data set"
    QUESTIONS = "questions for probes"
    CODE = "source code"
    PROSE = "about the project"
    SECRET = "secret"  # noqa: S105 - a kind of file
    LINK = "symbolic link"
    UNKNOWN = "not understood"


DRIVERS = {
    Kind.DATABASE: "sqlite",
    Kind.AGENT: "langgraph",
    Kind.VECTORS: "chroma",
    Kind.MODEL: "models",
    Kind.REPOSITORY: "git",
    Kind.ENVIRONMENT: "environment",
}  # of every other kind that is captured: files
STORES = {Kind.DATABASE, Kind.AGENT, Kind.VECTORS}  # what an application writes to while it runs
FILES = {Kind.MODEL, Kind.PROMPT, Kind.TOOLS, Kind.CONFIG, Kind.DATASET}  # captured as files or folders of them
TEXTS = {Kind.PROMPT, Kind.TOOLS, Kind.CONFIG}  # searched for secrets, and for the names of databases

_SUFFIXES = {
    Kind.MODEL: ".safetensors .onnx .gguf .npy .npz .pt .pth .bin .joblib .faiss",
    Kind.PROMPT: ".prompt .j2 .jinja .jinja2 .md .txt",
    Kind.CONFIG: ".yaml .yml .toml .json .ini .cfg .conf",
    Kind.DATASET: ".jsonl .ndjson .parquet .arrow .csv .tsv",
    Kind.CODE: ".py .pyi .ipynb .sh .js .mjs .ts .tsx .go .rs .java .c .h .cc .cpp .sql .html .css",
    Kind.SECRET: ".pem .key .p12 .pfx .jks .agekey",
}
_KIND_OF = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_PROSE = {"readme", "license", "licence", "copying", "changelog", "contributing", "authors", "notice", "security"}
_BUILD = {"setup.cfg", "package.json", "package-lock.json", "tsconfig.json", "tox.ini", "pytest.ini", "docker-compose.yml",
          "docker-compose.yaml", "makefile", "dockerfile", "constraints.txt"}  # fmt: skip
_REQUIRES = {"pyproject.toml", "pipfile", "uv.lock", "poetry.lock", "environment.yml", "setup.py"}
_SECRET_NAMES = {".env", ".netrc", ".pgpass", ".npmrc", ".pypirc", "id_rsa", "id_ed25519", "id_ecdsa", "credentials.json",
                 "credentials", "client_secret.json", "service-account.json", "trust.json"}  # fmt: skip
_ASKING = {"probes", "evals", "golden"}  # folders of questions
_OF_MODELS = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json",
              "tokenizer.model", "spiece.model"}  # fmt: skip
_WIRING = {"mcpservers", "mcp_servers", "agent", "agents", "graphs"}
_INPUTS = {"inputschema", "input_schema", "parameters"}


def kind_of_name(path: str) -> Kind:
    """The kind by the name alone; ``path`` is relative to the folder that is looked at."""
    folder, name = os.path.split(path.lower())
    stem, suffix = os.path.splitext(name)
    sample = name.startswith(".env") and name.endswith((".example", ".sample", ".template"))
    if name in _SECRET_NAMES or suffix in _SUFFIXES[Kind.SECRET].split() or (name.startswith(".env.") and not sample):
        return Kind.SECRET
    if stem in _PROSE or name in _BUILD or tells_requirements(name) or sample or name.startswith(".git"):
        return Kind.PROSE
    if name in _OF_MODELS:  # the words in a vocabulary are no configuration
        return Kind.MODEL
    asks = stem.startswith("golden") or os.path.basename(folder) in _ASKING
    if asks and suffix in {".json", ".jsonl", ".yaml", ".yml"}:
        return Kind.QUESTIONS
    return _KIND_OF.get(suffix, Kind.UNKNOWN)


def tells_requirements(name: str) -> bool:
    """Whether a file of this name (lower case) says which packages the application needs."""
    return name in _REQUIRES or (name.startswith("requirements") and name.endswith((".txt", ".in")))


def is_tools(name: str, text: str) -> bool:
    """Whether a configuration file holds tool schemas or agent wiring."""
    if not any(word in text.lower() for word in (*_WIRING, "tools", "description", *_INPUTS)):
        return False  # reading YAML takes long, and most configuration is about other things
    try:
        found = msgspec.json.decode(text) if name.endswith(".json") else yaml.safe_load(text)
    except (msgspec.DecodeError, yaml.YAMLError, ValueError, RecursionError):
        return False
    return _has_tools(found) or (isinstance(found, dict) and any(str(key).lower() in _WIRING for key in found))


def _has_tools(found: Any) -> bool:
    tools = found.get("tools") if isinstance(found, dict) else found
    return isinstance(tools, list) and bool(tools) and all(map(_is_tool, tools))


def _is_tool(found: Any) -> bool:
    """A schema by itself, or under ``function`` as other interfaces wrap it."""
    if not isinstance(found, dict):
        return False
    inner = found.get("function", found)
    keys = {str(key).lower() for key in inner} if isinstance(inner, dict) else set()
    return "name" in keys and ("description" in keys or bool(keys & _INPUTS))

"""What a secret looks like where it should not stand: a captured secret value is a defect, so none may come in by a file.

Three signs, all of form and none of entropy, so that the answer can be explained: a key that says so (``password: …``,
``--token …``), a URL with a password in it, and the well-known beginnings of keys. A reference (``${NAME}``, ``{file: …}``) is
never a secret. What has none of the signs is not found: this is a net, not a proof.
"""

from __future__ import annotations

import re

from resurgam.model.system import REFERENCE, Json

_SAYS_SO = re.compile(
    r"(^|[_.\- ])(password|passwd|passphrase|pwd|secret|token|credentials?|(api|access|private|secret|signing)[_-]?key)$",
    re.IGNORECASE,
)
_URL_WITH_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@", re.IGNORECASE)
_BEGINNINGS = re.compile(
    r"AGE-SECRET-KEY-1|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20}"
    r"|\bgithub_pat_|\bsk-[A-Za-z0-9_-]{20}|\bxox[abprs]-[A-Za-z0-9-]{10}|\bhf_[A-Za-z0-9]{20}|\bAIza[A-Za-z0-9_-]{35}"
)
_OPTION = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?", re.DOTALL)
_OF_MODELS = re.compile(
    r"(^|[_.\- ])(unk|bos|eos|pad|cls|sep|mask|image|special)_token$", re.IGNORECASE
)  # of tokenizers
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LINE = re.compile(
    r"""(?:^|[,{])\s*(?:export\s+)?["']?([A-Za-z][\w.-]*)["']?\s*[:=]\s*["']?(\$\{\w+\}|[^"'\s#,}\]{\[]+)""",
    re.MULTILINE,
)


def says_secret(key: str) -> bool:
    """Whether what stands under ``key`` is a secret by its name: ``api_key`` is, ``max_tokens`` and ``pad_token`` are not."""
    return _SAYS_SO.search(_CAMEL.sub("_", key)) is not None and not _OF_MODELS.search(key)


def is_literal(value: object) -> bool:
    """Whether ``value`` is written out: not empty, not true or false, and not one whole reference."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or (isinstance(value, str) and bool(value) and not REFERENCE.fullmatch(value))


def found_in_text(text: str) -> str | None:
    """Why ``text`` itself holds a secret ("a URL with a password in it"), or None. The secret is not repeated."""
    for match in _URL_WITH_PASSWORD.finditer(text):
        if is_literal(match[1]):
            return "a URL with a password in it"
    if _BEGINNINGS.search(text):
        return "what begins like a private key or an access token"
    return None


def found_in_arguments(arguments: list[str]) -> int | None:
    """The index of the first argument that is a secret by its option (``--token abc``, ``--token=abc``), or None."""
    for index, argument in enumerate(arguments):
        option = _OPTION.fullmatch(argument)
        if not option or not says_secret(option[1]):
            continue
        if option[2] is not None:
            if is_literal(option[2]):
                return index
        elif (
            index + 1 < len(arguments) and is_literal(arguments[index + 1]) and not arguments[index + 1].startswith("-")
        ):
            return index + 1
    return None


def found_in_file(text: str) -> str | None:
    """Why a configuration file of any form (``key: value``, ``key = value``, JSON) holds a secret, or None."""
    if why := found_in_text(text):
        return why
    for match in _LINE.finditer(text):
        if says_secret(match[1]) and is_literal(match[2]) and match[2] not in {"null", "true", "false", "None"}:
            return f"a literal value under '{match[1]}'"
    return None


def masked(text: str, under: str = "") -> str:
    """``text`` for people's eyes: whatever in it has one of the signs is ``***``, and all of it where ``under``, the name that it
    stands under, says secret."""
    if under and says_secret(under) and is_literal(text):
        return MASK
    text = _KEY_BLOCK.sub(MASK, _PASSWORD_IN_URL.sub(rf"\1{MASK}@", text))
    text = _TOKEN.sub(MASK, text)
    return _ASSIGNED.sub(_masked_value, text)


def masking(value: Json, secrets: list[str], under: str = "") -> Json:
    """``value`` with what is a secret by its name, by its form, or by being one of ``secrets``, as ``***``."""
    if isinstance(value, dict):
        return {name: masking(member, secrets, name) for name, member in value.items()}
    if isinstance(value, list):
        return [masking(member, secrets, under) for member in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return masked(value, under)
    return MASK if says_secret(under) and is_literal(value) else value


def _masked_value(match: re.Match[str]) -> str:
    key, between, value = match.groups()
    if not says_secret(key):
        return f"{key}{between}{_ASSIGNED.sub(_masked_value, value)}"  # a query in an address, JSON in a text
    return match[0] if REFERENCE.fullmatch(value.strip("\"' ")) or value in _NOTHING else f"{key}{between}{MASK}"


MASK = "***"
_NOTHING = {"", "null", "true", "false", "None", '""', "''"}
_PASSWORD_IN_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s/:@]*:)(?!\$\{)[^\s/@]+@", re.IGNORECASE)
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_TOKEN = re.compile(rf"(?:{_BEGINNINGS.pattern})[^\s\"',;)]*|(?<=Bearer )[^\s\"',;]+")
_ASSIGNED = re.compile(
    r"""([A-Za-z][\w.-]*)(["']?[ \t]*[:=][ \t]*)("[^"\n]*"|'[^'\n]*'|\$\{\w+\}|[^\s"',}\]{\[][^\n,}\]]*)"""
)

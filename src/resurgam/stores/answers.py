"""What an object store's refusal means in the port's words, whichever library brings it.

Both libraries tell an HTTP status and a code: obstore in the text of its error, botocore in the parsed response. Only these two
are taken over, never the text: it holds addresses and headers, and no promise says what else.

    404 NoSuchBucket               NotFound to a reader, Denied to a writer
    404                            NotFound
    409, 412                       AlreadyThere: whether it is one's own lost response is ``put_once``'s to find
    403 InvalidObjectState         Archived: it sleeps in a cold class
    401, 403                       Denied: keys that are unknown, wrong or expired, or the right that is missing
    507, a quota's codes           StoreFull
    408, 429, 5xx, no answer       Unreachable
    any other                      Denied: the server understood, and will not
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from resurgam.errors import Denied, NotFound, ResurgamError, StoreFull, Unreachable
from resurgam.stores.archive import asleep
from resurgam.stores.base import AlreadyThere
from resurgam.stores.location import Location, parse
from resurgam.stores.statements import LOCK, missing

_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_FULL = {"QuotaExceeded", "QuotaExceededException", "InsufficientStorage", "XMinioStorageFull", "AccountQuotaExceeded"}
_KEYS = {  # codes of 403 that are about who asks, not about what is asked
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the session's token has expired",
    "InvalidToken": "the session's token is not valid",
    "RequestTimeTooSkewed": "this host's clock and the server's are too far apart",
    "AuthorizationHeaderMalformed": "the region is wrong",
}
_NO_KEYS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
NO_BUCKET = "NoSuchBucket"
_ASLEEP = "InvalidObjectState"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status (0: none came) and the server's own word for the error."""

    status: int
    code: str = ""


@contextmanager
def told(done: str, name: str, where: str, *, reading: bool = True) -> Iterator[None]:
    """Turn what a library raises into an error of the port: ``name`` in the store ``where`` could not be ``done``."""
    try:
        yield
    except (BaseError, FileNotFoundError, ClientError, BotoCoreError) as error:
        answer = answer_of(error)
    else:
        return
    raise meant(answer, done, name, where, reading=reading) from None  # its own text may hold what nobody is to read


def answer_of(error: Exception) -> Answer:
    """What the server said."""
    if isinstance(error, ClientError):
        said = error.response
        return Answer(
            int(said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), said.get("Error", {}).get("Code", "")
        )
    if isinstance(error, _NO_KEYS):
        return Answer(401, "NoCredentials")
    if isinstance(error, BotoCoreError):
        return Answer(0, type(error).__name__)
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if isinstance(error, FileNotFoundError):
        implied = 404
    elif isinstance(error, AlreadyExistsError | PreconditionError):
        implied = 412
    elif isinstance(error, PermissionDeniedError | UnauthenticatedError):
        implied = 403
    else:
        implied = int(status[1]) if status else 0
    return Answer(implied, code[1] if code else "")


def meant(answer: Answer, done: str, name: str, where: str, *, reading: bool) -> ResurgamError:
    """The port's word for ``answer``."""
    why = _KEYS.get(answer.code) or " ".join(
        filter(None, (answer.code, f"(HTTP {answer.status})" if answer.status else ""))
    )
    message = f"{name} could not be {done} in {where}: {why or 'no answer'}."
    untouched = "No other object was touched."
    if answer.code == NO_BUCKET:
        kind = NotFound if reading else Denied
        return kind(message, untouched=untouched, next_step="Correct the bucket's name, its region or the endpoint.")
    if answer.status == 404:
        return NotFound(message, untouched=untouched, next_step="Check that this is the vault that was meant.")
    if answer.code == _ASLEEP:
        return asleep(name, where)
    if answer.status in (409, 412):
        return AlreadyThere(
            message,
            untouched="The object that is there was left as it is.",
            next_step="Read it back to see whether it holds the same bytes.",
        )
    if answer.status == 507 or answer.code in _FULL:
        return StoreFull(message, untouched=untouched, next_step="Raise the quota of the bucket and run again.")
    if answer.status in (401, 403):
        return Denied(message, untouched=untouched, next_step=_step(answer, done, name, where))
    if not answer.status or answer.status in (408, 429) or answer.status >= 500:
        step = "Check the network and the service's state, then run the same command again."
        return Unreachable(message, untouched=untouched, next_step=step)
    step = "The server does not accept such a request; docs/stores.md says what a store must be able to do."
    return Denied(message, untouched=untouched, next_step=step)


def _step(answer: Answer, done: str, name: str, where: str) -> str:
    """What to do where a request was forbidden: see to the keys, or have the right granted that is missing (P12)."""
    place = parse(where.partition(" at ")[0]) if where.startswith("s3://") else where
    about_keys = answer.code in _KEYS or answer.status == 401
    grant = missing(place, done, name) if isinstance(place, Location) and not about_keys else ""
    if not grant:
        return "Check the credentials in the environment, and what they are allowed in this bucket."
    locks = f" (and {LOCK[0]}, where objects are locked)" if done == "written" else ""
    return (
        f"If whoever runs this is to do that, grant {grant}{locks}. "
        "`resurgam vault policy --s3` prints what each role may do."
    )

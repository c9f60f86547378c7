"""What all tests share in a process."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import botocore.session
import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_form_of_each_api() -> Iterator[None]:
    """Each session of boto3 reads the forms of the APIs anew, a quarter of a second each time: here they are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield

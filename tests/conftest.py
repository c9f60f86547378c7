"""What all tests share in a process."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import botocore.session
import pytest

from resurgam.vault import workers
from tests.stores.s3_server import serving
from tests.stores.seaweed import Seaweed


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors: many tests wait for disks, servers and deadlines, a quarter of the time."""
    del config
    return workers.processors() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys first: one file of them can take minutes, and last it would leave all workers but one without work."""
    items.sort(key=lambda item: "journeys" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def _one_form_of_each_api() -> Iterator[None]:
    """Each session of boto3 reads the forms of the APIs anew, a quarter of a second each time: here they are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nobody_stands_back() -> Iterator[None]:
    """No test has a terminal: without this the verbs of all tests would let others go first, and these processes ever after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESURGAM_GENTLE", "no")
        yield


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A real S3 server for all tests that do not kill it: a bucket ``plain``, and ``locked``, which keeps versions and locks."""
    yield from serving(Seaweed(str(tmp_path_factory.mktemp("seaweed"))))

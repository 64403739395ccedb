"""The stories in which objects play a part once more, with the objects on S3."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.contract import fake_s3
from tests.contract.fake_s3 import FakeS3
from tests.flows.people import signed_in

# Run here with this module's `system`.
from tests.flows.test_export import (
    test_a_photo_that_waits_is_in_it_as_sent,  # noqa: F401 - the same test on S3
    test_everything_that_went_in_comes_out_once,  # noqa: F401 - the same test on S3
)
from tests.flows.test_intake import (
    test_a_batch_too_large_for_a_message_is_stored_and_its_object_removed,  # noqa: F401 - the same test on S3
)
from tests.flows.whole import Whole, whole
from tests.polling import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def bucket() -> AsyncGenerator[FakeS3]:
    async with fake_s3.serving() as server:
        yield server


@pytest.fixture
async def system(tmp_path: Path, bucket: FakeS3) -> AsyncGenerator[Whole]:
    async with whole(tmp_path, **bucket.settings("/prefix")) as running:
        yield running
    assert any(request.method == "PUT" and "/prefix/" in request.path for request in bucket.requests)
    assert not bucket.uploads
    assert not (tmp_path / "objects").exists()


async def test_erasing_leaves_nothing_of_a_user_in_the_bucket(system: Whole, bucket: FakeS3) -> None:
    person, other = await signed_in(system), await signed_in(system, "bob")
    for one in (person, other):
        assert (await one.ask("POST", "/v1/me/exports")).status_code == 202

    async def ready() -> bool:
        return all([(await one.get("/v1/me/export"))["state"] == "ready" for one in (person, other)])

    await eventually(ready, seconds=60, every=0.1)
    kept = {key for key in bucket.objects if other.user_id in key}
    assert kept
    assert any(person.user_id in key for key in bucket.objects)
    link = (await person.ask("DELETE", "/v1/me")).json()["link"]

    async def erased() -> bool:
        return (await system.http.get(link)).json()["state"] == "erased"

    await eventually(erased, seconds=60, every=0.1)
    assert not any(person.user_id in key for key in bucket.objects)
    assert kept <= set(bucket.objects)

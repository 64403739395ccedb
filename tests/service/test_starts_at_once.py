"""Several processes of every service start at the same moment on nothing: keys, databases and the demo partner."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from services.auth.keys import key_id
from services.auth.partners import DEMO_PARTNER_ID, PARTNERS
from services.auth.store import COLLECTIONS, PARTNER_KEYS
from shared.documents import open_documents
from tests.service.starting_process import settings_in

PROCESSES = 4


async def test_processes_that_start_at_once_do_everything_once(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    command = (sys.executable, "-m", "tests.service.starting_process", str(folder))
    started = [
        await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE) for _ in range(PROCESSES)
    ]
    for one in started:
        assert one.stdout is not None
        assert await one.stdout.readline() == b"ready\n"
    said = await asyncio.gather(*(one.communicate(b"go\n") for one in started))
    assert [one.returncode for one in started] == [0] * PROCESSES, said
    assert [out for out, _ in said] == [b"started\n"] * PROCESSES

    settings = settings_in(folder)
    documents = open_documents(settings.database_url, "auth")
    await documents.open(COLLECTIONS)
    partner = await documents.get(PARTNERS, DEMO_PARTNER_ID)
    assert partner is not None
    assert (partner.revision, len(partner.outbox)) == (1, 1)
    assert await documents.get(PARTNER_KEYS, key_id((folder / "demo-partner.key").read_text().strip())) is not None
    await documents.close()

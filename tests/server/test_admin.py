"""The local admin API takes no more of a job than a job may have."""

import asyncio
from typing import Any

import httpx

from salus.server.admin import MAX_JOB_BYTES, make_admin_app


class Nobody:
    """A coordinator that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_job_that_is_too_long_is_refused_and_not_cut() -> None:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(make_admin_app(Nobody()))
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
            return await client.post("/jobs", content=b"#" * (MAX_JOB_BYTES + 1))

    response = asyncio.run(post())
    assert response.status_code == 400
    assert response.json()["exit_code"] == 10
    assert "at most" in response.json()["error"]

"""GET /datasets/:slug/ingest/jobs/:jobId"""

from __future__ import annotations

from typing import Any

import falcon

from timestore_core.catalog.datasets import find_dataset
from timestore_core.errors import NotFound
from timestore_core.ingest.acceptance import job_status
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require


class IngestJobResource:
    """Says where an accepted batch stands."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response, slug: str, job_id: str) -> None:
        runtime = self._runtime
        req.context.log |= {"dataset": slug, "job": job_id}
        if "\0" in slug or "\0" in job_id:
            raise NotFound(f"Dataset {slug} not found")
        # A dataset's first batch may still be on its way: then there is nothing to read scopes from.
        dataset = find_dataset(runtime.database, slug)
        require(runtime, identify(runtime, req), "read", dataset)
        status: dict[str, Any] = job_status(runtime, slug, job_id)
        resp.media = {"jobId": job_id, "datasetSlug": slug, **status}

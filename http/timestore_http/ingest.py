"""POST /datasets/:slug/ingest"""

from __future__ import annotations

import falcon
import msgspec

from timestore_core.catalog.datasets import find_dataset
from timestore_core.catalog.records import dataset_json, manifest_json, storage_target_json
from timestore_core.ingest.acceptance import Acceptor
from timestore_core.ingest.envelope import check_slug
from timestore_core.ingest.pipeline import Ingested, decode_batch, ingest_batch, work_of
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body
from timestore_http.media import require_json


class IngestResource:
    """Takes a batch: published when this answers 201, accepted when it answers 202."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._acceptor = Acceptor(runtime)

    def on_post(self, req: falcon.Request, resp: falcon.Response, slug: str) -> None:
        runtime = self._runtime
        req.context.log["dataset"] = slug
        check_slug(slug, runtime.settings)
        dataset = find_dataset(runtime.database, slug)
        actor = identify(runtime, req)
        require(runtime, actor, "write", dataset)
        require_json(req)
        body = read_body(req, runtime.settings.ingest_max_body_bytes, "TIMESTORE_INGEST_MAX_BODY_BYTES")
        batch = decode_batch(runtime, slug, body, req.get_header("Idempotency-Key") or None)
        req.context.log |= {"rows": batch.rows.num_rows, "bytes_in": len(body)}
        if runtime.queue.deferred:
            accepted = self._acceptor.accept(slug, batch, body, dataset, actor)
            req.context.log["job"] = accepted.job_id
            resp.status = falcon.HTTP_202
            if accepted.replayed:
                resp.set_header("Idempotent-Replayed", "true")
            resp.media = {"mode": "queued", "jobId": accepted.job_id}
            return
        self._answer(resp, ingest_batch(runtime, work_of(slug, batch, actor), dataset))

    def _answer(self, resp: falcon.Response, ingested: Ingested) -> None:
        published, target = ingested.published, ingested.target
        secret_keys = self._runtime.plugins.secret_keys(target.kind)
        resp.status = falcon.HTTP_201
        resp.set_header("X-Timestore-Version", str(published.manifest.version))
        if published.replayed:
            resp.set_header("Idempotent-Replayed", "true")
        resp.data = msgspec.json.encode(
            {
                "mode": "inline",
                "manifest": manifest_json(published.manifest, published.partitions),
                "dataset": dataset_json(published.dataset),
                "storageTarget": storage_target_json(target, secret_keys),
            }
        )

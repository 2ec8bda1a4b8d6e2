"""POST /datasets/:slug/ingest"""

from __future__ import annotations

import falcon
import msgspec

from timestore_core.catalog.datasets import find_dataset
from timestore_core.catalog.records import dataset_json, manifest_json, storage_target_json
from timestore_core.ingest.envelope import check_slug
from timestore_core.ingest.pipeline import Ingested, decode_batch, ingest_batch
from timestore_core.queues import IngestJob, Queued
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body
from timestore_http.media import require_json


class IngestResource:
    """Takes a batch: published when this answers 201, accepted when it answers 202."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

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
        done = runtime.queue.enqueue(
            IngestJob(slug, batch.envelope.idempotency_key, body),
            lambda: ingest_batch(runtime, slug, batch, dataset, actor),
        )
        if isinstance(done, Queued):
            resp.status = falcon.HTTP_202
            resp.media = {"mode": "queued", "jobId": done.job_id}
            return
        self._answer(resp, done.result)

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

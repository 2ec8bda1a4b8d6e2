"""POST /datasets/:slug/ingest"""

from __future__ import annotations

import falcon
import msgspec

from timestore_core.catalog.datasets import find_dataset
from timestore_core.catalog.records import dataset_json, manifest_json, storage_target_json
from timestore_core.catalog.snapshots import read_head
from timestore_core.errors import UnsupportedMedia
from timestore_core.ingest.acceptance import Acceptor
from timestore_core.ingest.envelope import check_slug
from timestore_core.ingest.formats import READERS, decode_rows
from timestore_core.ingest.parameters import read_parameters
from timestore_core.ingest.pipeline import Ingested, decode_batch, ingest_batch, work_of
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body


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
        media_type = rows_type(req)
        key = req.get_header("Idempotency-Key") or None
        parameters = None if media_type is None else read_parameters(req.query_string, key, runtime.settings)
        body = read_body(req, runtime.settings.ingest_max_body_bytes, "TIMESTORE_INGEST_MAX_BODY_BYTES")
        if media_type is not None and parameters is not None:
            known = None if dataset is None else read_head(runtime.database, slug)
            batch = decode_rows(runtime, slug, media_type, body, parameters, known)
        else:
            batch = decode_batch(runtime, slug, body, key)
        req.context.log |= {"rows": batch.rows.num_rows, "bytes_in": len(body)}
        # The queue's jobs are JSON, which other services write and read too: what came otherwise is published now.
        if runtime.queue.deferred and media_type is None:
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


def rows_type(req: falcon.Request) -> str | None:
    """The media type of a body that is nothing but rows; None for JSON, also where no type is declared.

    Raises UnsupportedMedia, naming what is read here, for any other.
    """
    declared, options = falcon.parse_header((req.content_type or "").lower())
    if not declared or declared == "application/json" or (declared.endswith("+json") and declared not in READERS):
        return None
    if declared not in READERS:
        raise UnsupportedMedia(
            f"Unsupported Media Type: {declared[:80]}; send application/json, {', '.join(READERS)}",
            code="FST_ERR_CTP_INVALID_MEDIA_TYPE",
        )
    charset = options.get("charset", "")
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia(f"Content-Type: the charset {charset[:40]!r} is not read; send UTF-8")
    if declared == "text/csv" and options.get("header") == "absent":
        raise UnsupportedMedia("Content-Type: CSV without a header is not read; name the columns in a first line")
    return declared

// A program over the client that is generated from the OpenAPI document. Prints what it was told, as JSON.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };

type Batch = components["schemas"]["Batch"];

const client = createClient<paths, "application/json">({ baseUrl: process.argv[2]! });
const slug = "from-typescript";

function told<T>(answer: { data?: T; error?: components["schemas"]["Error"] }): T {
  if (answer.data === undefined) throw new Error(answer.error?.message ?? "no answer");
  return answer.data;
}

const rows = Array.from({ length: 60 }, (_, minute) => ({
  timestamp: new Date(Date.UTC(2024, 0, 1, 0, minute)).toISOString(),
  temperature_c: 20 + minute / 10,
}));

const batch: Batch = {
  schema: {
    fields: [
      { name: "timestamp", type: "timestamp" },
      { name: "temperature_c", type: "double" },
    ],
  },
  partition: {
    key: { window: "2024-01-01" },
    timeRange: { start: rows[0]!.timestamp, end: rows[rows.length - 1]!.timestamp },
  },
  rows,
};

const ingest = () =>
  client.POST("/datasets/{slug}/ingest", {
    params: { path: { slug }, header: { "Idempotency-Key": "typescript-1" } },
    body: batch,
  });
const first = told(await ingest());
const again = await ingest();

const query = { params: { path: { slug } } };
const timeRange = batch.partition.timeRange;
const raw = told(
  await client.POST("/datasets/{slug}/query", { ...query, body: { timeRange, columns: ["temperature_c"], limit: 3 } }),
);
const hourly = told(
  await client.POST("/datasets/{slug}/query", {
    ...query,
    body: {
      timeRange,
      downsample: { intervalUnit: "hour", aggregations: [{ fn: "count" }, { fn: "max", column: "temperature_c" }] },
    },
  }),
);
const refused = await client.POST("/datasets/{slug}/query", { ...query, body: { timeRange, columns: ["nothing"] } });
const dataset = told(await client.GET("/admin/datasets/{key}", { params: { path: { key: slug } } })).dataset;
const page = told(await client.GET("/admin/datasets", { params: { query: { limit: 1, status: "all" } } }));

// What the document forbids does not compile.
// @ts-expect-error a query needs its time range
const noRange: components["schemas"]["Query"] = { limit: 1 };
// @ts-expect-error there is no such type
const noType: components["schemas"]["BatchField"] = { name: "at", type: "date" };
// @ts-expect-error an answer has no such field
const noField = dataset.rows;
void [noRange, noType, noField];

console.log(
  JSON.stringify({
    version: "manifest" in first ? first.manifest.version : null,
    totalRows: "manifest" in first ? first.manifest.totalRows : null,
    replayed: again.response.headers.get("idempotent-replayed"),
    raw: raw.rows.map((row) => row["temperature_c"]),
    hourly: hourly.rows,
    refusal: refused.error?.statusCode,
    slug: dataset.slug,
    listed: page.datasets.map((one) => one.slug),
  }),
);

"""The request bodies: the JSON Schemas of the very types that validate them, with what only the code checks."""

from __future__ import annotations

from typing import Any

import msgspec

from timestore_core.admin.datasets import (
    MAX_DESCRIPTION_LENGTH,
    WireDatasetPatch,
    WireNewDataset,
    WireStorageTargetChoice,
)
from timestore_core.admin.retention import WirePolicy
from timestore_core.admin.targets import WireNewTarget, WireTargetPatch
from timestore_core.admin.versions import WirePin, WireRestore
from timestore_core.aggregations import MAX_BOUNDS, Aggregation
from timestore_core.ingest.envelope import WireBatch
from timestore_core.lifecycle.deletion import WireDeletion
from timestore_core.lifecycle.runs import CONTRACT_OPERATIONS, OPERATIONS
from timestore_core.plugins import PluginHost
from timestore_core.query.request import WireQuery
from timestore_core.select.request import WireSelect
from timestore_core.settings import Settings
from timestore_http.admin.history import MAX_VERSION
from timestore_http.admin.lifecycle import WireReschedule, WireRun
from timestore_http.openapi.parts import Json, array_of, or_null, schema

_KINDS = (
    WireBatch,
    WireQuery,
    WireSelect,
    WireNewDataset,
    WireDatasetPatch,
    WireStorageTargetChoice,
    WireNewTarget,
    WireTargetPatch,
    WirePolicy,
    WireRun,
    WireReschedule,
    WireRestore,
    WirePin,
    WireDeletion,
)
# Names for clients; the others lose their `Wire`.
_NAMES = {
    "WireSchema": "BatchSchema",
    "WireField": "BatchField",
    "WirePartition": "BatchPartition",
    "WireActor": "BatchActor",
    "WireTimeRange": "TimeRange",
    "WireFilters": "QueryFilters",
    "WirePolicy": "RetentionPolicy",
    "WireRules": "RetentionRules",
    "WireNewTarget": "NewStorageTarget",
    "WireTargetPatch": "StorageTargetPatch",
    "WireRun": "LifecycleRun",
    "WireReschedule": "LifecycleReschedule",
    "WireRestore": "VersionChoice",
    "WirePin": "PinnedVersion",
    "WireDeletion": "RowDeletion",
    "WireDeletionFilters": "RowDeletionFilters",
}


def schemas(plugins: PluginHost, settings: Settings) -> Json:
    """Every body's schema and what it is made of, by name."""
    _, components = msgspec.json.schema_components(_KINDS, ref_template="#/components/schemas/{name}")
    made: Json = {_name_of(name): _renamed(one) for name, one in components.items()}
    for path, rules in _rules(plugins, settings).items():
        owner, _, name = path.partition(".")
        made[owner]["properties"][name] = _ruled(made[owner]["properties"][name], rules)
    for one in made.values():
        one["properties"] = {name: _told(found) for name, found in one["properties"].items()}
    made["RetentionPolicy"]["additionalProperties"] = True
    made["LifecycleRun"]["anyOf"] = [_with_text(name) for name in ("datasetId", "datasetSlug")]
    made["Aggregation"]["allOf"] = [_asked(name, one) for name, one in sorted(plugins.aggregations.items())]
    return {**made, "AccessLists": _access_lists()}


def _name_of(name: str) -> str:
    return _NAMES.get(name, name.removeprefix("Wire"))


def _renamed(value: Any) -> Any:
    """The schema with clients' names in its references, and without titles."""
    if isinstance(value, list):
        return [_renamed(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: _renamed(one) for key, one in value.items() if not (key == "title" and isinstance(one, str))}
    if "$ref" in value:
        head, _, name = value["$ref"].rpartition("/")
        made["$ref"] = f"{head}/{_name_of(name)}"
    if value.get("type") == "object" and not {"properties", "additionalProperties"} & value.keys():
        # Said aloud: generators of clients take an object without properties for one that must be empty.
        made["additionalProperties"] = True
    return made


def _told(found: Json) -> Json:
    """The property with its default told in words: generators of clients take a `default` for a required property."""
    rest = {key: value for key, value in found.items() if key != "default"}
    default = found.get("default")
    if not default or isinstance(default, dict):
        return rest
    told = f"Default: `{default}`."
    return {**rest, "description": f"{rest['description']} {told}" if "description" in rest else told}


def _ruled(found: Json, rules: Json) -> Json:
    """The rules added to a property: to what it may be besides null, where it may be null."""
    notes: Json = {key: rules[key] for key in ("description", "examples") if key in rules}
    checks: Json = {key: value for key, value in rules.items() if key not in notes}
    if "anyOf" in found:
        forms = [one if one.get("type") == "null" else {**one, **checks} for one in found["anyOf"]]
        return {**found, "anyOf": forms, **notes}
    return {**found, **checks, **notes}


def _rules(plugins: PluginHost, settings: Settings) -> Json:
    """What the code checks beyond the types, and what people want to know, by component and property."""
    name = {"minLength": 1, "maxLength": settings.max_name_length}
    time = {"format": "date-time", "examples": ["2024-01-01T00:00:00Z"]}
    text = {"maxLength": MAX_DESCRIPTION_LENGTH}
    metadata = {
        "properties": {"iam": or_null(schema("AccessLists"))},
        "description": "Free, but for `iam`: who may read and write; `compactedFormat`: in which format compaction "
        "writes, by default `writeFormat`; `coldStorageTargetId`: where old partitions move.",
    }
    formats = {
        "enum": sorted({*plugins.partition_formats, "auto"}),
        "description": "`auto`: small batches stand in the catalog until they are gathered, larger ones are files.",
    }
    version = {"minimum": 1, "maximum": MAX_VERSION}
    return {
        "Batch.rows": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": True},
            "maxItems": settings.ingest_max_rows,
            "description": "One object a row. A missing or null value is NULL; a name that is no field is ignored.",
        },
        "Batch.datasetName": name,
        "Batch.tableName": {"description": "Default: `records`."},
        "Batch.idempotencyKey": {"description": "Repeating it publishes nothing twice; with other rows it is 409."},
        "BatchSchema.fields": {"maxItems": settings.ingest_max_columns},
        "BatchField.name": name,
        "BatchPartition.key": {
            "maxProperties": settings.ingest_max_key_pairs,
            "additionalProperties": {"type": "string", **name},
        },
        "TimeRange.start": {**time, "description": "Inclusive."},
        "TimeRange.end": {**time, "description": "Inclusive; not before `start`."},
        "Query.timestampColumn": name,
        "Query.columns": {
            "items": {"type": "string", **name},
            "minItems": 1,
            "maxItems": settings.ingest_max_columns,
        },
        "Query.limit": {"description": f"Without it an answer of more than {settings.query_max_rows} rows is 413."},
        "Query.groupBy": {
            "items": {"type": "string", **name},
            "maxItems": settings.ingest_max_columns,
            "description": "One row for each combination of their values, in each bucket where there are some.",
        },
        "Query.aggregations": {
            "maxItems": settings.query_max_aggregations,
            "description": "Over the whole range, by group where `groupBy` names some. Inside `downsample` with one.",
        },
        "Query.latest": {"description": "The newest row, or that of each group of `groupBy`."},
        "Query.order": {"description": "By time: ascending, or descending."},
        "Query.cursor": {
            "description": "`null` for the first page, then `nextCursor` of the page before with the same question; "
            "`limit` may differ. All pages are of one version."
        },
        "Query.explain": {"description": "Answer the plan, and what each step took, instead of rows."},
        "Query.asOf": {
            "description": "The dataset as it was: a version, a pin's name, or a time. What never was is 404, what is "
            "not whole any more 410."
        },
        "Select.sql": {"description": "One SELECT of DuckDB's, without parameters."},
        "Select.timeRange": {"description": "Only these rows are in the tables. Each must have the time column."},
        "Select.timestampColumn": {**name, "description": "The column that `timeRange` is about."},
        "Select.asOf": {"description": "This dataset as it was, as in a query; others are read as they are."},
        "QueryFilters.partitionKey": {
            "additionalProperties": {
                "anyOf": [
                    array_of({"type": "string"}, maxItems=settings.query_max_filter_values),
                    schema("Filter"),
                ]
            },
            "description": "Each key with the values that are accepted, or with a condition on its text, which is "
            "read as what `type` says.",
        },
        "QueryFilters.columns": {"description": "Each column with its condition; all must hold."},
        "Filter.in": {"maxItems": settings.query_max_filter_values},
        "Filter.like": {"description": "`%` stands for any text, `_` for any character."},
        "Downsample.fill": {
            "description": "What buckets in range without rows have: null, `previous`, `linear`, or a number. By "
            "default they are left out."
        },
        "Downsample.timezone": {"description": "An IANA name: days, weeks and months as people there live them."},
        "Downsample.origin": {"description": "A time at which a bucket begins. Default: 1970-01-01, weeks on Monday."},
        "Aggregation.bounds": {
            "maxItems": MAX_BOUNDS,
            "description": "Of `histogram`: rising numbers; it counts below the first, from each to the next, and "
            "from the last on.",
        },
        "Downsample.aggregations": {"maxItems": settings.query_max_aggregations},
        "Aggregation.fn": {"enum": sorted(plugins.aggregations)},
        "Aggregation.column": name,
        "Aggregation.alias": {**name, "description": "Default: `avg_<column>`, `count`, `p95_<column>`, …"},
        "Aggregation.percentile": {"description": "0 to 1."},
        "Aggregation.parameters": {"description": "Of functions that plugins give."},
        "NewDataset.slug": {"minLength": 1, "maxLength": settings.max_slug_length, "pattern": _slugs(settings)},
        "NewDataset.name": name,
        "NewDataset.description": text,
        "NewDataset.metadata": metadata,
        "NewDataset.writeFormat": formats,
        "DatasetPatch.name": name,
        "DatasetPatch.description": text,
        "DatasetPatch.status": {"enum": ["active", "inactive"]},
        "DatasetPatch.metadata": {**metadata, "description": "Merged; a key that is null goes."},
        "DatasetPatch.writeFormat": formats,
        "NewStorageTarget.name": name,
        "NewStorageTarget.kind": {"enum": sorted(plugins.storage_kinds)},
        "NewStorageTarget.config": {"description": "What the kind's driver asks for; it checks it."},
        "NewStorageTarget.description": text,
        "RetentionPolicy.coldStorageAfterHours": {
            "description": "Older partitions move to the storage target that `metadata.coldStorageTargetId` names."
        },
        "RetentionPolicy.deleteGraceMinutes": {"description": "For so long what was removed can be restored."},
        "LifecycleRun.operations": {
            "items": {"type": "string", "enum": list(OPERATIONS)},
            "minItems": 1,
            "description": f"Default: {', '.join(CONTRACT_OPERATIONS)}. They run in the order in which they are named.",
        },
        "LifecycleRun.mode": {"description": "`queue` needs a Redis, and takes neither `dryRun` nor `force`."},
        "LifecycleRun.dryRun": {"description": "Change nothing; say what would be done."},
        "LifecycleRun.force": {"description": "Export and verify again before the interval is over."},
        "LifecycleReschedule.jobId": {"description": "The id of a run, or of the request that asked for it."},
        "VersionChoice.version": version,
        "VersionChoice.dryRun": {"description": "Change nothing; say what would come and go. Needs a `version`."},
        "PinnedVersion.version": {**version, "description": "Default: the current one."},
        "RowDeletion.dryRun": {"description": "Change nothing; say how many rows would go."},
        "RowDeletionFilters.partitionKey": {"description": "Each key with the values that are meant."},
        "StorageTargetPatch.description": text,
        "StorageTargetPatch.config": {"description": "Merged; a key that is null goes."},
    }


def _slugs(settings: Settings) -> str:
    """The whole slug matches the setting; a pattern of JSON Schema is looked for anywhere."""
    return f"^(?:{settings.slug_pattern})$"


def _asked(name: str, function: Aggregation) -> Json:
    """What an aggregation by this function must have: a column and parameters within their bounds."""
    bounds: Json = {
        key: {"type": "number", "minimum": low, "maximum": high} for key, (low, high) in function.parameters.items()
    }
    column: Json = {} if function.column_optional else {"column": {"type": "string"}}
    beside = {key: bounds.pop(key) for key in ["percentile"] if key in bounds}
    if function.takes_bounds:
        beside["bounds"] = array_of({"type": "number"}, minItems=1)
    inside: Json = {"parameters": {"required": list(bounds), "properties": bounds}} if bounds else {}
    asked = {**column, **beside, **inside}
    return {
        "if": {"properties": {"fn": {"const": name}}, "required": ["fn"]},
        "then": {"required": list(asked), "properties": asked},
    }


def _with_text(name: str) -> Json:
    return {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}


def _access_lists() -> Json:
    scopes = or_null(array_of({"type": "string", "minLength": 1}))
    return {
        "type": "object",
        "properties": {"readScopes": scopes, "writeScopes": scopes},
        "description": "One matching scope is enough; an empty list is open to all.",
    }

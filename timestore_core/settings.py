"""Every setting of the service, once: its names, type, default and one line of help.

A value comes from the environment variable, from the file that `<VARIABLE>_FILE` names, or from the default.
The README's table is made from this class (`timestore settings`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from timestore_core.errors import ConfigurationError

MIB = 1024 * 1024
GIB = 1024 * MIB
PREFIX = "TIMESTORE_"

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Scope = Annotated[str | None, Field(min_length=1)]


def _env(*names: str, default: Any, help: str) -> Any:
    return Field(default=default, validation_alias=AliasChoices(*names), description=help)


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """The service's configuration."""

    model_config = SettingsConfigDict(
        frozen=True, hide_input_in_errors=True, extra="ignore", validate_default=True, env_ignore_empty=True
    )

    # The listener
    host: str = _env("TIMESTORE_HOST", "HOST", default="127.0.0.1", help="address to listen on")
    port: Port = _env("TIMESTORE_PORT", "PORT", default=4100, help="port to listen on")
    http_workers: Positive = _env(
        "TIMESTORE_HTTP_WORKERS", default=min(4, _cpu_count()), help="server processes, at most 4 by default"
    )
    http_threads: Positive = _env("TIMESTORE_HTTP_THREADS", default=16, help="request threads of each server process")
    http_idle_timeout_ms: Positive = _env(
        "TIMESTORE_HTTP_IDLE_TIMEOUT_MS",
        default=30_000,
        help="a client that sends or takes nothing for this long is disconnected",
    )
    shutdown_drain_ms: NotNegative = _env(
        "TIMESTORE_SHUTDOWN_DRAIN_MS",
        default=1000,
        help="on SIGTERM, how long /ready answers 503 before the listener closes",
    )
    shutdown_timeout_ms: Positive = _env(
        "TIMESTORE_SHUTDOWN_TIMEOUT_MS",
        default=30_000,
        help="on SIGTERM, how long running requests may take to finish",
    )
    log_level: Literal["fatal", "error", "warn", "info", "debug", "trace"] = _env(
        "TIMESTORE_LOG_LEVEL", default="info", help="fatal, error, warn, info, debug or trace"
    )
    log_format: Literal["json", "console"] = _env(
        "TIMESTORE_LOG_FORMAT", default="json", help="json, or console for people"
    )

    # PostgreSQL
    database_url: SecretStr = _env(
        "TIMESTORE_DATABASE_URL",
        "DATABASE_URL",
        default=SecretStr("postgres://apphub:apphub@127.0.0.1:5432/apphub"),
        help="the catalog's PostgreSQL",
    )
    pg_schema: Annotated[str, Field(min_length=1, max_length=63)] = _env(
        "TIMESTORE_PG_SCHEMA", default="timestore", help="schema of the catalog's tables, created at start"
    )
    pgpool_max: Positive = _env(
        "TIMESTORE_PGPOOL_MAX", "PGPOOL_MAX", default=10, help="connections of each process, at most"
    )
    pgpool_idle_timeout_ms: Positive = _env(
        "TIMESTORE_PGPOOL_IDLE_TIMEOUT_MS",
        "PGPOOL_IDLE_TIMEOUT_MS",
        default=30_000,
        help="an idle connection is closed after this",
    )
    pgpool_connection_timeout_ms: Positive = _env(
        "TIMESTORE_PGPOOL_CONNECTION_TIMEOUT_MS",
        "PGPOOL_CONNECTION_TIMEOUT_MS",
        default=10_000,
        help="how long a request waits for a connection before the answer is 503",
    )

    # The queue
    redis_url: SecretStr = _env(
        "REDIS_URL", default=SecretStr("redis://127.0.0.1:6379"), help="`inline` runs all work in the request"
    )

    ingest_queue_name: str = _env(
        "TIMESTORE_INGEST_QUEUE_NAME", default="timestore_ingest_queue", help="BullMQ queue of batches"
    )
    ingest_concurrency: Positive = _env(
        "TIMESTORE_INGEST_CONCURRENCY", default=2, help="batches that an ingestion worker writes at a time"
    )
    ingest_journal: bool = _env(
        "TIMESTORE_INGEST_JOURNAL",
        default=True,
        help="write accepted batches to PostgreSQL before answering 202; `off` trusts the queue alone",
    )
    ingest_sweep_after_ms: Positive = _env(
        "TIMESTORE_INGEST_SWEEP_AFTER_MS",
        default=15_000,
        help="an accepted batch that the queue does not know is queued again after this",
    )
    ingest_max_queue_depth: Positive = _env(
        "TIMESTORE_INGEST_MAX_QUEUE_DEPTH", default=100_000, help="waiting batches above which ingest answers 429"
    )
    ingest_max_journal_bytes: Positive = _env(
        "TIMESTORE_INGEST_MAX_JOURNAL_BYTES", default=10 * GIB, help="waiting bytes above which ingest answers 429"
    )
    ingest_coalesce: bool = _env(
        "TIMESTORE_INGEST_COALESCE", default=False, help="publish waiting batches of one kind together, in one file"
    )
    ingest_coalesce_max_batches: Positive = _env(
        "TIMESTORE_INGEST_COALESCE_MAX_BATCHES", default=64, help="batches that one file takes together"
    )
    ingest_coalesce_max_rows: Positive = _env(
        "TIMESTORE_INGEST_COALESCE_MAX_ROWS", default=100_000, help="rows that one file takes together"
    )
    ingest_coalesce_max_bytes: Positive = _env(
        "TIMESTORE_INGEST_COALESCE_MAX_BYTES", default=64 * MIB, help="bytes of columns that one file takes together"
    )
    ingest_coalesce_max_age_ms: NotNegative = _env(
        "TIMESTORE_INGEST_COALESCE_MAX_AGE_MS", default=200, help="how long a batch waits for others to join it"
    )
    lifecycle_enabled: bool = _env(
        "TIMESTORE_LIFECYCLE_ENABLED", default=True, help="whether the lifecycle worker schedules datasets"
    )
    lifecycle_queue_name: str = _env(
        "TIMESTORE_LIFECYCLE_QUEUE_NAME", default="timestore_lifecycle_queue", help="BullMQ queue of maintenance"
    )
    lifecycle_interval_seconds: Positive = _env(
        "TIMESTORE_LIFECYCLE_INTERVAL_SECONDS", default=300, help="time between two maintenances of a dataset"
    )
    lifecycle_jitter_seconds: NotNegative = _env(
        "TIMESTORE_LIFECYCLE_JITTER_SECONDS", default=30, help="by which they are spread"
    )
    lifecycle_concurrency: Positive = _env(
        "TIMESTORE_LIFECYCLE_CONCURRENCY", default=1, help="datasets that a lifecycle worker maintains at a time"
    )

    lifecycle_memory_bytes: Positive = _env(
        "TIMESTORE_LIFECYCLE_MEMORY_BYTES", default=256 * MIB, help="memory of the engine that rewrites partitions"
    )
    lifecycle_threads: Positive = _env(
        "TIMESTORE_LIFECYCLE_THREADS", default=max(1, _cpu_count() // 2), help="threads of the engine that rewrites"
    )
    lifecycle_compaction_small_bytes: Positive = _env(
        "TIMESTORE_LIFECYCLE_COMPACTION_SMALL_BYTES",
        default=20 * MIB,
        help="partitions below this are gathered into larger ones",
    )
    lifecycle_compaction_target_bytes: Positive = _env(
        "TIMESTORE_LIFECYCLE_COMPACTION_TARGET_BYTES", default=200 * MIB, help="size that is gathered at most"
    )
    lifecycle_compaction_max_partitions: Annotated[int, Field(ge=2)] = _env(
        "TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS", default=16, help="partitions that one file takes at a time"
    )
    lifecycle_compaction_fan_out: Annotated[int, Field(ge=2)] = _env(
        "TIMESTORE_LIFECYCLE_COMPACTION_FAN_OUT",
        default=4,
        help="compacted partitions are gathered again once that many times the rows of the largest are there",
    )
    lifecycle_retention_max_age_hours: Positive = _env(
        "TIMESTORE_LIFECYCLE_RETENTION_MAX_AGE_HOURS", default=720, help="default retention by age"
    )
    lifecycle_retention_max_total_bytes: Positive = _env(
        "TIMESTORE_LIFECYCLE_RETENTION_MAX_TOTAL_BYTES", default=500 * GIB, help="default retention by size"
    )
    lifecycle_retention_delete_grace_minutes: NotNegative = _env(
        "TIMESTORE_LIFECYCLE_RETENTION_DELETE_GRACE_MINUTES",
        default=5,
        help="what was removed can be taken back for this long; its files go after it",
    )
    lifecycle_retention_max_share_percent: Annotated[int, Field(ge=1, le=100)] = _env(
        "TIMESTORE_LIFECYCLE_RETENTION_MAX_SHARE_PERCENT",
        default=50,
        help="share of a dataset's rows that one scheduled run may remove; a run that is asked for may remove all",
    )
    lifecycle_exports_enabled: bool = _env(
        "TIMESTORE_LIFECYCLE_EXPORTS_ENABLED", default=True, help="whether datasets are exported as Parquet"
    )
    lifecycle_export_prefix: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    ] = _env("TIMESTORE_LIFECYCLE_EXPORT_PREFIX", default="exports", help="where exports stand below a target's root")
    lifecycle_export_min_interval_hours: NotNegative = _env(
        "TIMESTORE_LIFECYCLE_EXPORT_MIN_INTERVAL_HOURS", default=24, help="time between two exports of a dataset"
    )
    lifecycle_orphan_age_minutes: Annotated[int, Field(ge=10)] = _env(
        "TIMESTORE_LIFECYCLE_ORPHAN_AGE_MINUTES",
        default=360,
        help="a file that no version names is a crash's leftover when it is older than this",
    )
    snapshot_retention_hours: Annotated[int, Field(ge=0, le=876_000)] | None = _env(
        "TIMESTORE_SNAPSHOT_RETENTION_HOURS",
        default=None,
        help="how long earlier versions stay readable; unset: for the grace period, and their history for a day",
    )

    # Storage
    storage_driver: str = _env("TIMESTORE_STORAGE_DRIVER", default="local", help="kind of the default storage target")
    storage_root: Path = _env(
        "TIMESTORE_STORAGE_ROOT",
        default=Path("services/data/timestore"),
        help="root of the default local target",
    )
    s3_bucket: str = _env("TIMESTORE_S3_BUCKET", default="timestore-data", help="bucket of the default S3 target")
    s3_endpoint: str | None = _env("TIMESTORE_S3_ENDPOINT", default=None, help="URL of an S3 that is not AWS's")
    s3_region: str | None = _env("TIMESTORE_S3_REGION", default=None, help="region of S3 targets that name none")
    s3_access_key_id: SecretStr | None = _env(
        "TIMESTORE_S3_ACCESS_KEY_ID", default=None, help="for S3 targets without keys; unset: the host's role"
    )
    s3_secret_access_key: SecretStr | None = _env(
        "TIMESTORE_S3_SECRET_ACCESS_KEY", default=None, help="belongs to the access key id"
    )
    s3_session_token: SecretStr | None = _env(
        "TIMESTORE_S3_SESSION_TOKEN", default=None, help="of temporary S3 credentials"
    )
    s3_force_path_style: bool = _env(
        "TIMESTORE_S3_FORCE_PATH_STYLE", default=False, help="the bucket in the path, not in the host's name"
    )
    gcs_bucket: str = _env("TIMESTORE_GCS_BUCKET", default="timestore-data", help="bucket of the default GCS target")
    gcs_endpoint: str | None = _env("TIMESTORE_GCS_ENDPOINT", default=None, help="URL of a GCS that is not Google's")
    gcs_project: str | None = _env("TIMESTORE_GCS_PROJECT", default=None, help="project of GCS targets")
    gcs_credentials: SecretStr | None = _env(
        "TIMESTORE_GCS_CREDENTIALS", default=None, help="a service account's key (JSON); unset: the host's own"
    )
    gcs_hmac_key_id: SecretStr | None = _env(
        "TIMESTORE_GCS_HMAC_KEY_ID", default=None, help="with its secret, queries stream from GCS instead of fetching"
    )
    gcs_hmac_secret: SecretStr | None = _env(
        "TIMESTORE_GCS_HMAC_SECRET", default=None, help="belongs to the HMAC key id"
    )
    azure_container: str = _env(
        "TIMESTORE_AZURE_CONTAINER", default="timestore-data", help="container of the default Azure target"
    )
    azure_account_name: str | None = _env(
        "TIMESTORE_AZURE_ACCOUNT_NAME", default=None, help="storage account of Azure targets"
    )
    azure_account_key: SecretStr | None = _env("TIMESTORE_AZURE_ACCOUNT_KEY", default=None, help="the account's key")
    azure_connection_string: SecretStr | None = _env(
        "TIMESTORE_AZURE_CONNECTION_STRING", default=None, help="instead of account and key"
    )
    azure_sas_token: SecretStr | None = _env("TIMESTORE_AZURE_SAS_TOKEN", default=None, help="instead of the key")
    storage_allow_link_local: bool = _env(
        "TIMESTORE_STORAGE_ALLOW_LINK_LOCAL",
        default=False,
        help="whether a target's endpoint may be a link-local or metadata address",
    )
    storage_retry_ms: NotNegative = _env(
        "TIMESTORE_STORAGE_RETRY_MS",
        default=5_000,
        help="how long at most a remote store's failure is tried again, three times, before it is a 503",
    )
    query_cache_enabled: bool = _env(
        "TIMESTORE_QUERY_CACHE_ENABLED", default=True, help="keep files of remote targets on this machine's disk"
    )
    query_cache_dir: Path = _env(
        "TIMESTORE_QUERY_CACHE_DIR",
        default=Path("services/data/timestore/cache"),
        help="where; all processes of a machine share it",
    )
    query_cache_max_bytes: Positive = _env(
        "TIMESTORE_QUERY_CACHE_MAX_BYTES", default=5 * GIB, help="bytes of the cache, never more"
    )
    query_fetch_below_bytes: NotNegative = _env(
        "TIMESTORE_QUERY_FETCH_BELOW_BYTES",
        default=64 * MIB,
        help="remote files below this are fetched into the cache when first read, larger ones are streamed",
    )
    temp_dir: Path | None = _env(
        "TIMESTORE_TEMP_DIR", default=None, help="where queries spill; unset: `.tmp` in the storage root"
    )

    # Ingest
    ingest_max_body_bytes: Positive = _env(
        "TIMESTORE_INGEST_MAX_BODY_BYTES",
        default=64 * MIB,
        help="size of a batch's body, also after inflating it",
    )
    ingest_inline_max_bytes: Annotated[int, Field(ge=0, le=16 * MIB)] = _env(
        "TIMESTORE_INGEST_INLINE_MAX_BYTES",
        default=65_536,
        help="batches up to this, compressed, stand in the catalog where `writeFormat` is `auto`; 0: none",
    )
    ingest_inline_max_partitions: Positive = _env(
        "TIMESTORE_INGEST_INLINE_MAX_PARTITIONS",
        default=1000,
        help="how many of a dataset's; above that they are gathered into a file, above twice that new ones are files",
    )
    ingest_inline_max_total_bytes: Positive = _env(
        "TIMESTORE_INGEST_INLINE_MAX_TOTAL_BYTES", default=16 * MIB, help="their bytes, likewise"
    )
    ingest_inline_max_age_seconds: Positive = _env(
        "TIMESTORE_INGEST_INLINE_MAX_AGE_SECONDS", default=600, help="the age of the oldest, likewise"
    )
    ingest_max_rows: Positive = _env("TIMESTORE_INGEST_MAX_ROWS", default=1_000_000, help="rows of a batch")
    ingest_max_columns: Positive = _env("TIMESTORE_INGEST_MAX_COLUMNS", default=500, help="fields of a schema")
    ingest_max_key_pairs: Positive = _env("TIMESTORE_INGEST_MAX_KEY_PAIRS", default=16, help="pairs of a partition key")
    max_name_length: Positive = _env(
        "TIMESTORE_MAX_NAME_LENGTH",
        default=255,
        help="characters of a column, alias, partition key or key value",
    )
    max_slug_length: Positive = _env("TIMESTORE_MAX_SLUG_LENGTH", default=255, help="characters of a dataset's slug")
    slug_pattern: str = _env(
        "TIMESTORE_SLUG_PATTERN",
        default=".+",
        help="regular expression that a new dataset's whole slug matches",
    )

    # Query
    query_timeout_ms: Positive = _env(
        "TIMESTORE_QUERY_TIMEOUT_MS",
        default=30_000,
        help="a query is interrupted after this and answered 504",
    )
    query_max_body_bytes: Positive = _env("TIMESTORE_QUERY_MAX_BODY_BYTES", default=MIB, help="size of a query's body")
    query_max_rows: Positive = _env(
        "TIMESTORE_QUERY_MAX_ROWS",
        default=1_000_000,
        help="rows (or buckets) of an answer to a query without `limit`",
    )
    query_max_answer_bytes: Positive = _env(
        "TIMESTORE_QUERY_MAX_ANSWER_BYTES", default=256 * MIB, help="size of an answer"
    )
    query_max_aggregations: Positive = _env(
        "TIMESTORE_QUERY_MAX_AGGREGATIONS", default=100, help="aggregations of a query"
    )
    query_max_filter_values: Positive = _env(
        "TIMESTORE_QUERY_MAX_FILTER_VALUES", default=1000, help="accepted values of one filtered key"
    )
    query_max_attached: Positive = _env(
        "TIMESTORE_QUERY_MAX_ATTACHED",
        default=1024,
        help="partition files that a process keeps attached; a query over more runs in fragments",
    )
    query_concurrency: Positive = _env(
        "TIMESTORE_QUERY_CONCURRENCY",
        default=4 * _cpu_count(),
        help="queries that each process runs at once, at most three quarters of its request threads",
    )
    query_queue: NotNegative = _env(
        "TIMESTORE_QUERY_QUEUE",
        default=32,
        help="queries of each process that may wait, as many as leave a quarter of its request threads free",
    )
    query_queue_wait_ms: NotNegative = _env(
        "TIMESTORE_QUERY_QUEUE_WAIT_MS",
        default=5_000,
        help="a query that waits for longer than this is answered 429, as is one that may not wait",
    )
    query_sql_processes: Positive = _env(
        "TIMESTORE_QUERY_SQL_PROCESSES",
        default=2,
        help="SQL statements that each process runs at once, each in a process with the memory of an engine",
    )
    query_threads: Positive = _env(
        "TIMESTORE_QUERY_THREADS", default=_cpu_count(), help="engine threads of each process"
    )
    query_memory_bytes: Positive = _env(
        "TIMESTORE_QUERY_MEMORY_BYTES", default=GIB, help="memory of the engine of each process"
    )
    query_temp_bytes: NotNegative = _env(
        "TIMESTORE_QUERY_TEMP_BYTES",
        default=10 * GIB,
        help="what the engine of each process may spill to disk",
    )

    # Who may do what
    require_scope: Scope = _env(
        "TIMESTORE_REQUIRE_SCOPE", default=None, help="scope for everything that has none of its own"
    )
    require_write_scope: Scope = _env(
        "TIMESTORE_REQUIRE_WRITE_SCOPE", default=None, help="scope for ingest; unset: the admin scope"
    )
    gateway_secret: SecretStr | None = _env(
        "TIMESTORE_GATEWAY_SECRET",
        default=None,
        help="when set, scope and user headers count only beside this in `x-gateway-secret`",
    )
    jwt_secret: SecretStr | None = _env(
        "TIMESTORE_JWT_SECRET", default=None, help="bearer tokens signed with HS256 by this are accepted"
    )
    jwt_jwks: str | None = _env(
        "TIMESTORE_JWT_JWKS", default=None, help="key set (JSON) for bearer tokens of RS256 and ES256"
    )
    jwt_jwks_url: str | None = _env(
        "TIMESTORE_JWT_JWKS_URL", default=None, help="where that key set is fetched from instead"
    )
    jwt_audience: str | None = _env("TIMESTORE_JWT_AUDIENCE", default=None, help="the `aud` that a token must have")
    jwt_issuer: str | None = _env("TIMESTORE_JWT_ISSUER", default=None, help="the `iss` that a token must have")
    jwt_leeway_seconds: NotNegative = _env(
        "TIMESTORE_JWT_LEEWAY_SECONDS", default=30, help="by which clocks may differ when `exp` and `nbf` are judged"
    )
    admin_scope: Scope = _env("TIMESTORE_ADMIN_SCOPE", default=None, help="scope for the administrative API")

    @field_validator("storage_root", "temp_dir", "query_cache_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @property
    def spill_dir(self) -> Path:
        """The directory in which the engine may spill."""
        return self.temp_dir or self.storage_root / ".tmp" / "spill"

    @property
    def inline(self) -> bool:
        """Whether work runs in the request instead of a queue."""
        return self.redis_url.get_secret_value() == "inline"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, _FromNamedFiles(settings_cls))


class _FromNamedFiles(PydanticBaseSettingsSource):
    """Reads a value from the file that `<VARIABLE>_FILE` names, as container secrets are given."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        for variable in variables(field):
            path = os.environ.get(f"{variable}_FILE")
            if path:
                return Path(path).read_text(encoding="utf-8").strip(), variable, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            try:
                value, key, _ = self.get_field_value(field, name)
            except OSError as error:
                raise ConfigurationError(f"{variables(field)[0]}_FILE: cannot be read: {error.strerror}") from error
            if value is not None:
                found[key] = value
        return found


def variables(field: FieldInfo) -> tuple[str, ...]:
    """The environment variables that set this field; the first is the documented one."""
    alias = field.validation_alias
    assert isinstance(alias, AliasChoices)
    return tuple(str(choice) for choice in alias.choices)


def load_settings() -> Settings:
    """The settings as the environment gives them.

    Raises ConfigurationError naming every wrong variable at once, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ConfigurationError("wrong settings:\n  " + "\n  ".join(lines)) from None


# Read by the command line, not by the service.
_COMMAND_LINE = {"TIMESTORE_HOME", "TIMESTORE_URL", "TIMESTORE_IAM_USER", "TIMESTORE_IAM_SCOPES"}


def unknown_variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Each TIMESTORE_* variable that nothing reads, with the name that was probably meant."""
    known = {name for field in Settings.model_fields.values() for name in variables(field)}
    known |= {f"{name}_FILE" for name in known} | _COMMAND_LINE
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            yield name, close[0] if close else None

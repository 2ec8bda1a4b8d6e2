"""POST /datasets/:slug/sql: what it answers, who may ask it of what, and what nobody gets out of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.service import ALL_TIME, Service, batch

READER = {"x-iam-scopes": "reader"}
SECRET = "what-nobody-may-see"


@pytest.fixture(scope="module")
def asked(make_service: Callable[..., Service]) -> Service:
    """Three datasets, one of which the reader may not read."""
    service = make_service(
        TIMESTORE_QUERY_TIMEOUT_MS="1500",
        TIMESTORE_QUERY_MEMORY_BYTES=str(64 << 20),
        TIMESTORE_QUERY_TEMP_BYTES=str(64 << 20),
        TIMESTORE_QUERY_MAX_ROWS="1000",
        TIMESTORE_REQUIRE_SCOPE="reader",
        TIMESTORE_REQUIRE_WRITE_SCOPE="reader",
        TIMESTORE_ADMIN_SCOPE="boss",
    ).start()
    service.client.headers.update(READER)
    assert service.ingest("odd one", batch([1, 2, 3])).status_code == 201
    assert service.ingest("odd one", batch([4])).status_code == 201
    assert service.ingest("other", batch([3, 4, 5])).status_code == 201
    hidden = {"slug": "hidden", "metadata": {"iam": {"readScopes": ["boss"], "writeScopes": ["reader"]}}}
    assert service.client.post("/admin/datasets", json=hidden, headers={"x-iam-scopes": "boss"}).status_code == 201
    secret = batch([9])
    secret["schema"] = {"fields": [*secret["schema"]["fields"], {"name": "s", "type": "string"}]}
    secret["rows"][0]["s"] = SECRET
    assert service.ingest("hidden", secret).status_code == 201
    return service


def select(service: Service, sql: str, accept: str = "application/json", **rest: Any) -> httpx.Response:
    return service.client.post("/datasets/odd one/sql", json={"sql": sql, **rest}, headers={"accept": accept})


def rows(service: Service, sql: str, **rest: Any) -> list[dict[str, Any]]:
    answer = select(service, sql, **rest)
    assert answer.status_code == 200, answer.text
    return list(msgspec.json.decode(answer.content)["rows"])


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT sum(n) AS total FROM dataset", [{"total": 10}]),
        ('SELECT count(*) AS c FROM "odd one";', [{"c": 4}]),
        ("SELECT n FROM dataset ORDER BY n DESC LIMIT 2 -- the last", [{"n": 4}, {"n": 3}]),
        ("SELECT d.n FROM dataset d JOIN other o USING (n) ORDER BY 1", [{"n": 3}, {"n": 4}]),
        ("SELECT n FROM dataset EXCEPT SELECT n FROM other ORDER BY n", [{"n": 1}, {"n": 2}]),
        ("WITH big AS (SELECT * FROM dataset WHERE n > 3) SELECT max(timestamp) AS t FROM big",
         [{"t": "2024-01-01T00:00:04.000Z"}]),
        ("WITH other AS (SELECT 7 AS n) SELECT n FROM other", [{"n": 7}]),
        ("WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) SELECT sum(i) AS s FROM r",
         [{"s": 6}]),
        ("SELECT time_bucket(INTERVAL 2 seconds, timestamp) t, avg(n) a FROM dataset GROUP BY 1 ORDER BY 1 LIMIT 1",
         [{"t": "2024-01-01T00:00:00.000Z", "a": 1.0}]),
        ("SELECT n, lag(n) OVER (ORDER BY timestamp) AS p FROM dataset QUALIFY p = 3", [{"n": 4, "p": 3}]),
        ("SELECT sum(n) FILTER (WHERE n > 1) AS x, list(n ORDER BY n) AS l FROM dataset",
         [{"x": 9, "l": [1, 2, 3, 4]}]),
        ("SELECT {'a': 1, 'b': [NULL, 2]} AS s, DATE '2024-02-29' AS d, 1.5::DECIMAL(4,2) AS f, TRUE AS b, NULL AS z",
         [{"s": {"a": 1, "b": [None, 2]}, "d": "2024-02-29", "f": 1.5, "b": True, "z": None}]),
        ("SELECT 'nan'::DOUBLE AS x, 18446744073709551615 AS big, 1 AS x_1", [{"x": None, "big": 2**64 - 1, "x_1": 1}]),
        ("SELECT ['nan'::DOUBLE, -1.5, '-inf'::DOUBLE] AS l, {'x': 'inf'::DOUBLE, 's': 'NaN, Infinity'} AS s",
         [{"l": [None, -1.5, None], "s": {"x": None, "s": "NaN, Infinity"}}]),
        ("SELECT {'x': 'inf'::DOUBLE, 's': '[NaN'} AS s", [{"s": "{'x': inf, 's': '[NaN'}"}]),
        ("SELECT * FROM range(3) t(i) WHERE i = 1", [{"i": 1}]),
        ("SELECT (SELECT max(n) FROM other) AS m, n IN (SELECT n FROM other) AS shared FROM dataset WHERE n = 4",
         [{"m": 5, "shared": True}]),
        ("VALUES (1), (2)", [{"col0": 1}, {"col0": 2}]),
        ("FROM dataset SELECT count(*) AS c WHERE n BETWEEN 2 AND 3", [{"c": 2}]),
        ("SELECT n AS \"getenv\", 'COPY x TO ''y''' AS \"read_csv('/etc/passwd')\" FROM dataset LIMIT 1",
         [{"getenv": 1, "read_csv('/etc/passwd')": "COPY x TO 'y'"}]),
    ],
)  # fmt: skip
def test_one_select_is_answered(asked: Service, sql: str, found: list[dict[str, Any]]) -> None:
    assert rows(asked, sql) == found


def test_the_answer_names_its_columns_and_the_version(asked: Service) -> None:
    answer = select(asked, "SELECT n, n AS N2 FROM dataset WHERE false")

    assert answer.json() == {"rows": [], "columns": ["n", "N2"], "mode": "sql"}
    assert answer.headers["x-timestore-version"] == "2"
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


def test_time_range_and_as_of_say_which_rows_there_are(asked: Service) -> None:
    two = {"start": "2024-01-01T00:00:02Z", "end": "2024-01-01T00:00:03Z"}
    years = {"start": "1999-01-01T00:00:00Z", "end": "1999-01-02T00:00:00Z"}

    assert rows(asked, "SELECT n FROM dataset ORDER BY n", timeRange=two) == [{"n": 2}, {"n": 3}]
    assert rows(asked, "SELECT count(*) AS c FROM dataset, other", timeRange=years) == [{"c": 0}]
    assert rows(asked, "SELECT count(*) AS c FROM dataset", asOf=1) == [{"c": 3}]
    assert select(asked, "SELECT 1", asOf=1).headers["x-timestore-version"] == "1"
    wrong = select(asked, "SELECT n FROM dataset", timeRange=two, timestampColumn="n")
    assert (wrong.status_code, wrong.json()["details"][0]["path"]) == (400, "timestampColumn")
    assert select(asked, "SELECT 1", asOf=77).status_code == 404


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream",
                                    "application/vnd.apache.parquet"])  # fmt: skip
def test_every_form_has_the_rows(asked: Service, accept: str) -> None:
    sql = "SELECT n, [n] AS l, timestamp AS t, n / 2 AS h, 'a,b' AS s FROM dataset ORDER BY n"
    answer = select(asked, sql, accept)

    assert answer.status_code == 200, answer.text
    if accept == "application/x-ndjson":
        assert [json.loads(line)["l"] for line in answer.text.splitlines()] == [[1], [2], [3], [4]]
    elif accept == "text/csv":
        assert answer.text.splitlines()[:2] == ["n,l,t,h,s", '1,[1],2024-01-01T00:00:01.000Z,0.5,"a,b"']
    else:
        read = pa.ipc.open_stream if "arrow" in accept else lambda data: pq.ParquetFile(io.BytesIO(data))
        table = read(answer.content).read_all() if "arrow" in accept else pq.read_table(io.BytesIO(answer.content))
        assert table["n"].to_pylist() == [1, 2, 3, 4]
        assert table["l"].to_pylist() == ["[1]", "[2]", "[3]", "[4]"]
        assert table.schema.field("t").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize("write_format", ["duckdb", "parquet"])
def test_rows_of_every_format_are_there(asked: Service, write_format: str) -> None:
    slug, boss = f"kept as {write_format}", {"x-iam-scopes": "boss"}
    made = asked.client.post("/admin/datasets", json={"slug": slug, "writeFormat": write_format}, headers=boss)
    assert made.status_code == 201, made.text
    wider = batch([3, 4])
    wider["schema"] = {"fields": [*wider["schema"]["fields"], {"name": "x", "type": "double"}]}
    for one in (batch([1, 2]), batch([5]), wider):
        assert asked.ingest(slug, one).status_code == 201

    sql = f'SELECT list(n ORDER BY n) AS l, count(x) AS x FROM "{slug}"'
    assert rows(asked, sql) == [{"l": [1, 2, 3, 4, 5], "x": 0}]
    late = {"start": "2024-01-01T00:00:03Z", "end": "2024-01-01T00:00:04Z"}
    assert rows(asked, sql, timeRange=late) == [{"l": [3, 4], "x": 0}]


def test_what_may_not_be_read_is_answered_like_what_does_not_exist(asked: Service) -> None:
    hidden = select(asked, "SELECT * FROM hidden")
    missing = select(asked, "SELECT * FROM hiddem")

    assert hidden.status_code == missing.status_code == 400
    assert hidden.text == missing.text.replace("hiddem", "hidden")
    assert asked.client.post("/datasets/hidden/sql", json={"sql": "SELECT 1"}).status_code == 403
    assert asked.client.post("/datasets/hiddem/sql", json={"sql": "SELECT 1"}).status_code == 404
    boss = {"x-iam-scopes": "boss,reader"}
    seen = asked.client.post("/datasets/odd one/sql", json={"sql": "SELECT s FROM hidden"}, headers=boss)
    assert seen.json()["rows"] == [{"s": SECRET}]


ESCAPES = [
    # Files
    "SELECT * FROM '/etc/passwd'", "SELECT * FROM 'x.csv'", "SELECT * FROM '{file}'", 'SELECT * FROM "{file}"',
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_parquet('/tmp/x.parquet')", "SELECT * FROM parquet_scan('/tmp/x.parquet')",
    "SELECT * FROM read_json('/etc/passwd')", "SELECT * FROM read_ndjson_objects('/etc/passwd')",
    "SELECT * FROM read_duckdb('{file}')", "SELECT * FROM glob('/*')", "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')", "SELECT content FROM (FROM read_text('/etc/passwd'))",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))", "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'", "SELECT * FROM read_csv('http://169.254.169.254/latest/meta-data')",
    "SELECT * FROM ['/etc/passwd']", "SELECT n FROM dataset WHERE n IN (SELECT 1 FROM read_text('/etc/passwd'))",
    "SELECT n FROM dataset ORDER BY (SELECT count(*) FROM glob('/*'))",
    "SELECT n FROM dataset LIMIT (SELECT count(*) FROM glob('/*'))",
    "SELECT sum(n) FILTER (WHERE (SELECT count(*) FROM glob('/*')) > 0) FROM dataset",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM glob('/*')))",
    "SELECT lag(n, (SELECT count(*) FROM glob('/*'))) OVER () FROM dataset",
    "SELECT CASE WHEN true THEN (SELECT count(*) FROM glob('/*')) END",
    "SELECT * FROM dataset JOIN (FROM glob('/*')) ON true", "SELECT * FROM dataset, LATERAL (SELECT * FROM glob('/*'))",
    "VALUES ((SELECT count(*) FROM glob('/*')))", "SELECT * FROM range((SELECT count(*) FROM glob('/*')))",
    # Statements of other kinds
    "COPY (SELECT 1) TO '/tmp/x.csv'", "COPY dataset FROM '/etc/passwd'", "EXPORT DATABASE '/tmp/x'",
    "ATTACH '/tmp/x.db'", "DETACH memory", "USE memory", "INSTALL httpfs", "LOAD httpfs", "FORCE INSTALL httpfs",
    "PRAGMA database_list", "PRAGMA version", "CALL pragma_version()", "SET threads = 1", "RESET threads",
    "SET enable_external_access = true", "SET VARIABLE x = 1", "CREATE TABLE x (a INT)", "CREATE VIEW x AS SELECT 1",
    "CREATE MACRO m() AS 1", "CREATE SECRET s (TYPE s3)", "DROP VIEW dataset", "ALTER VIEW dataset RENAME TO x",
    "INSERT INTO dataset VALUES (1)", "UPDATE dataset SET n = 1", "DELETE FROM dataset", "TRUNCATE dataset",
    "PREPARE p AS SELECT 1", "EXECUTE p", "BEGIN", "CHECKPOINT", "VACUUM", "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "DESCRIBE dataset", "SUMMARIZE dataset", "SHOW TABLES", "SHOW ALL TABLES", "FROM (SHOW TABLES)",
    "FROM (DESCRIBE dataset)", "PIVOT dataset ON n USING count(*)", "FROM (PIVOT dataset ON n IN (1) USING count(*))",
    "UNPIVOT dataset ON n", "COMMENT ON VIEW dataset IS 'x'",
    "MERGE INTO dataset USING other ON true WHEN MATCHED THEN DELETE",
    "SELECT 1 INTO x",
    # Several, or something after it
    "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW dataset", "SELECT 1; COPY (SELECT 1) TO '/tmp/x'; --",
    "SELECT 1) AS answer, (SELECT * FROM glob('/*')", "SELECT 1) UNION ALL (SELECT file FROM glob('/*')",
    "SELECT 1) AS answer; SELECT * FROM (SELECT 2", "SELECT 1 /*", "SELECT 1 */", "", "   ", ";", "--", "SELECT '",
    "SELECT $$", "WITH x AS (INSERT INTO dataset VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM dataset RETURNING *) SELECT * FROM x", "SELECT * FROM (DELETE FROM dataset RETURNING *)",
    # What the engine keeps of its own
    "SELECT * FROM information_schema.tables", "SELECT * FROM pg_catalog.pg_class", "SELECT * FROM sqlite_master",
    "SELECT * FROM duckdb_settings()", "SELECT * FROM duckdb_databases()", "SELECT * FROM duckdb_databases",
    "SELECT * FROM duckdb_secrets()", "SELECT * FROM duckdb_views()", "SELECT * FROM duckdb_functions()",
    "SELECT * FROM duckdb_extensions()", "SELECT * FROM duckdb_temporary_files()", "SELECT * FROM duckdb_logs",
    "SELECT * FROM pragma_database_list", "SELECT * FROM pragma_table_info('dataset')",
    "SELECT * FROM pragma_storage_info('dataset')", "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM system.main.duckdb_settings", "SELECT * FROM temp.main.dataset", "SELECT * FROM main.dataset",
    'SELECT * FROM "file-0".records', 'SELECT * FROM "file-0".main.records', "SELECT * FROM memory.main.dataset",
    # Names that hide others
    "WITH a AS (WITH duckdb_databases AS (SELECT 1) SELECT * FROM duckdb_databases) SELECT * FROM duckdb_databases",
    "WITH duckdb_settings AS (SELECT * FROM duckdb_settings) SELECT * FROM duckdb_settings",
    "WITH RECURSIVE sqlite_master AS (SELECT * FROM sqlite_master) SELECT * FROM sqlite_master",
    "WITH a AS (SELECT * FROM hidden), hidden AS (SELECT 1) SELECT * FROM a",
    "WITH hidden AS (SELECT * FROM hidden) SELECT * FROM hidden",
    "SELECT * FROM (WITH hidden AS (SELECT 1) SELECT 1), hidden",
    "WITH \"/etc/passwd\" AS (SELECT 1) SELECT 1", "WITH \"x.csv\" AS (SELECT 1) SELECT * FROM (FROM 'x.csv')",
    "SELECT * FROM Hidden", "SELECT * FROM \"HIDDEN\"", "SELECT * FROM dataset x, x",
    "WITH RECURSIVE t(a) USING KEY (a) AS (SELECT 1 UNION SELECT a FROM recurring.t) SELECT * FROM t",
    # Functions
    "SELECT getenv('HOME')", "SELECT current_setting('temp_directory')", "SELECT getvariable('x')", "SELECT version()",
    "SELECT current_query()", "SELECT current_database()", "SELECT current_schemas(true)", "SELECT nextval('x')",
    "SELECT currval('x')", "SELECT txid_current()", "SELECT pg_sleep(10)", "SELECT sleep_ms(10000)",
    "SELECT write_log('x')", "SELECT * FROM query('SELECT 1')", "SELECT * FROM query_table('dataset')",
    "SELECT json_execute_serialized_sql('x')", "SELECT * FROM json_execute_serialized_sql('x')",
    "SELECT json_serialize_sql('SELECT 1')", "SELECT parse_path('/x')", "SELECT main.getenv('HOME')",
    "SELECT system.main.current_setting('threads')", "SELECT 'threads'.current_setting()", "SELECT setseed(0.5)",
    "SELECT pg_get_viewdef(1)", "SELECT list_transform(['HOME'], lambda x: getenv(x))", "SELECT x -> getenv('HOME')",
    "SELECT list_aggregate([1], 'getenv')", "SELECT \"getenv\"('HOME')", "SELECT GETENV('HOME')",
    "SELECT if(true, getenv('HOME'), '')",
    "SELECT * FROM test_all_types()", "SELECT * FROM seq_scan('dataset')", "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM python_map_function()", "SELECT * FROM repeat_row(1, num_rows = 5)",
    "SELECT n::my_type FROM dataset",
    "SELECT COLUMNS(x -> getenv(x) = '') FROM dataset", "SELECT * REPLACE (getenv('HOME') AS n) FROM dataset",
    "SELECT n FROM dataset GROUP BY getenv('HOME')", "SELECT sum(n) OVER (ORDER BY getenv('HOME')) FROM dataset",
    "SELECT sum(n) OVER (w) FROM dataset WINDOW w AS (PARTITION BY getenv('HOME'))",
    "SELECT string_agg(n::VARCHAR, getenv('HOME')) FROM dataset", "SELECT $1", "SELECT ?", "SELECT $name",
    "SELECT * FROM dataset AT (VERSION => 1)", "SELECT * FROM dataset TABLESAMPLE (SELECT 1)",
    # What the engine refuses by itself
    "SELECT nope FROM dataset", "SELECT n FROM dataset WHERE", "SELECT 'a'::INTEGER", "SELECT 1 + 'x'",
    "SELECT error('x')",
    "SELECT 9223372036854775807 + n FROM dataset", "SELECT (SELECT n FROM dataset)", "SELECT INTERVAL 'x' DAY",
]  # fmt: skip


@pytest.mark.parametrize("sql", ESCAPES)
def test_nothing_else_can_be_reached(asked: Service, sql: str) -> None:
    some_file = next(path for path in asked.storage.rglob("*.duckdb"))
    sql = sql.replace("{file}", str(some_file))
    answer = select(asked, sql)

    assert answer.status_code == 400, (answer.status_code, answer.text[:500])
    for told in (str(asked.storage), SECRET, "root:", "records", "file-0"):
        assert told in sql or told not in answer.text, answer.text


BOMBS = [
    "SELECT count(*) FROM range(1000000000000)",
    "SELECT * FROM range(1000000000000)",
    "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
    "SELECT repeat('x', 4000000000)",
    "SELECT sum(length(repeat('x', 1000000000 + i::INT))) FROM range(100000) t(i)",
    "SELECT repeat('x', 1000000000) || repeat('y', 1000000000) || repeat('z', 1000000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT list_resize([1], 1000000000000)",
    "SELECT range(10000000000)",
    "SELECT len(list(i)) FROM range(1000000000) t(i)",
    "SELECT string_agg(repeat('x', 1000), '') FROM range(100000000)",
    "SELECT count(*) FROM (SELECT DISTINCT i, hash(i) FROM range(10000000000) t(i))",
    "SELECT * FROM range(100000000) t(i) ORDER BY hash(i)",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    "WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r) SELECT count(*) FROM r",
    "SELECT 999999999! + 1",
    "SELECT printf('%2000000000d', 1)",
    "SELECT " + "NOT " * 10000 + "true",
    "SELECT " + "-" * 1 + " -".join(["1"] * 15000),
    "SELECT " + "[" * 3000 + "]" * 3000,
    "SELECT " + "abs(" * 3000 + "1" + ")" * 3000,
    "SELECT * FROM " + "(SELECT * FROM " * 1000 + "dataset" + ")" * 1000,
    " UNION ALL ".join(["SELECT 1"] * 4000) + " UNION ALL SELECT * FROM range(100000)",
    "WITH " + ", ".join(f"c{i} AS (SELECT * FROM c{i - 1} a, c{i - 1} b)"
    if i else "c0 AS (SELECT 1 AS x)" for i in range(40))
    + " SELECT count(*) FROM c39",
    "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(5000)),
]  # fmt: skip


@pytest.mark.parametrize("sql", BOMBS, ids=[f"{number}-{sql[:40]}" for number, sql in enumerate(BOMBS)])
def test_what_is_too_much_ends_by_a_limit(asked: Service, sql: str) -> None:
    answer = select(asked, sql)

    assert 400 <= answer.status_code < 500 or answer.status_code == 504, (answer.status_code, answer.text[:300])


def test_the_service_is_well_after_all_that(asked: Service) -> None:
    assert rows(asked, "SELECT count(*) AS c FROM dataset") == [{"c": 4}]
    assert asked.query("odd one", {"timeRange": ALL_TIME}).status_code == 200
    children = psutil.Process(asked.pid).children(recursive=True)
    assert sum("timestore_core.select.child" in " ".join(child.cmdline()) for child in children) <= 2


def test_its_process_has_nothing_of_the_service_s_environment(asked: Service) -> None:
    rows(asked, "SELECT 1 AS x")
    children = psutil.Process(asked.pid).children(recursive=True)
    found = next(child for child in children if "timestore_core.select.child" in " ".join(child.cmdline()))

    assert set(found.environ()) <= {"PATH", "LANG", "LC_CTYPE"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"sql": 1}, "sql"),
        ({"sql": "SELECT 1" + " " * 70_000}, "sql"),
        ({"sql": "SELECT 1\0"}, "sql"),
        ({"sql": "SELECT 1", "timeRange": {"start": "x", "end": "y"}}, "timeRange.start"),
        ({"sql": "SELECT 1", "asOf": -1}, "asOf"),
        ({"sql": "SELECT 1", "timestampColumn": ""}, "timestampColumn"),
    ],
)
def test_a_body_that_is_none_is_named(asked: Service, body: dict[str, Any], path: str) -> None:
    answer = asked.client.post("/datasets/odd one/sql", json=body)

    assert answer.status_code == 400
    assert path in [one["path"] for one in answer.json()["details"]] or not path

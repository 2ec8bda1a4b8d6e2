"""gunicorn as `timestore serve` runs it. Everything comes from the TIMESTORE_* settings."""

from timestore_core.settings import load_settings

_settings = load_settings()

bind = [f"{_settings.host}:{_settings.port}"]
wsgi_app = "timestore_http.wsgi:make()"
worker_class = "timestore_http.worker.TimestoreWorker"
workers = _settings.http_workers
threads = _settings.http_threads
worker_connections = 1000
backlog = 1024
keepalive = 30
timeout = 120
graceful_timeout = (_settings.shutdown_drain_ms + _settings.shutdown_timeout_ms) // 1000 + 1
# Nothing that DuckDB, libpq or an event loop made survives a fork.
preload_app = False
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16380
control_socket_disable = True
accesslog = None
errorlog = "-"
loglevel = {"fatal": "critical", "warn": "warning", "trace": "debug"}.get(_settings.log_level, _settings.log_level)
logger_class = "timestore_http.logs.GunicornLogger"

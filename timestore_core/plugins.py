"""The plugin host: finds plugins through entry points, names the broken ones, and gathers what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

import pluggy
import structlog

from timestore_core import hookspecs
from timestore_core.aggregations import Aggregation
from timestore_core.errors import ConfigurationError
from timestore_core.hookspecs import GROUP, Action
from timestore_core.model import Actor, Dataset
from timestore_core.partitions.format import PartitionFormat
from timestore_core.query.engine import QueryEngineFactory
from timestore_core.queues import QueueFactory
from timestore_core.settings import Settings
from timestore_core.storage import StorageKind

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One plugin as found at start: its distribution, whether it works, which hooks it has, what it gives."""

    name: str
    distribution: str
    status: Literal["loaded", "broken"]
    hooks: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    error: str | None = None


class PluginHost:
    """The loaded plugins and everything that they registered, by name.

    Where two plugins give the same name, the built-in one keeps it and the other is reported broken, so that
    installing a distribution can never silently replace a part.
    """

    def __init__(self, manager: pluggy.PluginManager, reports: tuple[PluginReport, ...], gifts: _Gifts) -> None:
        self._manager = manager
        self.reports = reports
        self.storage_kinds: Mapping[str, StorageKind] = gifts.storage_kinds
        self.partition_formats: Mapping[str, PartitionFormat] = gifts.partition_formats
        self.aggregations: Mapping[str, Aggregation] = gifts.aggregations
        self.queues: Mapping[str, QueueFactory] = gifts.queues
        self.query_engines: Mapping[str, QueryEngineFactory] = gifts.query_engines

    @property
    def broken(self) -> tuple[PluginReport, ...]:
        return tuple(report for report in self.reports if report.status == "broken")

    def storage_kind(self, kind: str) -> StorageKind:
        """The driver of a kind. Raises ConfigurationError naming the kinds that there are."""
        return _named(self.storage_kinds, kind, "storage kind")

    def secret_keys(self, kind: str) -> frozenset[str]:
        """The keys of a target's config whose values are never shown."""
        known = self.storage_kinds.get(kind)
        return known.secret_keys if known else frozenset()

    def partition_format(self, name: str) -> PartitionFormat:
        """The format of that name. Raises ConfigurationError naming the formats that there are."""
        return _named(self.partition_formats, name, "partition format")

    def principal(self, headers: Mapping[str, str], settings: Settings) -> Actor:
        """Who asks; nobody in particular, with no scopes, where no plugin knows."""
        actor = self._manager.hook.timestore_principal(headers=headers, settings=settings)
        return actor if isinstance(actor, Actor) else Actor(None, frozenset())

    def may(self, actor: Actor, action: Action, dataset: Dataset | None, settings: Settings) -> bool:
        """Whether the actor may; no plugin's answer is a no."""
        verdict = self._manager.hook.timestore_authorize(actor=actor, action=action, dataset=dataset, settings=settings)
        return verdict is True

    def step(self, name: str) -> None:
        """Tell whoever listens that a named step was reached."""
        self._manager.hook.timestore_step(step=name)

    def observe(self, hook: Literal["timestore_published", "timestore_queried"], **what: Any) -> None:
        """Tell the observers, each on its own: one that raises is logged and the others still hear."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*[what[name] for name in implementation.argnames])
            except Exception:
                log.exception("plugin.observer_failed", plugin=implementation.plugin_name, hook=hook)


def load_plugins() -> PluginHost:
    """Find, import and check every plugin of the entry-point group. Never raises for a plugin's fault."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    reports, gifts = [], _Gifts()
    points = sorted(entry_points(group=GROUP), key=lambda point: (_distribution(point) != "timestore", point.name))
    for point in points:
        report = _load(manager, gifts, point)
        reports.append(report)
        if report.status == "broken":
            log.error("plugin.broken", plugin=report.name, distribution=report.distribution, error=report.error)
    return PluginHost(manager, tuple(reports), gifts)


@dataclass(frozen=True, slots=True)
class _Giving:
    """One giving hook: where its gifts go, what they are called for people, and what each must be or have."""

    registry: str
    word: str
    kind: type | None = None
    attributes: tuple[str, ...] = ()


_GIVING = {
    "timestore_storage_drivers": _Giving("storage_kinds", "storage", StorageKind),
    "timestore_partition_formats": _Giving(
        "partition_formats", "format", attributes=("extension", "write", "copy", "attach", "detach", "relation")
    ),
    "timestore_aggregations": _Giving("aggregations", "aggregation", Aggregation),
    "timestore_queues": _Giving("queues", "queue", attributes=("__call__",)),
    "timestore_query_engines": _Giving("query_engines", "engine", attributes=("__call__",)),
}


class _Gifts:
    """What the plugins registered, by kind and name."""

    def __init__(self) -> None:
        self.storage_kinds: dict[str, StorageKind] = {}
        self.partition_formats: dict[str, PartitionFormat] = {}
        self.aggregations: dict[str, Aggregation] = {}
        self.queues: dict[str, QueueFactory] = {}
        self.query_engines: dict[str, QueryEngineFactory] = {}

    def take(self, module: Any, hooks: tuple[str, ...]) -> tuple[str, ...]:
        """Add all that the module gives, or, raising, nothing of it."""
        found: list[tuple[_Giving, str, Any]] = []
        for hook, giving in _GIVING.items():
            if hook not in hooks:
                continue
            given = getattr(module, hook)()
            if not isinstance(given, Mapping):
                raise TypeError(f"{hook} must return a mapping of names, not {type(given).__name__}")
            for name, value in given.items():
                if name in getattr(self, giving.registry):
                    raise ValueError(f"{hook} gives {name!r}, which another plugin already gives")
                _check_gift(hook, giving, name, value)
                found.append((giving, name, value))
        for giving, name, value in found:
            getattr(self, giving.registry)[name] = value
        return tuple(f"{giving.word} {name}" for giving, name, _ in found)


def _check_gift(hook: str, giving: _Giving, name: object, value: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{hook}: names must be strings, not {type(name).__name__}")
    if giving.kind is not None and not isinstance(value, giving.kind):
        raise TypeError(f"{hook}: {name!r} must be a {giving.kind.__name__}, not {type(value).__name__}")
    missing = [one for one in giving.attributes if not hasattr(value, one)]
    if missing:
        raise TypeError(f"{hook}: {name!r} lacks {', '.join(missing)}")


def _load(manager: pluggy.PluginManager, gifts: _Gifts, point: EntryPoint) -> PluginReport:
    distribution = _distribution(point)
    if manager.has_plugin(point.name):
        error = ValueError(f"another plugin is already named {point.name!r}")
        return PluginReport(point.name, distribution, "broken", error=_why(error))
    try:
        module = point.load()
        manager.register(module, name=point.name)
    except (Exception, SystemExit) as error:
        # Registering stops half-way at the first bad hook; nobody else can have this name.
        broken = manager.get_plugin(point.name)
        if broken is not None:
            manager.unregister(broken)
        return PluginReport(point.name, distribution, "broken", error=_why(error))
    callers = manager.get_hookcallers(module) or []
    hooks = tuple(sorted(caller.name for caller in callers))
    try:
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        if unknown:
            raise ValueError(f"unknown hook {unknown[0]}")
        if not hooks:
            raise ValueError("implements no hook; is @hookimpl missing?")
        gives = gifts.take(module, hooks)
    except Exception as error:
        manager.unregister(module)
        return PluginReport(point.name, distribution, "broken", hooks, error=_why(error))
    return PluginReport(point.name, distribution, "loaded", hooks, gives)


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _named(registry: Mapping[str, T], name: str, what: str) -> T:
    if name in registry:
        return registry[name]
    raise ConfigurationError(
        f"no plugin gives the {what} {name!r}; there are: {', '.join(sorted(registry)) or 'none'}. "
        "`timestore plugins` shows what is loaded and what is broken."
    )

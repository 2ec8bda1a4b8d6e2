"""What every plugin that says who asks, or whether they may, is expected to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pluggy
import pytest

from timestore_core import hookspecs
from timestore_core.errors import Unauthenticated
from timestore_core.hookspecs import GROUP, Action
from timestore_core.model import Actor, Dataset
from timestore_core.settings import Settings

Headers = Mapping[str, str]
Case = tuple[Headers, Action, Dataset | None]

ACTIONS: tuple[Action, ...] = ("read", "write", "admin")
_HOSTILE_VALUES = ("", " ", ",,,", "*", "null", "ä😀", "x" * 10_000, "a\tb", "Bearer ", "Bearer a.b.c", "'; DROP--")
_HEADERS = ("authorization", "x-iam-scopes", "x-iam-user", "x-user-id", "x-actor-id", "x-gateway-secret", "cookie")
_METADATA: tuple[Any, ...] = (
    {},
    {"iam": None},
    {"iam": "admin"},
    {"iam": []},
    {"iam": {"readScopes": "all", "writeScopes": None}},
    {"iam": {"readScopes": [1, None, {}], "writeScopes": [[]]}},
)


class AuthorizerContract:
    """Give the fixture `plugin`: the module with the hooks `timestore_principal`, `timestore_authorize`, or one.

    `allowed` and `refused` are cases of the plugin's own, made with the settings of the fixture `settings`.
    """

    @pytest.fixture
    def plugin(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `plugin`")

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings()

    @pytest.fixture
    def allowed(self) -> Sequence[Case]:
        return ()

    @pytest.fixture
    def refused(self) -> Sequence[Case]:
        return ()

    @pytest.fixture
    def hooks(self, plugin: Any) -> Hooks:
        return Hooks(plugin)

    def test_it_has_one_of_the_two_hooks(self, hooks: Hooks) -> None:
        assert hooks.names & {"timestore_principal", "timestore_authorize"}

    def test_a_request_without_headers_is_somebody_without_rights(self, hooks: Hooks, settings: Settings) -> None:
        actor = hooks.principal({}, settings)

        assert actor is None or actor.scopes == frozenset()

    @pytest.mark.parametrize("name", _HEADERS)
    def test_no_header_makes_it_fail(self, hooks: Hooks, settings: Settings, name: str) -> None:
        for value in _HOSTILE_VALUES:
            try:
                actor = hooks.principal({name: value}, settings)
            except Unauthenticated:
                continue
            assert actor is None or isinstance(actor, Actor)

    @pytest.mark.parametrize("action", ACTIONS)
    def test_its_verdict_is_yes_or_no_or_none(self, hooks: Hooks, settings: Settings, action: Action) -> None:
        for actor in (Actor(None, frozenset()), Actor("ann", frozenset({"a"})), Actor(None, frozenset(), False)):
            for one in (None, *map(dataset, _METADATA)):
                verdict = hooks.authorize(actor, action, one, settings)

                assert verdict is None or isinstance(verdict, bool)
                assert hooks.authorize(actor, action, one, settings) is verdict, "the same question, another answer"

    def test_more_scopes_never_mean_less(self, hooks: Hooks, settings: Settings, allowed: Sequence[Case]) -> None:
        for headers, action, one in allowed:
            actor = hooks.principal(headers, settings)
            if actor is not None:
                more = Actor(actor.id, actor.scopes | {"one-more"}, actor.authenticated)
                assert hooks.authorize(more, action, one, settings) is True

    def test_who_may_is_allowed(self, hooks: Hooks, settings: Settings, allowed: Sequence[Case]) -> None:
        assert [case for case in allowed if not self._may(hooks, settings, case)] == []

    def test_who_may_not_is_refused(self, hooks: Hooks, settings: Settings, refused: Sequence[Case]) -> None:
        assert [case for case in refused if self._may(hooks, settings, case)] == []

    def _may(self, hooks: Hooks, settings: Settings, case: Case) -> bool:
        headers, action, one = case
        try:
            actor = hooks.principal(headers, settings) or Actor(None, frozenset())
        except Unauthenticated:
            return False
        return hooks.authorize(actor, action, one, settings) is True


class Hooks:
    """The plugin's hooks, called as the host calls them."""

    def __init__(self, plugin: Any) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(plugin, name="tested")
        self._manager.check_pending()
        self.names = {caller.name for caller in self._manager.get_hookcallers(plugin) or []}

    def principal(self, headers: Headers, settings: Settings) -> Actor | None:
        return cast("Actor | None", self._manager.hook.timestore_principal(headers=headers, settings=settings))

    def authorize(self, actor: Actor, action: Action, dataset: Dataset | None, settings: Settings) -> Any:
        hook = self._manager.hook.timestore_authorize
        return hook(actor=actor, action=action, dataset=dataset, settings=settings)


def dataset(metadata: Mapping[str, Any]) -> Dataset:
    """A dataset with this metadata, which its owner wrote."""
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return Dataset("ds-1", "s", "s", None, "active", "duckdb", None, metadata, now, now)

"""Holding an exchange against the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

Json = dict[str, Any]


class Document:
    """An OpenAPI document, and what it says of a request and its answer."""

    def __init__(self, content: Json) -> None:
        self.content = content

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        """Path, method in upper case, and operation."""
        for path, methods in self.content["paths"].items():
            for method, operation in methods.items():
                yield path, method.upper(), operation

    def operation(self, method: str, path: str) -> Json | None:
        """The operation that a request's path belongs to; a plain path comes before one with parameters."""
        for template in sorted(self.content["paths"], key=lambda one: one.count("{")):
            pattern = re.sub(r"\{\w+\}", "[^/]+", template)
            if re.fullmatch(pattern, path.partition("?")[0]):
                found: Json | None = self.content["paths"][template].get(method.lower())
                return found
        return None

    def resolved(self, value: Json) -> Json:
        """What a reference stands for."""
        if "$ref" not in value:
            return value
        found: Any = self.content
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return self.resolved(found)

    def request_problems(self, operation: Json, body: Any) -> list[str]:
        """Why the body is not one that the operation takes."""
        return self._problems(self.resolved(operation["requestBody"])["content"], "application/json", body)

    def answer_problems(
        self, operation: Json, status: int, body: Any, headers: Mapping[str, str] | None = None
    ) -> list[str]:
        """Why the answer is not one that the operation gives."""
        if str(status) not in operation["responses"]:
            return [f"{status} is no answer of {operation['operationId']}"]
        response = self.resolved(operation["responses"][str(status)])
        missing = [
            f"the header {name} is missing"
            for name, header in response.get("headers", {}).items()
            if headers is not None and self.resolved(header).get("required") and name not in headers
        ]
        return missing + self._problems(response.get("content", {}), "application/json", body)

    def schema_problems(self, name: str, value: Any) -> list[str]:
        """Why the value is not of the named schema."""
        return self._schema_problems({"$ref": f"#/components/schemas/{name}"}, value)

    def _problems(self, content: Json, media_type: str, body: Any) -> list[str]:
        if not content:
            return [] if body is None else ["a body came where there is none"]
        return self._schema_problems(content[media_type]["schema"], body)

    def _schema_problems(self, schema: Json, value: Any) -> list[str]:
        validator = Draft202012Validator({"components": self.content["components"], **schema})
        return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]

"""Add to /openapi.json what the routes do not declare: errors, limits, links, and examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.errors import is_inference_protocol
from service.features.service import Service
from service.schema.examples import examples_of
from service.schema.tensors import InferRequest

_LATER = {"retry-after": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1, "maximum": 120}}}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"], "description": "the field that is wrong"},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "InferenceError": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
}


_JOB = [("get", "/v1/jobs/{job_id}"), ("get", "/v1/jobs/{job_id}/result"), ("delete", "/v1/jobs/{job_id}")]
_V2 = [("get", "/v2/models/{model_id}"), ("get", "/v2/models/{model_id}/ready"), ("post", "/v2/models/{model_id}/infer")]
# Operations that take the id of an answer: (operation, status, place of the id, parameter, operations that take it).
_LINKS: list[tuple[tuple[str, str], str, str, str, list[tuple[str, str]]]] = [
    (("post", "/v1/jobs"), "202", "/id", "job_id", _JOB),
    (("get", "/v1/jobs"), "200", "/data/0/id", "job_id", _JOB),
    (("get", "/v1/jobs/{job_id}"), "200", "/id", "job_id", _JOB[1:]),
    (("delete", "/v1/jobs/{job_id}"), "200", "/id", "job_id", _JOB),
    (("get", "/v1/models"), "200", "/data/0/id", "model_id", [("get", "/v1/models/{model_id}"), *_V2]),
    (("get", "/v1/models/{model_id}"), "200", "/id", "model_id", _V2),
    (("get", "/v1/experiments"), "200", "/data/0/id", "experiment_id", [("get", "/v1/experiments/{experiment_id}")]),
]


def describe(app: FastAPI, service: Service) -> None:
    """Give the application its OpenAPI document, built at the first request for it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):  # the framework's own error shape
                components.pop(unused, None)
            infer = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            components.update(_SCHEMAS, **infer.pop("$defs"), InferRequest=infer)
            _limits(components, service)
            examples = examples_of(service)
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    _errors(path, method, operation)
                    _examples(operation, examples.get((method, path), {}))
            _links(schema["paths"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's documented way


def _limits(components: dict[str, Any], service: Service) -> None:
    """Add the limits that are settings of this server."""
    for body, field in (("GenerationRequest", "n"), ("ComparisonRequest", "n"), ("InterpolationRequest", "frames")):
        components[body]["properties"][field]["anyOf"][0]["maximum"] = service.config.max_n
    components["JobRequest"]["properties"]["n"]["anyOf"][0]["maximum"] = service.config.max_job_images


def _links(paths: dict[str, Any]) -> None:
    """Add links from answers to the operations that take their ids."""
    for (method, path), status, place, parameter, targets in _LINKS:
        for target_method, target_path in targets:
            target = paths[target_path][target_method]
            link = {"operationId": target["operationId"], "parameters": {parameter: f"$response.body#{place}"}}
            paths[path][method]["responses"][status].setdefault("links", {})[target["operationId"]] = link


def _errors(path: str, method: str, operation: dict[str, Any]) -> None:
    """Describe the errors of an operation. Temporary ones have the header Retry-After."""
    shape = "InferenceError" if is_inference_protocol(path) else "Error"
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"}}}
    responses = operation["responses"]
    responses.pop("422", None)
    if method == "post":
        responses["429"] = {"description": "Too much work is waiting", "headers": _LATER, "content": content}
        responses["503"] = {"description": "Starting or shutting down", "headers": _LATER, "content": content}
    responses["default"] = {"description": "Any other error", "content": content}


def _examples(operation: dict[str, Any], examples: dict[str, Any]) -> None:
    if "body" in examples:
        operation["requestBody"]["content"]["application/json"]["example"] = examples["body"]
    for parameter in operation.get("parameters", []):
        if parameter["name"] in examples.get("parameters", {}):
            parameter["example"] = examples["parameters"][parameter["name"]]
    if "answer" in examples:
        success = next(response for status, response in operation["responses"].items() if status.startswith("2"))
        media = "application/json" if "application/json" in success["content"] else next(iter(success["content"]))
        success["content"][media]["example"] = examples["answer"]

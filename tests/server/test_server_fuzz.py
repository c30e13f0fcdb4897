"""Requests generated from the OpenAPI document, valid and invalid: none breaks the server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albums_to_serve
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from small_shards import write_shards

import serving
from beholder import DualEncoder, VisionLanguageModel
from command import beholder

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis makes up the requests")
EXAMPLES = int(os.environ.get("BEHOLDER_TEST_EXAMPLES", "15"))
PICTURE = serving.data_address(serving.picture())
SEARCH = "/v1/vectors/search"
OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/variations"),
    ("POST", "/v1/classify"),
    ("POST", "/v1/similarity"),
    ("POST", "/v1/caption"),
    ("POST", "/v1/attention"),
    ("GET", "/v1/albums"),
    ("GET", "/v1/albums/{album}"),
    ("GET", "/v1/albums/{album}/ids"),
    ("GET", "/v1/albums/{album}/pictures"),
    ("GET", "/v1/albums/{album}/pictures/{id}"),
    ("PUT", "/v1/albums/{album}/pictures/{id}"),
    ("GET", "/v1/albums/{album}/pictures/{id}/thumbnail"),
    ("GET", "/v1/albums/{album}/pictures/{id}/view"),
    ("POST", "/v1/albums/{album}/groups"),
    ("GET", "/v1/albums/{album}/map"),
    ("GET", "/v1/albums/{album}/duplicates"),
    ("POST", "/v1/albums/{album}/marks"),
    ("GET", "/v1/albums/{album}/index"),
    ("POST", "/v1/albums/{album}/index"),
    ("DELETE", "/v1/albums/{album}/index"),
    ("GET", "/v1/folders"),
    ("POST", "/v1/search"),
    ("GET", "/v1/vectors"),
    ("POST", SEARCH),
    ("GET", "/v1/vectors/{index}/rows/{id}"),
    ("GET", "/v1/vectors/{index}/rows/{id}/vector"),
    ("GET", "/v1/vectors/{index}/rows/{id}/thumbnail"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def fuzzed(
    encoder: DualEncoder,
    vision_language_model: VisionLanguageModel,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[serving.Running]:
    album = albums_to_serve.photographs(tmp_path_factory.mktemp("album"), encoder)
    shards = write_shards(tmp_path_factory.mktemp("index") / "shards", 1, 8)
    options = ("--out", shards.parent / "parts", "--model", tiny_model, "--thumbnails", "24")
    beholder("scale", "embed", shards, *options)
    beholder("scale", "index", shards.parent / "parts", "--out", shards.parent / "pictures")
    indexes = [str(shards.parent / "pictures")]
    generators = {"tiny": serving.generator()}
    with serving.running(
        {"tiny": encoder}, {"tiny": vision_language_model}, [album], generators, indexes, drawing_steps=50
    ) as running:
        yield running


def test_all_operations_are_listed(fuzzed: serving.Running) -> None:
    described = fuzzed.ask("GET", "/openapi.json").json["paths"]
    found = {(method.upper(), path) for path, operations in described.items() for method in operations}
    assert found == {(method, path) for method, path in OPERATIONS}


DRAWING = {"like": [PICTURE], "size": "auto", "n": 1, "candidates": 2, "steps": 3}  # what the tiny generator can do


def with_existing_values(body: Any, **existing: Any) -> Any:
    """Fill in an existing model, album and pictures, to reach the code after their validation."""
    existing = {
        "model": "tiny",
        "image": PICTURE,
        "url": PICTURE,
        "album": "holiday",
        "index": "pictures",
        "like": 3,
        **existing,
    }
    match body:
        case dict():
            return {
                name: existing[name] if name in existing else with_existing_values(value, **existing)
                for name, value in body.items()
            }
        case list():
            return [with_existing_values(each, **existing) for each in body]
    return body


def existing_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return existing values for the path parameters."""
    return {
        name: value for name, value in {"album": "holiday", "index": "pictures", "id": 5}.items() if name in parameters
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        (*operation, kind)
        for operation in OPERATIONS
        for kind in ("valid", "in earnest", "invalid")
        if kind != "invalid" or operation[0] != "GET" or "/{" in operation[1]
        if kind != "in earnest" or operation[0] != "GET" or "/{" in operation[1]
    ],
)
def test_no_generated_request_breaks_the_server(fuzzed: serving.Running, method: str, path: str, kind: str) -> None:
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"{fuzzed.base}/openapi.json")
    operation = schema[path][method]
    mode = GenerationMode.NEGATIVE if kind == "invalid" else GenerationMode.POSITIVE
    cases = operation.as_strategy(generation_mode=mode)
    statuses = set()

    @given(case=cases)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    def run(case: Any) -> None:
        if kind == "in earnest":
            drawing = DRAWING if "/images/" in path else {}
            case.body = with_existing_values(case.body, **drawing)
            case.path_parameters = {**case.path_parameters, **existing_parameters(case.path_parameters)}
        answer = case.call(base_url=fuzzed.base, timeout=300)  # by default ten seconds, which a busy machine exceeds
        statuses.add(answer.status_code)
        assert answer.status_code < 500, answer.content
        case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])
        if answer.status_code >= 400 and answer.headers.get("content-type") == ["application/json"]:
            assert answer.json()["error"]["message"]

    run()
    if kind == "in earnest" and path in (
        "/v1/classify",
        "/v1/caption",
        "/v1/images/generations",
        "/v1/search",
        SEARCH,
        "/v1/albums/{album}/ids",
    ):
        assert 200 in statuses
    assert fuzzed.ask("GET", "/readyz").status == 200

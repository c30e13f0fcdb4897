import pytest

import serving
from beholder import DualEncoder
from serving import data_address, picture


def test_traces_tell_the_route_and_nothing_that_was_sent(encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from beholder.server import app, telemetry

    exporter = InMemorySpanExporter()
    kept = []
    monkeypatch.setattr(exporter, "shutdown", lambda: kept.extend(exporter.get_finished_spans()))
    monkeypatch.setattr(app, "instrument", lambda *arguments: telemetry.instrument(*arguments, exporter))
    secret = {"User-Agent": "a secret agent", "X-Secret": "secret"}
    with serving.running({"tiny": encoder}, telemetry=True) as running:
        body = {"model": "tiny", "input": ["a secret text", data_address(picture())]}
        answers = [
            running.ask("POST", "/v1/embeddings?secret=1", body, secret),
            running.ask("GET", "/v1/models/secret", headers=secret),
            running.ask("GET", "/secret", headers=secret),
        ]
        running.ask("GET", "/healthz")
    assert [span.name for span in kept] == ["POST /v1/embeddings", "GET /v1/models/{name:path}", "GET"]
    ids = [span.attributes["beholder.request_id"] for span in kept]
    assert ids == [answer.headers["x-request-id"] for answer in answers]
    statuses = [
        span.attributes.get("http.status_code", span.attributes.get("http.response.status_code")) for span in kept
    ]
    assert statuses == [answer.status for answer in answers] == [200, 404, 404]
    assert "secret" not in "".join(span.to_json() for span in kept)

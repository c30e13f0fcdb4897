"""Helpers for the tests of the page in a browser."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from serving import Running


@contextmanager
def opened(chromium: Any, site: Running, order: str = "path", **options: Any) -> Iterator[Any]:
    """Open the server's page, as it is for someone who last chose this order; its console must stay silent."""
    context = chromium.new_context(locale="en-GB", viewport={"width": 1280, "height": 860}, **options)
    key = "beholder-order"
    context.add_init_script(
        f"try {{ localStorage.getItem('{key}') ?? localStorage.setItem('{key}', '{order}') }} catch {{}}"
    )
    messages: list[str] = []
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda message: messages.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(f"dialog: {dialog.message}"))
    page.goto(site.base)
    page.get_by_role("status").first.filter(has_text="Ready").wait_for()
    page.messages = messages
    yield page
    context.close()
    assert messages == [], messages


def drop(page: Any, *named: tuple[str, bytes]) -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in named])


def violations(page: Any) -> list[str]:
    """Return the accessibility violations that axe finds on the page in its current state."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


def shorten(route: Any) -> None:
    """Lower max_tokens of a request, since the tiny model has a short context."""
    body = json.loads(route.request.post_data) | {"max_tokens": 40}
    route.continue_(post_data=json.dumps(body))

"""`/docs`: the OpenAPI document as one plain page that loads nothing from anywhere, so it works behind any wall."""

import html
import json
from collections.abc import Iterator
from typing import Any, Final

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
h2{margin-top:2.5rem;border-bottom:1px solid #ddd}code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f6f6f6;padding:.8rem;overflow:auto}.verb{color:#06c}td{padding:.1rem 1rem .1rem 0;vertical-align:top}
"""


def docs_page(document: dict[str, Any]) -> str:
    """Return an HTML page of an OpenAPI document."""
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    ]
    parts.append(f'<h1>{title}</h1><p>The same as data: <a href="openapi.json">openapi.json</a></p>')
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            parts += _operation(path, verb, operation)
    return "".join(parts)


def _operation(path: str, verb: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code><span class=verb>{verb.upper()}</span> {html.escape(path)}</code></h2>"
    yield f"<p><b>{html.escape(operation.get('summary', ''))}</b></p>"
    if "description" in operation:
        yield f"<p>{html.escape(operation['description'])}</p>"
    for content_type, media in operation.get("requestBody", {}).get("content", {}).items():
        yield from _media("Body", content_type, media)
    yield "<table>"
    for status, answer in operation.get("responses", {}).items():
        yield f"<tr><td><code>{status}</code><td>{html.escape(answer.get('description', ''))}"
    yield "</table>"
    for content_type, media in operation.get("responses", {}).get("200", {}).get("content", {}).items():
        yield from _media("Answer", content_type, media)


def _media(what: str, content_type: str, media: dict[str, Any]) -> Iterator[str]:
    if "example" in media:
        yield f"<p>{what}, for example</p><pre>{_pretty(media['example'])}</pre>"
    if media.get("schema"):
        yield f"<details><summary>{what}: schema of {html.escape(content_type)}</summary>"
        yield f"<pre>{_pretty(media['schema'])}</pre></details>"


def _pretty(value: object) -> str:
    return html.escape(json.dumps(value, indent=2, ensure_ascii=False))

"""Renders the page at ``/docs`` from the OpenAPI description, with a form to try each route.

The page is self-contained and loads no other file.
"""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import Any

_FILES = resources.files("bert_serving.server.http") / "static" / "docs_page"
#: The section at the end of the page; the others keep the order of the description.
_LAST = "Operations"


def render(openapi: dict[str, Any]) -> str:
    """Returns the HTML page. Its links are relative, so that it works behind a proxy with a path prefix."""
    info = openapi["info"]
    sections: dict[str, list[str]] = {}
    for path, item in openapi["paths"].items():
        for verb in ("get", "post", "delete"):
            if verb in item:
                names = [each["description"] for each in item.get("parameters", ())]
                sections.setdefault(item[verb]["tags"][0], []).append(_route(openapi, path, verb, item[verb], names))
    ordered = sorted(sections.items(), key=lambda section: section[0] == _LAST)
    parts = [f'<h2>{escape(tag)}</h2><div class="routes">{"".join(routes)}</div>' for tag, routes in ordered]
    routes = "".join(parts).replace("<details ", "<details open ", 1)  # the first route shows how the page works
    style, script = ((_FILES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{style}</style></head><body>"
        f'<h1>{escape(info["title"])}</h1><p class="quiet">version {escape(info["version"])} · '
        '<a href="openapi.json">openapi.json</a> · <a href="dashboard/">dashboard</a></p>'
        f"<p>{escape(info['description'])}</p>"
        "<form><label>Bearer token, if the server requires one"
        '<input id="token" type="password" autocomplete="off"></label></form>'
        f'{routes}<script type="module">{script}</script></body></html>'
    )


def _route(openapi: dict[str, Any], path: str, verb: str, operation: dict[str, Any], parameters: list[str]) -> str:
    bodies = operation.get("requestBody", {}).get("content", {})
    request, upload = bodies.get("application/json"), bodies.get("multipart/form-data")
    notes = []
    if upload is not None:
        notes.append(f"<h3>Fields</h3>{_fields(upload['schema'])}")
    if request is not None:
        names = [schema["$ref"].rpartition("/")[2] for schema in _alternatives(request["schema"])]
        for name in names:
            title = "Fields" if len(names) == 1 else f"Fields of <code>{escape(name)}</code>"
            notes.append(f"<h3>{title}</h3>{_fields(openapi['components']['schemas'][name])}")
    notes.append(f"<details><summary>Responses</summary>{_responses(openapi, operation)}</details>")
    description = f"<p>{escape(operation['description'])}</p>" if operation["description"] else ""
    return (
        f'<details class="route"><summary><span class="verb {verb}">{verb.upper()}</span><code>{escape(path)}</code>'
        f'<span>{escape(operation["summary"])}</span></summary><div class="body"><div>{description}'
        f"{_form(path, verb, request, upload, parameters)}</div><div>{''.join(notes)}</div></div></details>"
    )


def _form(
    path: str, verb: str, request: dict[str, Any] | None, upload: dict[str, Any] | None, parameters: list[str]
) -> str:
    """Returns the form of a route: its example as the body or as the file, or a field for the name in its path."""
    field = ""
    body = request or upload
    if body is not None:
        text = body["example"] if request is None else json.dumps(body["example"], indent=2)
        rows = text.count("\n") + 1
        field = f'<textarea rows="{rows}" aria-label="body" spellcheck="false">{escape(text)}</textarea>'
    elif parameters:
        field = f'<label>{escape(parameters[0])}<input required autocomplete="off" spellcheck="false"></label>'
    kind = ' data-upload="true"' if upload is not None else ""
    return (
        f'<form data-path="{escape(path)}" data-verb="{verb.upper()}"{kind}>{field}<div class="buttons">'
        '<button class="send">Send</button><button type="button" class="curl">Copy as curl</button>'
        '<span class="note quiet" role="status"></span></div><pre hidden></pre></form>'
    )


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return list(schema.get("anyOf", [schema]))


def _fields(schema: dict[str, Any]) -> str:
    rows = []
    for name, field in schema["properties"].items():
        needed = " (required)" if name in schema.get("required", ()) else ""
        rows.append(f"<tr><td><code>{escape(name)}</code></td><td>{escape(field['description'])}{needed}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _responses(openapi: dict[str, Any], operation: dict[str, Any]) -> str:
    rows = []
    for code, response in operation["responses"].items():
        if "$ref" in response:
            response = openapi["components"]["responses"][code]
        rows.append(f"<tr><td><code>{code}</code></td><td>{escape(response['description'])}</td></tr>")
    return f"<table>{''.join(rows)}</table>"

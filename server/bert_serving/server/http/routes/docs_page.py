"""Renders the page at ``/docs`` from the OpenAPI description, with a form to try each route.

The page is self-contained and loads no other file.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: light-dark(#0550ae, #79b8ff); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
code, pre, textarea { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
a { color: var(--accent); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; }
summary { padding: .6rem .9rem; cursor: pointer; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
summary:hover { background: var(--soft); }
.verb { font-weight: 700; color: var(--accent); min-width: 3rem; }
.body { padding: 0 .9rem .9rem; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; }
td { border-top: 1px solid var(--line); padding: .3rem .6rem .3rem 0; vertical-align: top; }
td:first-child { white-space: nowrap; width: 1%; padding-right: 1.2rem; }
textarea, input { width: 100%; padding: .5rem; border: 1px solid var(--line); border-radius: 4px;
  background: var(--soft); color: inherit; }
button { padding: .4rem 1.1rem; margin: .5rem 0; border: 1px solid var(--accent); border-radius: 4px; cursor: pointer;
  background: var(--accent); color: light-dark(#fff, #10151c); font: inherit; }
pre { background: var(--soft); padding: .7rem; border-radius: 4px; overflow: auto; max-height: 20rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.quiet { opacity: .7; }
@media (prefers-reduced-motion: no-preference) { summary { transition: background .15s; } }
"""

_SCRIPT = """
const token = document.getElementById('token');
token.form.addEventListener('submit', event => event.preventDefault());
for (const form of document.querySelectorAll('form[data-path]')) {
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const out = form.querySelector('pre'), text = form.querySelector('textarea'), headers = {};
    if (token.value) headers.Authorization = 'Bearer ' + token.value;
    if (text) headers['Content-Type'] = 'application/json';
    out.hidden = false; out.textContent = '...';
    const started = performance.now();
    try {
      const response = await fetch('.' + form.dataset.path, {
        method: form.dataset.verb, headers, body: text ? text.value : undefined });
      let body = await response.text();
      try { body = JSON.stringify(JSON.parse(body), null, 1); } catch { }
      if (body.length > 4000) body = body.slice(0, 4000) + '\\n... ' + (body.length - 4000) + ' more characters';
      out.textContent = response.status + ' ' + response.statusText + ', ' + Math.round(performance.now() - started) +
        ' ms\\n\\n' + body;
    } catch (error) { out.textContent = 'no response: ' + error.message; }
  });
}
"""


def render(openapi: dict[str, Any]) -> str:
    """Returns the HTML page. Its links are relative, so that it works behind a proxy with a path prefix."""
    info = openapi["info"]
    sections: dict[str, list[str]] = {}
    for path, item in openapi["paths"].items():
        for verb in ("get", "post"):
            if verb in item:
                sections.setdefault(item[verb]["tags"][0], []).append(_route(openapi, path, verb, item[verb]))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(routes)}" for tag, routes in sections.items()]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(info["title"])}</h1><p class="quiet">version {escape(info["version"])} · '
        '<a href="openapi.json">openapi.json</a> · <a href="dashboard/">dashboard</a></p>'
        f"<p>{escape(info['description'])}</p>"
        "<form><label>Bearer token, if the server requires one"
        '<input id="token" type="password" autocomplete="off"></label></form>'
        f"{''.join(parts)}<script>{_SCRIPT}</script></body></html>"
    )


def _route(openapi: dict[str, Any], path: str, verb: str, operation: dict[str, Any]) -> str:
    request = operation.get("requestBody", {}).get("content", {}).get("application/json")
    parts = [f"<p>{escape(operation['description'])}</p>"] if operation["description"] else []
    if request is not None:
        for schema in _alternatives(request["schema"]):
            name = schema["$ref"].rpartition("/")[2]
            parts.append(_fields(openapi["components"]["schemas"][name]))
    parts.append(_responses(openapi, operation))
    if "{" not in path:
        example = ""
        if request is not None:
            text = json.dumps(request["example"], indent=2)
            rows = text.count("\n") + 1
            example = f'<textarea rows="{rows}" aria-label="body">{escape(text)}</textarea>'
        parts.append(
            f'<form data-path="{escape(path)}" data-verb="{verb.upper()}">{example}'
            f"<button>Send</button><pre hidden></pre></form>"
        )
    return (
        f'<details><summary><span class="verb">{verb.upper()}</span><code>{escape(path)}</code>'
        f'<span>{escape(operation["summary"])}</span></summary><div class="body">{"".join(parts)}</div></details>'
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

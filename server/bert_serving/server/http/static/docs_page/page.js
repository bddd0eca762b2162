// Forms that send requests, show the responses with long lists folded, and copy requests as commands of curl.

const MAX_TEXT = 20_000; // characters of a response that is not JSON
const MAX_LINES = 2_000; // lines of a response of JSON
const MAX_NUMBERS = 8; // a longer list of numbers is folded
const MAX_STRING = 200; // a longer string is folded
const SHOWN = 2; // numbers of a folded list that are shown

const token = document.getElementById('token');
token.form.addEventListener('submit', event => event.preventDefault());

/** Returns a button with a short text that expands to the full one and back. A span wraps like the text around it. */
function fold(short, full) {
  const button = document.createElement('span');
  button.setAttribute('role', 'button');
  button.tabIndex = 0;
  const show = isOpen => {
    button.textContent = isOpen ? full : short;
    button.setAttribute('aria-expanded', String(isOpen));
  };
  const toggle = () => show(button.getAttribute('aria-expanded') !== 'true');
  button.addEventListener('click', toggle);
  button.addEventListener('keydown', event => {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
    toggle();
  });
  show(false);
  return button;
}

/** Returns the nodes that show a value of JSON. Values become text nodes, never markup. */
function nodesOf(value, indent, budget) {
  if (typeof value === 'string' && value.length > MAX_STRING) {
    return [fold(`${JSON.stringify(value.slice(0, 40))} … ${value.length - 40} more characters`, JSON.stringify(value))];
  }
  if (value === null || typeof value !== 'object') return [JSON.stringify(value)];
  const isList = Array.isArray(value);
  const isSimple = isList && value.every(item => typeof item === 'number' || item === null);
  if (isSimple && value.length > MAX_NUMBERS) {
    return [fold(`[${value.slice(0, SHOWN).join(', ')}, … ${value.length - SHOWN} more]`, `[${value.join(', ')}]`)];
  }
  if (isSimple) return [JSON.stringify(value).replaceAll(',', ', ')];
  const entries = Object.entries(value);
  if (!entries.length) return [isList ? '[]' : '{}'];
  const inner = `${indent}  `, nodes = [isList ? '[' : '{'];
  for (const [index, [key, item]] of entries.entries()) {
    if (budget.lines-- <= 0) {
      nodes.push(`\n${inner}… ${entries.length - index} more`);
      break;
    }
    nodes.push(`\n${inner}${isList ? '' : `${JSON.stringify(key)}: `}`, ...nodesOf(item, inner, budget));
    if (index < entries.length - 1) nodes.push(',');
  }
  return [...nodes, `\n${indent}${isList ? ']' : '}'}`];
}

/** Returns the nodes that show a body: of JSON or of another text. */
function bodyOf(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return text.length > MAX_TEXT ? [text.slice(0, MAX_TEXT), `\n… ${text.length - MAX_TEXT} more characters`] : [text];
  }
  return nodesOf(value, '', { lines: MAX_LINES });
}

/** Returns the request of a form; the address has the name that the form asks for, if any. */
function requestOf(form) {
  const text = form.querySelector('textarea')?.value;
  const name = form.querySelector('input')?.value ?? '';
  const url = new URL('.' + form.dataset.path.replace('{name}', () => encodeURIComponent(name)), location.href).href;
  if (!form.dataset.upload) return { url, method: form.dataset.verb, body: text };
  const body = new FormData();
  body.append('purpose', 'batch');
  body.append('file', new Blob([text]), 'requests.jsonl');
  return { url, method: form.dataset.verb, body };
}

/**
 * Returns a request as a command for a POSIX shell. The token stays out of it, because shells keep a history. With --data-raw,
 * a body that begins with @ names no file.
 */
function curlOf({ url, method, body }) {
  const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl ${quoted(url)}`];
  if (token.value) parts.push('-H "Authorization: Bearer $TOKEN"');
  if (body instanceof FormData) parts.push('-F purpose=batch', '-F file=@requests.jsonl');
  else if (body !== undefined) parts.push("-H 'Content-Type: application/json'", `--data-raw ${quoted(body)}`);
  else if (method !== 'GET') parts.push(`-X ${method}`);
  return parts.join(' \\\n  ');
}

/** Copies a text. Browsers offer the clipboard to secure pages only, so another way follows. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand('copy');
    area.remove();
    return isCopied;
  }
}

async function send(form) {
  const out = form.querySelector('pre'), { url, method, body } = requestOf(form), headers = {};
  const show = (isFailed, ...nodes) => {
    out.replaceChildren(...nodes);
    out.dataset.failed = String(isFailed);
  };
  if (token.value) headers.Authorization = 'Bearer ' + token.value;
  if (typeof body === 'string') headers['Content-Type'] = 'application/json';
  out.hidden = false;
  show(false, '…');
  const started = performance.now();
  try {
    const response = await fetch(url, { method, headers, body });
    const text = await response.text();
    const passed = Math.round(performance.now() - started);
    show(!response.ok, `${response.status} ${response.statusText}, ${passed} ms\n\n`, ...bodyOf(text));
  } catch (error) {
    show(true, `no response: ${error.message}`);
  }
}

/** Fills in the name of the first model, file or batch in the list of the server, if the field is empty. */
async function suggestName(field) {
  try {
    const list = `.${field.form.dataset.path.split('/{name}')[0]}`;
    const response = await fetch(list, { headers: token.value ? { Authorization: 'Bearer ' + token.value } : {} });
    const { data } = await response.json();
    field.value ||= data[0].id;
  } catch {
    // The user enters the name.
  }
}

for (const form of document.querySelectorAll('form[data-path]')) {
  const field = form.querySelector('input');
  if (field) form.closest('details').addEventListener('toggle', () => suggestName(field));
  const note = form.querySelector('.note');
  form.addEventListener('submit', event => {
    event.preventDefault();
    send(form);
  });
  form.querySelector('.curl').addEventListener('click', async () => {
    const command = curlOf(requestOf(form));
    const out = form.querySelector('pre');
    if (await copy(command)) {
      note.textContent = token.value ? 'Copied. Set the variable TOKEN first.' : 'Copied.';
    } else {
      note.textContent = 'The browser does not allow copying; the command is below.';
      out.hidden = false;
      out.dataset.failed = 'false';
      out.replaceChildren(command);
    }
  });
}

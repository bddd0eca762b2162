// DOM helpers. Text from servers becomes text nodes, never markup.

export const $ = id => document.getElementById(id);

/** Creates an element. Properties are DOM properties; `data` and `aria` are maps. */
export function el(tag, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  node.append(...children);
  return node;
}

/** Sets a text only if it changed, so that a selection or a screen reader is not interrupted. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Fills the body of a table with rows of texts and reuses existing nodes. A cell may be `{text, state}`, shown as a
 * badge, or `{text, title}`.
 */
export function fill(body, rows) {
  const heads = [...body.parentElement.tHead.rows[0].cells].map(cell => cell.textContent);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.appendChild(blankRow(heads));
    cells.forEach((cell, column) => {
      const { text, state = '', title = '' } = typeof cell === 'string' ? { text: cell } : cell;
      const target = row.cells[column].firstElementChild;
      say(target, text);
      if (target.dataset.state !== state) target.dataset.state = state;
      if (target.title !== title) target.title = title;
    });
  });
}

function blankRow(heads) {
  const cells = heads.map((head, column) => {
    const cell = el(column ? 'td' : 'th', { data: { head } }, el('span'));
    if (!column) cell.scope = 'row';
    return cell;
  });
  return el('tr', {}, ...cells);
}

/** Fills a description list with pairs of texts; an optional third text becomes the tooltip. */
export function describe(list, pairs) {
  while (list.children.length > pairs.length) list.lastElementChild.remove();
  pairs.forEach(([term, value, title = ''], index) => {
    const item = list.children[index] ?? list.appendChild(el('div', {}, el('dt'), el('dd')));
    say(item.children[0], term);
    say(item.children[1], value);
    if (item.children[1].title !== title) item.children[1].title = title;
  });
}

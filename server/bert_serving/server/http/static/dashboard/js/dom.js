// The page's own small tools. Text of servers becomes text nodes only, never markup.

export const $ = id => document.getElementById(id);

/** An element. Properties are those of the DOM; `data` and `aria` are maps. */
export function el(tag, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  node.append(...children);
  return node;
}

/** Sets a text only if it is another one, so that what is selected or read aloud stays. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Fills a table's body with rows of texts, in the nodes that are there already. A cell may be `{text, state}`, which
 * becomes a badge, or `{text, title}`.
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

/** Fills a description list with pairs of texts; a third one is shown when the pointer rests on the value. */
export function describe(list, pairs) {
  while (list.children.length > pairs.length) list.lastElementChild.remove();
  pairs.forEach(([term, value, title = ''], index) => {
    const item = list.children[index] ?? list.appendChild(el('div', {}, el('dt'), el('dd')));
    say(item.children[0], term);
    say(item.children[1], value);
    if (item.children[1].title !== title) item.children[1].title = title;
  });
}

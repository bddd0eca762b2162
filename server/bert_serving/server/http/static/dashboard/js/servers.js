// Which servers are watched, and what the browser remembers of them.
//
// Added servers and settings are kept for good (localStorage). Tokens and histories are kept for this tab only
// (sessionStorage). A token belongs to one address and is sent to no other.

const SERVERS = 'bert-serving:servers';

/** Wraps a storage of the browser. If access is denied, nothing is stored and the page works without it. */
function store(name) {
  const guarded = action => {
    try {
      return action(globalThis[name]);
    } catch {
      return null;
    }
  };
  return {
    get: key => guarded(it => JSON.parse(it.getItem(key))),
    set: (key, value) => guarded(it => it.setItem(key, JSON.stringify(value))),
    remove: key => guarded(it => it.removeItem(key)),
  };
}

export const lasting = store('localStorage');
export const fleeting = store('sessionStorage');

export const token = {
  get: url => fleeting.get(`bert-serving:token:${url}`),
  set: (url, value) => fleeting.set(`bert-serving:token:${url}`, value),
  remove: url => fleeting.remove(`bert-serving:token:${url}`),
};

export const savedHistory = {
  get: url => fleeting.get(`bert-serving:history:${url}`),
  set: (url, value) => fleeting.set(`bert-serving:history:${url}`, value),
};

/**
 * Normalizes a typed address: `host:8125`, `http://host:8125/dashboard/` and `http://host:8125` are equal.
 *
 * @throws {Error} the text is not an HTTP address; the message gives the reason
 */
export function baseUrl(text) {
  const typed = text.trim();
  const hasScheme = /^[a-z][a-z\d+.-]*:\/\//i.test(typed);
  let url;
  try {
    url = new URL(hasScheme ? typed : `http://${typed}`);
  } catch {
    throw new Error(`“${typed}” is not an address; use the form http://host:8125`);
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new Error(`“${typed}” is not an HTTP address; use the form http://host:8125`);
  }
  if (url.username || url.password) throw new Error('the address must not contain a user name or password');
  return `${url.origin}${url.pathname.replace(/\/(dashboard\/?)?(index\.html)?$/, '')}/`;
}

/** Returns the server that served this page; null if another host served it. */
export function ownUrl(location) {
  const match = /^(.*\/)dashboard\/(index\.html)?$/.exec(location.pathname);
  return match && location.protocol.startsWith('http') ? location.origin + match[1] : null;
}

/** Returns the distinct servers to watch: the own one, those in the query of the page, and those added before. */
export function watched(location) {
  const named = [];
  for (const text of new URLSearchParams(location.search).getAll('server')) {
    try {
      named.push(baseUrl(text));
    } catch {
      // Invalid addresses in a link are skipped.
    }
  }
  return [...new Set([ownUrl(location), ...named, ...added()].filter(Boolean))];
}

function added() {
  const saved = lasting.get(SERVERS);
  return Array.isArray(saved) ? saved.filter(url => typeof url === 'string' && /^https?:\/\//.test(url)) : [];
}

export function remember(url) {
  lasting.set(SERVERS, [...new Set([...added(), url])]);
}

export function forget(url) {
  lasting.set(SERVERS, added().filter(other => other !== url));
  token.remove(url);
}

// Which servers are watched, and what the browser remembers of them.
//
// Added servers and settings are kept for good (localStorage). Tokens and histories are kept for this tab only
// (sessionStorage). A token belongs to one address and is sent to no other.

const SERVERS = 'bert-serving:servers';

/** One of the browser's stores; where it is closed to us, nothing is remembered and all else works. */
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
 * The base address that a person meant: `host:8125`, `http://host:8125/dashboard/` and `http://host:8125` are one.
 *
 * @throws {Error} it is no address of HTTP; the message says why
 */
export function baseUrl(text) {
  const typed = text.trim();
  const hasScheme = /^[a-z][a-z\d+.-]*:\/\//i.test(typed);
  let url;
  try {
    url = new URL(hasScheme ? typed : `http://${typed}`);
  } catch {
    throw new Error(`“${typed}” is not an address; write it like http://host:8125`);
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new Error(`“${typed}” is not an address of HTTP; write it like http://host:8125`);
  }
  if (url.username || url.password) throw new Error('leave name and password out of the address');
  return `${url.origin}${url.pathname.replace(/\/(dashboard\/?)?(index\.html)?$/, '')}/`;
}

/** The server that this page comes from; null if it comes from somewhere else. */
export function ownUrl(location) {
  const match = /^(.*\/)dashboard\/(index\.html)?$/.exec(location.pathname);
  return match && location.protocol.startsWith('http') ? location.origin + match[1] : null;
}

/** The servers to watch, without repetition: this one, those named in the address of the page, those added before. */
export function watched(location) {
  const named = [];
  for (const text of new URLSearchParams(location.search).getAll('server')) {
    try {
      named.push(baseUrl(text));
    } catch {
      // A link with a mistake in it shows the servers that it names rightly.
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

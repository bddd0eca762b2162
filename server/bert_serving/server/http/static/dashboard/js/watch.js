// Polls one watched server and tracks its state.

import { History, point, sample } from './history.js';
import { savedHistory, token } from './servers.js';
import { serverName } from './format.js';

const REQUEST_TIMEOUT = 10_000; // ms
const MAX_HISTORY_AGE = 2 * 3600; // s

/**
 * `phase` is one of
 * - `connecting`: no response yet
 * - `up`: the last response was a status; its state may be starting, draining or degraded
 * - `failed`: the HTTP server responds, but the service behind it does not
 * - `unauthorized`: the server requires a token
 * - `unreachable`: no response, or a response that is not from bert-serving
 */
export class Watch {
  constructor(url, now = Date.now() / 1000) {
    this.url = url;
    this.name = serverName(url);
    this.phase = 'connecting';
    this.problem = '';
    this.model = null;
    this.before = null;
    this.now = null;
    this.history = History.from(savedHistory.get(url), now - MAX_HISTORY_AGE);
    if (this.history.length) this.history.gap(now);
    this.pending = null;
  }

  /** The state in the status of the server, or the phase if the server is not up. */
  get state() {
    return this.phase === 'up' ? String(this.now.status.state ?? 'ready') : this.phase;
  }

  /** Whether a rate is unknown, because it needs a second sample. */
  get needsSample() {
    return this.phase === 'up' && this.before === null;
  }

  /** Requests the status once. Concurrent calls share one request. */
  poll() {
    this.pending ??= this.#poll().finally(() => { this.pending = null; });
    return this.pending;
  }

  async #poll() {
    const isFirst = this.now === null;
    try {
      const [status, exposition, model] = await Promise.all([
        this.#get('status/server').then(response => response.json()),
        // These two are optional: the page works without them.
        this.#get('metrics').then(response => response.text()).catch(() => ''),
        isFirst ? this.#get('v1/models').then(response => response.json()).catch(() => null) : null,
      ]);
      if (typeof status?.server_version !== 'string') throw new Problem('unreachable', 'the response is not from bert-serving');
      if (model) this.model = String(model.data?.[0]?.id ?? '') || null;
      this.#record(sample(Date.now() / 1000, status, exposition));
    } catch (error) {
      const problem = error instanceof Problem ? error : this.#problemOf(error);
      [this.phase, this.problem] = [problem.phase, problem.message];
      this.history.gap(Date.now() / 1000);
    }
  }

  #record(now) {
    if (this.now && this.now.started !== now.started) this.history.gap(now.t);
    [this.before, this.now] = [this.now, now];
    [this.phase, this.problem] = ['up', ''];
    this.history.push(point(this.before, now));
  }

  async #get(path) {
    const known = token.get(this.url);
    const response = await fetch(this.url + path, {
      headers: known ? { Authorization: `Bearer ${known}` } : {},
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      referrerPolicy: 'no-referrer',
      signal: AbortSignal.timeout(REQUEST_TIMEOUT),
    });
    if (response.ok) return response;
    if (response.status === 401) {
      throw new Problem('unauthorized', known ? 'The token is wrong.' : 'This server requires a token.');
    }
    const body = await response.json().catch(() => ({}));
    const reason = body.description ? `: ${body.description}` : '';
    if (response.status >= 500) throw new Problem('failed', `Status ${response.status}${reason}`);
    throw new Problem('unreachable', `the response is not from bert-serving (${response.status} for ${path})`);
  }

  #problemOf(error) {
    if (error.name === 'TimeoutError') return new Problem('unreachable', `no response within ${REQUEST_TIMEOUT / 1000} s`);
    if (error instanceof SyntaxError) return new Problem('unreachable', 'the response is not from bert-serving');
    if (location.protocol === 'https:' && this.url.startsWith('http:')) {
      return new Problem('unreachable', 'a page loaded over https cannot connect to a server over http');
    }
    const elsewhere = new URL(this.url).origin !== location.origin;
    return new Problem('unreachable', 'the connection failed' + (elsewhere ? `, or its -cors does not allow ${location.origin}` : ''));
  }

  save() {
    savedHistory.set(this.url, this.history);
  }
}

class Problem extends Error {
  constructor(phase, message) {
    super(message);
    this.phase = phase;
  }
}

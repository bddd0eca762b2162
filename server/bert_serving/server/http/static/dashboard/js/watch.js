// One server that is watched: asks it, and knows how it is.

import { History, point, sample } from './history.js';
import { savedHistory, token } from './servers.js';
import { serverName } from './format.js';

const PATIENCE = 10_000; // ms for an answer
const OLD = 2 * 3600; // s after which a saved history is no use any more

/**
 * `phase` is one of
 * - `asking`: there was no answer yet
 * - `up`: the last answer was a status, which may say that the server starts, drains or is degraded
 * - `unserved`: HTTP answers, but the service behind it does not
 * - `locked`: it wants a token
 * - `away`: nothing answers, or something that is no server of ours
 */
export class Watch {
  constructor(url, now = Date.now() / 1000) {
    this.url = url;
    this.name = serverName(url);
    this.phase = 'asking';
    this.problem = '';
    this.model = null;
    this.before = null;
    this.now = null;
    this.history = History.from(savedHistory.get(url), now - OLD);
    if (this.history.length) this.history.gap(now);
    this.asking = null;
  }

  /** What the server says of itself: its state, or how it fails to answer. */
  get state() {
    return this.phase === 'up' ? String(this.now.status.state ?? 'ready') : this.phase;
  }

  /** Asks once. A call during another one waits for that. */
  poll() {
    this.asking ??= this.#poll().finally(() => { this.asking = null; });
    return this.asking;
  }

  async #poll() {
    const isFirst = this.now === null;
    try {
      const [status, exposition, model] = await Promise.all([
        this.#get('status/server').then(answer => answer.json()),
        // The page is of use without these two, so that they are missing is no problem of its own.
        this.#get('metrics').then(answer => answer.text()).catch(() => ''),
        isFirst ? this.#get('v1/models').then(answer => answer.json()).catch(() => null) : null,
      ]);
      if (typeof status?.server_version !== 'string') throw new Problem('away', 'what answers there is no bert-serving');
      if (model) this.model = String(model.data?.[0]?.id ?? '') || null;
      this.#saw(sample(Date.now() / 1000, status, exposition));
    } catch (error) {
      const problem = error instanceof Problem ? error : this.#problemOf(error);
      [this.phase, this.problem] = [problem.phase, problem.message];
      this.history.gap(Date.now() / 1000);
    }
  }

  #saw(now) {
    if (this.now && this.now.started !== now.started) this.history.gap(now.t);
    [this.before, this.now] = [this.now, now];
    [this.phase, this.problem] = ['up', ''];
    this.history.push(point(this.before, now));
  }

  async #get(path) {
    const known = token.get(this.url);
    const answer = await fetch(this.url + path, {
      headers: known ? { Authorization: `Bearer ${known}` } : {},
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      referrerPolicy: 'no-referrer',
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.ok) return answer;
    if (answer.status === 401) {
      throw new Problem('locked', known ? 'That is not its token.' : 'This server wants its token.');
    }
    const said = await answer.json().catch(() => ({}));
    const why = said.description ? `: ${said.description}` : '';
    if (answer.status >= 500) throw new Problem('unserved', `HTTP answers ${answer.status}${why}`);
    throw new Problem('away', `what answers there is no bert-serving (${answer.status} for ${path})`);
  }

  #problemOf(error) {
    if (error.name === 'TimeoutError') return new Problem('away', `no answer within ${PATIENCE / 1000} s`);
    if (error instanceof SyntaxError) return new Problem('away', 'what answers there is no bert-serving');
    if (location.protocol === 'https:' && this.url.startsWith('http:')) {
      return new Problem('away', 'a page that came by https may not ask a server by http');
    }
    const elsewhere = new URL(this.url).origin !== location.origin;
    return new Problem('away', 'it cannot be reached' + (elsewhere ? `, or its -cors does not allow ${location.origin}` : ''));
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

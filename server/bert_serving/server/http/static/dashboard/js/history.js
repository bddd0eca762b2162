// Computes rates and durations between two samples of a server, and keeps a history of them.
// This module uses neither the DOM nor the network.

import { addUp, parse, quantile, since } from './prometheus.js';

/** Maximum number of points per server: one hour at one point every five seconds. */
export const LIMIT = 720;
/** Routes that compute vectors or scores; the latency of HTTP is that of these routes only. */
export const ENCODING_PATHS = new Set([
  '/encode',
  '/v1/embeddings',
  '/invocations',
  '/',
  '/embed',
  '/embed_all',
  '/embed_sparse',
  '/similarity',
  '/v1/embed',
  '/v2/embed',
  '/predict',
  '/classify',
  '/rerank',
  '/v1/rerank',
  '/v2/rerank',
]);
const FIELDS = [
  't', 'requests', 'errors', 'texts', 'tokens', 'httpP50', 'httpP95', 'p50', 'p95', 'queued', 'computing', 'batch',
  'waiting', 'open', 'inFlight', 'clients', 'size', 'padding', 'cut', 'unknown',
];

/**
 * Builds a sample of a server at the time `t` (seconds).
 *
 * @param {object} status the JSON of /status/server
 * @param {string} exposition the text of /metrics; may be empty
 */
export function sample(t, status, exposition) {
  const statistic = status.statistic ?? {};
  return {
    t,
    status,
    started: status.server_start_time,
    requests: statistic.num_data_request ?? 0,
    errors: sum(Object.values(statistic.num_error ?? {})),
    texts: statistic.num_total_seq ?? 0,
    tokens: statistic.num_total_token ?? 0,
    cut: statistic.num_truncated ?? 0,
    unknown: statistic.num_unknown_token ?? 0,
    clients: statistic.num_active_client ?? 0,
    queue: status.queue ?? {},
    times: status.times ?? {},
    batches: status.batches ?? {},
    workers: new Map((status.workers ?? []).map(worker => [worker.name, worker])),
    tokenizers: new Map((status.tokenizers ?? []).map(tokenizer => [tokenizer.name, tokenizer])),
    ...fromMetrics(parse(exposition)),
  };
}

/** Reads the values that only /metrics has: HTTP metrics and the libraries of the engines. */
function fromMetrics(samples) {
  const libraries = samples.filter(({ name }) => name === 'bert_serving_engine_info').map(({ labels }) => labels);
  return { http: httpOf(samples), libraries };
}

/** Reads the HTTP metrics: counts by path, requests in progress and queued requests. */
function httpOf(samples) {
  const http = { paths: new Map(), inProgress: 0, queued: 0 };
  const path = name => {
    if (!http.paths.has(name)) http.paths.set(name, { count: 0, rejected: 0, failed: 0, buckets: new Map() });
    return http.paths.get(name);
  };
  for (const { name, labels, value } of samples) {
    if (name === 'bert_serving_http_requests_in_progress') http.inProgress = value;
    else if (name === 'bert_serving_http_requests_queued') http.queued = value;
    else if (name === 'bert_serving_http_request_duration_seconds_bucket') {
      path(labels.path).buckets.set(labels.le === '+Inf' ? Infinity : Number(labels.le), value);
    } else if (name === 'bert_serving_http_requests_total') {
      const counts = path(labels.path);
      counts.count += value;
      if (labels.code >= '500') counts.failed += value;
      else if (labels.code >= '400') counts.rejected += value;
    }
  }
  return http;
}

/** Returns whether two samples are from the same run of a server, so that their counters are comparable. */
export function comparable(before, now) {
  return Boolean(before) && before.started === now.started && now.t > before.t && now.requests >= before.requests;
}

/** Computes the point between two samples; rates are null if the samples are not comparable. */
export function point(before, now) {
  const known = comparable(before, now);
  const rate = name => (known ? (now[name] - before[name]) / (now.t - before.t) : null);
  const share = (part, whole) => {
    const grown = known ? now[whole] - before[whole] : 0;
    return grown > 0 ? Math.min(1, Math.max(0, (now[part] - before[part]) / grown)) : null;
  };
  const times = known ? since(encodingBuckets(before), encodingBuckets(now)) : new Map();
  const total = known ? since(bucketsOf(before.times.total), bucketsOf(now.times.total)) : new Map();
  return {
    t: now.t,
    requests: rate('requests'),
    errors: rate('errors'),
    texts: rate('texts'),
    tokens: rate('tokens'),
    httpP50: quantile(0.5, times),
    httpP95: quantile(0.95, times),
    p50: quantile(0.5, total),
    p95: quantile(0.95, total),
    queued: known ? meanSeconds(before, now, 'queue') : null,
    computing: known ? meanSeconds(before, now, 'compute') : null,
    batch: known ? batchSeconds(before, now) : null,
    waiting: now.queue.sequences ?? 0,
    open: now.queue.requests ?? 0,
    inFlight: now.queue.batches_in_flight ?? 0,
    clients: now.clients,
    size: known ? meanSize(before, now) : null,
    padding: known ? paddingShare(before, now) : null,
    cut: share('cut', 'texts'),
    unknown: share('unknown', 'tokens'),
  };
}

/** Adds the histograms of the routes that compute, from the start of the server to a sample. */
export function encodingBuckets(now) {
  return addUp([...now.http.paths].filter(([path]) => ENCODING_PATHS.has(path)).map(([, counts]) => counts.buckets));
}

/** Converts a histogram of the status to the cumulative buckets of Prometheus. */
function bucketsOf({ bounds = [], counts = [] } = {}) {
  let below = 0;
  return new Map(counts.map((count, index) => [bounds[index] ?? Infinity, below += count]));
}

/** Computes the mean duration of a stage over requests completed between two samples; null if there are none. */
function meanSeconds(before, now, stage) {
  const [earlier, later] = [before.times[stage], now.times[stage]];
  if (!earlier || !later) return null;
  const grown = sum(later.counts) - sum(earlier.counts);
  return grown > 0 ? Math.max(0, later.sum - earlier.sum) / grown : null;
}

/** Computes the texts per batch completed between two samples; null if there are none, or the status lacks them. */
function meanSize(before, now) {
  const [earlier, later] = [before.batches.sequences, now.batches.sequences];
  if (!earlier || !later) return null;
  const grown = sum(later.counts) - sum(earlier.counts);
  return grown > 0 ? (later.sum - earlier.sum) / grown : null;
}

/** Computes the share of padding in these batches, if each is padded to its longest text. */
function paddingShare(before, now) {
  const padding = now.batches.padding - before.batches.padding;
  const all = padding + now.batches.tokens - before.batches.tokens;
  return all > 0 ? padding / all : null;
}

/** Computes the mean duration of the last batch, over workers that completed one since `before`, or ever if it is null. */
export function batchSeconds(before, now) {
  const times = [];
  for (const [name, worker] of now.workers) {
    if (worker.batches > (before?.workers.get(name)?.batches ?? 0)) times.push(worker.last_batch_seconds);
  }
  return times.length ? sum(times) / times.length : null;
}

/** Computes texts and tokens per second of one worker; null if the samples are not comparable. */
export function workerRates(before, now, name) {
  if (!comparable(before, now)) return { texts: null, tokens: null };
  const [earlier, later] = [before.workers.get(name), now.workers.get(name)];
  const rate = key => (later[key] - (earlier?.[key] ?? 0)) / (now.t - before.t);
  return { texts: rate('sequences'), tokens: rate('tokens') };
}

/** History of one server, one column per field; the oldest points are dropped first. */
export class History {
  constructor(columns = {}) {
    for (const field of FIELDS) this[field] = columns[field] ?? [];
  }

  get length() {
    return this.t.length;
  }

  push(values) {
    for (const field of FIELDS) {
      this[field].push(values[field] ?? null);
      if (this[field].length > LIMIT) this[field].shift();
    }
  }

  /** Adds a gap to the lines: there is no sample at this time. */
  gap(t) {
    if (this.length && this.isSample(this.length - 1)) this.push({ t });
  }

  /** Returns whether a point is a sample; else it is a gap. */
  isSample(index) {
    return FIELDS.some(field => field !== 't' && this[field][index] !== null);
  }

  /** Returns the index of the sample nearest to the time `t`; null if there is none. */
  nearest(t) {
    let found = null;
    for (let index = 0; index < this.length; index++) {
      if (!this.isSample(index)) continue;
      if (found === null || Math.abs(this.t[index] - t) < Math.abs(this.t[found] - t)) found = index;
    }
    return found;
  }

  last(field) {
    return this[field].at(-1) ?? null;
  }

  toJSON() {
    const short = value => (value === null || Number.isInteger(value) ? value : Number(value.toPrecision(6)));
    const columns = FIELDS.map(field => [field, field === 't' ? this.t.map(Math.round) : this[field].map(short)]);
    return Object.fromEntries(columns);
  }

  /** Restores a saved history; returns an empty one if it is invalid or ends before `oldest`. */
  static from(saved, oldest) {
    const lengths = new Set(FIELDS.map(field => saved?.[field]?.length));
    const [length] = lengths;
    const isValid = lengths.size === 1 && length > 0 && length <= LIMIT && saved.t[length - 1] >= oldest;
    return new History(isValid ? saved : {});
  }
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

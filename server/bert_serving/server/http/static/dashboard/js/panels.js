// Renders the selected server: tiles, tables and facts.

import { ENCODING_PATHS, batchSeconds, encodingBuckets, workerRates } from './history.js';
import { addUp, quantile } from './prometheus.js';
import {
  amount, count, duration, folder, memory, moment, poolingName, seconds, share, shareDifference,
} from './format.js';
import { $, describe, el, fill, say } from './dom.js';

/** Descriptions of the error types of docs/protocol.md. */
const ERRORS = {
  invalid_request: 'the message, or a value in it, is invalid',
  too_large: 'the request exceeds a limit of the server',
  encoding_failed: 'the engine cannot encode a text',
  overloaded: 'the queue of the server is full',
  rate_limited: 'a limit of the key is used up',
  draining: 'the server is stopping',
  forbidden: 'the client is not allowed to send this request',
  internal: 'unexpected error in the server; see its log',
};

/** Names of the engines' libraries by package. */
const LIBRARIES = { onnxruntime: 'ONNX Runtime', tensorflow: 'TensorFlow', torch: 'PyTorch' };

/** Drift metrics: key, title, formatter, alert threshold, description; see docs/monitoring.md. */
const DRIFT = [
  ['shift', 'Shift', amount, 0.2, 'distance of the mean vectors of window and reference, divided by the spread of the reference'],
  ['cosine_distance', 'Cosine distance', amount, null, '1 - cosine similarity of the mean vectors of window and reference'],
  ['length_psi', 'Length index', amount, 0.25, 'population stability index of text lengths in tokens'],
  ['unknown_share_difference', 'Unknown tokens', shareDifference, 0.05, 'share of unknown tokens minus their share in the reference'],
];
/** Number of texts below which these values are noise. */
const MIN_TEXTS = 1000;

export function show(watch) {
  if (!watch.now) return;
  tiles(watch);
  workers(watch);
  machines(watch);
  tokenizers(watch);
  names(watch);
  models(watch);
  drift(watch.now.status);
  http(watch.now.http);
  clients(watch.now.status.statistic ?? {});
  errors(watch.now.status.statistic?.num_error ?? {});
  facts(watch);
}

function tiles({ history, now }) {
  const statistic = now.status.statistic ?? {};
  const tokens = history.last('tokens');
  const waiting = now.queue.tokens ?? 0;
  const work = waiting && tokens ? `, ${seconds(waiting / tokens)} of work` : '';
  const failed = now.errors / Math.max(1, now.errors + now.requests);
  const texts = {
    requests: [amount(history.last('requests')), `${amount(now.requests)} in all`],
    texts: [amount(history.last('texts')), `${amount(tokens)} tokens/s`],
    http: httpTile(history, now),
    batch: [seconds(history.last('batch') ?? batchSeconds(null, now)), `${count(now.queue.batches_in_flight)} running`],
    waiting: [count(now.queue.sequences), `${amount(waiting)} tokens${work}`],
    clients: [count(statistic.num_active_client), `${count(statistic.num_total_client)} in all`],
    errors: [count(now.errors), now.errors ? `${share(failed)} of all` : 'since the start'],
    cache: cacheTile(now.status.cache),
    cut: [share(now.cut / Math.max(1, now.texts)), `${share(now.unknown / Math.max(1, now.tokens))} ${now.status.unknown_token || 'unknown'}`],
  };
  for (const [name, [value, more]] of Object.entries(texts)) {
    const tile = $(`tile-${name}`);
    say(tile.querySelector('dd'), value);
    say(tile.querySelector('small'), more);
  }
  const hasCache = Boolean(now.status.cache?.max_bytes);
  $('tile-cache').hidden = !hasCache;
  $('tiles').classList.toggle('nine', hasCache);
  $('tile-errors').dataset.alarm = String((history.last('errors') ?? 0) > 0);
}

/** Returns the share of texts that no worker computed, and how full the cache is. */
function cacheTile(cache) {
  if (!cache?.max_bytes) return [share(null), ''];
  const saved = cache.hits + cache.coalesced;
  return [share(saved / Math.max(1, saved + cache.misses)), `${amount(cache.entries)} vectors, ${share(cache.bytes / cache.max_bytes)} full`];
}

/** Returns the durations of HTTP requests since the previous sample, or since the start if there was no request. */
function httpTile(history, now) {
  const p95 = history.last('httpP95');
  if (p95 !== null) return [seconds(p95), `p50 ${seconds(history.last('httpP50'))}`];
  const sinceStart = quantile(0.95, encodingBuckets(now));
  return [seconds(sinceStart), sinceStart === null ? 'no requests' : 'since the start'];
}

function workers({ before, now }) {
  const hasGpu = [...now.workers.values()].some(worker => 'gpu_memory_total' in worker);
  const named = [...now.workers.values()].sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
  const rows = named.map(worker => {
    const rates = workerRates(before, now, worker.name);
    const [name, starts] = splitName(worker.name);
    return [
      name, String(worker.device ?? ''), String(worker.engine ?? ''),
      worker.in_flight ? { text: `busy, ${worker.in_flight} ${worker.in_flight === 1 ? 'batch' : 'batches'}`, state: 'busy' } : { text: 'idle', state: 'idle' },
      amount(rates.texts), amount(rates.tokens), amount(worker.batches), amount(worker.sequences),
      worker.batches ? seconds(worker.last_batch_seconds) : seconds(null),
      share(worker.gpu_utilization), memory(worker.gpu_memory_used, worker.gpu_memory_total), starts,
    ];
  });
  const present = new Set(rows.map(([name]) => name));
  for (let number = 0; number < Math.min(now.status.num_worker ?? 0, 1024); number++) {
    if (!present.has(`worker-${number}`)) {
      rows.push([`worker-${number}`, '', '', { text: 'not running', state: 'failed' }, ...Array(8).fill('')]);
    }
  }
  fill($('workers').tBodies[0], rows);
  $('workers').classList.toggle('no-gpu', !hasGpu);
  const devices = new Set(named.map(worker => worker.device));
  const local = named.filter(worker => !worker.machine).length;
  const note = `${local} of ${now.status.num_worker ?? '?'} running, on ${[...devices].join(', ') || 'no device'}`;
  say($('workers-note'), note + machinesNote(now.status.joined, named.length - local));
}

/** Shows the machines that have joined, if there are any. */
function machines({ before, now }) {
  const joined = now.status.joined?.machines ?? [];
  $('machines-panel').hidden = joined.length === 0;
  fill($('machines').tBodies[0], joined.map(machine => {
    const own = [...now.workers.values()].filter(worker => worker.machine === machine.name);
    const rates = own.map(worker => workerRates(before, now, worker.name));
    const total = name => (rates.some(rate => rate[name] === null) ? null : rates.reduce((sum, rate) => sum + rate[name], 0));
    const state = machine.draining ? { text: 'draining', state: 'high' } : { text: 'joined', state: 'busy' };
    return [
      machine.name, state, String(machine.host ?? ''), [...new Set(own.map(worker => worker.device))].join(', '),
      count(machine.workers ?? own.length), amount(total('texts')), amount(total('tokens')), amount(machine.sequences),
      duration(machine.joined_seconds),
    ];
  }));
}

/** Shows the tokenizer processes, if the server has any. */
function tokenizers({ before, now }) {
  const wanted = now.status.num_tokenizer ?? 0;
  $('tokenizers-panel').hidden = !wanted && now.tokenizers.size === 0;
  const rows = [...now.tokenizers.values()].map(tokenizer => {
    const earlier = before?.tokenizers.get(tokenizer.name);
    const passed = earlier ? now.t - before.t : 0;
    const rate = passed > 0 ? (tokenizer.texts - earlier.texts) / passed : null;
    const [name, starts] = splitName(tokenizer.name);
    return [name, share(tokenizer.busy_share), amount(rate), amount(tokenizer.texts), starts];
  }).sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }));
  const present = new Set(rows.map(([name]) => name));
  for (let number = 0; number < Math.min(Number(wanted) || 0, 1024); number++) {
    if (!present.has(`tokenizer-${number}`)) {
      rows.push([`tokenizer-${number}`, { text: 'not running', state: 'failed' }, '', '', '']);
    }
  }
  fill($('tokenizers').tBodies[0], rows);
  say($('tokenizers-note'), `the ventilator is busy for ${share(now.status.ventilator?.busy_share)} of the time`);
}

/** Shows what each name uses, on a server with -http_keys. */
function names({ before, now }) {
  const shares = now.status.shares ?? {};
  $('names-panel').hidden = !now.status.shares;
  const passed = before ? now.t - before.t : 0;
  fill($('names').tBodies[0], Object.entries(shares).map(([name, own]) => {
    const earlier = before?.status.shares?.[name];
    const rate = key => (earlier && passed > 0 ? Math.max(0, own[key] - earlier[key]) / passed : null);
    return [
      name, String(own.class ?? 'by size'), amount(own.weight), amount(rate('texts')), amount(rate('tokens')),
      amount(own.texts), amount(own.tokens), count(own.waiting_tokens), count(own.refused),
    ];
  }).sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })));
}

/** Shows each model, on a server with several ones. */
function models({ before, now }) {
  const found = now.status.by_model ?? {};
  $('models-panel').hidden = !now.status.by_model;
  const passed = before ? now.t - before.t : 0;
  fill($('models').tBodies[0], Object.entries(found).map(([name, own]) => {
    const earlier = before?.status.by_model?.[name];
    const rate = key => (earlier && passed > 0 ? Math.max(0, own[key] - earlier[key]) / passed : null);
    return [
      name, String(own.task), String(own.vector_space), count(own.num_ready_worker), amount(rate('sequences')),
      amount(rate('tokens')), amount(own.sequences), amount(own.tokens), count(own.queue?.sequences),
    ];
  }));
}

/** Describes the machines that have joined, or returns an empty string if none can. */
function machinesNote(joined, workers) {
  if (!joined) return '';
  const count = joined.machines.length;
  const draining = joined.machines.filter(machine => machine.draining).length;
  return `; ${workers} on ${count} joined ${count === 1 ? 'machine' : 'machines'}` +
    `${draining ? `, ${draining} draining` : ''} (${joined.num_joins} joins, ${joined.num_losses} losses)`;
}

/** Splits `worker-0.3`, the third start of worker-0. */
function splitName(name) {
  const dot = name.lastIndexOf('.');
  return dot > 0 ? [name.slice(0, dot), name.slice(dot + 1)] : [name, '1'];
}

/** Returns pairs of a model and its drift. The only model of a server has an empty name. */
function drifts({ by_model: models, drift: only }) {
  const all = models ? Object.entries(models).map(([name, own]) => [name, own.drift]) : [['', only]];
  return all.filter(([, found]) => found);
}

/** Shows the drift of each model that has a reference. */
function drift(status) {
  const all = drifts(status);
  $('drift-panel').hidden = all.length === 0;
  const named = (name, text) => (name ? `${name}: ${text}` : text);
  fill($('drift').tBodies[0], all.flatMap(([name, found]) => DRIFT.map(([key, title, shown, limit, meaning]) => {
    const isHigh = found.texts >= MIN_TEXTS && limit !== null && found[key] > limit;
    const value = isHigh ? { text: shown(found[key]), state: 'high' } : shown(found[key]);
    return [named(name, title), value, limit === null ? '' : shown(limit), meaning];
  })));
  const windows = all.map(([name, found]) => named(name, `the last ${count(found.texts)} texts`)).join('; ');
  const few = all.every(([, found]) => found.texts >= MIN_TEXTS) ? '' : `; fewer than ${count(MIN_TEXTS)} are noisy`;
  say($('drift-note'), `${windows} compared with -drift_reference${few}`);
}

/** Returns the shift of each model that has a drift reference, in words. */
function shifts(status) {
  const all = drifts(status).map(([name, found]) => `${name ? `${name}: ` : ''}shift ${amount(found.shift)}`);
  return all.join(', ') || 'not observed';
}

function http({ paths, inProgress, queued }) {
  const isUsed = ([, counts]) => counts.count > 0;
  const working = [...paths].filter(([path]) => ENCODING_PATHS.has(path)).filter(isUsed).sort(([a], [b]) => a.localeCompare(b));
  const others = [...paths].filter(([path]) => !ENCODING_PATHS.has(path)).map(([, counts]) => counts);
  const total = name => others.reduce((sum, counts) => sum + counts[name], 0);
  const rest = { count: total('count'), rejected: total('rejected'), failed: total('failed'),
    buckets: addUp(others.map(counts => counts.buckets)) };
  const used = [...working, ['all others', rest]].filter(isUsed);
  fill($('http').tBodies[0], used.map(([path, counts]) => [
    path, count(counts.count), seconds(quantile(0.5, counts.buckets)), seconds(quantile(0.95, counts.buckets)),
    count(counts.rejected), counts.failed ? { text: count(counts.failed), state: 'failed' } : '0',
  ]));
  $('http-panel').hidden = used.length === 0;
  say($('http-note'), `${count(inProgress)} in progress, ${count(queued)} queued; counts since the start`);
}

function clients(statistic) {
  const row = (title, name, shown) => [title, ...['avg', 'min', 'max'].map(kind => shown(statistic[`${kind}_${name}`]))];
  fill($('clients').tBodies[0], [
    row('Requests per client', 'request_per_client', amount),
    row('Texts per request', 'size_per_request', amount),
    row('Time between requests', 'last_two_interval', seconds),
  ]);
  say($('clients-note'), `${count(statistic.num_active_client)} active within 3 minutes, ` +
    `${count(statistic.num_total_client)} since the start; ${count(statistic.num_sys_request)} status requests`);
}

function errors(counted) {
  const rows = Object.entries(counted).filter(([, number]) => number > 0).sort(([, a], [, b]) => b - a);
  fill($('errors').tBodies[0], rows.map(([kind, number]) => [kind, ERRORS[kind] ?? '', count(number)]));
  $('errors').hidden = rows.length === 0;
  $('no-errors').hidden = rows.length > 0;
  $('errors-panel').classList.toggle('line', rows.length === 0);
}

function truncated({ cut, texts }) {
  return texts ? `${count(cut)} of ${count(texts)} (${share(cut / texts)})` : count(cut);
}

function facts({ model, now }) {
  const status = now.status;
  const list = value => (Array.isArray(value) ? value.join(', ') : String(value ?? ''));
  const folderTitle = status.tuned_model_dir ? `${status.model_dir}, tuned: ${status.tuned_model_dir}` : status.model_dir;
  const limits = [...new Set([...now.workers.values()].map(worker => worker.max_batch_tokens))];
  const versions = {
    ...Object.fromEntries(now.libraries.map(({ library, library_version: version }) => [LIBRARIES[library] ?? library, version])),
    Python: String(status.python_version ?? '').split(' ')[0],
    pyzmq: status.pyzmq_version, ZeroMQ: status.zmq_version,
  };
  describe($('model-facts'), [
    ['Model', model ?? folder(status.tuned_model_dir ?? status.model_dir), String(folderTitle ?? '')],
    ['Engine', `${status.engine_in_use ?? status.engine ?? '–'}, ${status.dtype_in_use ?? status.dtype ?? '–'}`],
    ['Pooling', `${poolingName(status.pooling_strategy)} of layer ${list(status.pooling_layer)}`],
    ['Longest text', status.max_seq_len === null ? 'limit of the model' : `${status.max_seq_len} tokens`],
    ['Truncated texts', truncated(now), 'since the start; longer than the longest text'],
    ['Vector space', status.vector_space ?? '–', 'vectors of one space are comparable'],
    ['Drift', shifts(status), 'texts compared with -drift_reference'],
    ['Casing', status.do_lower_case ? 'uncased' : 'cased'],
    ['Batch', `at most ${count(status.max_batch_size)} texts, ${limits.map(count).join(' or ') || '–'} tokens`],
  ]);
  const alive = (moment(status.server_current_time) - moment(status.server_start_time)) / 1000;
  describe($('server-facts'), [
    ['Version', `${status.bert_serving_version ?? status.server_version}`, `protocol of ${status.server_version}`],
    ['Started', String(status.server_start_time ?? '').slice(0, 19), 'clock of the server'],
    ['Running for', duration(alive)],
    ['Process restarts', count(status.num_restarts ?? 0)],
    ['Processes', count(status.num_process)],
    ['Ports', [status.port, status.port_out, status.http_port].filter(Boolean).join(', '), 'requests, results, HTTP'],
    ['Libraries', Object.entries(versions).filter(([, known]) => known).map(pair => pair.join(' ')).join(', ')],
  ]);
}

/** Creates the tiles. */
export function makeTiles(parent) {
  const titles = {
    requests: 'Requests/s', texts: 'Texts/s', http: 'HTTP p95', batch: 'Batch time',
    waiting: 'Queued texts', clients: 'Active clients', errors: 'Errors', cut: 'Truncated texts', cache: 'Cache hits',
  };
  for (const [name, title] of Object.entries(titles)) {
    parent.append(el('div', { className: 'card tile', id: `tile-${name}`, hidden: name === 'cache' },
      el('dt', {}, title), el('dd', {}, '–'), el('small', {}, '')));
  }
}


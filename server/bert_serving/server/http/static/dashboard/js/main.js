// Entry point of the page: watched servers, polling, rendering and controls.

import { CHARTS, Chart } from './charts.js';
import { Overview } from './overview.js';
import { Watch } from './watch.js';
import { makeTiles, show } from './panels.js';
import { baseUrl, forget, lasting, ownUrl, remember, token, watched } from './servers.js';
import { time } from './format.js';
import { $, say } from './dom.js';

const SETTINGS = 'bert-serving:settings';
/** Delay (ms) of the second poll of a server. A rate needs two samples, so this delay is short. */
const SECOND_POLL_DELAY = 600;

const own = ownUrl(location);
const settings = { interval: '5', span: '900', ...lasting.get(SETTINGS) };
const watches = watched(location).map(url => new Watch(url));
let picked = watches[0] ?? null;
let paused = false;
let timer = 0;
let rounds = 0;
let shownProblem = '';

makeTiles($('tiles'));
const charts = CHARTS.map(chart => new Chart($('charts'), chart, 'time'));
const overview = new Overview($('servers'), {
  onPick: watch => {
    picked = watch;
    render();
  },
  onRemove: watch => {
    forget(watch.url);
    watches.splice(watches.indexOf(watch), 1);
    if (picked === watch) picked = watches[0] ?? null;
    render();
  },
});

// -- polling ---------------------------------------------------------------------------------------------------------

/** Polls all servers, and again after the interval. Polling stops while the page is paused or hidden. */
async function pollAll() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  const round = ++rounds;
  await Promise.all(watches.map(poll));
  if (round !== rounds || paused || document.hidden) return;
  timer = setTimeout(pollAll, settings.interval * 1000);
}

/** Polls a server, and once more soon if its rates are unknown. */
async function poll(watch) {
  await watch.poll();
  render();
  if (watch.needsSample && !document.hidden) setTimeout(poll, SECOND_POLL_DELAY, watch);
}

function save() {
  for (const watch of watches) watch.save();
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(timer);
    save();
  } else {
    pollAll();
  }
});
addEventListener('pagehide', save);

// -- rendering -------------------------------------------------------------------------------------------------------

function render() {
  overview.show(watches, picked, own);
  $('no-server').hidden = picked !== null;
  $('details').hidden = !picked?.now && !picked?.history.length;
  renderProblem();
  $('api').hidden = !picked;
  if (!picked) return;
  $('api').href = `${picked.url}docs`;
  $('details').classList.toggle('old', picked.phase !== 'up');
  show(picked);
  const now = Date.now() / 1000;
  for (const chart of charts) chart.draw(picked.history, Number(settings.span), now);
}

/** Shows the problem of the selected server in a live region, and the first troubled server in the title. */
function renderProblem() {
  const phase = picked?.phase ?? 'connecting';
  const isWrong = ['unreachable', 'failed', 'unauthorized'].includes(phase);
  const since = picked?.now ? ` The data below is from ${time(picked.now.t)}.` : '';
  const text = {
    unreachable: `${picked?.name} is unreachable: ${picked?.problem}.${since} Retrying.`,
    failed: `The service behind ${picked?.name} does not reply. ${picked?.problem}.${since} Retrying.`,
    unauthorized: `${picked?.name}: ${picked?.problem}`,
  }[phase] ?? '';
  if (text !== shownProblem) say($('problem-text'), shownProblem = text);
  $('problem').hidden = !isWrong;
  $('problem').dataset.state = phase;
  $('token-form').hidden = phase !== 'unauthorized';
  const troubled = watches.filter(watch => watch.state !== 'ready' && watch.state !== 'connecting');
  document.title = troubled.length ? `${troubled[0].state}: ${troubled[0].name}` : 'bert-serving';
  const updated = picked?.now?.t;
  say($('updated'), paused ? 'paused' : updated && phase === 'up' ? `as of ${time(updated)}` : '');
}

for (const query of ['(prefers-color-scheme: dark)', '(prefers-contrast: more)']) {
  matchMedia(query).addEventListener('change', () => charts.forEach(chart => chart.repaint()));
}

// -- controls --------------------------------------------------------------------------------------------------------

for (const name of ['interval', 'span']) {
  const select = $(name);
  select.value = settings[name];
  if (select.selectedIndex < 0) select.value = settings[name] = name === 'interval' ? '5' : '900';
  select.addEventListener('change', () => {
    settings[name] = select.value;
    lasting.set(SETTINGS, settings);
    render();
    pollAll();
  });
}

$('pause').addEventListener('click', () => {
  paused = !paused;
  say($('pause'), paused ? 'Resume' : 'Pause');
  render();
  pollAll();
});

$('token-form').addEventListener('submit', event => {
  event.preventDefault();
  token.set(picked.url, $('token').value.trim());
  $('token').value = '';
  poll(picked);
});

$('add-form').addEventListener('submit', event => {
  event.preventDefault();
  const field = $('add-url');
  let url;
  try {
    url = baseUrl(field.value);
  } catch (error) {
    say($('add-problem'), error.message);
    field.setAttribute('aria-invalid', 'true');
    return;
  }
  say($('add-problem'), '');
  field.removeAttribute('aria-invalid');
  field.value = '';
  let watch = watches.find(other => other.url === url);
  if (!watch) {
    watch = new Watch(url);
    watches.push(watch);
    if (url !== own) remember(url);
  }
  picked = watch;
  render();
  poll(watch);
});

render();
pollAll();

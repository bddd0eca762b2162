// The page: which servers there are, when they are asked, and what is shown.

import { CHARTS, Chart } from './charts.js';
import { Overview } from './overview.js';
import { Watch } from './watch.js';
import { makeTiles, show } from './panels.js';
import { baseUrl, forget, lasting, ownUrl, remember, token, watched } from './servers.js';
import { time } from './format.js';
import { $, say } from './dom.js';

const SETTINGS = 'bert-serving:settings';
/** A rate needs two answers, so the second question follows the first soon. */
const SECOND_QUESTION = 1500;

const own = ownUrl(location);
const settings = { interval: '5', span: '900', ...lasting.get(SETTINGS) };
const watches = watched(location).map(url => new Watch(url));
let picked = watches[0] ?? null;
let paused = false;
let timer = 0;
let rounds = 0;
let told = '';

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

// -- asking ----------------------------------------------------------------------------------------------------------

/** Asks all servers, then again after a while; while nobody looks, not at all. */
async function ask() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  const round = ++rounds;
  await Promise.all(watches.map(watch => watch.poll().then(render)));
  if (round !== rounds || paused || document.hidden) return;
  timer = setTimeout(ask, round === 1 ? SECOND_QUESTION : settings.interval * 1000);
}

function save() {
  for (const watch of watches) watch.save();
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(timer);
    save();
  } else {
    ask();
  }
});
addEventListener('pagehide', save);

// -- showing ---------------------------------------------------------------------------------------------------------

function render() {
  overview.show(watches, picked, own);
  $('nobody').hidden = picked !== null;
  $('details').hidden = !picked?.now && !picked?.history.length;
  tell();
  if (!picked) return;
  $('details').classList.toggle('old', picked.phase !== 'up');
  show(picked);
  const now = Date.now() / 1000;
  for (const chart of charts) chart.draw(picked.history, Number(settings.span), now);
}

/** What is wrong, if anything: in a box that is read aloud when it changes, and in the title of the tab. */
function tell() {
  const phase = picked?.phase ?? 'asking';
  const isWrong = ['away', 'unserved', 'locked'].includes(phase);
  const since = picked?.now ? ` The numbers below are of ${time(picked.now.t)}.` : '';
  const words = {
    away: `${picked?.name} does not answer: ${picked?.problem}.${since} Asking again.`,
    unserved: `The service behind ${picked?.name} does not answer. ${picked?.problem}.${since} Asking again.`,
    locked: `${picked?.name}: ${picked?.problem}`,
  }[phase] ?? '';
  if (words !== told) say($('problem-text'), told = words);
  $('problem').hidden = !isWrong;
  $('problem').dataset.state = phase;
  $('token-form').hidden = phase !== 'locked';
  const troubled = watches.filter(watch => watch.state !== 'ready' && watch.state !== 'asking');
  document.title = troubled.length ? `${troubled[0].state}: ${troubled[0].name}` : 'bert-serving';
  const asked = picked?.now?.t;
  say($('asked'), paused ? 'paused' : asked && phase === 'up' ? `as of ${time(asked)}` : '');
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
    ask();
  });
}

$('pause').addEventListener('click', () => {
  paused = !paused;
  say($('pause'), paused ? 'Go on' : 'Pause');
  render();
  ask();
});

$('token-form').addEventListener('submit', event => {
  event.preventDefault();
  token.set(picked.url, $('token').value.trim());
  $('token').value = '';
  picked.poll().then(render);
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
  watch.poll().then(render);
});

render();
ask();

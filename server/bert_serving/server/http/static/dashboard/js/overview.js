// Renders the row of watched servers, with their states and the selection.

import { amount, count } from './format.js';
import { $, el, say } from './dom.js';

const LABELS = {
  connecting: 'connecting', unreachable: 'unreachable', failed: 'service unreachable', unauthorized: 'token required',
  starting: 'starting', ready: 'ready', degraded: 'degraded', draining: 'stopping',
};
const SPARK = { width: 96, height: 28, points: 60 };

export class Overview {
  constructor(list, { onPick, onRemove }) {
    this.list = list;
    this.on = { onPick, onRemove };
    this.cards = new Map();
  }

  show(watches, picked, ownUrl) {
    for (const [url, card] of this.cards) {
      if (!watches.some(watch => watch.url === url)) {
        card.item.remove();
        this.cards.delete(url);
      }
    }
    for (const watch of watches) {
      const card = this.cards.get(watch.url) ?? this.#add(watch, watch.url !== ownUrl);
      const isUp = watch.phase === 'up';
      card.button.setAttribute('aria-pressed', String(watch === picked));
      say(card.state, LABELS[watch.state] ?? watch.state);
      card.state.dataset.state = watch.state;
      say(card.model, watch.model ?? '');
      say(card.rate, isUp ? `${amount(watch.history.last('texts'))} texts/s · ${count(watch.now.queue.sequences)} queued` : ' ');
      card.spark.setAttribute('points', sparkOf(watch.history.texts));
    }
  }

  #add(watch, removable) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const spark = svg.appendChild(document.createElementNS('http://www.w3.org/2000/svg', 'polyline'));
    svg.setAttribute('viewBox', `0 0 ${SPARK.width} ${SPARK.height}`);
    svg.setAttribute('aria-hidden', 'true');
    const card = { spark, state: el('span', { className: 'badge' }), model: el('span', { className: 'model' }),
      rate: el('span', { className: 'rate' }) };
    card.button = el('button', { type: 'button', className: 'pick' },
      el('strong', {}, watch.name), card.state, card.model, card.rate, svg);
    card.button.addEventListener('click', () => this.on.onPick(watch));
    card.item = el('li', { className: 'card server' }, card.button);
    if (removable) {
      const remove = el('button', { type: 'button', className: 'remove', title: 'stop watching',
        aria: { label: `stop watching ${watch.name}` } }, '×');
      remove.addEventListener('click', () => {
        this.on.onRemove(watch);
        $('add-url').focus();
      });
      card.item.append(remove);
    }
    this.list.append(card.item);
    this.cards.set(watch.url, card);
    return card;
  }
}

/** Converts the last values to points of a polyline; gaps are skipped. */
function sparkOf(values) {
  const shown = values.slice(-SPARK.points);
  const top = Math.max(1e-9, ...shown.map(value => value ?? 0));
  const step = SPARK.width / (SPARK.points - 1);
  const at = index => SPARK.width - (shown.length - 1 - index) * step;
  const y = value => SPARK.height - 1 - (value / top) * (SPARK.height - 3);
  return shown.flatMap((value, index) => (value === null ? [] : [`${at(index).toFixed(1)},${y(value).toFixed(1)}`])).join(' ');
}

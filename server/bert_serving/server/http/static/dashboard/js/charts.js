// Lines over time, drawn by uPlot, with the words beside them that a picture alone would owe to some.

import { amount, count, seconds, share, time } from './format.js';
import { el, say } from './dom.js';

const { uPlot } = globalThis;
const HEIGHT = 150;
/** Seconds that the time axis shows at least, so that the first points do not fill the whole width. */
const SHORTEST = 120;

/** Steps of an axis that counts things, of which there are no halves. */
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];

/** Seconds between the marks of the time axis. */
const TIMES = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

/** `floor` is the least that the top of the axis may be: small noise shall not look like mountains. */
export const CHARTS = [
  {
    title: 'Requests per second', show: amount, floor: 1,
    lines: [['requests', 'requests', 1], ['errors', 'errors', 2]],
  },
  { title: 'Texts per second', show: amount, floor: 1, lines: [['texts', 'texts', 1]] },
  { title: 'Tokens per second', show: amount, floor: 10, lines: [['tokens', 'tokens', 1]] },
  {
    title: 'Time of requests', show: seconds, floor: 0.001,
    lines: [['within', '95% within', 1], ['queued', 'mean in queue', 2], ['computing', 'mean computing', 3]],
  },
  {
    title: 'Queue', show: count, floor: 4, steps: WHOLE,
    lines: [['waiting', 'texts', 1], ['open', 'open requests', 2], ['inFlight', 'batches running', 3]],
  },
  { title: 'Active clients', show: count, floor: 4, steps: WHOLE, lines: [['clients', 'within 3 minutes', 1]] },
  { title: 'Texts per batch', show: amount, floor: 1, lines: [['size', 'mean', 1]] },
  { title: 'Padding', show: share, floor: 0.01, lines: [['padding', 'of what batches hold', 1]] },
  {
    title: 'Texts cut, tokens unknown', show: share, floor: 0.01,
    lines: [['cut', 'texts cut', 1], ['unknown', '[UNK]', 2]],
  },
];

const DASHES = [[], [], [6, 4], [2, 3]];

export class Chart {
  constructor(parent, { title, show, floor, lines, steps }, group) {
    this.title = title;
    this.show = show;
    this.lines = lines;
    this.history = null;
    this.pointed = null; // index of the moment under the pointer
    this.when = el('span', { className: 'when' });
    this.values = lines.map(() => el('b'));
    const keys = lines.map(([, label, number], index) =>
      el('li', { data: { line: number } }, el('i', { aria: { hidden: 'true' } }), `${label} `, this.values[index]));
    this.plotted = el('div', { className: 'plot', role: 'img' });
    this.figure = el('figure', { className: 'card' },
      el('figcaption', {}, el('h3', {}, title, this.when), el('ul', {}, ...keys)), this.plotted);
    parent.append(this.figure);

    const color = name => () => getComputedStyle(this.figure).getPropertyValue(name).trim();
    const axis = {
      stroke: color('--quiet'), font: '11px system-ui, sans-serif', grid: { stroke: color('--grid'), width: 1 },
      ticks: { show: false },
    };
    this.plot = new uPlot({
      width: 320, height: HEIGHT, legend: { show: false }, padding: [8, 22, 0, 0], // on the right, half a label of the time axis
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: group }, points: { size: 6 } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(floor, (high ?? 0) * 1.1)] } },
      axes: [
        { ...axis, size: 24, space: 60, incrs: TIMES, values: (_, ticks, __, ___, step) => ticks.map(tick => clock(tick, step)) },
        { ...axis, size: 56, gap: 4, space: 26, ...(steps && { incrs: steps }), values: (_, ticks) => ticks.map(show) },
      ],
      series: [{}, ...lines.map(([, label, number]) => ({
        label, stroke: color(`--line-${number}`), width: 1.75, dash: DASHES[number],
        fill: number === 1 ? color('--fill') : undefined, points: { show: () => false, filter: alone, size: 4 },
      }))],
      hooks: { setCursor: [plot => this.#point(plot.cursor.idx ?? null)] },
    }, [[], ...lines.map(() => [])], this.plotted);
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    }).observe(this.plotted);
  }

  /** Shows the last `span` seconds of a history. */
  draw(history, span, now) {
    this.history = history;
    const first = history.t[0] ?? now;
    this.plot.batch(() => {
      this.plot.setData([history.t, ...this.lines.map(([field]) => history[field])], false);
      this.plot.setScale('x', { min: Math.max(now - span, Math.min(first, now - SHORTEST)), max: now });
    });
    this.#tell(span, now);
  }

  /** Colours have changed. */
  repaint() {
    this.plot.redraw(true);
  }

  #point(index) {
    this.pointed = index;
    this.#tell();
  }

  #tell(span, now) {
    const history = this.history;
    if (!history) return;
    const at = this.pointed !== null && this.pointed < history.length ? this.pointed : null;
    say(this.when, at === null ? '' : ` at ${time(history.t[at])}`);
    this.lines.forEach(([field], index) => say(this.values[index], this.show(history[field].at(at ?? -1))));
    if (span) this.plotted.setAttribute('aria-label', this.#words(span, now));
  }

  #words(span, now) {
    const said = this.lines.map(([field, label]) => {
      const shown = this.history[field].filter((value, index) => value !== null && this.history.t[index] >= now - span);
      if (!shown.length) return `${label}: no values`;
      return `${label}: ${this.show(shown.at(-1))} lately, at most ${this.show(Math.max(...shown))}`;
    });
    return `${this.title}, the last ${Math.round(span / 60)} minutes. ${said.join('; ')}.`;
  }
}

/** Points are drawn only where there is no line: between two holes. */
function alone(plot, series) {
  const values = plot.data[series];
  const isHole = index => (values[index] ?? null) === null;
  const found = [...values.keys()].filter(index => !isHole(index) && isHole(index - 1) && isHole(index + 1));
  return found.length ? found : null;
}

function clock(tick, step) {
  const text = new Date(tick * 1000).toTimeString();
  return text.slice(0, step < 60 ? 8 : 5);
}

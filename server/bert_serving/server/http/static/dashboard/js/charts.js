// Draws time series with uPlot, and describes each chart in text for screen readers.

import { amount, count, seconds, share, time } from './format.js';
import { el, say } from './dom.js';

const { uPlot } = globalThis;
/** Minimum span (s) of the time axis, so that the first points do not fill the whole width. */
const MIN_SPAN = 120;

/** Tick steps of an axis with integer values. */
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];

/** Tick steps (s) of the time axis. */
const TIMES = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

/** `floor` is the minimum of the upper end of the axis, so that noise near zero stays small. */
export const CHARTS = [
  {
    title: 'Requests per second', show: amount, floor: 1,
    lines: [['requests', 'requests', 1], ['errors', 'errors', 2]],
  },
  { title: 'Texts per second', show: amount, floor: 1, lines: [['texts', 'texts', 1]] },
  { title: 'Tokens per second', show: amount, floor: 10, lines: [['tokens', 'tokens', 1]] },
  {
    title: 'Request duration', show: seconds, floor: 0.001,
    lines: [['p95', 'p95', 1], ['p50', 'p50', 4], ['queued', 'mean queue', 2], ['computing', 'mean compute', 3]],
  },
  {
    title: 'Queue', show: count, floor: 4, steps: WHOLE,
    lines: [['waiting', 'texts', 1], ['open', 'open requests', 2], ['inFlight', 'batches in flight', 3]],
  },
  { title: 'Active clients', show: count, floor: 4, steps: WHOLE, lines: [['clients', 'within 3 minutes', 1]] },
  { title: 'Texts per batch', show: amount, floor: 1, lines: [['size', 'mean', 1]] },
  { title: 'Padding', show: share, floor: 0.01, lines: [['padding', 'share of batch tokens', 1]] },
  {
    title: 'Truncated texts, unknown tokens', show: share, floor: 0.01,
    lines: [['cut', 'truncated texts', 1], ['unknown', 'unknown tokens', 2]],
  },
];

const DASHES = [[], [], [6, 4], [2, 3], []];

export class Chart {
  constructor(parent, { title, show, floor, lines, steps }, group) {
    this.title = title;
    this.show = show;
    this.lines = lines;
    this.history = null;
    this.pointed = null; // index of the point under the pointer
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
      width: 320, height: 150, legend: { show: false }, padding: [8, 22, 0, 0], // right: half a label of the time axis
      cursor: {
        y: false, drag: { x: false, y: false }, sync: { key: group }, points: { size: 6 },
        move: (plot, left, top) => [this.#snap(plot, left), top],
      },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(floor, (high ?? 0) * 1.1)] } },
      axes: [
        { ...axis, size: 24, space: 60, incrs: TIMES, values: (_, ticks, __, ___, step) => ticks.map(tick => clock(tick, step)) },
        { ...axis, size: 56, gap: 4, space: 26, ...(steps && { incrs: steps }), values: (_, ticks) => ticks.map(show) },
      ],
      series: [{}, ...lines.map(([, label, number]) => ({
        label, stroke: color(`--line-${number}`), width: 1.75, dash: DASHES[number],
        fill: number === 1 ? color('--fill') : undefined, points: { show: () => false, filter: isolated, size: 4 },
      }))],
      hooks: { setCursor: [plot => this.#point(plot.cursor.idx ?? null)] },
    }, [[], ...lines.map(() => [])], this.plotted);
    new ResizeObserver(([entry]) => {
      const [width, height] = [entry.contentRect.width, entry.contentRect.height].map(Math.floor);
      if (width > 0 && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
    }).observe(this.plotted);
  }

  /** Draws the last `span` seconds of a history. */
  draw(history, span, now) {
    this.history = history;
    const first = history.t[0] ?? now;
    this.plot.batch(() => {
      this.plot.setData([history.t, ...this.lines.map(([field]) => history[field])], false);
      this.plot.setScale('x', { min: Math.max(now - span, Math.min(first, now - MIN_SPAN)), max: now });
    });
    this.#describe(span, now);
  }

  /** Redraws after a change of colours. */
  repaint() {
    this.plot.redraw(true);
  }

  /** Returns the position of the sample nearest to the pointer. A negative position means that there is no pointer. */
  #snap(plot, left) {
    const index = left < 0 || !this.history ? null : this.history.nearest(plot.posToVal(left, 'x'));
    return index === null ? left : Math.max(0, plot.valToPos(this.history.t[index], 'x'));
  }

  #point(index) {
    this.pointed = index;
    this.#describe();
  }

  #describe(span, now) {
    const history = this.history;
    if (!history) return;
    const at = this.pointed !== null && this.pointed < history.length ? this.pointed : null;
    say(this.when, at === null ? '' : ` at ${time(history.t[at])}`);
    this.lines.forEach(([field], index) => say(this.values[index], this.show(history[field].at(at ?? -1))));
    if (span) this.plotted.setAttribute('aria-label', this.#words(span, now));
  }

  #words(span, now) {
    const descriptions = this.lines.map(([field, label]) => {
      const shown = this.history[field].filter((value, index) => value !== null && this.history.t[index] >= now - span);
      if (!shown.length) return `${label}: no values`;
      return `${label}: ${this.show(shown.at(-1))} lately, at most ${this.show(Math.max(...shown))}`;
    });
    return `${this.title}, the last ${Math.round(span / 60)} minutes. ${descriptions.join('; ')}.`;
  }
}

/** Returns the isolated points between two gaps, which no line connects. */
function isolated(plot, series) {
  const values = plot.data[series];
  const isGap = index => (values[index] ?? null) === null;
  const found = [...values.keys()].filter(index => !isGap(index) && isGap(index - 1) && isGap(index + 1));
  return found.length ? found : null;
}

function clock(tick, step) {
  const text = new Date(tick * 1000).toTimeString();
  return text.slice(0, step < 60 ? 8 : 5);
}

// Reads Prometheus' text format, as far as this server writes it.
// The format: https://prometheus.io/docs/instrumenting/exposition_formats/

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** The samples of an exposition: `[{name, labels, value}]`. Lines that are none are passed over. */
export function parse(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const match = line.startsWith('#') ? null : LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? '').matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, char) => (char === 'n' ? '\n' : char));
    }
    samples.push({ name: match[1], labels, value: number(match[3]) });
  }
  return samples;
}

function number(text) {
  const infinite = { '+Inf': Infinity, '-Inf': -Infinity }[text];
  return infinite ?? Number(text);
}

/** Adds up histograms: a Map from upper bound to cumulated count, in rising order of the bounds. */
export function addUp(histograms) {
  const sum = new Map();
  for (const buckets of histograms) {
    for (const [bound, count] of buckets) sum.set(bound, (sum.get(bound) ?? 0) + count);
  }
  return new Map([...sum].sort(([a], [b]) => a - b));
}

/** What a histogram has got since an earlier one. */
export function since(earlier, later) {
  return new Map([...later].map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]));
}

/**
 * The value below which a share `q` of the observations lies, interpolated linearly within its bucket, as Prometheus'
 * own histogram_quantile does it. Null without observations; the highest finite bound if it lies beyond that.
 */
export function quantile(q, buckets) {
  const total = buckets.get(Infinity) ?? 0;
  if (!(total > 0)) return null;
  const rank = q * total;
  let below = 0, lower = 0;
  for (const [bound, count] of buckets) {
    if (count >= rank && count > below) {
      return bound === Infinity ? lower : lower + (bound - lower) * ((rank - below) / (count - below));
    }
    if (bound !== Infinity) lower = bound;
    below = count;
  }
  return lower;
}

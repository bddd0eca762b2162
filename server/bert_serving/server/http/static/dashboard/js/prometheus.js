// Parses the subset of Prometheus' text format that the server writes.
// The format: https://prometheus.io/docs/instrumenting/exposition_formats/

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Returns the samples of an exposition, `[{name, labels, value}]`. Other lines are skipped. */
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

/** Adds histograms: returns a Map from ascending upper bound to cumulative count. */
export function addUp(histograms) {
  const sum = new Map();
  for (const buckets of histograms) {
    for (const [bound, count] of buckets) sum.set(bound, (sum.get(bound) ?? 0) + count);
  }
  return new Map([...sum].sort(([a], [b]) => a - b));
}

/** Subtracts an earlier state of a histogram. */
export function since(earlier, later) {
  return new Map([...later].map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]));
}

/**
 * Computes the quantile `q` of a histogram, interpolated linearly within the bucket like histogram_quantile of
 * Prometheus. Returns null without observations, and at most the highest finite bound.
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

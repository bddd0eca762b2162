// Formats numbers, durations and names.

const NOTHING = '–';
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
// 24-hour format, like the axes of the charts.
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const POOLING = ['NONE', 'REDUCE_MAX', 'REDUCE_MEAN', 'REDUCE_MEAN_MAX', 'CLS_TOKEN', 'SEP_TOKEN', 'CLS_POOLED'];

function known(value) {
  return typeof value === 'number' && Number.isFinite(value);
}

/** 0.42, 7.3, 1,234, 56.7K */
export function amount(value) {
  if (!known(value)) return NOTHING;
  if (value === 0) return '0';
  if (Math.abs(value) < 0.01) return '< 0.01';
  if (Math.abs(value) < 100) return String(Number(value.toPrecision(value < 10 ? 2 : 3)));
  return Math.abs(value) < 10_000 ? whole.format(value) : compact.format(value);
}

/** 1,234,567 */
export function count(value) {
  return known(value) ? whole.format(value) : NOTHING;
}

/** 0.4 %, 12 % */
export function share(value) {
  if (!known(value)) return NOTHING;
  const percent = value * 100;
  if (percent > 0 && percent < 0.01) return '< 0.01 %';
  return `${Number(percent.toPrecision(Math.abs(percent) < 10 ? 2 : 3))} %`;
}

/** +1.2 %, -0.4 %, 0 % */
export function shareDifference(value) {
  return known(value) && value > 0 ? `+${share(value)}` : share(value);
}

/** 61.3 of 140 GiB */
export function memory(used, total) {
  if (!known(used) || !known(total)) return NOTHING;
  const [part, whole] = [used, total].map(bytes => bytes / 2 ** 30);
  return `${amount(part)} of ${amount(whole)} GiB`;
}

/** 85 µs, 3.2 ms, 1.4 s, 2 min */
export function seconds(value) {
  if (!known(value)) return NOTHING;
  const round = number => String(Number(number.toPrecision(number < 10 ? 2 : 3)));
  if (value === 0) return '0 ms';
  if (value < 0.001) return `${round(value * 1e6)} µs`;
  if (value < 1) return `${round(value * 1e3)} ms`;
  return value < 120 ? `${round(value)} s` : duration(value);
}

/** 45 s, 12 min, 3 h 5 min, 2 d 4 h */
export function duration(value) {
  if (!known(value) || value < 0) return NOTHING;
  const [days, hours, minutes] = [value / 86_400, (value / 3_600) % 24, (value / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(value)} s`;
}

/** Formats the time of day of a timestamp in seconds. */
export function time(t) {
  return clock.format(new Date(t * 1000));
}

/** Parses Python's `str(datetime)` to milliseconds. It has no time zone, so only differences are meaningful. */
export function moment(text) {
  return Date.parse(`${String(text).slice(0, 23).replace(' ', 'T')}Z`);
}

export function poolingName(number) {
  return POOLING[number] ?? String(number);
}

/** Returns the last component of a path of any operating system. */
export function folder(path) {
  return String(path ?? '').split(/[\\/]/).filter(Boolean).at(-1) ?? NOTHING;
}

/** Returns the display name of a server: host, port, and path prefix if any. */
export function serverName(url) {
  const { host, pathname } = new URL(url);
  return host + pathname.replace(/\/$/, '');
}

// Prometheus' text form of metrics.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;

/** Name -> its value, summed over all labels; histograms keep their _sum and _count, buckets are left out. */
export function parse(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) continue;
    const [, name, , value] = LINE.exec(line) ?? [];
    const number = Number(value);
    if (!name || name.endsWith("_bucket") || !Number.isFinite(number)) continue;
    sums.set(name, (sums.get(name) ?? 0) + number);
  }
  return sums;
}

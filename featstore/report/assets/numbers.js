"use strict";
// How values are written. Null is what is not known: a dash, and last wherever rows are sorted.

const UNKNOWN = "–";

const grouped = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });

function digits(value, most) {
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) {
    return value.toExponential(most - 1);
  }
  return String(Number(value.toPrecision(most)));
}

// Of each kind of column: a value, a value's spread, and what follows both.
const KINDS = {
  count: { value: grouped, after: "" },
  id: { value: String, after: "" },
  share: { value: (share) => digits(100 * share, 4), after: " %" },
  kept: { value: (share) => (100 * share).toFixed(1), after: " %" },
  score: { value: (score) => score.toFixed(3), after: "" },
  number: { value: (value) => digits(value, 4), after: "" },
  tenths: { value: (value) => value.toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 }), after: "" },
  hundredths: { value: (value) => value.toFixed(2), after: "" },
  loss: { value: (value) => value.toFixed(4), after: "" },
  gain: { value: (value) => (100 * value).toFixed(2), after: "" },
};

// A true minus is as wide as a digit; what rounds to nothing has no sign.
function signed(text) {
  return text.replace(/^-(?=[0.]*$)/, "").replace("-", "−");
}

function written(kind, value) {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return signed(KINDS[kind].value(value)) + KINDS[kind].after;
}

function interval(kind, low, high) {
  if (low === null || high === null) {
    return UNKNOWN;
  }
  const { value, after } = KINDS[kind];
  return `${signed(value(low))} to ${signed(value(high))}${after}`;
}

function withInterval(kind, mean, low, high) {
  const known = low !== null && high !== null && low !== undefined && high !== undefined;
  return written(kind, mean) + (known ? ` (${interval(kind, low, high).replace(KINDS[kind].after, "")})` : "");
}

function plusMinus(kind, mean, spread) {
  if (mean === null || spread === null || spread === undefined) {
    return written(kind, mean);
  }
  const { value, after } = KINDS[kind];
  return `${signed(value(mean))} ± ${value(spread)}${after}`;
}

const plural = (count, noun) => `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;

// plotly.js reads some tags and entities in its texts; a name has none.
function plotText(name) {
  const short = name.length > 70 ? `${name.slice(0, 69)}…` : name;
  return short.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

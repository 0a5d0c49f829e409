"use strict";
// What each figure shows: its lines, its axes, and what is said when one points at a line.

const PER_CENT = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
const hundredfold = (values) => values.map((value) => (value === null ? null : 100 * value));
const moved = (values, spread, sign) =>
  values.map((value, at) => (value === null || spread[at] === null ? null : value + sign * spread[at]));
const seedsOf = (count) => (count === 1 ? "1 probe: no spread" : plural(count, "seed"));

function named(label, lines) {
  return [`<b>${plotText(label)}</b>`, ...lines.filter(Boolean)].join("<br>");
}

// An axis of the share of features, in per cent; log with ticks at 1, 2, 5, or linear.
function shareAxis(scale, shares) {
  const low = Math.min(...shares, 50);
  const title = "features kept (%)";
  if (scale === "linear") {
    return { title, type: "linear", range: [0, 103] };
  }
  let ticks = PER_CENT.filter((tick) => tick >= low / 1.25);
  if (ticks.length > 9 || innerWidth < 480) {
    ticks = ticks.filter((tick) => [0.01, 0.1, 1, 10, 100].includes(tick) || ticks.length < 5);
  }
  return {
    title, type: "log", range: [Math.log10(low / 1.2), Math.log10(120)],
    tickvals: ticks, ticktext: ticks.map(String),
  };
}

const scaleChoice = (state, redraw) =>
  choice("scale of the features' axis", [["log", "Log"], ["linear", "Linear"]], state.scale, (scale) => {
    state.scale = scale;
    redraw();
  });

const legendOf = (curves) =>
  curves.map((curve, place) => ({ key: place, label: curve.label, style: styleOf(place) }));

// Bands of more curves cover each other, and tell nothing.
const MOST_BANDS = 6;

// Return whether the curves that are shown are few enough for bands.
function banded(figure, curves) {
  return curves.length - figure.hidden.size <= MOST_BANDS;
}

function shown(figure, curves, traces) {
  const drawn = curves.flatMap((curve, place) => (figure.hidden.has(place) ? [] : traces(curve, place)));
  return banded(figure, curves) ? drawn : drawn.filter((trace) => trace.fill !== "toself");
}

const MOST_APART = 24; // panels; more would be too small, or the page too long

// Let a person choose between one pair of axes for all curves and a panel for each.
function partable(figure, curves) {
  const few = curves.length > 2 && curves.length <= MOST_APART;
  figure.apart = few && curves.length > MOST_BANDS;
  if (few) {
    const options = [["no", "Together"], ["yes", "Apart"]];
    figure.bar.append(choice("how curves are laid out", options, figure.apart ? "yes" : "no", (apart) => {
      figure.apart = apart === "yes";
      figure.draw();
    }));
  }
}

// Return traces and layout of curves: all on the same axes, or a panel for each with the others in
// grey. make(curve, place) draws a curve, rules(curve) what belongs to one, or to all for none.
function laidOut(figure, curves, make, x, y, rules = () => []) {
  if (!figure.apart) {
    return { traces: [...rules(), ...shown(figure, curves, make)], layout: layoutOf(x, y) };
  }
  const panels = curves.map((curve, place) => ({ curve, place, own: figure.hidden.has(place) ? [] : make(curve, place) }))
    .filter(({ own }) => own.length);
  return panelled(panels, x, y, rules);
}

// Return the lines of other panels as one trace, with gaps between them.
function behind(panels, axes) {
  const lines = panels.map(({ own }) => own[own.length - 1]);
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, connectgaps: false, ...axes,
    x: lines.flatMap((line) => [...line.x.filter((_, at) => line.y[at] !== null), null]),
    y: lines.flatMap((line) => [...line.y.filter((value) => value !== null), null]),
    line: { color: ink("--line"), width: 1 },
  };
}

function panelled(panels, x, y, rules) {
  const columns = Math.min(panels.length, innerWidth < 480 ? 2 : 3);
  const deep = Math.ceil(panels.length / columns);
  const { xaxis, yaxis, ...layout } = layoutOf(x, y);
  layout.height = 60 + 165 * deep;
  layout.annotations = [];
  const wide = Math.floor(Math.min(innerWidth, 980) / columns / 7);
  // plotly finds no range of its own where axes match whose others are set
  const heights = panels.flatMap(({ curve, own }) => [...rules(curve), ...own].flatMap((trace) => trace.y))
    .filter((value) => value !== null);
  const ends = [Math.min(...heights, ...(y.rangemode === "tozero" ? [0] : [])), Math.max(...heights)];
  const beyond = 0.05 * (ends[1] - ends[0]) || 1;
  const range = [ends[0] - (y.rangemode === "tozero" ? 0 : beyond), ends[1] + beyond];
  const traces = panels.flatMap(({ curve, place, own }, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    const name = at ? String(at + 1) : "";
    const left = column / columns + (column ? 0.02 : 0);
    const top = 1 - row / deep - 0.16 / deep;
    const isLast = at + columns >= panels.length;
    layout[`xaxis${name}`] = {
      ...xaxis, domain: [left, (column + 1) / columns - 0.01], anchor: `y${name}`,
      matches: at ? "x" : undefined, showticklabels: isLast, title: isLast && column === columns >> 1 ? xaxis.title : undefined,
    };
    layout[`yaxis${name}`] = {
      ...yaxis, range, domain: [1 - (row + 1) / deep + 0.06 / deep, top], anchor: `x${name}`, nticks: 5,
      matches: at ? "y" : undefined, showticklabels: column === 0, title: column === 0 && row === (deep - 1) >> 1 ? yaxis.title : undefined,
    };
    layout.annotations.push({
      text: plotText(shortened(curve.label, wide)), xref: "paper", yref: "paper", x: left, y: top, showarrow: false,
      xanchor: "left", yanchor: "bottom", font: { size: 12, color: ink("--ink") }, hovertext: plotText(curve.label),
    });
    const axes = { xaxis: `x${name}`, yaxis: `y${name}` };
    const others = panels.filter((each) => each.place !== place);
    return [behind(others, axes), ...[...rules(curve), ...own].map((trace) => ({ ...trace, ...axes }))];
  });
  return { traces, layout };
}

// Cut a name in the middle where it is too long: its ends tell it apart.
function shortened(text, most) {
  if (text.length <= most) {
    return text;
  }
  const half = (most - 1) / 2;
  return `${text.slice(0, Math.ceil(half))}…${text.slice(text.length - Math.floor(half))}`;
}

const MOST_RULES = 4; // full layers that are drawn; more are a grating

// Accuracy, or its share of the full layer's, against the share of features.
function accuracyFigure(box, data) {
  const state = { y: "mean", scale: "log" };
  const isAccuracy = data.score.key === "accuracy";
  const kind = isAccuracy ? "kept" : "score";
  const hasShares = data.curves.some((curve) => curve.points.ratio.some((share) => share !== null));
  const figure = new Figure(box, describe);
  const options = [["mean", isAccuracy ? "Accuracy" : "R²"], ["ratio", "Of the full layer"]];
  if (hasShares) {
    figure.bar.append(choice("what is drawn", options, state.y, (y) => { state.y = y; figure.draw(); }));
  }
  figure.bar.append(scaleChoice(state, () => figure.draw()));
  partable(figure, data.curves);
  return figure;

  function describe() {
    const unit = state.y === "ratio" || isAccuracy ? hundredfold : (values) => values;
    const shares = data.curves.flatMap((curve) => hundredfold(curve.points.fraction));
    const make = (curve, place) => {
      const { points } = curve;
      const [low, high] = state.y === "ratio" ? ["ratio_low", "ratio_high"] : ["low", "high"];
      return lineTraces({
        x: hundredfold(points.fraction), y: unit(points[state.y]), texts: texts(curve),
        low: unit(points[low]), high: unit(points[high]), style: styleOf(place),
      });
    };
    const name = isAccuracy ? `${data.score.name} (%)` : data.score.name;
    const title = state.y === "ratio" ? "of the full layer's (%)" : name;
    return {
      ...laidOut(figure, data.curves, make, shareAxis(state.scale, shares), { title }, fullLines),
      legend: legendOf(data.curves), note: noteOf(fullLines().length > 0 || figure.apart),
      summary: `${title} against features kept, ${plural(data.curves.length, "curve")}`,
    };
  }

  function noteOf(dashed) {
    const band = data.over ? `Lines are means over seeds, bands 95 % intervals over ${data.over}.` :
      "One probe a point: there are no intervals to show.";
    const few = figure.apart || banded(figure, data.curves) ? "" : ` Bands are drawn of ${MOST_BANDS} curves or fewer: `
      + "hide others by their names.";
    const grey = figure.apart ? " Grey: the other curves." : "";
    return band + few + grey + (dashed ? " Dashed: the full layer." : "");
  }

  // each height once: the modes of one layer share their full layer
  function fullLines(alone) {
    if (state.y === "ratio") {
      return [ruleTrace([0.001, 1000], 100, ink("--soft"))];
    }
    const every = alone ? [alone] : data.curves.filter((curve, place) => !figure.hidden.has(place));
    const seen = every.filter((curve) => curve.full);
    const heights = new Set(seen.map((curve) => curve.full.mean * (isAccuracy ? 100 : 1)));
    return heights.size > MOST_RULES ? [] : [...heights].map((height) => ruleTrace([0.001, 1000], height, ink("--soft")));
  }

  function texts(curve) {
    const { points } = curve;
    return points.fraction.map((fraction, at) => named(curve.label, [
      `${written("share", fraction)} of the features, k = ${grouped(points.k[at])}`,
      `${data.score.name} ${withInterval(kind, points.mean[at], points.low[at], points.high[at])}`,
      points.ratio[at] === null ? "" :
        `${withInterval("kept", points.ratio[at], points.ratio_low[at], points.ratio_high[at])} of the full layer's`,
      seedsOf(points.probes[at]),
    ]));
  }
}

// DR(delta): the share of features that can be left out if delta of the accuracy is to be kept.
function redundancyFigure(box, data) {
  const curves = data.curves;
  const figure = new Figure(box, describe);
  partable(figure, curves);
  return figure;

  function describe() {
    const make = (curve, place) => {
      const found = curve.redundancy;
      return found ? lineTraces({
        x: hundredfold(found.delta), y: found.mean, low: found.low, high: found.high,
        texts: texts(curve, found), style: styleOf(place),
      }) : [];
    };
    return {
      ...laidOut(figure, curves, make, { title: "accuracy to be kept, δ (%)" },
        { title: "diffused redundancy, DR(δ)", rangemode: "tozero" }),
      legend: legendOf(curves).filter(({ key }) => curves[key].redundancy),
      note: "DR(δ) is 1 minus the share of features at which the mean curve first reaches δ, "
        + `interpolated in log share${data.over && (figure.apart || banded(figure, curves)) ? `; bands are 95 % intervals over ${data.over}` : ""}. A curve ends `
        + "where it does not reach δ, and is flat where its smallest share keeps δ already.",
      summary: `diffused redundancy against the accuracy kept, ${plural(curves.length, "curve")}`,
    };
  }

  function texts(curve, found) {
    return found.delta.map((delta, at) => named(curve.label, [
      `δ = ${written("share", delta)}, DR = ${written("score", found.mean[at])}`,
      found.low[at] === null ? "" : `95 % interval ${interval("score", found.low[at], found.high[at])}`,
      seedsOf(found.seeds),
    ]));
  }
}

// Linear CKA of a part with the full layer against its size.
function ckaFigure(box, data) {
  const state = { scale: "log" };
  const figure = new Figure(box, describe);
  figure.bar.append(scaleChoice(state, () => figure.draw()));
  partable(figure, data.curves);
  return figure;

  function describe() {
    const make = (curve, place) => {
      const found = curve.cka;
      return found ? lineTraces({
        x: found.k, y: found.mean, low: moved(found.mean, found.std, -1),
        high: moved(found.mean, found.std, 1), texts: texts(curve, found), style: styleOf(place),
      }) : [];
    };
    const sizes = { title: "features kept, k", type: state.scale, dtick: state.scale === "log" ? 1 : undefined };
    return {
      ...laidOut(figure, data.curves, make, sizes, { title: "linear CKA with the full layer" }),
      legend: legendOf(data.curves).filter(({ key }) => data.curves[key].cka),
      note: "Biased linear CKA on test rows. Lines are means over seeds, bands ± one sample "
        + "standard deviation.",
      summary: "linear CKA with the full layer against features kept",
    };
  }

  function texts(curve, found) {
    return found.k.map((k, at) => named(curve.label, [
      `k = ${grouped(k)}, CKA ${plusMinus("score", found.mean[at], found.std[at])}`,
      seedsOf(found.probes[at]),
    ]));
  }
}

const MOST_NAMED = 10; // classes that have a line of their own colour each
const SINGLED_OUT = 5; // of more, those that lose most

// Accuracy of each class against the share of features, of one curve at a time.
function classesFigure(box, data, showLosses) {
  const state = { scale: "log", curve: 0, at: 0 };
  const figure = new Figure(box, describe);
  const curves = data.classes;
  const first = Math.max(0, curves.findIndex((curve) => curve.mode === "random"));
  if (curves.length > 1) {
    const options = curves.map((curve, place) => [String(place), curve.label]);
    figure.bar.append(selection("curve", options, String(first), (place) => choose(Number(place))));
  }
  figure.bar.append(scaleChoice(state, () => figure.draw()));
  const fractions = element("div");
  figure.bar.append(fractions);
  choose(first, false);
  return figure;

  function choose(place, redraw = true) {
    state.curve = place;
    figure.hidden.clear();
    const { losses } = curves[place];
    state.at = nearest(losses.map((each) => each.fraction), 0.1);
    const options = losses.map((each, at) => [String(at), written("share", each.fraction)]);
    const asked = (at) => { state.at = Number(at); show(); figure.draw(); };
    fractions.replaceChildren(...(losses.length ? [selection("losses at", options, String(state.at), asked)] : []));
    show();
    if (redraw) {
      figure.draw();
    }
  }

  function show() {
    const losses = curves[state.curve].losses[state.at];
    showLosses(losses ? losses.table : null, losses ? losses.fraction : null);
  }

  function describe() {
    const curve = curves[state.curve];
    const alone = singledOut(curve);
    const others = [...curve.classes.keys()].filter((at) => !alone.includes(at));
    const legend = alone.map((at, place) => ({ key: at, label: curve.classes[at], style: styleOf(place) }));
    const grey = { colour: ink("--soft"), marker: "none", dash: "solid" };
    if (others.length) {
      legend.push({ key: "others", label: plural(others.length, "other class").replace("classs", "classes"), style: grey });
    }
    const x = hundredfold(curve.fraction);
    const own = alone.flatMap((at, place) => figure.hidden.has(at) ? [] : lineTraces({
      x, y: hundredfold(curve.mean[at]), texts: texts(curve, at), style: styleOf(place),
    }));
    const rest = figure.hidden.has("others") || !others.length ? [] : [together(curve, others, x, grey.colour)];
    return {
      traces: [...rest, ...own], legend,
      layout: layoutOf(shareAxis(state.scale, x), { title: "accuracy on the class (%)" }),
      note: others.length ?
        `In colour the ${SINGLED_OUT} classes that lose most; point at a grey line for its name.` :
        `Means over ${plural(curve.seeds, "seed")}.`,
      summary: `accuracy of ${plural(curve.classes.length, "class").replace("classs", "classes")} against features kept`,
    };
  }

  function singledOut(curve) {
    if (curve.classes.length <= MOST_NAMED) {
      return [...curve.classes.keys()];
    }
    const losses = curve.losses[state.at];
    if (!losses) {
      return [...curve.classes.keys()].slice(0, SINGLED_OUT);
    }
    const { codes, levels } = losses.table.columns[0];
    return codes.slice(0, SINGLED_OUT).map((code) => curve.classes.indexOf(levels[code]));
  }

  // one trace for all lines in grey: a thousand classes are drawn as fast as ten
  function together(curve, others, x, colour) {
    const gap = (values) => [...values, null];
    return {
      type: "scatter", mode: "lines", hoverinfo: "text", showlegend: false, connectgaps: false,
      x: others.flatMap(() => gap(x)),
      y: others.flatMap((at) => gap(hundredfold(curve.mean[at]))),
      hovertext: others.flatMap((at) => gap(texts(curve, at))),
      line: { color: colour, width: 0.8 }, opacity: 0.45,
    };
  }

  function texts(curve, at) {
    return curve.fraction.map((fraction, place) => named(curve.classes[at], [
      `${written("share", fraction)} of the features, k = ${grouped(curve.k[place])}`,
      `accuracy ${written("kept", curve.mean[at][place])}`,
      seedsOf(curve.seeds),
    ]));
  }
}

function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, at) => {
    if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) {
      best = at;
    }
  });
  return best;
}

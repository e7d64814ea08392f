// Drawings from numbers: an interval as a whisker or a meter, a table of wins as heat, curves over steps.

import { el, percent, svg } from './page.js';

const WIDE = 360;
const HIGH = 190;
const EDGE = { left: 46, right: 10, top: 10, bottom: 24 };

/** A value with its interval on a common scale, as a dot on a line. */
export function whisker(found, low, high, text) {
  const at = (value) => (high > low ? 6 + (188 * (value - low)) / (high - low) : 100);
  return svg('svg', { class: 'whisker', viewBox: '0 0 200 26', preserveAspectRatio: 'none', role: 'img', 'aria-label': text },
    svg('line', { class: 'base', x1: 0, x2: 200, y1: 13, y2: 13, 'vector-effect': 'non-scaling-stroke' }),
    svg('line', { class: 'reach', x1: at(found.low), x2: at(found.high), y1: 13, y2: 13, 'vector-effect': 'non-scaling-stroke', 'stroke-linecap': 'round', 'stroke-width': 6 }),
    svg('rect', { class: 'dot', x: at(found.value) - 1.5, y: 6, width: 3, height: 14, rx: 1 }));
}

/** A share with its interval between 0 and 1, with a line at one half. */
export function meter(found, text) {
  return el('div', { class: 'meter', role: 'img', 'aria-label': text }, el('u'),
    el('i', { style: `left:${100 * found.low}%;width:${100 * (found.high - found.low)}%` }),
    el('b', { style: `left:${100 * found.value}%` }));
}

/** Who beat whom how often, a row against a column. */
export function heat(names, wins) {
  return el('table', { class: 'heat' }, el('caption', { class: 'unseen' }, 'Share of votes that the row won against the column'),
    el('thead', {}, el('tr', {}, el('th', { 'aria-label': 'Model' }), names.map((name) => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, names.map((name, i) => el('tr', {}, el('th', { scope: 'row' }, name), names.map((_, j) => {
      const games = wins[i][j] + wins[j][i];
      if (i === j || !games) return el('td', { 'aria-label': i === j ? 'itself' : 'no votes' }, '·');
      const share = wins[i][j] / games;
      return el('td', { style: `--heat:${Math.round(45 * share)}%`, title: `${wins[i][j]} of ${games}` }, percent(share));
    })))));
}

/**
 * Curves. `lines` are [{name, points: [[x, y], …]}] ; `guides` are y values to compare with. Returns a figure with a
 * legend, whose accessible name says where each line ends.
 */
export function curves(title, lines, guides = []) {
  const points = lines.flatMap((line) => line.points);
  if (!points.length) return null;
  const [x, y] = [scale(points.map((p) => p[0]), EDGE.left, WIDE - EDGE.right), scale([...points.map((p) => p[1])], HIGH - EDGE.bottom, EDGE.top)];
  const ends = lines.filter((line) => line.points.length).map((line) => `${line.name || title} ends at ${short(line.points.at(-1)[1])}`).join(', ');
  const near = guides.filter((guide) => guide >= y.low && guide <= y.high);
  return el('figure', { class: 'card' }, el('h3', {}, title),
    svg('svg', { class: 'chart', viewBox: `0 0 ${WIDE} ${HIGH}`, role: 'img', 'aria-label': `${title}: ${ends}` },
      ticks(y).map((value) => [svg('line', { class: 'axis', x1: EDGE.left, x2: WIDE - EDGE.right, y1: y(value), y2: y(value) }),
        svg('text', { x: EDGE.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, short(value))]).flat(),
      ticks(x).map((value) => svg('text', { x: x(value), y: HIGH - 6, 'text-anchor': 'middle' }, short(value))),
      near.map((guide) => svg('line', { class: 'guide', x1: EDGE.left, x2: WIDE - EDGE.right, y1: y(guide), y2: y(guide) })),
      lines.map((line) => svg('path', { class: `line ${line.look}`, d: path(line.points, x, y) }))),
    lines.length > 1 && el('ul', { class: 'legend' }, lines.map((line) => el('li', {},
      svg('svg', { 'aria-hidden': 'true', viewBox: '0 0 22 8' }, svg('path', { class: `line ${line.look}`, d: 'M0 4H22' })), line.name))));
}

function path(points, x, y) {
  return points.map(([a, b], place) => `${place ? 'L' : 'M'}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join('');
}

/** From numbers to pixels, with a little air. */
function scale(values, from, to) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const made = (value) => from + ((value - low) / (high - low)) * (to - from);
  return Object.assign(made, { low, high });
}

/** Three to five round numbers inside a scale. */
function ticks({ low, high }) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const made = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) made.push(Math.abs(value) < step / 1e6 ? 0 : value);
  return made;
}

/** A number in few characters. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 10000 || (size && size < 0.001)) return value.toExponential(0).replace('e+', 'e');
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

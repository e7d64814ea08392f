// A training run while it trains: curves with what is healthy, and the validation sheets step by step.

import { ask, el, empty, query, shell, told, url } from './page.js';
import { curves } from './charts.js';

const AGAIN = 2000; // milliseconds between two looks at a run that is not done
const SMOOTH = 20; // steps of the running mean
const PANELS = [
  { title: 'Loss', lines: { loss: '' } },
  { title: 'Margin: 5, 50 and 95 % of the pairs', lines: { margin_p05: '5 %', margin_p50: 'median', margin_p95: '95 %' }, guides: [0] },
  { title: 'Implicit accuracy', lines: { implicit_accuracy: '' }, guides: [0.5] },
  { title: "Error above the reference's, %", above: { win: 'winners', lose: 'losers' }, guides: [0, 20] },
  { title: 'Error on the winners', lines: { win_error: 'policy', win_reference_error: 'reference' } },
  { title: 'Gradient norm', lines: { grad_norm: '' } },
];

export function mount(element) {
  new Runs(shell(element, 'runs')).load();
}

class Runs {
  constructor(room) {
    this.rows = [];
    this.pick = el('select', { 'aria-label': 'Which run', onchange: () => { this.rows = []; this.draw(); } });
    this.told = el('p', { class: 'soft', role: 'status' });
    this.charts = el('div', { class: 'charts' });
    this.sheets = el('div', { class: 'stack' });
    this.room = room;
    room.append(el('div', { class: 'lead' }, el('h1', {}, 'Training runs'), this.told), el('div', { class: 'tools' }, el('label', { class: 'rater' }, el('span', {}, 'Run'), this.pick)),
      this.charts, this.sheets);
  }

  load = told(async () => {
    const found = await ask('desk/runs');
    if (!found.length) {
      this.room.replaceChildren(empty('No runs to watch', 'Start the app with --runs DIR, or compare the folder of a run.'));
      return;
    }
    this.pick.replaceChildren(...found.map((each) => el('option', { value: each.name }, each.name)));
    await this.draw();
  });

  draw = told(async () => {
    clearTimeout(this.later);
    const found = await ask(`desk/run?${query({ name: this.pick.value })}`);
    const step = `step ${found.step}${found.steps ? ` of ${found.steps}` : ''}`;
    this.told.className = found.done ? 'soft' : 'soft live';
    this.told.textContent = found.done ? `done · ${step}` : `training · ${step}`;
    this.charts.replaceChildren(...PANELS.map((panel) => figure(panel, found)).filter(Boolean));
    if (!found.rows.length) this.charts.replaceChildren(empty('Nothing measured yet', 'The first step has not been written.'));
    this.show(found);
    if (!found.done) this.later = setTimeout(() => this.draw(), AGAIN);
  });

  show(found) {
    const names = found.sheets;
    if (names.join() === this.names && this.of === found.name) return;
    [this.names, this.of] = [names.join(), found.name];
    if (!names.length) {
      this.sheets.replaceChildren();
      return;
    }
    const label = (name) => `step ${Number(name.match(/\d+/)[0])}`;
    const image = el('img', { class: 'sheet' });
    const said = el('output', {}, '');
    const range = el('input', { type: 'range', min: '0', max: String(names.length - 1), value: String(names.length - 1), 'aria-label': 'Step of the validation sheet', oninput: () => turn() });
    const turn = () => {
      const name = names[Number(range.value)];
      image.src = url(`desk/sheet?${query({ name: found.name, file: name })}`);
      image.alt = `Validation pictures at ${label(name)}`;
      said.textContent = label(name);
      range.setAttribute('aria-valuetext', label(name));
    };
    turn();
    this.sheets.replaceChildren(el('section', { class: 'card stack' }, el('h2', {}, 'Validation pictures'), el('label', { class: 'zoom' }, range, said), image));
  }
}

function figure(panel, found) {
  const lines = panel.above ? above(panel.above, found.rows) : plain(panel.lines, found.rows);
  const made = curves(panel.title, lines, panel.guides);
  const about = found.healthy[Object.keys(panel.lines ?? {})[0]];
  if (made && about) made.append(el('p', { class: 'interval' }, `Healthy: ${about.range}.`));
  return made;
}

function plain(names, rows) {
  return Object.entries(names).map(([key, name], place) => ({ name, look: `c${Math.min(place, 3)} d${place}`, points: smooth(rows, (row) => row[key]) })).filter((line) => line.points.length);
}

function above(sides, rows) {
  return Object.entries(sides).map(([side, name], place) => {
    const [policy, reference] = [`${side}_error`, `${side}_reference_error`].map((key) => smooth(rows, (row) => row[key]));
    return { name, look: `c${place} d${place}`, points: policy.length === reference.length ? policy.map(([x, y], i) => [x, 100 * (y / reference[i][1] - 1)]) : [] };
  }).filter((line) => line.points.length);
}

function smooth(rows, value) {
  const kept = rows.filter((row) => Number.isFinite(value(row)));
  const window = Math.max(1, Math.round((SMOOTH * rows.length) / (rows.at(-1)?.step || 1)));
  return kept.map((row, place) => {
    const part = kept.slice(Math.max(0, place + 1 - window), place + 1).map(value);
    return [row.step, part.reduce((a, b) => a + b, 0) / part.length];
  });
}

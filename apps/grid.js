// Prompt x seed x model: every picture from the same noise, its scores, and one prompt taken apart.

import { ask, count, el, query, say, scores, shell, toggle, told, url } from './page.js';
import { crisp, stage } from './stage.js';

const PAGE = 8; // prompts at a time
const AGAIN = 900; // milliseconds between two looks while pictures are drawn

export function mount(element) {
  new Grid(shell(element, '')).start();
}

class Grid {
  constructor(room) {
    this.rows = new Map(); // prompt -> its part of the table
    this.shown = PAGE;
    this.find = el('input', { type: 'search', placeholder: 'Find a prompt', 'aria-label': 'Find a prompt', oninput: () => {
      this.shown = PAGE;
      this.load();
    } });
    this.marks = toggle('Hide scores', 'hide-scores', (on) => this.table.classList.toggle('bare', on));
    this.status = el('p', { class: 'soft status', role: 'status' });
    this.bar = el('progress', { class: 'thin', max: '1', value: '0', 'aria-label': 'Pictures drawn' });
    this.head = el('thead');
    this.table = el('table', { class: 'grid' }, el('caption', { class: 'unseen' }, 'Pictures by prompt and seed, a column for each model'), this.head);
    this.table.classList.toggle('bare', this.marks.box.checked);
    this.more = el('button', { class: 'quiet wide', type: 'button', hidden: true, onclick: () => { this.shown += PAGE; this.load(); } });
    this.drill = new Drill(this);
    this.news = el('div', { class: 'news' });
    room.append(el('div', { class: 'lead' }, el('h1', {}, 'Same prompt, same noise'), this.status), this.bar, this.news,
      el('div', { class: 'tools' }, this.find, this.marks, this.ask()), this.table, this.more, this.drill.element);
  }

  ask() {
    const words = el('input', { type: 'text', name: 'prompt', maxlength: '2000', placeholder: 'A prompt of your own', 'aria-label': 'A prompt of your own', autocomplete: 'off' });
    return el('form', { class: 'own', onsubmit: told(async (event) => {
      event.preventDefault();
      const { prompt } = await ask('desk/draw', { prompt: words.value, seeds: this.about.seeds.length });
      words.value = this.find.value = '';
      say(`Drawing “${prompt}” before all else.`);
      await this.load();
      scrollTo({ top: 0, behavior: 'smooth' });
    }) }, words, el('button', { type: 'submit' }, 'Draw'));
  }

  start = told(async () => {
    await this.load();
  });

  load = told(async () => {
    clearTimeout(this.later);
    const [about, grid] = await Promise.all([ask('desk/about'), ask(`desk/grid?${query({ start: 0, count: this.shown, find: this.find.value })}`)]);
    this.about = about;
    this.title(grid);
    this.fill(grid.rows);
    if (about.progress.waiting) this.later = setTimeout(() => this.load(), AGAIN);
  });

  title(grid) {
    const { models, progress, trained } = this.about;
    const heads = models.map((each) => el('th', { scope: 'col' }, el('span', { class: 'model' }, each.name),
      el('code', { title: 'Hash of the weights that draw' }, each.weights || 'not loaded yet')));
    const told_ = JSON.stringify(models);
    if (told_ !== this.heads) {
      this.heads = told_;
      this.table.style.setProperty('--models', models.length);
      this.head.replaceChildren(el('tr', {}, el('th', { scope: 'col' }, 'Prompt'), heads));
      this.rows.forEach((row) => row.body.remove());
      this.rows.clear();
    }
    this.bar.max = Math.max(1, progress.total);
    this.bar.value = progress.ready;
    this.bar.hidden = !progress.waiting;
    this.status.textContent = progress.waiting ? `${progress.stage || 'waiting'} · ${progress.ready} of ${count(progress.total, 'picture')}`
      : `${count(grid.of, 'prompt')}, ${count(this.about.seeds.length, 'seed')}, ${count(models.length, 'model')}` + (progress.failed ? ` · ${count(progress.failed, 'picture')} failed` : '');
    this.more.hidden = grid.rows.length >= grid.of;
    this.more.textContent = `Show more (${grid.of - grid.rows.length} left)`;
    this.news.replaceChildren(...(trained ? [this.admission()] : []));
  }

  admission() {
    return el('p', { class: 'notice' }, 'A model trained from your votes is ready. ', el('button', { type: 'button', onclick: told(async () => {
      await ask('desk/admit', {});
      await this.load();
    }) }, 'Add it to the comparison'));
  }

  fill(rows) {
    const kept = new Set(rows.map((row) => row.prompt));
    for (const [prompt, row] of this.rows) {
      if (!kept.has(prompt)) {
        row.body.remove();
        this.rows.delete(prompt);
      }
    }
    for (const row of rows) {
      const state = JSON.stringify(row);
      const old = this.rows.get(row.prompt);
      if (old?.state !== state) {
        const body = this.body(row);
        old ? old.body.replaceWith(body) : this.table.append(body);
        this.rows.set(row.prompt, { body, state });
      }
    }
    rows.forEach((row) => this.table.append(this.rows.get(row.prompt).body));
    if (!rows.length) this.status.textContent = 'No prompt contains that.';
  }

  body(row) {
    return el('tbody', {}, row.seeds.map((line, place) => el('tr', {},
      place === 0 && el('th', { scope: 'rowgroup', rowspan: row.seeds.length, class: 'prompt' }, row.prompt),
      line.cells.map((cell) => el('td', {}, this.cell(row, line, cell))))));
  }

  cell(row, line, cell) {
    if (cell.state === 'failed') return el('p', { class: 'failed' }, cell.why);
    if (cell.state !== 'ready') return el('div', { class: 'blank', role: 'img', 'aria-label': `${cell.model} has not drawn seed ${line.seed} yet` });
    const image = el('img', { src: url(`desk/picture/${cell.key}`), loading: 'lazy', alt: `${row.prompt}, drawn by ${cell.model} from seed ${line.seed}`, onload: () => crisp(image) });
    return [el('button', { class: 'picture', type: 'button', onclick: () => this.drill.open(row, line.seed, cell.model) }, image),
      el('div', { class: 'under' }, el('span', { class: 'seed' }, `seed ${line.seed}`), scores(cell.scores))].filter(Boolean);
  }
}

/** One prompt taken apart: any two models, any seed, and the proof that the noise is the same. */
class Drill {
  constructor(grid) {
    this.grid = grid;
    this.stage = stage();
    this.prompt = el('h2', { class: 'prompt', id: 'drill-title' });
    this.left = el('select', { 'aria-label': 'Left model', onchange: () => this.show() });
    this.right = el('select', { 'aria-label': 'Right model', onchange: () => this.show() });
    this.seed = el('select', { 'aria-label': 'Seed', onchange: () => this.show() });
    this.proof = el('div', { class: 'proof' });
    this.seal = el('p', { class: 'seal' });
    this.element = el('dialog', { class: 'drill', 'aria-labelledby': 'drill-title', onclick: (event) => {
      if (event.target === this.element) this.element.close();
    } }, el('div', { class: 'drill-inside' },
      el('div', { class: 'drill-head' }, this.prompt, el('button', { class: 'plain', type: 'button', 'aria-label': 'Close', onclick: () => this.element.close() }, '✕')),
      el('div', { class: 'pickers' }, el('label', {}, el('span', {}, 'Left'), this.left), el('label', {}, el('span', {}, 'Right'), this.right), el('label', {}, el('span', {}, 'Seed'), this.seed), this.seal),
      this.stage.element, this.proof));
  }

  open(row, seed, model) {
    this.row = row;
    const models = row.seeds[0].cells.map((cell) => cell.model);
    const other = model === models[0] ? models[1] : model;
    this.prompt.textContent = row.prompt;
    this.options(this.left, models, models[0]);
    this.options(this.right, models, other);
    this.options(this.seed, row.seeds.map((each) => String(each.seed)), String(seed));
    this.element.showModal();
    this.show();
  }

  options(select, names, chosen) {
    select.replaceChildren(...names.map((name) => el('option', { value: name, selected: name === chosen }, name)));
  }

  show = told(async () => {
    const line = this.row.seeds.find((each) => String(each.seed) === this.seed.value);
    const cells = [this.left, this.right].map((each) => line.cells.find((cell) => cell.model === each.value));
    if (cells.every((cell) => cell.state === 'ready')) {
      this.stage.show(cells.map((cell) => ({ src: url(`desk/picture/${cell.key}`), name: cell.model, alt: `${this.row.prompt}, drawn by ${cell.model} from seed ${line.seed}` })));
      cells.forEach((cell, side) => this.stage.note(side, scores(cell.scores)));
    }
    const proofs = await ask(`desk/proof?${query({ prompt: this.row.prompt, seed: line.seed })}`);
    this.prove(cells.map((cell) => proofs.find((each) => each.model === cell.model)).filter(Boolean));
  });

  prove(proofs) {
    if (!proofs.length) return;
    const same = new Set(proofs.map((each) => each.noise)).size === 1;
    this.seal.className = `seal ${same ? 'good' : 'bad'}`;
    this.seal.textContent = same ? 'Same initial noise' : 'Not the same initial noise: these models draw in different spaces';
    this.proof.replaceChildren(facts(proofs));
  }
}

/** What two pictures were drawn with, and the noise that they began as. */
function facts(proofs) {
  const names = Object.keys(proofs[0]).filter((name) => !['prompt', 'model'].includes(name));
  return el('table', { class: 'facts' }, el('caption', { class: 'unseen' }, 'What the pictures were drawn with'),
    el('thead', {}, el('tr', {}, el('td'), proofs.map((each) => el('th', { scope: 'col' }, each.model)))),
    el('tbody', {}, names.map((name) => el('tr', {}, el('th', { scope: 'row' }, name), proofs.map((each) => el('td', {}, fact(each[name])))))));
}

const fact = (value) => (Array.isArray(value) ? value.join(' × ') : String(value ?? '—'));

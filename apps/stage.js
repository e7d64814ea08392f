// Two pictures to be compared: side by side, under a slider, flickering, as their difference; zoomed and moved as one.

import { compared, paint } from './difference.js';
import { choices, el } from './page.js';

const MODES = [['pair', 'Side by side'], ['slider', 'Slider'], ['flicker', 'Flicker'], ['difference', 'Difference']];
const BEAT = 650; // milliseconds that each picture is seen: below three changes a second

/** A stage. `show([{src, name, alt}, {…}])` puts two pictures on it; `note(side, …nodes)` writes under one. */
export function stage() {
  const made = new Stage();
  return made;
}

class Stage {
  constructor() {
    this.mode = 'pair';
    this.sides = [];
    this.view = { zoom: 1, x: 0, y: 0 };
    this.notes = [el('figcaption'), el('figcaption')];
    this.field = el('div', { class: 'stage-field' });
    this.zoom = el('input', { type: 'range', min: '1', max: '8', step: '0.5', value: '1', 'aria-label': 'Zoom',
      oninput: () => this.look({ zoom: Number(this.zoom.value) }) });
    this.extra = el('div', { class: 'stage-extra' });
    this.element = el('div', { class: 'stage' }, this.field,
      el('div', { class: 'stage-tools' }, choices('View', MODES, 'pair', (mode) => this.turn(mode)),
        el('label', { class: 'zoom' }, el('span', {}, 'Zoom'), this.zoom), this.extra));
    this.field.addEventListener('pointerdown', (event) => this.drag(event));
    this.field.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
  }

  show(sides) {
    this.sides = sides;
    this.notes = [el('figcaption'), el('figcaption')];
    this.view = { zoom: 1, x: 0, y: 0 };
    this.zoom.value = '1';
    this.turn(this.mode);
  }

  note(side, ...nodes) {
    this.notes[side].replaceChildren(...nodes);
  }

  turn(mode) {
    this.mode = mode;
    clearInterval(this.beat);
    this.extra.replaceChildren();
    if (this.sides.length < 2) return;
    this.field.className = `stage-field ${mode}`;
    this.field.replaceChildren(...({ pair: () => this.pair(), slider: () => this.slider(), flicker: () => this.flicker(),
      difference: () => this.difference() })[mode]());
    this.look({});
  }

  picture(side) {
    const { src, alt } = this.sides[side];
    const image = el('img', { src, alt, draggable: 'false', onload: () => crisp(image) });
    return el('div', { class: 'window' }, image);
  }

  figure(side, ...inside) {
    return el('figure', { class: `side side-${'ab'[side]}` }, ...inside,
      el('span', { class: 'side-name' }, this.sides[side].name), this.notes[side]);
  }

  pair() {
    return [0, 1].map((side) => this.figure(side, this.picture(side)));
  }

  captions() {
    return el('div', { class: 'captions' }, [0, 1].map((side) =>
      el('div', { class: `side side-${'ab'[side]}` }, el('span', { class: 'side-name' }, this.sides[side].name), this.notes[side])));
  }

  slider() {
    const top = this.picture(0);
    top.classList.add('top');
    const over = el('div', { class: 'layers' }, this.picture(1), top, el('span', { class: 'edge', 'aria-hidden': 'true' }));
    const [left, right] = this.sides.map((each) => each.name);
    const range = el('input', { type: 'range', min: '0', max: '100', value: '50', class: 'slide',
      'aria-label': `How much of ${left} covers ${right}`, oninput: () => {
        over.style.setProperty('--cut', `${range.value}%`);
        range.setAttribute('aria-valuetext', `${range.value} % ${left}`);
      } });
    over.style.setProperty('--cut', '50%');
    return [el('div', { class: 'single' }, over, range), this.captions()];
  }

  flicker() {
    const layers = [this.picture(0), this.picture(1)];
    const label = el('span', { class: 'now', 'aria-live': 'off' });
    let front = 0;
    const step = () => {
      front = 1 - front;
      layers.forEach((layer, side) => { layer.hidden = side !== front; });
      label.textContent = this.sides[front].name;
    };
    step();
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    const run = el('button', { class: 'quiet', type: 'button' });
    const play = (on) => {
      clearInterval(this.beat);
      if (on) this.beat = setInterval(step, BEAT);
      run.textContent = on ? 'Pause' : 'Play';
      run.onclick = () => play(!on);
    };
    play(!still);
    this.extra.replaceChildren(run, el('button', { class: 'quiet', type: 'button', onclick: () => { play(false); step(); } }, 'Other picture'));
    return [el('div', { class: 'single' }, el('div', { class: 'layers' }, ...layers, label)), this.captions()];
  }

  difference() {
    const canvas = el('canvas', { role: 'img', 'aria-label': 'How much the two pictures differ, pixel by pixel' });
    const said = el('p', { class: 'said', role: 'status' }, 'Comparing …');
    const slide = (words, name, least, most, value) => el('label', { class: 'zoom' }, el('span', {}, words),
      el('input', { type: 'range', min: String(least), max: String(most), value: String(value), 'aria-label': name }));
    const strength = slide('Strength', 'How strongly differences are shown', 1, 10, 3);
    compared(this.sides.map((each) => each.src)).then((found) => {
      const frame = slide('Frame', 'Which frame is compared; at the left end all of them', 0, found.gaps.length, 0);
      const draw = () => {
        const [gain, place] = [strength, frame].map((each) => Number(each.lastChild.value));
        said.textContent = paint(canvas, found, place ? place - 1 : null, gain);
      };
      [strength, frame].forEach((each) => each.addEventListener('input', draw));
      if (found.gaps.length > 1 && strength.isConnected) this.extra.append(frame);
      draw();
    }).catch((error) => { said.textContent = error.message; });
    this.extra.replaceChildren(strength);
    return [el('div', { class: 'single' }, el('div', { class: 'layers' }, el('div', { class: 'window' }, canvas)), said), this.captions()];
  }

  look(change) {
    Object.assign(this.view, change);
    const { zoom } = this.view;
    const most = (50 * (zoom - 1)) / zoom;
    for (const axis of ['x', 'y']) this.view[axis] = Math.min(most, Math.max(-most, this.view[axis]));
    this.field.style.setProperty('--view', `scale(${zoom}) translate(${this.view.x}%, ${this.view.y}%)`);
    this.field.classList.toggle('near', zoom > 1);
  }

  drag(event) {
    if (this.view.zoom === 1 || event.target.closest('input, button')) return;
    event.preventDefault();
    const size = (this.field.querySelector('.window')?.clientWidth ?? 300) * this.view.zoom;
    const [x0, y0, from] = [event.clientX, event.clientY, { ...this.view }];
    const move = (next) => this.look({ x: from.x + (100 * (next.clientX - x0)) / size, y: from.y + (100 * (next.clientY - y0)) / size });
    const stop = () => { removeEventListener('pointermove', move); removeEventListener('pointerup', stop); };
    addEventListener('pointermove', move);
    addEventListener('pointerup', stop);
  }

  wheel(event) {
    if (!event.ctrlKey && this.view.zoom === 1) return;
    event.preventDefault();
    this.zoom.value = String(Math.min(8, Math.max(1, this.view.zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2))));
    this.look({ zoom: Number(this.zoom.value) });
  }
}

/** Small pictures are shown with hard edges: smoothing would hide what the model drew. */
export function crisp(image) {
  image.classList.toggle('crisp', image.naturalWidth <= 128);
}

// Two pictures to be compared: side by side, under a slider, flickering, as their difference; zoomed and moved as one.

import { choices, el } from './page.js';

const MODES = [['pair', 'Side by side'], ['slider', 'Slider'], ['flicker', 'Flicker'], ['difference', 'Difference']];
const BEAT = 650; // milliseconds that each picture is seen: below three changes a second
const FAR = 8; // levels of 255 by which a pixel differs visibly

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
    const gain = el('input', { type: 'range', min: '1', max: '10', value: '3', 'aria-label': 'How strongly differences are shown' });
    const draw = async () => {
      try {
        said.textContent = await subtract(canvas, this.sides.map((each) => each.src), Number(gain.value));
      } catch (error) {
        said.textContent = error.message;
      }
    };
    gain.addEventListener('input', draw);
    draw();
    this.extra.replaceChildren(el('label', { class: 'zoom' }, el('span', {}, 'Strength'), gain));
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

async function subtract(canvas, sources, gain) {
  const [one, other] = await Promise.all(sources.map(pixels));
  if (one.width !== other.width || one.height !== other.height) throw new Error('The two pictures differ in size.');
  const pen = canvas.getContext('2d');
  [canvas.width, canvas.height] = [one.width, one.height];
  canvas.classList.toggle('crisp', one.width <= 128);
  const made = pen.createImageData(one.width, one.height);
  let [sum, far] = [0, 0];
  for (let i = 0; i < made.data.length; i += 4) {
    const gaps = [0, 1, 2].map((channel) => Math.abs(one.data[i + channel] - other.data[i + channel]));
    gaps.forEach((gap, channel) => { made.data[i + channel] = Math.min(255, gain * gap); });
    made.data[i + 3] = 255;
    sum += gaps[0] + gaps[1] + gaps[2];
    far += Math.max(...gaps) > FAR;
  }
  pen.putImageData(made, 0, 0);
  const count = one.width * one.height;
  const first = one.moves || other.moves ? 'First frames. ' : '';
  return sum === 0 ? `${first}The two pictures are the same, pixel for pixel.`
    : `${first}Mean difference ${(sum / count / 3).toFixed(1)} of 255; ${((100 * far) / count).toFixed(0)} % of pixels differ visibly.`;
}

/** What a picture holds, or the first frame of a clip, which `moves`. */
async function pixels(src) {
  const moves = (await fetch(src)).headers.get('content-type') === 'image/webp';
  const image = new Image();
  image.src = src;
  await image.decode();
  const canvas = el('canvas', { width: image.naturalWidth, height: image.naturalHeight });
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  return Object.assign(pen.getImageData(0, 0, canvas.width, canvas.height), { moves });
}

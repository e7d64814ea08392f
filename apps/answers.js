// Answers of multimodal models to one question about one image; names of what the image does not show are marked.

import { ask, count, el, empty, shell, typing, url } from './page.js';

export function mount(element) {
  new Answers(shell(element, 'answers')).go(Number(new URLSearchParams(location.search).get('question') ?? 1) - 1);
}

class Answers {
  constructor(room) {
    this.number = 0;
    this.of = 1;
    this.place = el('span', { class: 'soft', role: 'status' });
    this.view = el('div');
    const step = (by, text, sign) => el('button', { class: 'quiet', type: 'button', 'aria-label': text, onclick: () => this.go(this.number + by) }, sign);
    room.append(el('div', { class: 'lead' }, el('h1', {}, 'Answers side by side'),
      el('div', { class: 'turn' }, step(-1, 'Previous question', '←'), this.place, step(1, 'Next question', '→'))), this.view);
    document.addEventListener('keydown', (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && !typing(event.target)) this.go(this.number + by);
    });
  }

  async go(number) {
    try {
      if (number < 0 || number >= this.of && this.found) return;
      this.found = await ask(`desk/answers/${Math.max(0, number)}`);
      [this.number, this.of] = [this.found.number, this.found.of];
      history.replaceState(null, '', `?question=${this.number + 1}`);
      this.show(this.found);
    } catch (error) {
      this.view.replaceChildren(empty('No answers to show', error.message));
    }
  }

  show(found) {
    this.place.textContent = `question ${found.number + 1} of ${found.of}`;
    this.view.replaceChildren(el('div', { class: 'question' },
      el('div', { class: 'stack' }, this.image(found), found.objects && el('p', { class: 'soft' }, `In the image: ${found.objects.join(', ') || 'nothing that was annotated'}`)),
      el('div', { class: 'stack' }, el('h2', { class: 'prompt' }, found.question), el('div', { class: 'answers-list' }, found.answers.map(answer)))));
  }

  image(found) {
    const why = el('p', { class: 'failed', hidden: true });
    const source = url(`desk/answers/${found.number}/image`);
    const image = el('img', { alt: `What the question “${found.question}” is about`, onerror: async () => {
      why.textContent = (await (await fetch(source)).json()).error;
      why.hidden = false;
      image.hidden = true;
    }, src: source });
    return el('div', { class: 'shown' }, image, why);
  }
}

function answer(found) {
  const wrong = found.hallucinated.length;
  const verdict = !found.judged ? el('p', { class: 'soft' }, 'Nobody annotated this.')
    : wrong ? el('p', { class: 'bad' }, `${count(wrong, 'hallucinated object')}: ${found.hallucinated.join(', ')}`)
      : el('p', { class: 'good' }, 'No annotated name is out of place.');
  return el('section', { class: 'card' }, el('h3', {}, found.model),
    el('p', { class: 'answer-text' }, found.pieces.map((piece) => piece.marked ? el('mark', {}, piece.text) : piece.text)), verdict);
}

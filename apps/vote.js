// Blind votes: two pictures, four answers, then who drew what. Everything can be done by keyboard or with a thumb.

import { ask, choices, count, el, rater, rename, say, scores, shell, toggle, told, typing, url } from './page.js';
import { stage } from './stage.js';

const VERDICTS = [['left', 'A is better', '1'], ['right', 'B is better', '2'], ['tie', 'Tie', '3'], ['both_bad', 'Both bad', '4']];
const KEYS = { 1: 'left', 2: 'right', 3: 'tie', 4: 'both_bad', ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'tie', ArrowDown: 'both_bad' };
const SAID = { left: 'You chose A', right: 'You chose B', tie: 'You called a tie', both_bad: 'You found both bad' };

export function mount(element) {
  new Booth(shell(element, 'vote')).next();
}

class Booth {
  constructor(room) {
    this.room = room;
    this.state = 'waiting'; // then "open" (an answer is asked for), "sending", "told"
    this.stage = stage();
    this.prompt = el('h1', { class: 'prompt' });
    this.ballot = el('div', { class: 'ballot' });
    this.aside = el('div', { class: 'aspects' });
    this.verdict = el('p', { class: 'verdict', role: 'status', 'aria-live': 'polite' });
    this.bar = el('progress', { max: '1', value: '0', 'aria-label': 'Your votes' });
    this.counted = el('span', { class: 'counted' });
    this.straight = toggle('Go straight on', 'straight');
    this.detailed = toggle('Vote on aspects', 'aspects', () => this.refine());
    this.board = el('section', { class: 'vote', 'aria-label': 'Vote' }, this.prompt, this.stage.element, this.aside, this.verdict, this.ballot);
    room.append(this.board, this.foot());
    document.addEventListener('keydown', (event) => this.press(event));
  }

  foot() {
    const name = el('input', { type: 'text', value: rater(), maxlength: '64', 'aria-label': 'Your name as a rater', autocomplete: 'off', onchange: () => {
      if (name.value.trim()) rename(name.value.trim());
      name.value = rater();
      sessionStorage.removeItem('visalign-trial');
      this.state = 'waiting'; // what is on the screen was asked of somebody else
      this.ballot.replaceChildren();
      this.next();
    } });
    return el('footer', { class: 'vote-foot' }, el('div', { class: 'progress' }, this.bar, this.counted),
      el('div', { class: 'switches' }, this.straight, this.detailed),
      el('label', { class: 'rater' }, el('span', {}, 'Rater'), name));
  }

  next = told(async () => {
    const again = sessionStorage.getItem('visalign-trial') ?? '';
    this.take(await ask('desk/trial', { rater: rater(), again }));
  });

  take(found) {
    this.progress(found.progress);
    clearTimeout(this.later);
    if (!found.trial) {
      this.rest(found);
      return;
    }
    this.trial = found.trial;
    this.state = 'open';
    this.began = performance.now();
    sessionStorage.setItem('visalign-trial', found.trial.id);
    this.board.classList.remove('resting', 'told');
    this.prompt.textContent = found.trial.prompt;
    if (!this.straight.box.checked) this.verdict.textContent = '';
    this.stage.show(found.trial.pictures.map((name, side) => ({ src: url(`desk/blind/${name}`), name: 'AB'[side], alt: `Picture ${'AB'[side]}` })));
    this.words = found.aspects ?? [];
    this.detailed.hidden = !this.words.length;
    this.refine();
    this.offer();
  }

  rest(found) {
    this.state = 'waiting';
    this.trial = null;
    this.board.classList.add('resting');
    this.prompt.textContent = found.drawing ? 'Pictures are being drawn …' : 'You have seen every pair.';
    this.ballot.replaceChildren(found.drawing
      ? el('p', { class: 'soft' }, count(found.drawing, 'picture') + ' to go; the first pair comes by itself.')
      : el('p', { class: 'soft' }, 'Thank you. ', el('a', { href: url('leaderboard') }, 'See the leaderboard'), ', or draw more prompts in the grid.'));
    if (found.drawing) this.later = setTimeout(() => this.next(), 700);
  }

  offer() {
    const answers = VERDICTS.map(([said, text, key]) =>
      el('button', { class: `answer ${said}`, type: 'button', 'data-said': said, onclick: () => this.vote(said) }, text, el('kbd', { 'aria-hidden': 'true' }, key)));
    const more = [['Skip', 'S', () => this.skip()], ['Undo', 'U', () => this.undo()]].map(([text, key, act]) =>
      el('button', { class: 'quiet', type: 'button', onclick: act }, text, el('kbd', { 'aria-hidden': 'true' }, key)));
    this.ballot.replaceChildren(el('div', { class: 'answers', role: 'group', 'aria-label': 'Which picture is better?' }, answers),
      el('div', { class: 'more' }, more));
  }

  refine() {
    const shown = this.detailed.box.checked && !this.detailed.hidden;
    this.said = {};
    this.aside.replaceChildren(...(shown ? this.words ?? [] : []).map((word) =>
      choices(word, [['left', 'A'], ['tie', 'Tie'], ['right', 'B']], '', (said) => { this.said[word] = said; })));
  }

  vote = told(async (said) => {
    if (this.state !== 'open') return; // a second click is the same vote
    this.state = 'sending';
    this.board.dataset.said = said;
    try {
      const found = await ask('desk/vote', { trial: this.trial.id, rater: rater(), said, aspects: this.said });
      sessionStorage.removeItem('visalign-trial');
      this.reveal(found);
    } catch (error) {
      this.state = 'open';
      throw error;
    }
  });

  reveal(found) {
    this.state = 'told';
    this.progress(found.progress);
    this.board.classList.add('told');
    found.sides.forEach((side, place) => this.stage.note(place, el('b', { class: 'model' }, side.model), scores(side.scores)));
    this.verdict.replaceChildren(...judged(found));
    if (this.straight.box.checked) {
      this.next();
      return;
    }
    const next = el('button', { class: 'answer next', type: 'button', onclick: () => this.next() }, 'Next pair', el('kbd', { 'aria-hidden': 'true' }, '↵'));
    this.ballot.replaceChildren(el('div', { class: 'answers' }, next),
      el('div', { class: 'more' }, el('button', { class: 'quiet', type: 'button', onclick: () => this.undo() }, 'Undo', el('kbd', { 'aria-hidden': 'true' }, 'U'))));
    next.focus({ preventScroll: true });
  }

  skip = told(async () => {
    if (this.state !== 'open') return;
    this.state = 'sending';
    await ask('desk/skip', { trial: this.trial.id, rater: rater() });
    sessionStorage.removeItem('visalign-trial');
    await this.next();
  });

  undo = told(async () => {
    if (this.state === 'sending') return;
    const found = await ask('desk/undo', { rater: rater() });
    this.take(found);
    say('Your last vote was taken back.');
  });

  progress(found) {
    if (!found) return;
    const goal = found.goal || found.pairs;
    this.bar.max = Math.max(1, goal);
    this.bar.value = Math.min(found.mine, goal);
    this.counted.textContent = `${found.mine} of ${count(goal, 'pair')}`;
  }

  press(event) {
    if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const onRange = event.target.matches?.('input[type=range], input[type=radio]') && event.key.startsWith('Arrow');
    const act = onRange ? null : this.action(event);
    if (act) {
      event.preventDefault();
      act();
    }
  }

  action(event) {
    const said = KEYS[event.key];
    if (this.state === 'open' && said) return () => this.vote(said);
    if (this.state === 'open' && event.key.toLowerCase() === 's') return () => this.skip();
    if (event.key.toLowerCase() === 'u') return () => this.undo();
    const onButton = event.target.closest?.('button, a') && !event.target.classList.contains('next');
    if (this.state === 'told' && !onButton && ['Enter', ' ', 'n'].includes(event.key)) return () => this.next();
    return null;
  }
}

/** What was answered, and which scorers would have answered alike. */
function judged(found) {
  const [left, right] = found.sides;
  const words = Object.keys(left.scores).map((name) => {
    const [a, b] = [left.scores[name]?.value, right.scores[name]?.value];
    if (a == null || b == null) return null;
    const prefers = a === b ? 'tie' : a > b ? 'left' : 'right';
    const alike = prefers === found.said;
    return el('span', { class: alike ? 'good' : 'soft' }, ` ${name} ${alike ? 'agrees' : prefers === 'tie' ? 'sees a tie' : `prefers ${prefers === 'left' ? 'A' : 'B'}`}.`);
  });
  return [`${SAID[found.said]}.`, ...words.filter(Boolean)];
}

// What every page is made of: elements from text alone, calls to the server, the head, messages, the rater's name.

const KEY = document.querySelector('meta[name="visalign-key"]')?.content ?? '';
const SVG = 'http://www.w3.org/2000/svg';
const PAGES = [['', 'Grid'], ['vote', 'Vote'], ['leaderboard', 'Leaderboard'], ['answers', 'Answers'], ['runs', 'Runs']];

/** An element. Children are nodes or texts, never markup: whatever a stranger wrote stays words. */
export function el(tag, given = {}, ...children) {
  return filled(document.createElement(tag), given, children);
}

/** The same for the parts of a drawing. */
export function svg(tag, given = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), given, children);
}

function filled(made, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, '');
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((each) => each != null && each !== false));
  return made;
}

/** Ask the server; a body makes it a POST. What it refuses is an Error with its sentence. */
export async function ask(path, body) {
  const post = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body),
    headers: { 'content-type': 'application/json', 'x-visalign-key': KEY } };
  let answer;
  try {
    answer = await fetch(url(path), post);
  } catch {
    throw new Error('The app does not answer. Is it still running?');
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ?? `The app answered ${answer.status}.`);
  return found;
}

/** A path of the app, wherever it is mounted. */
export const url = (path) => new URL(path, document.baseURI).href;

/** Query parameters from a mapping. */
export const query = (values) => new URLSearchParams(values).toString();

/** The page: head, navigation, room for the view. Returns the room. */
export function shell(element, here) {
  applyTheme(localStorage.getItem('visalign-theme'));
  const room = el('main', { class: 'room', id: 'room', tabindex: '-1' });
  const links = PAGES.map(([path, name]) =>
    el('a', { href: url(path || './'), 'aria-current': path === here ? 'page' : null }, name));
  element.replaceChildren(el('div', { class: 'visalign' },
    el('a', { class: 'skip-link', href: '#room', onclick: (e) => { e.preventDefault(); room.focus(); } }, 'Skip to content'),
    el('header', { class: 'head' },
      el('a', { class: 'mark', href: url('./'), 'aria-label': 'visalign compare, the grid' },
        el('span', { class: 'mark-sign', 'aria-hidden': 'true' }), 'visalign', el('em', {}, 'compare')),
      el('nav', { 'aria-label': 'Views' }, links), themeButton()),
    room, el('div', { class: 'messages', role: 'status', 'aria-live': 'polite' })));
  return room;
}

function themeButton() {
  return el('button', { class: 'plain theme', type: 'button', 'aria-label': 'Switch between light and dark', onclick: () => {
    const next = document.body.classList.contains('dark') ? 'light' : 'dark';
    localStorage.setItem('visalign-theme', next);
    applyTheme(next);
  } }, el('span', { 'aria-hidden': 'true' }, '◐'));
}

function applyTheme(name) {
  if (name) document.body.classList.toggle('dark', name === 'dark');
}

/** A message that goes away by itself. */
export function say(text, tone = '') {
  const message = el('p', { class: `message ${tone}` }, text);
  document.querySelector('.messages')?.append(message);
  setTimeout(() => message.remove(), 6000);
}

/** Run an action; its refusal becomes a message. */
export const told = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    say(error.message, 'bad');
    return undefined;
  }
};

/** The rater's name, kept in this browser and made up on the first visit. */
export function rater() {
  const kept = localStorage.getItem('visalign-rater');
  if (kept) return kept;
  const made = `rater-${Array.from(crypto.getRandomValues(new Uint8Array(4)), (n) => n.toString(16).padStart(2, '0')).join('')}`;
  localStorage.setItem('visalign-rater', made);
  return made;
}

/** Keep another name for the rater. */
export const rename = (name) => localStorage.setItem('visalign-rater', name);

/** Whether somebody is typing, so that keys are letters. */
export const typing = (target) => target.closest?.('input:not([type=range]):not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable=true]') != null;

/** A share as a percentage, a score with two digits, a count with thousands apart. */
export const percent = (share) => `${(100 * share).toFixed(0)} %`;
export const score = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2));
export const count = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;

/** A set of choices of which one holds: radio buttons that look like one control. */
export function choices(label, options, chosen, onchoose) {
  const name = `choice-${Math.random().toString(36).slice(2)}`;
  return el('fieldset', { class: 'choices' }, el('legend', {}, label), options.map(([value, text]) =>
    el('label', {}, el('input', { type: 'radio', name, value, checked: value === chosen, onchange: () => onchoose(value) }),
      el('span', {}, text))));
}

/** Something that is switched on or off, remembered in this browser. */
export function toggle(label, key, onchange) {
  const kept = localStorage.getItem(`visalign-${key}`) === 'on';
  const box = el('input', { type: 'checkbox', role: 'switch', checked: kept, onchange: () => {
    localStorage.setItem(`visalign-${key}`, box.checked ? 'on' : 'off');
    onchange?.(box.checked);
  } });
  return Object.assign(el('label', { class: 'toggle' }, box, el('span', {}, label)), { box });
}

/** What a view shows when there is nothing to show. */
export const empty = (title, ...more) => el('div', { class: 'empty' }, el('h2', {}, title), more.map((each) => el('p', {}, each)));

/** The chips of a picture's scores. */
export function scores(found) {
  return el('ul', { class: 'scores' }, Object.entries(found ?? {}).map(([name, mark]) => mark.why
    ? el('li', { class: 'bad', title: mark.why }, `${name}: ${mark.why}`)
    : el('li', { class: mark.right == null ? '' : mark.right ? 'good' : 'off', title: aspects(mark) },
      el('span', {}, name), el('b', {}, mark.value == null ? 'cannot judge' : score(mark.value)))));
}

const aspects = (mark) => Object.entries(mark.aspects ?? {}).map(([name, value]) => `${name} ${score(value)}`).join(', ');

// What the votes say: strengths and win rates with intervals, the side's worth, who agrees with whom, and what next.

import { ask, choices, count, el, empty, percent, query, rater, score, shell, told, url } from './page.js';
import { crisp } from './stage.js';
import { heat, meter, whisker } from './charts.js';

export function mount(element) {
  new Board(shell(element, 'leaderboard')).load();
}

class Board {
  constructor(room) {
    this.aspect = 'overall';
    this.rater = el('select', { 'aria-label': 'Whose votes', onchange: () => this.load() }, el('option', { value: '' }, 'Everybody'));
    this.aspects = el('div');
    this.told = el('p', { class: 'soft', role: 'status' });
    this.view = el('div', { class: 'stack' });
    room.append(el('div', { class: 'lead' }, el('h1', {}, 'What the votes say'), this.told),
      el('div', { class: 'tools' }, el('label', { class: 'rater' }, el('span', {}, 'Votes of'), this.rater), this.aspects), this.view);
  }

  load = told(async () => {
    this.show(await ask(`desk/board?${query({ aspect: this.aspect, rater: this.rater.value })}`));
  });

  show(found) {
    this.controls(found);
    this.told.textContent = `${count(found.votes, 'vote')}${found.others ? ` · ${found.others} more on models that are not here` : ''}`;
    if (!found.votes) {
      this.view.replaceChildren(empty('No votes yet', el('a', { href: url('vote') }, 'Cast the first one.')));
      return;
    }
    this.view.replaceChildren(el('div', { class: 'columns' },
      el('div', { class: 'stack' }, standings(found), meetings(found), scorers(found)),
      el('div', { class: 'stack' }, side(found), raters(found), taste(), this.training(), exports())));
  }

  controls(found) {
    const chosen = this.rater.value;
    this.rater.replaceChildren(el('option', { value: '' }, 'Everybody'),
      ...found.raters.map((each) => el('option', { value: each.name, selected: each.name === chosen }, `${each.name} (${each.votes})`)));
    this.aspects.replaceChildren(...(found.aspects.length > 1 ? [choices('On', found.aspects.map((each) => [each, each]), this.aspect, (aspect) => {
      this.aspect = aspect;
      this.load();
    })] : []));
  }

  training() {
    const out = el('div', { class: 'stack' });
    return el('section', { class: 'card' }, el('h2', {}, 'Train from these votes'),
      el('p', { class: 'note' }, 'Writes the votes as one parquet file, and a recipe that trains the first model on them.'),
      el('button', { class: 'strong', type: 'button', onclick: told(async () => {
        const made = await ask('desk/recipe', {});
        out.replaceChildren(el('div', { class: 'command' }, el('pre', { id: 'command' }, made.command),
          el('button', { class: 'quiet', type: 'button', onclick: () => navigator.clipboard?.writeText(made.command) }, 'Copy')), el('pre', { tabindex: '0' }, made.recipe));
      }) }, 'Write the recipe'), out);
  }
}

const names = (found) => found.models.map((each) => found.names[each.id]);

function standings(found) {
  const rated = found.models.filter((each) => each.rating);
  const low = Math.min(...rated.map((each) => each.rating.low));
  const high = Math.max(...rated.map((each) => each.rating.high));
  const rows = found.models.map((each, place) => el('tr', {},
    el('td', { class: 'place' }, String(place + 1)),
    el('td', { class: 'model' }, el('b', {}, found.names[each.id]), el('code', {}, each.id.split('@').at(-1))),
    el('td', { class: 'number' }, each.rating ? each.rating.value.toFixed(0) : '—'),
    el('td', {}, each.rating && whisker(each.rating, low, high, `${each.rating.value.toFixed(0)} points, 95 % interval ${each.rating.low.toFixed(0)} to ${each.rating.high.toFixed(0)}`)),
    el('td', { class: 'number' }, each.win_rate ? percent(each.win_rate.value) : '—', each.win_rate && el('div', { class: 'interval' }, `${percent(each.win_rate.low)} … ${percent(each.win_rate.high)}`)),
    el('td', { class: 'number' }, String(each.votes)),
    el('td', { class: 'number' }, each.votes ? percent(each.both_bad / each.votes) : '—')));
  return el('section', { class: 'card' }, el('h2', {}, 'Strength'),
    el('p', { class: 'note' }, 'Bradley–Terry strength in Elo points (mean 0; 400 points are odds of 10), 95 % intervals over resampled prompts. Ties are half a win; both bad is counted beside.'),
    el('div', { class: 'scroll' }, el('table', { class: 'rank' }, el('caption', { class: 'unseen' }, 'Models by strength'),
      el('thead', {}, el('tr', {}, ['', 'Model', 'Points', 'Interval', 'Win rate', 'Votes', 'Both bad'].map((name, place) =>
        el(name ? 'th' : 'td', { scope: name && 'col', class: [2, 4, 5, 6].includes(place) ? 'number' : '' }, name)))),
      el('tbody', {}, rows))));
}

function meetings(found) {
  const order = found.models.map((each) => Object.keys(found.names).indexOf(each.id));
  const wins = order.map((i) => order.map((j) => found.wins[i][j]));
  return el('section', { class: 'card' }, el('h2', {}, 'Who beats whom'), el('p', { class: 'note' }, 'Share of the votes that the row won against the column.'),
    el('div', { class: 'scroll' }, heat(names(found), wins)));
}

function side(found) {
  const left = found.left;
  const body = left ? [el('p', { class: 'big' }, percent(left.value)), meter(left, `${percent(left.value)} of decided votes went to the left`),
    el('p', { class: 'interval' }, `${percent(left.low)} … ${percent(left.high)} of ${count(left.count, 'decided vote')}`),
    el('p', { class: left.low > 0.5 || left.high < 0.5 ? 'bad' : 'soft' }, left.low > 0.5 || left.high < 0.5 ? 'The side decides votes: raters should look again.' : 'No sign that the side decides.')]
    : [el('p', { class: 'soft' }, 'No decided vote yet.')];
  return el('section', { class: 'card' }, el('h2', {}, 'Votes for the left'), el('p', { class: 'note' }, 'Sides are drawn at random, so half is what to expect.'), body);
}

function raters(found) {
  const agree = found.raters_agree;
  const list = found.raters.slice(0, 8).map((each) => el('tr', {}, el('td', { class: 'name' }, each.name), el('td', { class: 'number' }, String(each.votes))));
  return el('section', { class: 'card' }, el('h2', {}, 'Raters'),
    agree ? el('p', { class: 'note' }, `${agree.raters} raters agree on ${percent(agree.share)} of ${count(agree.units, 'pair')} that two or more judged`
      + (agree.alpha == null ? '.' : ` (Krippendorff's alpha ${agree.alpha.toFixed(2)}; 0 is chance).`)) : el('p', { class: 'note' }, 'No pair was judged by two raters yet.'),
    el('table', { class: 'rank' }, el('caption', { class: 'unseen' }, 'Votes by rater'), el('tbody', {}, list)));
}

function scorers(found) {
  if (!found.scorers_agree.length) return null;
  const rows = found.scorers_agree.map((each) => el('tr', {}, el('td', { class: 'model' }, el('b', {}, each.scorer)),
    el('td', { class: 'number' }, each.share ? percent(each.share.value) : '—'),
    el('td', {}, each.share && whisker(each.share, 0, 1, `${percent(each.share.low)} to ${percent(each.share.high)}`)),
    el('td', { class: 'interval' }, each.share ? `${percent(each.share.low)} … ${percent(each.share.high)} of ${count(each.share.count, 'vote')}` : 'no decided vote on pictures with scores')));
  return el('section', { class: 'card' }, el('h2', {}, 'Scorers against people'), el('p', { class: 'note' }, 'How often the picture with the higher score is the one that was voted for; ties left aside.'),
    el('div', { class: 'scroll' }, el('table', { class: 'rank' }, el('caption', { class: 'unseen' }, 'Agreement of scorers with votes'), el('tbody', {}, rows))));
}

function taste() {
  const out = el('div', { class: 'stack' });
  return el('section', { class: 'card' }, el('h2', {}, 'Your taste'),
    el('p', { class: 'note' }, `Reads a taste from the votes of ${rater()}, and ranks models and pictures by it.`),
    el('button', { type: 'button', onclick: told(async () => out.replaceChildren(...ranking(await ask('desk/taste', { rater: rater() })))) }, 'Fit my taste'), out);
}

function ranking(found) {
  const { checked } = found;
  return [
    el('p', { class: 'interval' }, `Agrees with ${percent(checked.value)} (${percent(checked.low)} … ${percent(checked.high)}) of ${count(checked.count, 'vote')} of yours that it was not shown.`),
    el('table', { class: 'rank' }, el('caption', { class: 'unseen' }, 'Models by your taste'), el('tbody', {}, found.models.map((each) =>
      el('tr', {}, el('td', { class: 'name' }, each.model), el('td', { class: 'number' }, score(each.mean)))))),
    el('div', { class: 'best' }, found.pictures.map((each) => {
      const image = el('img', { src: url(`desk/picture/${each.key}`), title: each.prompt, alt: `${each.prompt}, drawn by ${each.model} from seed ${each.seed}: ${score(each.value)}`, onload: () => crisp(image) });
      return image;
    })),
  ];
}

function exports() {
  const kinds = [['parquet', 'Parquet'], ['jsonl', 'JSON lines'], ['pickapic', 'Pick-a-Pic columns']];
  return el('section', { class: 'card' }, el('h2', {}, 'Take the votes away'), el('p', { class: 'note' }, 'With their pictures; every aspect, every rater.'),
    el('div', { class: 'links' }, kinds.map(([kind, text]) => el('a', { class: 'button', href: url(`desk/export/${kind}`), download: true }, text))));
}

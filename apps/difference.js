// How two pictures, or two clips, differ: pixel by pixel, and frame by frame.

const FAR = 8; // levels of 255 by which a pixel differs visibly

/** The differences of what two addresses hold, a frame of gaps for each frame; an Error where they cannot be compared. */
export async function compared(sources) {
  const [one, other] = await Promise.all(sources.map(frames));
  if (one.length !== other.length) throw new Error(`The two differ in length: ${one.length} and ${other.length} frames.`);
  if (one[0].width !== other[0].width || one[0].height !== other[0].height) throw new Error('The two differ in size.');
  return { width: one[0].width, height: one[0].height, gaps: one.map((frame, place) => gap(frame.data, other[place].data)) };
}

/** Paint a frame's differences, or of them all (null) their mean, `gain` times as strong; what it shows, in words. */
export function paint(canvas, { width, height, gaps }, place, gain) {
  const chosen = place === null ? gaps : [gaps[place]];
  [canvas.width, canvas.height] = [width, height];
  canvas.classList.toggle('crisp', width <= 128);
  const pen = canvas.getContext('2d');
  const made = pen.createImageData(width, height);
  let [sum, far] = [0, 0];
  for (let i = 0; i < made.data.length; i += 4) {
    for (let channel = 0; channel < 3; channel += 1) {
      const total = chosen.reduce((all, each) => all + each[i + channel], 0);
      made.data[i + channel] = (gain * total) / chosen.length; // clamped and rounded by its array
      sum += total;
    }
    made.data[i + 3] = 255;
    far += chosen.filter((each) => Math.max(each[i], each[i + 1], each[i + 2]) > FAR).length;
  }
  pen.putImageData(made, 0, 0);
  return `${named(place, gaps.length)}${told(sum, far, width * height * chosen.length)}`;
}

function named(place, count) {
  if (count === 1) return '';
  return place === null ? `Mean over ${count} frames. ` : `Frame ${place + 1} of ${count}. `;
}

function told(sum, far, count) {
  return sum === 0 ? 'The two are the same, pixel for pixel.'
    : `Mean difference ${(sum / count / 3).toFixed(1)} of 255; ${((100 * far) / count).toFixed(0)} % of pixels differ visibly.`;
}

function gap(one, other) {
  return one.map((value, place) => Math.abs(value - other[place]));
}

/** Every frame of a clip, or a picture as its only one. */
async function frames(src) {
  const content = await (await fetch(src)).arrayBuffer();
  return Promise.all(stills(content).map(pixels));
}

/** The frames of an animation whose frames are whole pictures, as ours are, each as a file; of a picture the file. */
function stills(content) {
  const view = new DataView(content);
  const found = [];
  if (word(view, 0) !== 'RIFF' || word(view, 8) !== 'WEBP') return [new Blob([content])];
  for (let at = 12; at + 8 <= view.byteLength;) {
    const size = view.getUint32(at + 4, true);
    if (word(view, at) === 'ANMF') found.push(still(content.slice(at + 24, at + 8 + size))); // after place, size and pace
    at += 8 + size + (size % 2);
  }
  return found.length ? found : [new Blob([content])];
}

function word(view, at) {
  return at + 4 <= view.byteLength ? String.fromCharCode(...[0, 1, 2, 3].map((place) => view.getUint8(at + place))) : '';
}

function still(content) {
  const size = new DataView(new ArrayBuffer(4));
  size.setUint32(0, 4 + content.byteLength, true);
  return new Blob(['RIFF', size, 'WEBP', content], { type: 'image/webp' });
}

async function pixels(file) {
  const image = await createImageBitmap(file);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

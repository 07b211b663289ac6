// The difference of two images from the same noise, from the pixels on the screen: PSNR as on the server, and a picture.

import { element } from "./dom.js";

const QUANTISATION = 1 / 12; // variance of the rounding to 8 bits; identical 8-bit images get 58.9 dB
const AMPLIFIED = 8;

/** Return the pixels of an <img> at its natural size. */
export async function pixels(image) {
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Return the PSNR, 10 log10(255² / MSE) in dB, of two ImageData of one size; opacity is ignored. */
export function psnr(ours, reference) {
  let sum = 0;
  for (let place = 0; place < ours.data.length; place += 1) {
    if (place % 4 !== 3) sum += (ours.data[place] - reference.data[place]) ** 2;
  }
  return 10 * Math.log10(255 ** 2 / Math.max(sum / (0.75 * ours.data.length), QUANTISATION));
}

/** Draw |ours - reference|, eight times as bright, on a new <canvas>. */
export function difference(ours, reference) {
  const canvas = element("canvas", { width: ours.width, height: ours.height });
  const apart = ours.data.map((value, place) => (place % 4 === 3 ? 255 : AMPLIFIED * Math.abs(value - reference.data[place])));
  canvas.getContext("2d").putImageData(new ImageData(apart, ours.width, ours.height), 0, 0);
  return canvas;
}

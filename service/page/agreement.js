// How far apart two images of one noise are, from the very pixels on the screen: PSNR as the server counts it, and a picture.

import { element } from "./dom.js";

const QUANTISATION = 1 / 12; // variance of the rounding to 8 bits: images that round alike are 58.9 dB apart
const AMPLIFIED = 8;

/** The pixels of an <img> at its own size. */
export async function pixels(image) {
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** 10 log10(255² / MSE) in dB of two ImageData of one size; their opacity does not count. */
export function psnr(ours, reference) {
  let sum = 0;
  for (let place = 0; place < ours.data.length; place += 1) {
    if (place % 4 !== 3) sum += (ours.data[place] - reference.data[place]) ** 2;
  }
  return 10 * Math.log10(255 ** 2 / Math.max(sum / (0.75 * ours.data.length), QUANTISATION));
}

/** A <canvas> of |ours - reference|, eight times as bright. */
export function difference(ours, reference) {
  const canvas = element("canvas", { width: ours.width, height: ours.height });
  const apart = ours.data.map((value, place) => (place % 4 === 3 ? 255 : AMPLIFIED * Math.abs(value - reference.data[place])));
  canvas.getContext("2d").putImageData(new ImageData(apart, ours.width, ours.height), 0, 0);
  return canvas;
}

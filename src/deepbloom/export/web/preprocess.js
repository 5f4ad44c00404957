// Pillow's resampling in 32-bit integers: the same uint8 pixels as in training.
const KERNELS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => ((x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],
};
const BITS = 22; // behind the point of a weight
function weigh(length, start, end, target, [support, kernel]) {
  // for each of target places: the first pixel that it is made of, and the weight of each from there on
  const scale = (end - start) / target, stretch = Math.max(scale, 1);
  return Array.from({ length: target }, (_, place) => {
    const center = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const last = Math.min(length, Math.trunc(center + support * stretch + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => kernel((i + first - center + 0.5) / stretch));
    const total = weights.reduce((a, b) => a + b, 0);
    return [first, Int32Array.from(weights, (w) => (w / total) * 2 ** BITS + (w < 0 ? -0.5 : 0.5))];
  });
}
function resample(pixels, channels, length, lines, places) {
  // pixels: (lines, length, channels), of which three are resampled along length; the result is (places, lines, 3), transposed
  const out = new Uint8ClampedArray(places.length * lines * 3), half = 1 << (BITS - 1);
  for (let line = 0; line < lines; line++)
    for (let place = 0; place < places.length; place++) {
      const [first, weights] = places[place];
      let red = half, green = half, blue = half, from = (line * length + first) * channels;
      for (let i = 0; i < weights.length; i++, from += channels) {
        const weight = weights[i];
        red = (red + weight * pixels[from]) | 0;
        green = (green + weight * pixels[from + 1]) | 0;
        blue = (blue + weight * pixels[from + 2]) | 0;
      }
      const to = (place * lines + line) * 3;
      (out[to] = red >> BITS), (out[to + 1] = green >> BITS), (out[to + 2] = blue >> BITS);
    }
  return out;
}
function resize(rgba, width, height, [left, top, right, bottom], [w, h], interpolation) {
  const kernel = KERNELS[interpolation];
  const columns = resample(rgba, 4, width, height, weigh(width, left, right, w, kernel)); // (w, height, 3)
  return resample(columns, 3, height, w, weigh(height, top, bottom, h, kernel)); // (h, w, 3)
}

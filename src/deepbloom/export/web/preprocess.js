// Pillow's resampling in integers: the same uint8 pixels as in training.
const KERNELS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => ((x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],
};
function resample(pixels, length, lines, start, end, target, [support, kernel]) {
  // pixels: (lines, length, 3), resampled along length from start to end; the result is (target, lines, 3), transposed
  const scale = (end - start) / target, stretch = Math.max(scale, 1), out = new Uint8ClampedArray(target * lines * 3);
  for (let place = 0; place < target; place++) {
    const center = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const last = Math.min(length, Math.trunc(center + support * stretch + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => kernel((i + first - center + 0.5) / stretch));
    const total = weights.reduce((a, b) => a + b, 0);
    const whole = weights.map((w) => Math.trunc((w / total) * 4194304 + (w < 0 ? -0.5 : 0.5)));
    for (let line = 0; line < lines; line++)
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2097152, at = (line * length + first) * 3 + channel;
        for (const weight of whole) (sum += weight * pixels[at]), (at += 3);
        out[(place * lines + line) * 3 + channel] = Math.floor(sum / 4194304);
      }
  }
  return out;
}
function resizeRgb(rgb, width, height, [left, top, right, bottom], [w, h], interpolation) {
  const columns = resample(rgb, width, height, left, right, w, KERNELS[interpolation]); // (w, height, 3)
  return resample(columns, height, w, top, bottom, h, KERNELS[interpolation]); // (h, w, 3)
}

const settings = JSON.parse(document.getElementById("settings").textContent);
const { size, classes } = settings;
const byId = (id) => document.getElementById(id);

async function unpack(id) {
  const text = atob(byId(id).textContent.trim()), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i); // Uint8Array.from takes much longer
  byId(id).remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpack("runtime")).buffer;
  const session = await ort.InferenceSession.create(await unpack("model"), { executionProviders: ["wasm"] });
  await run(session, prepare(new OffscreenCanvas(2 * size, 2 * size))); // compiles what the first image needs
  return session;
}

async function run(session, pixels) {
  return session.run({ images: new ort.Tensor("uint8", pixels, [1, size, size, 3]) });
}

function place(width, height) {
  // which part of the image the network sees, and where in its input that part is
  let part = [0, 0, width, height], inner = [size, size];
  if (settings.fit === "crop") {
    const short = Math.min(width, height), left = (width - short) / 2, top = (height - short) / 2;
    part = [left, top, left + short, top + short];
  } else if (settings.fit === "pad") {
    inner = [width, height].map((side) => Math.max(1, roundHalfEven((size * side) / Math.max(width, height))));
  }
  return [part, inner];
}

function roundHalfEven(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 ? near - 1 : near;
}

function prepare(bitmap) {
  const { width, height } = bitmap, canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const [part, inner] = place(width, height);
  const resized = resize(context.getImageData(0, 0, width, height).data, width, height, part, inner, settings.interpolation);
  const pixels = new Uint8Array(size * size * 3).map((_, i) => settings.padding[i % 3]);
  const left = Math.floor((size - inner[0]) / 2), top = Math.floor((size - inner[1]) / 2);
  for (let row = 0; row < inner[1]; row++)
    pixels.set(resized.subarray(row * inner[0] * 3, (row + 1) * inner[0] * 3), ((row + top) * size + left) * 3);
  return pixels;
}

async function classify(file) {
  byId("notice").textContent = "…";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    byId("notice").textContent = `${file.name} is not an image that this browser can read.`;
    return;
  }
  const session = await ready, started = performance.now();
  const pixels = prepare(bitmap), { probabilities, maps } = await run(session, pixels);
  const order = [...probabilities.data.keys()].sort((a, b) => probabilities.data[b] - probabilities.data[a]);
  show(order.slice(0, 5), probabilities.data);
  draw(bitmap, pixels, maps, order[0]);
  byId("notice").textContent = `${file.name}, ${Math.round(performance.now() - started)} ms`;
}

function show(best, probabilities) {
  const rejected = settings.threshold !== null && probabilities[best[0]] <= settings.threshold;
  byId("verdict").textContent = rejected ? "none of these, or unsure" : classes[best[0]];
  byId("best").replaceChildren(
    ...best.map((index) => {
      const line = document.createElement("li");
      line.dataset.probability = probabilities[index];
      line.dataset.index = index;
      line.textContent = `${(100 * probabilities[index]).toFixed(1)} %  ${classes[index]}`;
      return line;
    }),
  );
}

function draw(bitmap, pixels, maps, index) {
  // the network's input, and over it the map of the best class: red where its evidence is strongest
  const context = byId("image").getContext("2d"), image = new ImageData(size, size);
  for (let to = 0, from = 0; to < image.data.length; to++) image.data[to] = to % 4 === 3 ? 255 : pixels[from++];
  context.putImageData(image, 0, 0);
  byId("map-note").hidden = !maps;
  if (!maps) return;
  const [height, width] = maps.dims.slice(2), values = maps.data.subarray(index * width * height, (index + 1) * width * height);
  const most = Math.max(1e-12, ...values), map = new ImageData(width, height);
  values.forEach((value, i) => map.data.set([255, 60, 0, 190 * Math.max(0, value / most)], 4 * i));
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(map, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, size, size);
}

byId("image").width = byId("image").height = size;
const ready = start().then((session) => {
  byId("notice").textContent = "Ready. Nothing leaves this page.";
  document.body.dataset.ready = "yes";
  return session;
});
ready.catch((error) => (byId("notice").textContent = `This browser cannot run the network: ${error.message}`));
byId("file").addEventListener("change", (event) => event.target.files[0] && classify(event.target.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) classify(event.dataTransfer.files[0]);
});

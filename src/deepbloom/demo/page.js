"use strict";
// Text from a checkpoint or a file is set as text, never as markup.

const find = (id) => document.getElementById(id);
const drop = find("drop");
const predictions = find("predictions");
const maxBytes = Number(drop.dataset.maxBytes);
let file = null;
let running = null; // the AbortController of the request in progress
let position = 20; // of the sliders: percent of the image without its heatmap

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

const makeImage = (className, url, description) => {
  const element = make("img", className);
  element.src = url;
  element.alt = description;
  return element;
};

const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0995 ? 2 : 1)} %`;

const notify = (text, bad = false) => {
  find("notice").textContent = text;
  find("notice").classList.toggle("bad", bad);
};

const fail = (text) => {
  predictions.replaceChildren();
  find("download").disabled = true;
  notify(text, true);
};

const makeBest = (top5) => {
  const list = make("ol", "best");
  for (const { class_name, confidence } of top5) {
    const line = make("div", "line");
    line.append(make("span", "name", class_name), " ", make("span", "confidence", percent(confidence)));
    const bar = make("div", "bar");
    bar.append(make("i"));
    bar.firstChild.style.width = `${100 * confidence}%`;
    const row = make("li");
    row.append(line, bar);
    list.append(row);
  }
  return list;
};

// The image under its heatmap; left of the slider's position the plain image shows.
const makeComparison = (result, network) => {
  const frame = make("div", "image");
  frame.append(makeImage("", result.image, "the uploaded image"));
  if (!network.heatmap) return frame;
  const slider = make("input", "wipe");
  Object.assign(slider, { type: "range", min: 0, max: 100, value: position });
  slider.setAttribute("aria-label", `Share of the plain image, ${network.name}`);
  slider.addEventListener("input", () => showPlain(slider.value));
  const heatmap = makeImage("heatmap", network.heatmap, `heatmap of the evidence for ${network.target}`);
  frame.append(heatmap, make("i", "divider"), slider);
  return frame;
};

const makeScale = (color) => {
  const scale = make("div", "scale");
  const bar = make("i");
  bar.style.backgroundColor = color; // the mean color of the image, beneath the colors of the map
  scale.append(make("span", "", "least evidence"), bar, make("span", "", "most"));
  return scale;
};

const makeEvidence = (evidence) => {
  const section = make("div", "evidence");
  section.append(make("h3", "", "Most similar training images"));
  const list = make("ul");
  for (const { image, image_id, class_name, similarity } of evidence) {
    const row = make("li");
    row.title = image_id;
    if (image) row.append(makeImage("", image, `training image ${image_id}`));
    else row.append(make("span", "file", image_id));
    row.append(make("span", "name", class_name), make("span", "similarity", similarity.toFixed(2)));
    list.append(row);
  }
  section.append(list);
  return section;
};

const makePrediction = (result, network) => {
  const left = make("div");
  left.append(make("h2", "", network.name), makeComparison(result, network));
  if (network.heatmap) {
    const text = `Heatmap for ${network.target}, ${percent(network.target_confidence)}`;
    left.append(makeScale(result.color), make("p", "explained", text));
  } else if (network.target_confidence === null) {
    left.append(make("p", "explained", `This network does not know the class ${network.target}: no heatmap.`));
  } else {
    left.append(make("p", "explained", "An exported file has no heatmap."));
  }
  const right = make("div");
  if (network.reason) {
    const verdict = make("p", "rejected", "none of these");
    verdict.append(make("span", "", `${network.reason}; its guesses:`));
    right.append(verdict);
  }
  right.append(makeBest(network.top5));
  if (network.evidence.length) right.append(makeEvidence(network.evidence));
  const card = make("section", "prediction");
  card.classList.toggle("alone", result.networks.length === 1);
  card.setAttribute("aria-label", network.name);
  card.append(left, right);
  return card;
};

const showPlain = (share) => {
  position = share;
  for (const slider of document.querySelectorAll(".wipe")) slider.value = share;
  for (const heatmap of document.querySelectorAll("img.heatmap")) heatmap.style.clipPath = `inset(0 0 0 ${share}%)`;
  for (const divider of document.querySelectorAll(".divider")) divider.style.left = `${share}%`;
};

const post = (path, more, signal) => {
  const query = new URLSearchParams({ method: find("method").value, target: find("target").value, ...more });
  const headers = { "Content-Type": "application/octet-stream" };
  return fetch(`${path}?${query}`, { method: "POST", body: file, headers, signal });
};

const explain = (error) => {
  const unreachable = error instanceof TypeError || error instanceof SyntaxError; // no connection, or no JSON
  return unreachable ? "No response: deepbloom demo has stopped, or it refused the upload." : error.message;
};

const predict = async () => {
  if (!file) return;
  running?.abort();
  const request = (running = new AbortController());
  predictions.setAttribute("aria-busy", "true");
  notify("Predicting …");
  try {
    const response = await post("predict", {}, request.signal);
    const result = await response.json();
    if (request !== running) return;
    if (!response.ok) throw new Error(result.error);
    predictions.replaceChildren(...result.networks.map((network) => makePrediction(result, network)));
    showPlain(position);
    find("download").disabled = false;
    drop.classList.add("small");
    notify(`${file.name}, ${result.width} × ${result.height} pixels`);
  } catch (error) {
    if (request !== running) return;
    fail(explain(error));
  } finally {
    if (request === running) predictions.setAttribute("aria-busy", "false");
  }
};

const download = async () => {
  const { name } = file;
  try {
    const response = await post("figure", { name });
    if (!response.ok) throw new Error((await response.json()).error);
    const link = make("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `${name.replace(/\.[^.]*$/, "")}_${find("method").value}.png`;
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    notify(explain(error), true);
  }
};

const takeExample = async (image) => {
  const response = await fetch(image.src);
  take(new File([await response.blob()], image.alt));
};

const take = (chosen) => {
  if (!chosen) return;
  running?.abort();
  running = null;
  if (chosen.size > maxBytes) {
    file = null;
    predictions.setAttribute("aria-busy", "false");
    fail(`${chosen.name} is larger than ${maxBytes / 1e6} MB. Scale the image down first.`);
    return;
  }
  file = chosen;
  predict();
};

find("method").addEventListener("change", predict);
find("target").addEventListener("change", predict);
find("download").addEventListener("click", download);
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => takeExample(button.firstChild));
}
find("image-file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

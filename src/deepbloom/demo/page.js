"use strict";
// Text from a checkpoint or a file is set as text, never as markup.

const find = (id) => document.getElementById(id);
const drop = find("drop");
const predictions = find("predictions");
const maxBytes = Number(drop.dataset.maxBytes);
let file = null;
let running = null; // the AbortController of the request in progress

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

const makePrediction = (result, network) => {
  const frame = make("div", "image");
  frame.append(makeImage("", result.image, "the uploaded image"));
  const left = make("div");
  left.append(make("h2", "", network.name), frame);
  if (network.heatmap) {
    frame.append(makeImage("heatmap", network.heatmap, `heatmap of the evidence for ${network.target}`));
    const scale = make("div", "scale");
    scale.append(make("span", "", "least evidence"), make("i"), make("span", "", "most"));
    const text = `Heatmap for ${network.target}, ${percent(network.target_confidence)}`;
    left.append(scale, make("p", "explained", text));
  } else {
    left.append(make("p", "explained", `This network does not know the class ${network.target}: no heatmap.`));
  }
  const right = make("div");
  right.append(makeBest(network.top5));
  const card = make("section", result.networks.length === 1 ? "prediction alone" : "prediction");
  card.setAttribute("aria-label", network.name);
  card.append(left, right);
  return card;
};

const showOpacity = () => {
  const { value } = find("opacity");
  find("opacity-shown").textContent = `${value} %`;
  for (const heatmap of document.querySelectorAll("img.heatmap")) heatmap.style.opacity = value / 100;
};

const predict = async () => {
  if (!file) return;
  running?.abort();
  const request = (running = new AbortController());
  predictions.setAttribute("aria-busy", "true");
  notify("Predicting …");
  try {
    const query = new URLSearchParams({ method: find("method").value, target: find("target").value });
    const response = await fetch(`predict?${query}`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
      signal: request.signal,
    });
    const result = await response.json();
    if (request !== running) return;
    if (!response.ok) throw new Error(result.error);
    predictions.replaceChildren(...result.networks.map((network) => makePrediction(result, network)));
    showOpacity();
    drop.classList.add("small");
    notify(`${file.name}, ${result.width} × ${result.height} pixels`);
  } catch (error) {
    if (request !== running) return;
    const unreachable = error instanceof TypeError || error instanceof SyntaxError; // no connection, or no JSON
    fail(unreachable ? "No response: deepbloom demo has stopped, or it refused the upload." : error.message);
  } finally {
    if (request === running) predictions.setAttribute("aria-busy", "false");
  }
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

showOpacity(); // a reloaded page may keep the slider where it was
find("method").addEventListener("change", predict);
find("target").addEventListener("change", predict);
find("opacity").addEventListener("input", showOpacity);
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

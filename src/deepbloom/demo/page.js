() => {
  // Everything that comes from a checkpoint or a file is set as text, never as markup.
  const MAX_BYTES = 20e6;
  const state = { file: null, method: "gradcam", target: "predicted", opacity: 0.45, asked: 0, running: null };
  const find = (id) => document.getElementById(id);

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0995 ? 2 : 1)} %`;

  const notify = (text, bad = false) => {
    const notice = find("notice");
    notice.textContent = text;
    notice.classList.toggle("bad", bad);
  };

  const image = (className, address, text) => {
    const element = make("img", className);
    element.src = address;
    element.alt = text;
    return element;
  };

  const drawBest = (top5) => {
    const list = make("ol", "best");
    for (const { class_name, confidence } of top5) {
      const row = make("li");
      const line = make("div", "line");
      line.append(make("span", "name", class_name), make("span", "share", percent(confidence)));
      const bar = make("div", "bar");
      bar.append(make("i"));
      bar.firstChild.style.width = `${100 * confidence}%`;
      row.append(line, bar);
      list.append(row);
    }
    return list;
  };

  const drawAnswer = (said, network) => {
    const card = make("section", said.networks.length === 1 ? "answer alone" : "answer");
    const left = make("div");
    const right = make("div");
    const frame = make("div", "image");
    frame.append(image("", said.image, "the image"));
    left.append(make("h2", "", network.name), frame);
    if (network.heatmap) {
      const heatmap = image("heatmap", network.heatmap, `where it sees ${network.shown}`);
      heatmap.style.opacity = state.opacity;
      frame.append(heatmap);
      const scale = make("div", "scale");
      scale.append(make("span", "", "least evidence"), make("i"), make("span", "", "most"));
      left.append(scale);
      left.append(make("p", "shown", `Heatmap for ${network.shown}, ${percent(network.shown_confidence)}`));
    } else {
      left.append(make("p", "shown", `This network does not know the class ${network.shown}: no heatmap.`));
    }
    right.append(drawBest(network.top5));
    card.append(left, right);
    return card;
  };

  const ask = async () => {
    if (!state.file) return;
    const number = ++state.asked;
    state.running?.abort();
    state.running = new AbortController();
    const answers = find("answers");
    answers.classList.add("busy");
    notify("Looking …");
    try {
      const query = new URLSearchParams({ method: state.method, target: state.target });
      const response = await fetch(`/answer?${query}`, {
        method: "POST",
        body: state.file,
        headers: { "Content-Type": "application/octet-stream" },
        signal: state.running.signal,
      });
      const said = await response.json();
      if (number !== state.asked) return;
      if (!response.ok) throw new Error(said.error);
      answers.replaceChildren(...said.networks.map((network) => drawAnswer(said, network)));
      find("drop").classList.add("small");
      notify(`${state.file.name}, ${said.width} × ${said.height} pixels`);
    } catch (error) {
      if (number !== state.asked) return;
      const unreachable = error instanceof TypeError;
      answers.replaceChildren();
      notify(unreachable ? "No answer: deepbloom demo is not running any more, or broke the upload off." : error.message, true);
    } finally {
      if (number === state.asked) answers.classList.remove("busy");
    }
  };

  const take = (file) => {
    if (!file) return;
    if (file.size > MAX_BYTES) {
      state.file = null;
      find("answers").replaceChildren();
      notify(`${file.name} is larger than ${MAX_BYTES / 1e6} MB. Scale the image down first.`, true);
      return;
    }
    state.file = file;
    ask();
  };

  window.deepbloom = {
    choose: (method, target) => {
      if (method === state.method && target === state.target) return;
      Object.assign(state, { method, target });
      ask();
    },
    blend: (shown) => {
      state.opacity = shown / 100;
      for (const heatmap of document.querySelectorAll("img.heatmap")) heatmap.style.opacity = state.opacity;
    },
  };

  document.addEventListener("change", (event) => {
    if (event.target.id !== "image-file") return;
    take(event.target.files[0]);
    event.target.value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    find("drop")?.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("drop")?.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    find("drop")?.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

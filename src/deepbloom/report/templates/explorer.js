"use strict";
// Test images by cell of the confusion matrix, by disagreement of two models, and by error. Text is set as text only.

const SHOWN = 60;

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const option = (name, value) => make("option", { textContent: name, value });

const labeled = (text, control) => make("label", {}, `${text} `, control);

const choose = (names, first, changed) => {
  const select = make("select", {}, ...names.map((name, place) => option(name, place)));
  select.value = first;
  select.addEventListener("change", changed);
  return select;
};

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// McNemar's exact test: twice the smaller tail of the binomial distribution with probability 1/2.
const mcnemar = (gains, losses) => {
  const count = gains + losses;
  let term = -count * Math.LN2;
  let tail = 0;
  for (let k = 0; k <= Math.min(gains, losses); k++) {
    tail += Math.exp(term);
    term += Math.log((count - k) / (k + 1));
  }
  return count ? Math.min(1, 2 * tail) : 1;
};

// Difference of two paired shares with its 95 % interval (Bonett and Price 2012).
const difference = (gains, losses, count) => {
  const center = (gains - losses) / (count + 2);
  const spread = Math.sqrt(((gains + losses + 2) / (count + 2) - center * center) / (count + 2));
  return [(gains - losses) / count, Math.max(-1, center - 1.96 * spread), Math.min(1, center + 1.96 * spread)];
};

const points = (share) => `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}`.replace("-", "−");

const photo = (encoded, alt) =>
  encoded ? [make("img", { className: "photo", src: `data:image/webp;base64,${encoded}`, alt })] : [];

// Heatmaps, near-duplicate and most similar training images of a test image, those that are known. Heatmaps are of the
// models that the card names, or else of the most accurate one that has any.
const explain = (data, image, seen) => {
  const { near, double, heatmaps = [] } = data.evidence[image];
  const parts = [];
  const add = (text, ...found) => parts.push(make("p", { textContent: text }), make("div", { className: "evidence" }, ...found));
  const other = (name, text) => make("figure", { title: name }, ...photo(data.others[name], name), make("figcaption", { textContent: text }));
  const named = heatmaps.filter(([name]) => seen.some((unit) => data.units[unit].name === name));
  for (const [looks, heatmap] of named.length ? named : heatmaps.slice(0, 1)) {
    add(`Where ${looks} looks:`, ...photo(heatmap, `Where ${looks} looks in ${data.images[image]}`));
  }
  if (double) add("Near-duplicate in training or validation:", other(double, double));
  if (near) {
    add(`Most similar training images for ${data.source}:`, ...near.map(([name, target, score]) => other(name, `${data.classes[target]}, ${score.toFixed(2)}`)));
  }
  return parts;
};

const explore = (place, data) => {
  const { classes, images, targets, units } = data;
  const names = units.map((unit) => unit.name);
  const everything = images.map((_, image) => image);
  const right = (unit, image) => units[unit].predicted[image] === targets[image];
  const title = make("h4");
  const cards = make("div", { className: "cards" });
  const more = make("button", { type: "button", textContent: "Show more" });
  const close = make("button", { type: "button", textContent: "Close", className: "close" });
  const result = make("dialog", { className: "result", ariaLabel: "Images" }, close, title, cards, more);
  let listed = [];

  const card = (image, seen) => {
    const lines = [...new Set(seen)].map((unit) => {
      const { name, predicted, confidence } = units[unit];
      const verdict = right(unit, image) ? "right" : "wrong";
      const text = `${name}: ${classes[predicted[image]]}, ${confidence[image]} % (${verdict})`;
      return make("p", { className: verdict, textContent: text });
    });
    const picture = photo(data.thumbnails[image], `Test image ${images[image]}`);
    const head = make("p", {}, make("b", { textContent: classes[targets[image]] }));
    const id = make("p", { className: "id", textContent: images[image] });
    return make("article", {}, ...picture, head, ...lines, id, ...explain(data, image, seen));
  };

  const showMore = () => {
    const start = cards.children.length;
    cards.append(...listed.slice(start, start + SHOWN).map(([image, seen]) => card(image, seen)));
    more.hidden = cards.children.length >= listed.length;
  };
  const show = (heading, found, seen) => {
    listed = found.map((image) => [image, seen]);
    title.textContent = `${heading}: ${found.length} image${found.length === 1 ? "" : "s"}`;
    cards.replaceChildren();
    showMore();
    result.showModal();
    result.scrollTop = 0;
  };
  close.addEventListener("click", () => result.close());
  result.addEventListener("click", (event) => event.target === result && result.close());
  more.addEventListener("click", showMore);

  link(place.closest("section").parentElement, data, right, everything, show);
  place.append(
    confusions(data, names, show),
    compare(data, names, right, everything, show),
    errors(data, names, right, everything, show),
    ...(data.problem ? [make("p", { className: "note", textContent: `Images are not shown: ${data.problem}` })] : []),
    result,
  );
  place.hidden = false;
};

// In the tables of a group, names of classes and of images become buttons that show these images.
const link = (group, data, right, everything, show) => {
  const { classes, targets, units } = data;
  const all = units.map((_, unit) => unit);
  const mistakes = (image) => all.filter((unit) => !right(unit, image)).length;
  for (const name of group.querySelectorAll("[data-target], [data-image]")) {
    const { target, predicted, image } = name.dataset;
    const takes = (unit, other) => units[unit].predicted[other] === Number(predicted);
    const isMeant = (other) => {
      if (image) return other === Number(image);
      return targets[other] === Number(target) && (!predicted || all.some((unit) => takes(unit, other)));
    };
    const heading = image ? data.images[image] : classes[target] + (predicted ? `, predicted as ${classes[predicted]}` : "");
    const button = make("button", { type: "button", className: "link" }, ...name.childNodes);
    button.addEventListener("click", () => {
      const found = everything.filter(isMeant).sort((a, b) => mistakes(b) - mistakes(a));
      const seen = predicted ? all.filter((unit) => found.some((other) => takes(unit, other))) : all;
      show(heading, found, seen.slice(0, 4));
    });
    name.append(button);
  }
};

const confusions = (data, names, show) => {
  const { classes, order, images, targets, units } = data;
  const count = classes.length;
  const canvas = make("canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Confusion matrix. Arrow keys move, Enter shows the images of a cell.");
  const status = make("p", { className: "status", textContent: "Point at a cell, or move with the arrow keys. Click or Enter shows its images." });
  status.setAttribute("aria-live", "polite");
  const model = choose(names, 0, () => update());
  const search = make("input", { type: "search", placeholder: "class", autocomplete: "off" });
  const zoom = make("input", { type: "range", min: 4, max: 32, value: Math.max(11, Math.min(26, Math.floor(560 / count))) });
  const frequent = make("ol", { className: "frequent" });
  const matrix = make("div", { className: "matrix" }, canvas);
  let counts = [];
  let cursor = [0, 0];
  let label = 0;

  const list = (row, column) => {
    const { predicted, confidence } = units[model.value];
    const found = images.map((_, image) => image).filter((image) => targets[image] === row && predicted[image] === column);
    found.sort((a, b) => confidence[b] - confidence[a]);
    const what = row === column ? `${classes[row]}, predicted correctly` : `${classes[row]}, predicted as ${classes[column]}`;
    show(`${what} by ${names[model.value]}`, found, [Number(model.value), 0, Math.min(1, units.length - 1)]);
  };
  const size = () => Number(zoom.value);
  const draw = () => {
    const cell = size();
    const context = canvas.getContext("2d");
    const letters = Math.min(12, cell - 1);
    context.font = `${letters}px system-ui, sans-serif`;
    const short = order.map((c) => (classes[c].length > 22 ? `${classes[c].slice(0, 21)}…` : classes[c]));
    label = letters < 6 ? 8 : Math.ceil(Math.max(...short.map((name) => context.measureText(name).width))) + 8;
    const scale = Math.min(window.devicePixelRatio || 1, 8000 / (label + count * cell));
    const side = label + count * cell;
    if (canvas.width !== Math.floor(side * scale)) Object.assign(canvas, { width: side * scale, height: side * scale });
    Object.assign(canvas.style, { width: `${side}px`, height: `${side}px` });
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, side, side);
    context.font = `${letters}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    const wanted = search.value.trim().toLowerCase();
    const isFound = (c) => wanted && classes[c].toLowerCase().includes(wanted);
    const [page, ink, line, accent, wrong] = ["--page", "--ink", "--line", "--accent", "--confused"].map(color);
    order.forEach((row, y) => {
      const total = counts[row].reduce((sum, value) => sum + value, 0) || 1;
      order.forEach((column, x) => {
        context.fillStyle = row === column ? accent : wrong;
        context.globalAlpha = Math.sqrt(counts[row][column] / total);
        if (counts[row][column]) context.fillRect(label + x * cell, label + y * cell, cell, cell);
      });
      context.globalAlpha = isFound(row) ? 0.3 : 0;
      context.fillStyle = color("--look");
      context.fillRect(0, label + y * cell, side, cell);
      context.fillRect(label + y * cell, 0, cell, side);
    });
    context.globalAlpha = 1;
    context.strokeStyle = line;
    context.lineWidth = 0.5;
    context.beginPath();
    for (let step = 0; step <= count; step++) {
      context.moveTo(label, label + step * cell);
      context.lineTo(side, label + step * cell);
      context.moveTo(label + step * cell, label);
      context.lineTo(label + step * cell, side);
    }
    context.stroke();
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.strokeRect(label + cursor[1] * cell, label + cursor[0] * cell, cell, cell);
    if (letters < 6) return;
    // Names stay at the edges of the part that is seen.
    const [left, top] = [matrix.scrollLeft, matrix.scrollTop];
    const edge = (x, y, turn, align) => {
      context.fillStyle = page;
      context.fillRect(turn ? 0 : left, turn ? top : 0, turn ? side : label, turn ? label : side);
      context.fillStyle = ink;
      context.textAlign = align;
      order.forEach((c, place) => {
        context.save();
        context.globalAlpha = !wanted || isFound(c) ? 1 : 0.35;
        context.translate(x(place), y(place));
        context.rotate(turn);
        context.fillText(short[place], 0, 0);
        context.restore();
      });
    };
    const middle = (place) => label + (place + 0.5) * cell;
    edge(() => left + label - 4, middle, 0, "right");
    edge(middle, () => top + label - 4, -Math.PI / 2, "left");
    context.fillStyle = page;
    context.fillRect(left, top, label, label);
  };
  const reveal = () => {
    const fit = (step, now, room) => {
      const [start, end] = [step * size(), label + (step + 1) * size()];
      return now <= start && end <= now + room ? now : (start + end - room) / 2;
    };
    const [y, x] = cursor;
    draw();
    matrix.scrollTo(fit(x, matrix.scrollLeft, matrix.clientWidth), fit(y, matrix.scrollTop, matrix.clientHeight));
  };
  const say = ([y, x]) => {
    const [row, column] = [order[y], order[x]];
    const total = counts[row].reduce((sum, value) => sum + value, 0);
    status.textContent = `${classes[row]} predicted as ${classes[column]}: ${counts[row][column]} of ${total} images`;
  };
  const update = () => {
    counts = classes.map(() => new Array(count).fill(0));
    targets.forEach((target, image) => counts[target][units[model.value].predicted[image]]++);
    const pairs = counts.flatMap((row, r) => row.map((value, c) => [value, r, c])).filter(([value, r, c]) => value && r !== c);
    pairs.sort((a, b) => b[0] - a[0]);
    frequent.replaceChildren(
      ...pairs.slice(0, 12).map(([value, row, column]) => {
        const button = make("button", { type: "button", textContent: `${classes[row]} → ${classes[column]}: ${value}` });
        button.addEventListener("click", () => {
          cursor = [order.indexOf(row), order.indexOf(column)];
          reveal();
          list(row, column);
        });
        return make("li", {}, button);
      }),
    );
    draw();
  };
  const at = (event) => {
    const [box, frame] = [canvas, matrix].map((element) => element.getBoundingClientRect());
    if (event.clientY - frame.top < label || event.clientX - frame.left < label) return null;
    const found = [event.clientY - box.top, event.clientX - box.left].map((way) => Math.floor((way - label) / size()));
    return found.every((step) => step >= 0 && step < count) ? found : null;
  };
  canvas.addEventListener("pointermove", (event) => at(event) && say(at(event)));
  canvas.addEventListener("click", (event) => {
    const found = at(event);
    if (!found) return;
    cursor = found;
    say(cursor);
    draw();
    list(order[cursor[0]], order[cursor[1]]);
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter") list(order[cursor[0]], order[cursor[1]]);
    if (!(event.key in steps)) return;
    event.preventDefault();
    cursor = cursor.map((step, axis) => Math.max(0, Math.min(count - 1, step + steps[event.key][axis])));
    say(cursor);
    reveal();
  });
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    const found = order.findIndex((c) => wanted && classes[c].toLowerCase().includes(wanted));
    if (found < 0) return draw();
    cursor = [found, found];
    say(cursor);
    reveal();
  });
  zoom.addEventListener("input", reveal);
  matrix.addEventListener("scroll", () => requestAnimationFrame(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  update();
  const controls = make("p", { className: "controls" }, labeled("Model", model), labeled("Find", search), labeled("Zoom", zoom));
  const side = make("div", {}, make("h4", { textContent: "Most frequent confusions" }), frequent);
  return make("div", {}, controls, status, make("div", { className: "beside" }, matrix, side));
};

const compare = (data, names, right, everything, show) => {
  if (names.length < 2) return make("div");
  const { classes, targets, units } = data;
  const verdict = make("p");
  const table = make("tbody");
  const first = choose(names, 0, () => update());
  const second = choose(names, 1, () => update());

  const update = () => {
    const [a, b] = [Number(first.value), Number(second.value)];
    const split = (better, worse) => everything.filter((image) => right(better, image) && !right(worse, image));
    const disagreement = (image) => units[a].confidence[image] + units[b].confidence[image];
    const sides = [split(a, b), split(b, a)].map((found) => found.sort((x, y) => disagreement(y) - disagreement(x)));
    const [gains, losses] = sides.map((found) => found.length);
    const buttons = sides.map((found, side) => {
      const text = `${names[side ? b : a]} right, ${names[side ? a : b]} wrong: ${found.length}`;
      const button = make("button", { type: "button", textContent: text });
      button.addEventListener("click", () => show(text.replace(/: \d+$/, ""), found, [a, b]));
      return button;
    });
    const [estimate, low, high] = difference(gains, losses, everything.length);
    const p = mcnemar(gains, losses);
    const found = `Difference ${points(estimate)} points [${points(low)}, ${points(high)}], McNemar's exact p ${p < 0.0001 ? "< 0.0001" : `= ${p.toPrecision(2)}`}, from these images. `;
    verdict.replaceChildren(found, ...buttons);
    const rows = classes.map((name, c) => {
      const count = targets.filter((target) => target === c).length;
      const [up, down] = sides.map((images) => images.filter((image) => targets[image] === c).length);
      return { name, c, count, up, down, at: count ? difference(up, down, count) : [0, 0, 0] };
    });
    rows.sort((x, y) => Math.abs(y.at[0]) - Math.abs(x.at[0]) || y.up + y.down - x.up - x.down);
    table.replaceChildren(
      ...rows.slice(0, 15).filter((row) => row.up + row.down).map((row) => {
        const button = make("button", { type: "button", textContent: row.name });
        const both = sides.flat().filter((image) => targets[image] === row.c);
        button.addEventListener("click", () => show(`${row.name}, one model right and the other wrong`, both, [a, b]));
        const head = make("th", { scope: "row" }, button);
        const cells = [row.count, row.up, row.down, points(row.at[0]), `[${points(row.at[1])}, ${points(row.at[2])}]`];
        return make("tr", {}, head, ...cells.map((text) => make("td", { className: "number", textContent: text })));
      }),
    );
  };
  update();
  const heads = ["Class", "Images", "Only A right", "Only B right", "A − B, points", "95 % interval"];
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text })));
  const rows = make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, head), table));
  const controls = make("p", { className: "controls" }, labeled("A", first), labeled("B", second));
  return make("div", {}, make("h4", { textContent: "Compare two models" }), controls, verdict, rows);
};

const errors = (data, names, right, everything, show) => {
  const { classes, targets, units } = data;
  const model = choose(names, 0, () => {});
  const byName = classes.map((_, c) => c).sort((a, b) => classes[a].localeCompare(classes[b]));
  const chosen = make("select", {}, ...byName.map((c) => option(classes[c], c)));
  const seen = () => [Number(model.value)];
  const button = (text, action) => {
    const made = make("button", { type: "button", textContent: text });
    made.addEventListener("click", action);
    return made;
  };
  const mistakes = (image) => units.filter((_, unit) => !right(unit, image)).length;
  const wrong = button("Most confident errors", () => {
    const found = everything.filter((image) => !right(model.value, image));
    const { confidence } = units[model.value];
    show(`Errors of ${names[model.value]}, the most confident first`, found.sort((a, b) => confidence[b] - confidence[a]), seen());
  });
  const hardest = button("Hardest images", () => {
    const found = everything.filter(mistakes).sort((a, b) => mistakes(b) - mistakes(a));
    show(`Wrong in at least one of ${units.length} models and seeds, the hardest first`, found, units.map((_, unit) => unit).slice(0, 4));
  });
  const ofClass = button("Show class", () => {
    const found = everything.filter((image) => targets[image] === Number(chosen.value));
    show(classes[chosen.value], found.sort((a, b) => mistakes(b) - mistakes(a)), seen());
  });
  const controls = make("p", { className: "controls" }, labeled("Model", model), wrong, hardest, labeled("Class", chosen), ofClass);
  return make("div", {}, make("h4", { textContent: "Errors, hardest images, classes" }), controls);
};

// Columns of a wide table can be chosen. Where they do not fit, optional ones are left out at first.
const chooseColumns = (tables) => {
  const scroll = tables[0].closest(".scroll");
  const heads = [...tables[0].tHead.rows[0].cells];
  const summary = make("summary");
  const show = (place, isShown) => {
    for (const table of tables) for (const row of table.rows) row.cells[place].hidden = !isShown;
    const left = heads.filter((head) => head.hidden).length;
    summary.textContent = `Choose columns${left ? ` (${left} more)` : ""}`;
  };
  const isWide = () => scroll.scrollWidth > scroll.clientWidth;
  show(0, true);
  const optional = heads.filter((head) => head.dataset.optional).reverse();
  for (const head of optional.sort((a, b) => a.dataset.optional - b.dataset.optional)) {
    if (isWide()) show(head.cellIndex, false);
  }
  const boxes = heads.slice(1).map((head, place) => {
    const box = make("input", { type: "checkbox", checked: !head.hidden });
    box.addEventListener("change", () => show(place + 1, box.checked));
    return make("label", {}, box, ` ${head.textContent}`);
  });
  scroll.before(make("details", { className: "columns" }, summary, ...boxes));
};

const benchmarks = [...document.querySelectorAll("table.benchmark")];
for (const section of new Set(benchmarks.map((table) => table.closest("section")))) {
  chooseColumns(section.querySelectorAll("table.benchmark"));
}
document.querySelectorAll(".explorer").forEach((place) => {
  explore(place, JSON.parse(place.nextElementSibling.textContent));
});

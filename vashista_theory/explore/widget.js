// Draws the picture that Python computed, and tells Python where the query and the keys were
// dragged to. Nothing is computed here but places on the screen.

const SIZE = 440; // pixels of the square picture
const STEP = 0.01; // of the picture's width, for one press of an arrow key
const PATIENCE = 3000; // milliseconds after which an unanswered move is sent again
const LABELS = {
  face: "face",
  gap: "gap",
  projection: "projection",
  residual: "residual",
  leakage: "leakage",
};

function svg(name, attributes = {}, parent = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function html(name, attributes = {}, parent = null) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function render({ model, el }) {
  const [low, high] = model.get("corners");
  const span = high[0] - low[0];
  const toScreen = ([x, y]) => [((x - low[0]) / span) * SIZE, ((high[1] - y) / span) * SIZE];
  const toPlane = ([x, y]) => [low[0] + (x / SIZE) * span, high[1] - (y / SIZE) * span];
  const clamp = (value) => Math.min(SIZE - 4, Math.max(4, value));
  const points = (places) => places.map((place) => toScreen(place).join(",")).join(" ");

  const root = html("div", { class: "vashista-plane" }, el);
  const picture = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "group" }, root);
  picture.setAttribute("aria-label", "The plane of keys and query; both can be moved");
  const back = svg("g", {}, picture);
  const front = svg("g", {}, picture);
  const side = html("div", { class: "vashista-side" }, root);
  const list = html("dl", { "aria-live": "polite" }, side);
  const readings = {};
  for (const name of ["query", ...Object.keys(LABELS)]) {
    html("dt", {}, list).textContent = LABELS[name] ?? name;
    readings[name] = html("dd", { "data-reading": name }, list);
  }
  const label = html("label", {}, side);
  const caption = html("span", {}, label);
  const ends = model.get("temperatures").map(Math.log10);
  const slider = html(
    "input",
    { type: "range", min: ends[0], max: ends[1], step: "any", "data-slider": "epsilon" },
    label,
  );

  // At most one move is on its way: while Python computes, only the newest is kept.
  let waiting = null;
  let newest = null;
  const flush = () => {
    if (waiting !== null || newest === null) return;
    const [name, value] = newest;
    newest = null;
    if (JSON.stringify(model.get(name)) === JSON.stringify(value)) return;
    waiting = setTimeout(answered, PATIENCE);
    model.set(name, value);
    model.save_changes();
  };
  const answered = () => {
    clearTimeout(waiting);
    waiting = null;
    flush();
  };
  const move = (name, value) => {
    newest = [name, value];
    flush();
  };

  // Handles: the query, and every key. They follow the pointer at once.
  const handle = (title, radius, moved) => {
    const node = svg("g", { class: "vashista-handle", tabindex: "0", role: "button" }, front);
    node.setAttribute("aria-label", title);
    svg("circle", { r: 14, fill: "transparent" }, node);
    const dot = svg("circle", { r: radius }, node);
    const text = svg("text", { x: 9, y: -7 }, node);
    let place = [0, 0];
    const put = (screen) => {
      place = screen;
      node.setAttribute("transform", `translate(${screen[0]},${screen[1]})`);
    };
    const drop = (screen) => {
      put(screen.map(clamp));
      moved(toPlane(place));
    };
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      node.classList.add("vashista-held");
      event.preventDefault();
      node.focus();
    });
    node.addEventListener("pointermove", (event) => {
      if (!node.classList.contains("vashista-held")) return;
      const box = picture.getBoundingClientRect();
      const scale = SIZE / box.width;
      drop([(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]);
    });
    for (const end of ["pointerup", "pointercancel"])
      node.addEventListener(end, () => node.classList.remove("vashista-held"));
    node.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const way = ways[event.key];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();
      drop([place[0] + way[0] * STEP * SIZE, place[1] + way[1] * STEP * SIZE]);
    });
    return { node, dot, text, put, held: () => node.classList.contains("vashista-held") };
  };
  const keys = model.get("places").map((_, index) =>
    handle(`key ${index}`, 4.5, (place) => {
      const all = model.get("places").map((key, row) => (row === index ? place : key));
      move("places", all);
    }),
  );
  const query = handle("query", 7, (place) => move("query", place));
  query.node.setAttribute("data-handle", "query");
  query.dot.setAttribute("class", "vashista-query");
  query.text.textContent = "q";
  keys.forEach((key, index) => {
    key.node.setAttribute("data-handle", `key ${index}`);
    key.text.textContent = index;
  });
  slider.addEventListener("input", () => move("epsilon", 10 ** Number(slider.value)));

  const draw = () => {
    const seen = model.get("picture");
    back.replaceChildren();
    if (seen.normal) drawSupport(seen);
    const outline = seen.outline.map((row) => seen.keys[row]);
    svg("polygon", { points: points(outline), class: "vashista-hull" }, back);
    if (seen.normal) {
      const face = seen.keys.filter((_, row) => seen.face[row]);
      svg("polyline", { points: points(extremes(face)), class: "vashista-face" }, back);
      const line = points([seen.query, seen.point]);
      svg("polyline", { points: line, class: "vashista-residual" }, back);
    }
    seen.entropic_weights.forEach((weight, row) => {
      const [cx, cy] = toScreen(seen.keys[row]);
      svg("circle", { cx, cy, r: 32 * Math.sqrt(weight), class: "vashista-weight" }, back);
    });
    const [x, y] = toScreen(seen.entropic_point);
    const cross = `M${x - 5},${y - 5}L${x + 5},${y + 5}M${x - 5},${y + 5}L${x + 5},${y - 5}`;
    svg("path", { d: cross, class: "vashista-entropic" }, back);
    const [cx, cy] = toScreen(seen.point);
    svg("circle", { cx, cy, r: 5, class: "vashista-point" }, back);
    keys.forEach((key, row) => {
      if (!key.held()) key.put(toScreen(seen.keys[row]));
      key.dot.setAttribute("class", seen.face[row] && seen.normal ? "vashista-on" : "vashista-off");
    });
    if (!query.held()) query.put(toScreen(seen.query));
    for (const name of Object.keys(LABELS)) readings[name].textContent = seen.readings[name];
    const [qx, qy] = seen.query;
    readings.query.textContent = `q = (${qx.toFixed(3)}, ${qy.toFixed(3)})`;
    readings.query.dataset.exact = JSON.stringify(seen.query);
    if (document.activeElement !== slider) slider.value = Math.log10(seen.epsilon);
    caption.textContent = `temperature ε = ${seen.epsilon.toPrecision(3)}`;
  };

  // The supporting line, and the band behind it that holds no key.
  const drawSupport = (seen) => {
    const [nx, ny] = seen.normal;
    const at = (along, back) => [
      seen.point[0] - along * ny - back * nx,
      seen.point[1] + along * nx - back * ny,
    ];
    const far = 3 * span;
    if (seen.depth !== null) {
      const band = [at(-far, 0), at(far, 0), at(far, seen.depth), at(-far, seen.depth)];
      svg("polygon", { points: points(band), class: "vashista-band" }, back);
    }
    const line = points([at(-far, 0), at(far, 0)]);
    svg("polyline", { points: line, class: "vashista-support" }, back);
  };

  model.on("change:picture", draw);
  model.on("change:picture", answered);
  draw();
  return () => {
    clearTimeout(waiting);
    model.off("change:picture", draw);
    model.off("change:picture", answered);
  };
}

// The two ends of keys that lie on one line.
function extremes(places) {
  const sorted = [...places].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return [sorted[0], sorted[sorted.length - 1]];
}

export default { render };

// One view of a radiograph: window, zoom and pan, and the regions of a finding over it.
const SVG = "http://www.w3.org/2000/svg";

export const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};

const drawn = (name, attributes, ...children) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const START = { zoom: 1, x: 0, y: 0, width: 1, level: 0.5, inverted: false };
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// The patches of a prediction with their attention for one finding, strongest first. A patch that several heads picked
// is drawn once, with the sum.
export function regionsOf(prediction, finding) {
  const patches = new Map();
  prediction.regions.forEach((region, place) => {
    const known = patches.get(region.patch) ?? { box: region.box, attention: 0 };
    known.attention += finding.region_attention[place];
    patches.set(region.patch, known);
  });
  return [...patches.values()].sort((one, other) => other.attention - one.attention);
}

export class View {
  constructor(letter, { onActive, onChoice }) {
    this.letter = letter;
    this.state = { ...START };
    this.pointers = new Map();
    this.tool = "window";
    const filter = `window-${letter}`;
    this.ramp = ["R", "G", "B"].map((channel) => drawn(`feFunc${channel}`, { type: "linear" }));
    this.picture = element("img", { alt: "", draggable: false });
    this.picture.style.filter = `url(#${filter})`;
    this.picture.hidden = true;
    this.overlay = drawn("svg", { "aria-hidden": "true", preserveAspectRatio: "xMidYMid meet" });
    this.stage = element("div", { className: "stage" }, this.picture, this.overlay);
    this.wait = element("p", { className: "wait", textContent: "Reading…", hidden: true });
    this.viewport = element(
      "div",
      { className: "viewport", tabIndex: 0, role: "group", "aria-label": `View ${letter}: radiograph with regions` },
      drawn(
        "svg",
        { width: 0, height: 0, "aria-hidden": "true" },
        drawn(
          "filter",
          { id: filter, "color-interpolation-filters": "sRGB" },
          drawn("feComponentTransfer", {}, ...this.ramp),
        ),
      ),
      this.stage,
      this.wait,
    );
    this.images = element("select", { "aria-label": `Image of view ${letter}` });
    this.findings = element("select", { "aria-label": `Finding of view ${letter}` });
    this.caption = element("figcaption", { "aria-live": "polite" });
    const button = (text, label, act) =>
      element("button", { type: "button", textContent: text, "aria-label": label, title: label, onclick: act });
    this.moving = button("Move", "Drag moves the picture", () => {
      this.tool = this.tool === "move" ? "window" : "move";
      this.moving.setAttribute("aria-pressed", String(this.tool === "move"));
    });
    this.moving.setAttribute("aria-pressed", "false");
    this.figure = element(
      "figure",
      { className: "pane" },
      element("div", { className: "row" }, element("strong", { textContent: letter }), this.images, this.findings),
      this.viewport,
      element(
        "div",
        { className: "row tools" },
        this.moving,
        button("−", "Zoom out", () => this.zoom(1 / 1.25)),
        button("+", "Zoom in", () => this.zoom(1.25)),
        button("Invert", "Invert grey levels", () => this.change({ inverted: !this.state.inverted })),
        button("Reset", "Reset window, zoom and place", () => this.reset()),
      ),
      this.caption,
    );
    this.figure.addEventListener("focusin", onActive);
    this.figure.addEventListener("pointerdown", onActive);
    this.images.addEventListener("change", () => onChoice({ image: Number(this.images.value) }));
    this.findings.addEventListener("change", () => onChoice({ finding: this.findings.value }));
    this.#listen();
    this.reset();
  }

  // Show a picture of a size, or nothing.
  show(url, name, width, height) {
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.size = { width, height };
    this.picture.alt = name ? `Radiograph ${name}` : "";
    if (url === this.url) return;
    this.url = url;
    this.picture.hidden = !url;
    if (url) this.picture.src = url;
    else this.picture.removeAttribute("src");
    this.reset();
  }

  // Draw at most `most` regions of a finding with a probability; fainter below one half, as in the heat map. Returns a
  // sentence that says the same.
  regions(regions, most, probability) {
    const strongest = Math.max(...regions.map((region) => region.attention), 1e-9);
    const presence = Math.min(1, 2 * probability);
    const chosen = regions.slice(0, most);
    const parts = [...chosen].reverse().flatMap(({ box, attention }) => {
      const [left, top, right, bottom] = box;
      const x = clamp(left, 0, this.size.width);
      const y = clamp(top, 0, this.size.height);
      const width = clamp(right, 0, this.size.width) - x;
      const height = clamp(bottom, 0, this.size.height) - y;
      if (width <= 0 || height <= 0) return [];
      const share = attention / strongest;
      const size = Math.min(this.size.width / 30, (right - left) * 0.32);
      const fill = 0.45 * share * presence;
      return [
        drawn("rect", { class: "region", x, y, width, height, "fill-opacity": fill, "stroke-opacity": 0.25 + (0.15 + 0.6 * share) * presence }),
        drawn(
          "text",
          { class: "label", x: x + width / 2, y: y + height / 2, "font-size": size, "stroke-width": size / 5 },
          `${Math.round(100 * attention)} %`,
        ),
      ];
    });
    this.overlay.replaceChildren(...parts);
    return chosen.map(({ box, attention }) => `${Math.round(100 * attention)}\u00a0% ${this.#place(box)}`).join(", ");
  }

  // Where a box is in the picture, in words.
  #place([left, top, right, bottom]) {
    const third = (value, names) => names[clamp(Math.floor(3 * value), 0, 2)];
    const row = third((top + bottom) / 2 / this.size.height, ["upper", "middle", "lower"]);
    const column = third((left + right) / 2 / this.size.width, ["left", "centre", "right"]);
    return `${row} ${column}`;
  }

  reset() {
    this.change(START);
  }

  change(changes) {
    this.state = { ...this.state, ...changes };
    const { zoom, x, y, width, level, inverted } = this.state;
    this.stage.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
    const slope = (inverted ? -1 : 1) / width;
    const intercept = inverted ? 1 + (level - width / 2) / width : -(level - width / 2) / width;
    for (const one of this.ramp) {
      one.setAttribute("slope", slope);
      one.setAttribute("intercept", intercept);
    }
  }

  // Zoom by a factor around a point of the viewport, by default its middle.
  zoom(factor, at = { x: this.viewport.clientWidth / 2, y: this.viewport.clientHeight / 2 }) {
    const zoom = clamp(this.state.zoom * factor, 0.5, 20);
    const scale = zoom / this.state.zoom;
    this.change({ zoom, x: at.x - scale * (at.x - this.state.x), y: at.y - scale * (at.y - this.state.y) });
  }

  window(contrast, brightness) {
    this.change({
      width: clamp(this.state.width * Math.exp(contrast), 0.02, 4),
      level: clamp(this.state.level + brightness * this.state.width, -1, 2),
    });
  }

  move(x, y) {
    this.change({ x: this.state.x + x, y: this.state.y + y });
  }

  #listen() {
    const view = this.viewport;
    const at = (event) => {
      const box = view.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    view.addEventListener("pointerdown", (event) => {
      view.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, at(event));
    });
    view.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      this.pointers.set(event.pointerId, now);
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      if (other) {
        const length = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1;
        this.zoom(length(now) / length(before), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
      } else if (event.ctrlKey || event.buttons === 4 || this.tool === "move") {
        this.move(now.x - before.x, now.y - before.y);
      } else {
        this.window((now.x - before.x) / 200, (now.y - before.y) / 300);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      view.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    view.addEventListener("dblclick", () => this.reset());
    view.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 400), at(event));
      },
      { passive: false },
    );
    view.addEventListener("keydown", (event) => {
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (arrow && event.shiftKey) this.window(arrow[0] / 10, arrow[1] / 20);
      else if (arrow) this.move(-20 * arrow[0], -20 * arrow[1]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-") this.zoom(1 / 1.25);
      else if (event.key === "0") this.reset();
      else if (event.key.toLowerCase() === "i" && !event.ctrlKey && !event.metaKey) {
        this.change({ inverted: !this.state.inverted });
      } else return;
      event.preventDefault();
    });
  }
}

// The page: images, questions and answers. Files are sent to this server only, and forgotten when the page is closed.
import { call, Problem, useToken } from "./api.js";
import { element, regionsOf, View } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const OWN = "finding:";
const FREE = "prompt:";

const state = {
  model: null,
  alpha: 0,
  shown: 6,
  images: [], // { key, name, file, frame, id, url, dicom, prediction, alpha, turn, answers: Map of key to finding }
  prompts: [],
  views: [
    { image: null, finding: null },
    { image: null, finding: null },
  ],
  active: 0,
  two: false,
  preview: null,
};
let nextKey = 1;
let tokenGiven = false;
let turns = 0;
let started;

const views = ["A", "B"].map(
  (letter, place) =>
    new View(letter, {
      onActive: () => activate(place),
      onChoice: (choice) => {
        Object.assign(state.views[place], choice);
        activate(place);
        render();
      },
    }),
);

// --- errors and notes ---------------------------------------------------------------------------------------------

function complain(error, subject = "") {
  if (error instanceof Problem && error.status === 401) {
    $("token-section").hidden = false;
    $("token").focus();
    if (!state.model && !subject && !tokenGiven) return;
  }
  const wrong = error instanceof Problem && error.status === 401 && tokenGiven;
  const text = `${subject ? `${subject}: ` : ""}${wrong ? "The token is wrong." : error.message}`;
  if ([...$("errors").querySelectorAll("p")].some((one) => one.textContent === text)) return;
  const message = element("div", { className: "message bad" }, element("p", { textContent: text }));
  const close = element("button", { type: "button", textContent: "×", "aria-label": "Dismiss this error" });
  close.addEventListener("click", () => message.remove());
  message.append(close);
  $("errors").append(message);
  // On a phone, what the user pressed may be far below.
  message.scrollIntoView({ block: "nearest" });
}

const say = (text) => {
  $("status").textContent = text;
};

// --- requests -----------------------------------------------------------------------------------------------------

// Send the file, and keep what the server answers.
async function keep(image) {
  const frame = image.frame === null ? "" : `?frame=${image.frame}`;
  const type = "application/octet-stream";
  const reply = await (await call("POST", `/v1/images${frame}`, { body: image.file, type })).json();
  image.id = reply.id;
  if (!state.images.includes(image)) release(image);
  image.dicom = reply.dicom;
  acceptFindings(image, reply);
  image.alpha = image.prediction.alpha;
}

function acceptFindings(image, reply) {
  if (reply.bundle !== state.model.bundle) throw new Problem(0, "The server has another model now. Reload the page.");
  [image.prediction] = reply.predictions;
  for (const finding of image.prediction.findings) image.answers.set(OWN + finding.name, finding);
}

// A prompt that was removed meanwhile has no row.
function acceptPrompts(image, prompts, reply) {
  $("ask-note").textContent = reply.notes.join(" ");
  $("ask-note").hidden = !reply.notes.length;
  prompts.forEach((text, place) => {
    if (state.prompts.includes(text)) image.answers.set(FREE + text, reply.predictions[0].findings[place]);
  });
}

// A request about a kept image. A server forgets images after a while: the file is then sent again. Several times if
// other files that are sent meanwhile take its place.
async function about(image, method, path, json) {
  for (let left = 3; ; left--) {
    try {
      return await call(method, `/v1/images/${image.id}/${path}`, { json });
    } catch (error) {
      const removed = error instanceof Problem && error.status === 404;
      // What the user has closed is not sent again.
      if (!left || !removed || !state.images.includes(image)) throw error;
      await keep(image);
    }
  }
}

// Ask for what is missing: all findings if alpha has changed, and prompts that this image has no answer for.
async function complete(image) {
  const { alpha } = state;
  const turn = ++turns;
  const fresh = image.alpha !== alpha;
  const prompts = state.prompts.filter((text) => fresh || !image.answers.has(FREE + text));
  const findings = fresh ? await (await about(image, "POST", "findings", { alpha })).json() : null;
  const free = prompts.length ? await (await about(image, "POST", "findings", { alpha, prompts })).json() : null;
  // Not if a later question was answered earlier. It asked for all that this one did.
  if (turn > image.turn) {
    image.turn = turn;
    // All or nothing, so that all answers have one alpha.
    if (findings) {
      acceptFindings(image, findings);
      image.alpha = alpha;
    }
    if (free) acceptPrompts(image, prompts, free);
  }
  // If the file was sent again, the findings are those of the model's alpha.
  if (image.alpha !== alpha) await complete(image);
}

// One update runs at a time. If something changed meanwhile, it runs once more.
let running = null;
let again = false;
function update() {
  again = running !== null;
  running ??= (async () => {
    do {
      again = false;
      for (const image of state.images.filter((one) => one.prediction)) {
        try {
          await complete(image);
        } catch (error) {
          // Answers for another alpha than the slider's are not shown.
          if (image.alpha !== state.alpha) {
            image.answers.clear();
            image.alpha = null;
          }
          if (state.images.includes(image)) complain(error, image.name);
        }
      }
      render();
    } while (again);
    running = null;
  })();
  return running;
}

// --- images -------------------------------------------------------------------------------------------------------

async function open(file, name) {
  if (!$("frame").reportValidity()) return;
  const frame = $("frame").value === "" ? null : Number($("frame").value);
  const image = { key: nextKey++, name, file, frame, id: null, url: "", prediction: null, turn: 0, answers: new Map() };
  state.images.push(image);
  // In two views of one image, a further image is compared with it.
  const place = state.two && state.views[0].image === state.views[1].image ? 1 : state.active;
  const before = state.views[place].image;
  state.views[place].image = image.key;
  render();
  try {
    await keep(image);
    render();
    const picture = await about(image, "GET", "picture");
    image.url = URL.createObjectURL(await picture.blob());
    if (!state.images.includes(image)) {
      // It was closed meanwhile.
      forget(image);
      return;
    }
  } catch (error) {
    const closed = !state.images.includes(image);
    const showing = state.views[place].image === image.key;
    if (!closed) complain(error, name);
    remove(image.key);
    // Not if another image was chosen meanwhile.
    if (showing && state.images.some((one) => one.key === before)) state.views[place].image = before;
  }
  if (image.alpha !== state.alpha || state.prompts.length) await update();
  render();
  if (image.url) say(`${name}: the answer is there`);
}

function remove(key) {
  const image = state.images.find((one) => one.key === key);
  if (image) {
    state.images = state.images.filter((one) => one !== image);
    forget(image);
  }
  for (const view of state.views) {
    if (view.image === key) view.image = state.images.at(-1)?.key ?? null;
  }
  render();
}

function forget(image) {
  if (image.url) URL.revokeObjectURL(image.url);
  release(image);
}

// The server forgets the image.
function release(image) {
  // The request is finished even if the page is closed meanwhile.
  if (image.id) call("DELETE", `/v1/images/${image.id}`, { keepalive: true }).catch(() => {});
  image.id = null;
}

async function openAll(files) {
  // The server may have been started after the page.
  if (!(await started) && !(await (started = start()))) return;
  $("errors").replaceChildren();
  for (const file of files) await open(file, file.name);
  // The next files may have one frame.
  $("frame").value = "";
}

async function openSample(sample) {
  $("errors").replaceChildren();
  try {
    const response = await call("GET", sample.files.dicom);
    await open(await response.blob(), `${sample.name} (sample)`);
  } catch (error) {
    complain(error);
  }
}

// --- what is shown ------------------------------------------------------------------------------------------------

const imageOf = (place) => state.images.find((one) => one.key === state.views[place].image);

function answerOf(place, key) {
  return imageOf(place)?.answers.get(key);
}

function activate(place) {
  if (state.active === place) return;
  state.active = place;
  renderViews();
  renderLists();
}

function choose(key) {
  state.preview = null;
  state.views[state.active].finding = key;
  render();
}

function render() {
  const any = state.images.length > 0;
  $("drop").hidden = any;
  $("panes").hidden = !any;
  $("samples").hidden = !any;
  $("panes").classList.toggle("two", state.two);
  const figures = views.slice(0, state.two ? 2 : 1).map((view) => view.figure);
  if ($("panes").children.length !== figures.length) $("panes").replaceChildren(...figures);
  renderImages();
  renderWarnings();
  renderViews();
  renderLists();
  const image = imageOf(state.active);
  $("heatmap").disabled = $("csv").disabled = !image?.prediction;
  $("report").disabled = !image?.prediction || !image.dicom;
  const counts = state.images.map((one) => (one.prediction ? new Set(one.prediction.regions.map((r) => r.patch)).size : 0));
  const most = Math.max(1, ...counts);
  $("shown").max = String(most);
  $("shown").value = String(Math.min(state.shown, most));
  $("shown-value").textContent = counts.length ? `${$("shown").value} of ${most}` : "";
  $("alpha").value = String(state.alpha);
  $("alpha-value").textContent = state.alpha.toFixed(2);
}

function renderImages() {
  const chips = state.images.map((image) => {
    const active = state.views[state.active].image === image.key;
    const show = element("button", { type: "button", textContent: image.name, title: image.name });
    show.setAttribute("aria-pressed", String(active));
    show.addEventListener("click", () => {
      state.views[state.active].image = image.key;
      render();
    });
    const close = element("button", { type: "button", textContent: "×", "aria-label": `Close ${image.name}` });
    close.addEventListener("click", () => {
      remove(image.key);
      $("open").focus();
    });
    const chip = element("li", {}, show, close);
    chip.dataset.sign = image.key;
    return chip;
  });
  fill($("images"), chips);
}

// What the input checks say, what was ignored in the file, and how far the model can be trusted.
function renderWarnings() {
  const texts = [];
  for (const image of new Set([imageOf(0), state.two ? imageOf(1) : null])) {
    if (!image?.prediction) continue;
    const warnings = (image.prediction.warnings ?? []).map((code) => state.model.warnings?.[code] ?? code);
    for (const text of [...warnings, ...image.prediction.remarks]) texts.push(`${image.name}: ${text}`);
  }
  const shown = [...$("warnings").querySelectorAll("p")].map((one) => one.textContent);
  if (JSON.stringify(shown) === JSON.stringify(texts)) return;
  $("warnings").replaceChildren(
    ...texts.map((text) => element("div", { className: "message" }, element("p", { textContent: text }))),
  );
}

// Of an ensemble, how far its members are apart.
const spread = ({ probability_spread: apart }) => (apart == null ? "" : ` (members ± ${percent(apart)})`);

function titles() {
  const own = state.model.findings.map((one) => [OWN + one.name, one.name]);
  return [...state.prompts.map((text) => [FREE + text, text]), ...own];
}

function options(select, pairs, chosen) {
  const wanted = JSON.stringify(pairs);
  if (select.dataset.pairs !== wanted) {
    select.dataset.pairs = wanted;
    select.replaceChildren(...pairs.map(([value, textContent]) => element("option", { value, textContent })));
  }
  select.value = chosen;
}

function renderViews() {
  views.slice(0, state.two ? 2 : 1).forEach((view, place) => {
    const chosen = state.views[place];
    const image = imageOf(place);
    view.figure.classList.toggle("active", state.two && place === state.active);
    options(view.images, state.images.map((one) => [one.key, one.name]), chosen.image);
    options(view.findings, titles(), chosen.finding);
    view.wait.hidden = Boolean(image?.url) || !image;
    if (!image?.prediction) {
      view.show("", "", 1, 1);
      view.overlay.replaceChildren();
      view.caption.textContent = "";
      return;
    }
    view.show(image.url, image.name, image.prediction.width, image.prediction.height);
    const key = place === state.active && state.preview ? state.preview : chosen.finding;
    const finding = image.answers.get(key);
    if (!finding) {
      view.overlay.replaceChildren();
      view.caption.textContent = "";
      return;
    }
    const regions = image.prediction.fusion_trained ? regionsOf(image.prediction, finding) : [];
    const words = view.regions(regions, state.shown, finding.probability);
    view.caption.replaceChildren(
      element("strong", { textContent: `${finding.name}: ${percent(finding.probability)}` }),
      spread(finding),
      words ? `. Boxes: share of the attention, with left and right as in the picture: ${words}.` : ".",
    );
  });
}

function renderLists() {
  const other = 1 - state.active;
  const compared = state.two && imageOf(other) && imageOf(other) !== imageOf(state.active);
  $("columns").hidden = !compared;
  const row = (key, name, removable) => {
    const answers = compared ? [answerOf(0, key), answerOf(1, key)] : [answerOf(state.active, key)];
    const button = element("button", { type: "button", className: "finding" });
    button.dataset.key = key;
    button.setAttribute("aria-pressed", String(state.views[state.active].finding === key));
    const bar = element("progress", { max: 1, value: answerOf(state.active, key)?.probability ?? 0 });
    bar.setAttribute("aria-hidden", "true");
    button.append(bar, element("span", { className: "name", textContent: name }));
    for (const answer of answers) {
      button.append(element("span", { className: "value", textContent: answer ? percent(answer.probability) : "–" }));
    }
    const line = element("li", {}, button);
    if (removable) {
      const close = element("button", { type: "button", className: "remove", textContent: "×" });
      close.setAttribute("aria-label", `Remove the prompt ${name}`);
      close.addEventListener("click", () => {
        removePrompt(name);
        $("prompt").focus();
      });
      line.append(close);
    }
    line.dataset.sign = `${answers.length} ${key}`;
    return line;
  };
  fill($("findings"), (state.model?.findings ?? []).map((one) => row(OWN + one.name, one.name, false)));
  fill($("prompts"), state.prompts.map((text) => row(FREE + text, text, true)));
}

// Show the rows of a list. If they are those that it has, only what they say changes: the focus stays where it is, and a
// click is not lost if an answer arrives within it.
function fill(list, rows) {
  const signs = (from) => JSON.stringify([...from].map((row) => row.dataset.sign));
  if (signs(list.children) !== signs(rows)) {
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    list.replaceChildren(...rows);
    if (focused) [...list.querySelectorAll(".finding")].find((one) => one.dataset.key === focused)?.focus();
    return;
  }
  rows.forEach((row, place) => {
    const old = list.children[place];
    const pairs = (selector) => [...row.querySelectorAll(selector)].map((one, at) => [old.querySelectorAll(selector)[at], one]);
    for (const [one, now] of pairs("[aria-pressed]")) one.setAttribute("aria-pressed", now.getAttribute("aria-pressed"));
    for (const [one, now] of pairs("progress")) one.value = now.value;
    for (const [one, now] of pairs(".value")) one.textContent = now.textContent;
  });
}

// By what the server compares names: two prompts of one request must differ in it.
const sameName = (text) => text.normalize("NFC").toUpperCase().toLowerCase().replace(/[\s_-]+/g, " ").trim();

// --- prompts ------------------------------------------------------------------------------------------------------

async function ask(typed) {
  $("errors").replaceChildren();
  const text = state.prompts.find((one) => sameName(one) === sameName(typed)) ?? typed;
  if (!state.prompts.includes(text)) state.prompts.unshift(text);
  const view = state.views[state.active];
  const before = view.finding;
  view.finding = FREE + text;
  render();
  const image = imageOf(state.active);
  if (!image?.prediction) {
    say("Open an image to get an answer.");
    return;
  }
  try {
    await complete(image);
  } catch (error) {
    const showing = view.finding === FREE + text;
    removePrompt(text);
    if (showing) view.finding = before;
    complain(error);
  }
  render();
  const answer = image.answers.get(FREE + text);
  if (answer) say(`${text}: ${percent(answer.probability)}`);
  if (state.images.length > 1) await update();
}

function removePrompt(text) {
  state.prompts = state.prompts.filter((one) => one !== text);
  for (const view of state.views) {
    if (view.finding === FREE + text) view.finding = OWN + state.model.findings[0].name;
  }
  for (const image of state.images) image.answers.delete(FREE + text);
  if (!state.prompts.length) $("ask-note").hidden = true;
  render();
}

// --- downloads ----------------------------------------------------------------------------------------------------

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// What the marked view shows, as the server takes it.
function question() {
  const key = state.views[state.active].finding;
  return { alpha: state.alpha, ...(key.startsWith(FREE) ? { prompts: state.prompts } : {}) };
}

async function download(path, suffix, json) {
  const image = imageOf(state.active);
  try {
    const response = await about(image, "POST", path, json);
    save(await response.blob(), `${image.name.replace(/\.[^.]*$/, "")}${suffix}`);
  } catch (error) {
    complain(error);
  }
}

function table() {
  const image = imageOf(state.active);
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const rows = [["image", "kind", "finding", "probability", "alpha"]];
  for (const [key, finding] of image.answers) {
    const kind = key.startsWith(FREE) ? "prompt" : "finding";
    rows.push([image.name, kind, finding.name, finding.probability, image.alpha]);
  }
  const text = rows.map((row) => row.map(quoted).join(",")).join("\r\n");
  save(new Blob([`${text}\r\n`], { type: "text/csv" }), `${image.name.replace(/\.[^.]*$/, "")}.csv`);
}

// --- events -------------------------------------------------------------------------------------------------------

function listen() {
  const pick = () => $("files").click();
  $("open").addEventListener("click", pick);
  $("open-first").addEventListener("click", pick);
  $("files").addEventListener("change", async () => {
    const chosen = [...$("files").files];
    $("files").value = "";
    await openAll(chosen);
  });
  const over = (event, inside) => {
    event.preventDefault();
    $("views").classList.toggle("over", inside);
  };
  document.addEventListener("dragover", (event) => over(event, true));
  document.addEventListener("dragleave", (event) => over(event, false));
  document.addEventListener("drop", (event) => {
    over(event, false);
    openAll([...event.dataTransfer.files]);
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("prompt").value.trim();
    if (text && state.model) ask(text);
  });
  $("compare").addEventListener("change", async () => {
    await started;
    state.two = $("compare").checked;
    if (!state.two) state.active = 0;
    else {
      const [one, other] = state.views;
      other.finding ??= one.finding;
      // A prior image that is open already is what one compares with.
      other.image ??= state.images.find((image) => image.key !== one.image)?.key ?? one.image;
    }
    render();
  });
  $("alpha").addEventListener("input", () => {
    state.alpha = Number($("alpha").value);
    $("alpha-value").textContent = state.alpha.toFixed(2);
    update();
  });
  $("shown").addEventListener("input", () => {
    state.shown = Number($("shown").value);
    render();
  });
  for (const list of [$("findings"), $("prompts")]) {
    const keyOf = (event) => event.target.closest(".finding")?.dataset.key ?? null;
    const preview = (key) => {
      if (state.preview === key) return;
      state.preview = key;
      renderViews();
    };
    list.addEventListener("click", (event) => {
      const key = keyOf(event);
      if (key) choose(key);
    });
    list.addEventListener("pointerover", (event) => preview(keyOf(event)));
    list.addEventListener("pointerleave", () => preview(null));
    list.addEventListener("focusin", (event) => preview(keyOf(event)));
    list.addEventListener("focusout", () => preview(null));
  }
  $("heatmap").addEventListener("click", () => {
    const key = state.views[state.active].finding;
    const shown = [key.slice(key.indexOf(":") + 1)];
    download("heatmap", "-regions.png", { ...question(), shown });
  });
  $("report").addEventListener("click", () => download("report", "-sr.dcm", question()));
  $("csv").addEventListener("click", table);
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    tokenGiven = true;
    useToken($("token").value.trim());
    started = start();
  });
  window.addEventListener("pagehide", () => {
    // Not their pictures: the browser may show this page again.
    for (const image of state.images) release(image);
  });
}

// Ask for the model. Returns whether it answered.
async function start() {
  let samples;
  try {
    state.model = await (await call("GET", "/v1/model")).json();
    samples = await (await call("GET", "/v1/samples")).json();
  } catch (error) {
    complain(error);
    return false;
  }
  $("token-section").hidden = true;
  $("errors").replaceChildren();
  const { model } = state;
  $("model").textContent = `${model.name} · ${model.precision} · ${model.engine}`;
  state.alpha = model.alpha;
  $("alpha").disabled = !model.fusion_trained;
  $("alpha-note").hidden = model.fusion_trained;
  for (const view of state.views) view.finding = OWN + model.findings[0].name;
  for (const place of [$("samples"), $("samples-first")]) {
    const buttons = samples.map((sample) => {
      const button = element("button", { type: "button", textContent: sample.name });
      button.addEventListener("click", () => openSample(sample));
      return button;
    });
    place.replaceChildren(place.firstElementChild, ...buttons);
  }
  render();
  return true;
}

listen();
started = start();

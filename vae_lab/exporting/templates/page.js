"use strict";
const about = JSON.parse(byId("about").textContent);
const { channels, size, order, kl, ranges } = about;
const nlatent = order.length, SHOWN = 16, NSAMPLES = 16, LARGE = 432;
const pathEnds = { a: null, b: null };
const samples = [];
const rows = new Map();
let z = Float32Array.from(about.mean);
let pixels = new Float32Array(channels * size * size);
let sessions = {};
let queue = Promise.resolve();
let wanted = false, painting = null;

function byId(id) { return document.getElementById(id); }

// ---- the model ----

async function unpacked(id) {
  const text = atob(byId(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load() {
  Object.assign(ort.env.wasm, { wasmBinary: await unpacked("binary-data"), numThreads: 1, proxy: false });
  for (const name of ["decoder", "prior"]) {
    if (byId(`${name}-data`)) sessions[name] = await ort.InferenceSession.create(await unpacked(`${name}-data`));
  }
}

function run(name, feeds, output) { // one call at a time, as a session requires
  const found = queue.then(async () => (await sessions[name].run(feeds))[output].data);
  queue = found.catch(() => {});
  return found;
}

function vector(values) { return new ort.Tensor("float32", Float32Array.from(values), [1, nlatent]); }

function decode(latents, label = chosenClass()) {
  const feeds = { z: vector(latents) };
  if (label !== null) feeds.label = new ort.Tensor("int64", BigInt64Array.of(BigInt(label)), [1]);
  return run("decoder", feeds, "image");
}

function noise() { // Box and Muller 1958
  return Float32Array.from({ length: nlatent }, () =>
    Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
}

function drawn() { // a promise of latents from the prior
  const scale = Number(byId("temperature").value);
  const scaled = noise().map((value) => scale * value);
  if (!about.prior) return run("prior", { noise: vector(scaled) }, "z").then((found) => Float32Array.from(found));
  const [means, deviations] = about.prior;
  const k = Math.floor(Math.random() * means.length);
  return Promise.resolve(scaled.map((value, i) => means[k][i] + deviations[k][i] * value));
}

function between(a, b, share) { // on an arc, as vae_lab's interpolate
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const lengths = Math.sqrt(dot(a, a) * dot(b, b));
  const cosine = lengths > 0 ? Math.max(-1, Math.min(1, dot(a, b) / lengths)) : 1;
  const angle = Math.acos(cosine), straight = Math.abs(cosine) >= 1 - 1e-9;
  const [left, right] = straight
    ? [1 - share, share]
    : [Math.sin((1 - share) * angle) / Math.sin(angle), Math.sin(share * angle) / Math.sin(angle)];
  return a.map((value, i) => left * value + right * b[i]);
}

function chosenClass() { return about.classes.length ? Number(byId("label").value) : null; }

// ---- pictures ----

function paint(canvas, image) {
  if (canvas.width !== size || canvas.height !== size) canvas.width = canvas.height = size;
  const plane = size * size, data = new ImageData(size, size);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = Math.round(255 * image[(c % channels) * plane + i]);
    data.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
}

function show() { // the promise of the newest latents on the screen; those that have been replaced are not decoded
  wanted = true;
  painting ??= (async () => {
    while (wanted) {
      wanted = false;
      pixels = await decode(z);
      paint(byId("image"), pixels);
      await new Promise(requestAnimationFrame);
    }
  })().finally(() => { painting = null; });
  return painting;
}

function become(latents) {
  z = Float32Array.from(latents);
  for (const i of rows.keys()) refresh(i);
  return show();
}

async function redraw() { // samples and ends of the path, in the chosen class, one after the other
  const label = chosenClass();
  for (const { canvas, latents } of samples) {
    if (chosenClass() !== label) return; // a later call draws them
    paint(canvas, await decode(latents, label));
    await new Promise((done) => setTimeout(done));
  }
  for (const [name, latents] of Object.entries(pathEnds)) paint(byId(name), await decode(latents, label));
}

async function resample() {
  for (const sample of samples) sample.latents = await drawn();
  await redraw();
}

// ---- controls ----

function addLatents(shown) {
  const largest = Math.max(...kl, 1e-6);
  for (const i of shown) {
    const row = document.createElement("label"), name = document.createElement("span"), bar = document.createElement("span");
    const [fill, number] = [document.createElement("i"), document.createElement("b")];
    const slider = document.createElement("input"), value = document.createElement("output");
    row.className = "latent";
    name.textContent = `z ${i}`;
    bar.className = "kl";
    fill.style.width = `${(100 * Math.max(kl[i], 0)) / largest}%`;
    number.textContent = `${kl[i].toFixed(2)} nats`;
    bar.append(fill, number);
    Object.assign(slider, { type: "range", min: ranges[i][0], max: ranges[i][1], step: (ranges[i][1] - ranges[i][0]) / 200 });
    slider.ariaLabel = `Latent ${i}, KL ${kl[i].toFixed(2)} nats`;
    slider.addEventListener("input", () => { z[i] = Number(slider.value); value.textContent = z[i].toFixed(2); show(); });
    row.append(name, bar, slider, value);
    byId("latents").append(row);
    rows.set(i, { slider, value });
    refresh(i);
  }
  const left = nlatent - rows.size;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(left, 4 * SHOWN)} more of ${left}`;
}

function refresh(i) {
  const { slider, value } = rows.get(i);
  slider.value = z[i];
  value.textContent = z[i].toFixed(2);
}

function addSamples() {
  for (let k = 0; k < NSAMPLES; k++) {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    const sample = { canvas, latents: Float32Array.from(about.mean) };
    button.type = "button";
    button.ariaLabel = `Continue from sample ${k + 1}`;
    button.append(canvas);
    button.addEventListener("click", () => become(sample.latents));
    byId("samples").append(button);
    samples.push(sample);
  }
}

function keep(name) {
  pathEnds[name] = Float32Array.from(z);
  byId("position").value = name === "a" ? 0 : 1;
  return decode(z).then((image) => paint(byId(name), image));
}

function save() {
  byId("image").toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "image.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

function connect() {
  const on = (id, event, act) => byId(id)?.addEventListener(event, act);
  on("draw", "click", async () => become(await drawn()));
  on("mean", "click", () => become(about.mean));
  on("save", "click", save);
  on("again", "click", resample);
  on("more", "click", () => addLatents(order.slice(rows.size, rows.size + 4 * SHOWN)));
  on("label", "change", () => { show(); redraw(); });
  on("temperature", "input", ({ target }) => { target.nextElementSibling.textContent = Number(target.value).toFixed(2); });
  on("position", "input", ({ target }) => become(between(pathEnds.a, pathEnds.b, Number(target.value))));
  for (const name of ["a", "b"]) on(`keep-${name}`, "click", () => keep(name));
}

async function start() {
  if (size <= LARGE) byId("image").style.maxWidth = `${Math.floor(LARGE / size) * size}px`; // pixels of equal sizes
  addLatents(order.slice(0, SHOWN));
  addSamples();
  connect();
  // a decoder that uses the direction of z alone: a temperature has no effect, and the mean has no direction
  byId("temperature-setting").hidden = byId("mean").hidden = about.ignoresLength;
  await load();
  if (about.ignoresLength) z = await drawn();
  await become(z);
  const first = performance.now();
  byId("status").textContent = "";
  for (const field of document.querySelectorAll("fieldset")) field.disabled = false;
  await keep("a");
  pathEnds.b = await drawn();
  await resample();
  return first;
}

function complain(error) {
  const words = typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined"
    ? "This browser has no WebAssembly or no DecompressionStream, which this page needs to decode images; open it in a newer one."
    : `The model could not be started in this browser (${error.message}).`;
  byId("status").className = "failed";
  byId("status").textContent = words;
  return null;
}

/* for tests and for the console: `ready` resolves to the milliseconds until the first image */
globalThis.page = {
  ready: start().catch(complain),
  decode: async (latents, label) => Array.from(await decode(latents, label)),
  become: async (latents) => { await become(latents); return Array.from(pixels); },
  latents: () => Array.from(z),
  draw: async () => Array.from(await drawn()),
};

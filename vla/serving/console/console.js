import { cross, plotDimension, sparkline } from "./plots.js";

const byId = (id) => document.getElementById(id);
const STREAM = `console-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
const SHARED = ["metrics", "policies"];
let contract, body, own = "", key = sessionStorage.getItem("key") || "";
const pictures = {};

class Refused extends Error {}

async function ask(path, content) {
  const headers = key ? { "X-Api-Key": key } : {};
  const options = content === undefined ? { headers } : { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(content) };
  let response;
  try {
    response = await fetch(SHARED.includes(path) ? path : own + path, options);
  } catch {
    throw new Refused("the server does not answer");
  }
  if (response.status === 401) {
    byId("door").hidden = false;
    byId("main").hidden = true;
  }
  if (path === "metrics" && response.ok) return response.text();
  const answer = await response.json();
  if (response.ok) return answer;
  const { what, where, fix } = answer.error;
  throw new Refused(`${response.status}: ${where ? where + ": " : ""}${what}${fix ? ". " + fix : ""}`);
}

function trouble(error) {
  byId("trouble").hidden = !error;
  byId("trouble").textContent = error ? error.message : "";
}

function guarded(work) {
  return async () => {
    try {
      trouble(null);
      await work();
      return true;
    } catch (error) {
      trouble(error);
      return false;
    }
  };
}

// Pictures: the middle of what is given, in the camera's aspect ratio, at least in the camera's size.
function show(camera, source, width, height) {
  const canvas = pictures[camera.name];
  const ratio = Math.min(width / camera.width, height / camera.height);
  const scale = Math.max(1, Math.min(Math.floor(ratio), 8));
  canvas.width = camera.width * scale;
  canvas.height = camera.height * scale;
  const w = camera.width * ratio, h = camera.height * ratio;
  canvas.getContext("2d").drawImage(source, (width - w) / 2, (height - h) / 2, w, h, 0, 0, canvas.width, canvas.height);
  canvas.sent = canvas.toDataURL("image/png").split(",")[1];
  canvas.source = [source, width, height];
}

function cameraBox(camera) {
  const box = document.createElement("figure"), canvas = document.createElement("canvas");
  const file = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", id: `file-${camera.name}` });
  const webcam = Object.assign(document.createElement("button"), { type: "button", textContent: "Webcam", id: `webcam-${camera.name}` });
  const caption = Object.assign(document.createElement("figcaption"), { textContent: `${camera.name}, ${camera.width} x ${camera.height}` });
  pictures[camera.name] = canvas;
  canvas.width = camera.width;
  canvas.height = camera.height;
  canvas.getContext("2d").fillStyle = "#808080";
  canvas.getContext("2d").fillRect(0, 0, canvas.width, canvas.height);
  canvas.sent = canvas.toDataURL("image/png").split(",")[1];
  file.onchange = guarded(async () => {
    canvas.video = null;
    const image = await createImageBitmap(file.files[0]).catch(() => { throw new Refused("not a picture"); });
    show(camera, image, image.width, image.height);
  });
  webcam.onclick = guarded(async () => {
    const stream = await navigator.mediaDevices?.getUserMedia({ video: true }).catch((error) => { throw new Refused(`no webcam: ${error.message}`); });
    if (!stream) throw new Refused("no webcam: the browser allows it on this machine's own addresses and over https only");
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true });
    await video.play();
    canvas.video = video;
    const draw = () => {
      if (canvas.video !== video) return stream.getTracks().forEach((track) => track.stop());
      show(camera, video, video.videoWidth, video.videoHeight);
      requestAnimationFrame(draw);
    };
    draw();
  });
  box.append(canvas, caption, file, webcam);
  return box;
}

function stateRow(i) {
  const { names, units, low, high } = body.state, row = document.createElement("label");
  const slider = Object.assign(document.createElement("input"), { type: "range", min: low[i], max: high[i], step: "any", id: `state-${i}` });
  slider.value = (low[i] + high[i]) / 2;
  const told = document.createElement("span");
  slider.oninput = () => { told.textContent = Number(slider.value).toFixed(3); };
  slider.oninput();
  row.append(units[i] ? `${names[i]} (${units[i]})` : names[i], slider, told);
  return row;
}

function chooseEmbodiment() {
  body = contract.embodiments[byId("embodiment").value];
  byId("cameras").replaceChildren(...body.cameras.map(cameraBox));
  byId("state").replaceChildren(...body.state.names.map((_, i) => stateRow(i)));
  byId("chunk").replaceChildren();
}

const images = () => Object.fromEntries(body.cameras.map(({ name }) => [name, pictures[name].sent]));

function canvases(place, count) {
  while (place.children.length > count) place.lastChild.remove();
  while (place.children.length < count) place.append(document.createElement("canvas"));
  return [...place.children];
}

function plot(place, actions, more) {
  const { names, units, low, high } = body.action, { probabilities, ...rest } = more;
  canvases(place, names.length).forEach((canvas, d) =>
    plotDimension(canvas, {
      name: names[d], unit: units[d], low: low[d], high: high[d], values: actions.map((row) => row[d]), hz: body.control_hz,
      // The terminate token comes first where there is one.
      probabilities: probabilities && probabilities.map((row) => row[row.length - names.length + d]), ...rest,
    }));
}

function mark(point) {
  const canvas = pictures[body.cameras[0].name];
  if (canvas.source && !canvas.video) show(body.cameras[0], ...canvas.source);
  cross(canvas, point);
}

const act = guarded(async () => {
  const state = body.state.names.map((_, i) => Number(byId(`state-${i}`).value));
  const began = performance.now();
  const { actions, terminate, info } = await ask("act", {
    id: STREAM, images: images(), state, instruction: byId("instruction").value, embodiment: byId("embodiment").value,
  });
  const total = performance.now() - began, end = terminate.indexOf(true);
  const told = [`${actions.length} actions, ${contract.execute} to be carried out, at ${body.control_hz} Hz`,
    `${info.infer_ms.toFixed(0)} ms in the policy (batch ${info.batch}), ${total.toFixed(0)} ms in all`];
  if (end >= 0) told.push(`done, it says, at action ${end + 1}`);
  if (info.words) told.push(`plan: ${info.words}`);
  if (info.reach) told.push(`reach ${info.reach.join(", ")}`);
  byId("said").textContent = told.join("; ");
  plot(byId("chunk"), actions, { executed: contract.execute, probabilities: info.probabilities?.steps });
  if (info.point) mark(info.point);
});

byId("act").onclick = act;
byId("again").onchange = async () => {
  while (byId("again").checked) {
    if (!(await act())) byId("again").checked = false;
    await new Promise(requestAnimationFrame);
  }
};
byId("reset").onclick = guarded(() => ask("reset", { ids: [STREAM] }));
byId("ask").onclick = guarded(async () => {
  const { text, point } = await ask("ask", { images: images(), question: byId("question").value });
  byId("answer").textContent = point ? `at ${point.map((n) => n.toFixed(2)).join(", ")}` : text || "(nothing)";
  if (point) mark(point);
});
byId("embodiment").onchange = chooseEmbodiment;
byId("policy").onchange = () => start();
byId("door").onsubmit = (event) => {
  event.preventDefault();
  key = byId("key").value;
  sessionStorage.setItem("key", key);
  start();
};

// Replay: films by name, each with the actions of the same name.
let films = [], played = null;

function paired(files) {
  const named = [...files].map((file) => [/^(.*)\.(\w+)$/.exec(file.webkitRelativePath || file.name) || [], file]);
  const videos = named.filter(([[, , ending]]) => /^(mp4|webm)$/i.test(ending)), told = named.filter(([[, , ending]]) => /^jsonl?$/i.test(ending));
  if (videos.length < 2 && told.length < 2) return [{ name: "", video: videos[0]?.[1], actions: told[0]?.[1] }];
  return videos.map(([[, name], video]) => ({ name, video, actions: told.find(([[, other]]) => other === name)?.[1] }));
}

const choose = (input) => guarded(async () => {
  films = paired(input.files);
  if (!films.length) throw new Refused("no film (.mp4) among these files");
  byId("choice").hidden = films.length < 2;
  byId("films").replaceChildren(...films.map(({ name }, i) => new Option(name, i)));
  await play(films[0]);
});

async function play({ video, actions }) {
  URL.revokeObjectURL(byId("video").src);
  if (video) byId("video").src = URL.createObjectURL(video);
  else byId("video").removeAttribute("src");
  played = null;
  byId("played").replaceChildren();
  byId("film").textContent = actions ? "" : "no actions beside this film";
  if (!actions) return;
  try {
    played = parseActions(await actions.text());
  } catch (error) {
    throw new Refused(`no actions in ${actions.name}: ${error.message}`);
  }
  byId("film").textContent = played.told;
  replay();
}

byId("files").onchange = choose(byId("files"));
byId("folder").onchange = choose(byId("folder"));
byId("films").onchange = guarded(() => play(films[byId("films").value]));

function parseActions(text) {
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    told = text.trim().split("\n").map((line) => JSON.parse(line));
  }
  if (Array.isArray(told)) told = { actions: told.map((row) => row.action ?? row) };
  const width = body.action.names.length;
  if (!told.actions?.length || told.actions.some((row) => row.length !== width || !row.every(Number.isFinite))) {
    throw new Error(`expected rows of ${width} numbers`);
  }
  const said = [told.instruction, `${told.actions.length} actions`, told.outcome].filter(Boolean);
  return { hz: told.hz ?? body.control_hz, actions: told.actions, told: said.join(", ") };
}

function replay() {
  if (played) plot(byId("played"), played.actions, { hz: played.hz, at: Math.min(byId("video").currentTime * played.hz, played.actions.length) });
}
byId("video").ontimeupdate = byId("video").onseeked = replay;
// The film's own events come four times a second.
byId("video").onplay = () => {
  const draw = () => {
    replay();
    if (!byId("video").paused && !byId("video").ended) requestAnimationFrame(draw);
  };
  draw();
};

// Live figures, from the counters that Prometheus reads.
let before = null;
const rates = [];

function counters(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = /^(vla_\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match) (found[match[1]] ||= []).push([match[2] || "", Number(match[3])]);
  }
  return found;
}
const sum = (rows) => (rows || []).reduce((total, [, value]) => total + value, 0);

function quantile(now, then, share) {
  const rows = (now || []).map(([label, value], i) => [Number(/le="(.*)"/.exec(label)[1].replace("+Inf", "Infinity")), value - (then?.[i]?.[1] || 0)]);
  const all = rows.at(-1)?.[1];
  const row = all ? rows.find(([, count]) => count >= share * all) : null;
  return row ? (Number.isFinite(row[0]) ? `≤ ${row[0] * 1000} ms` : "> 10 s") : "–";
}

async function live() {
  if (contract) {
    const now = counters(await ask("metrics")), at = performance.now();
    // The console's own look at the counters is not counted: only what is asked of a policy is.
    const rate = before ? (1000 * (sum(now.vla_requests_total) - sum(before.now.vla_requests_total))) / (at - before.at) : 0;
    const calls = sum(now.vla_batch_rows_count) - sum(before?.now.vla_batch_rows_count);
    const rows = sum(now.vla_batch_rows_sum) - sum(before?.now.vla_batch_rows_sum);
    rates.push(rate);
    if (rates.length > 120) rates.shift();
    byId("rate").textContent = rate.toFixed(1);
    byId("p50").textContent = quantile(now.vla_request_seconds_bucket, before?.now.vla_request_seconds_bucket, 0.5);
    byId("p99").textContent = quantile(now.vla_request_seconds_bucket, before?.now.vla_request_seconds_bucket, 0.99);
    byId("rows").textContent = calls ? (rows / calls).toFixed(1) : "–";
    byId("streams").textContent = sum(now.vla_streams);
    sparkline(byId("live"), rates);
    before = { now, at };
  }
}

function fact(name, value) {
  const row = document.createElement("tr");
  row.append(...[name, value].map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return row;
}

const start = guarded(async () => {
  const names = Object.keys((await ask("policies")).policies), chosen = byId("policy").value;
  byId("policy").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  byId("which").hidden = names.length < 2;
  own = names.length < 2 ? "" : `policies/${byId("policy").value}/`;
  for (const link of document.querySelectorAll("[data-own]")) link.href = own + link.dataset.own;
  const told = await ask("contract");
  contract = told.contract;
  byId("door").hidden = true;
  byId("main").hidden = false;
  byId("title").textContent = contract.title || "vla serve";
  byId("hash").textContent = told.hash;
  byId("contract").textContent = JSON.stringify(contract, null, 1);
  byId("embodiment").replaceChildren(...Object.keys(contract.embodiments).map((name) => new Option(name)));
  chooseEmbodiment();
  const listed = ({ names, units }) => names.map((name, i) => (units[i] ? `${name} (${units[i]})` : name)).join(", ");
  byId("facts").replaceChildren(
    fact("Cameras", body.cameras.map(({ name, width, height }) => `${name} (${width} x ${height})`).join(", ")),
    fact("State", listed(body.state)), fact("Actions", listed(body.action)),
    fact("Frame, mode", `${body.frame}, ${body.mode}`), fact("Rotation", body.rotation), fact("Gripper", body.gripper),
    fact("Chunk", `${contract.chunk} actions at ${body.control_hz} Hz, ${contract.execute} to be carried out`),
    fact("Key maps", Object.keys(body.keys).join(", ") || "none"));
});

await start();
setInterval(() => live().catch(trouble), 1000);

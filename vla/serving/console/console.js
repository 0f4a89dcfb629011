import { cross, plotDimension, sparkline } from "./plots.js";

const byId = (id) => document.getElementById(id);
const STREAM = `console-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
const SHARED = ["metrics", "policies"];
let contract, embodiment, own = "", key = sessionStorage.getItem("key") || "";
const cameraCanvases = {};

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

// The centre of the source in the camera's aspect ratio, at least of the camera's size.
function show(camera, source, width, height) {
  const canvas = cameraCanvases[camera.name];
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
  cameraCanvases[camera.name] = canvas;
  canvas.width = camera.width;
  canvas.height = camera.height;
  canvas.getContext("2d").fillStyle = "#808080";
  canvas.getContext("2d").fillRect(0, 0, canvas.width, canvas.height);
  canvas.sent = canvas.toDataURL("image/png").split(",")[1];
  file.onchange = guarded(async () => {
    canvas.video = null;
    const image = await createImageBitmap(file.files[0]).catch(() => { throw new Refused("not an image"); });
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
  const { names, units, low, high } = embodiment.state, row = document.createElement("label");
  const slider = Object.assign(document.createElement("input"), { type: "range", min: low[i], max: high[i], step: "any", id: `state-${i}` });
  slider.value = (low[i] + high[i]) / 2;
  const value = document.createElement("span");
  slider.oninput = () => { value.textContent = Number(slider.value).toFixed(3); };
  slider.oninput();
  row.append(units[i] ? `${names[i]} (${units[i]})` : names[i], slider, value);
  return row;
}

function chooseEmbodiment() {
  embodiment = contract.embodiments[byId("embodiment").value];
  byId("cameras").replaceChildren(...embodiment.cameras.map(cameraBox));
  byId("state").replaceChildren(...embodiment.state.names.map((_, i) => stateRow(i)));
  byId("chunk").replaceChildren();
}

const images = () => Object.fromEntries(embodiment.cameras.map(({ name }) => [name, cameraCanvases[name].sent]));

function canvases(parent, count) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(document.createElement("canvas"));
  return [...parent.children];
}

function plot(parent, actions, more) {
  const { names, units, low, high } = embodiment.action, { probabilities, ...rest } = more;
  canvases(parent, names.length).forEach((canvas, d) =>
    plotDimension(canvas, {
      name: names[d], unit: units[d], low: low[d], high: high[d], values: actions.map((row) => row[d]), hz: embodiment.control_hz,
      // The terminate token comes first where there is one.
      probabilities: probabilities && probabilities.map((row) => row[row.length - names.length + d]), ...rest,
    }));
}

function mark(point) {
  const canvas = cameraCanvases[embodiment.cameras[0].name];
  if (canvas.source && !canvas.video) show(embodiment.cameras[0], ...canvas.source);
  cross(canvas, point);
}

const act = guarded(async () => {
  const state = embodiment.state.names.map((_, i) => Number(byId(`state-${i}`).value));
  const began = performance.now();
  const { actions, terminate, info } = await ask("act", {
    id: STREAM, images: images(), state, instruction: byId("instruction").value, embodiment: byId("embodiment").value,
  });
  const total = performance.now() - began, end = terminate.indexOf(true);
  const summary = [`${actions.length} actions, ${contract.execute} to be carried out, at ${embodiment.control_hz} Hz`,
    `${info.infer_ms.toFixed(0)} ms in the policy (batch ${info.batch}), ${total.toFixed(0)} ms in all`];
  if (end >= 0) summary.push(`the policy reports the task done at action ${end + 1}`);
  if (info.words) summary.push(`plan: ${info.words}`);
  if (info.reach) summary.push(`offset ${info.reach.join(", ")}`);
  byId("said").textContent = summary.join("; ");
  byId("warned").hidden = !info.warnings;
  byId("warned").textContent = `The state is unlike the training data: ${info.warnings?.join("; ")}`;
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
  const { text, point, note } = await ask("ask", { images: images(), question: byId("question").value });
  byId("answer").textContent = (point ? `at ${point.map((n) => n.toFixed(2)).join(", ")}` : text || "(nothing)") + (note ? ` (${note})` : "");
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

// Replay: videos by name, each with the actions of the same name.
let films = [], played = null;

function paired(files) {
  const named = [...files].map((file) => [/^(.*)\.(\w+)$/.exec(file.webkitRelativePath || file.name) || [], file]);
  const videos = named.filter(([[, , ending]]) => /^(mp4|webm)$/i.test(ending)), records = named.filter(([[, , ending]]) => /^jsonl?$/i.test(ending));
  if (videos.length < 2 && records.length < 2) return [{ name: "", video: videos[0]?.[1], actions: records[0]?.[1] }];
  return videos.map(([[, name], video]) => ({ name, video, actions: records.find(([[, other]]) => other === name)?.[1] }));
}

const choose = (input) => guarded(async () => {
  films = paired(input.files);
  if (!films.length) throw new Refused("no video (.mp4) among these files");
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
  byId("film").textContent = actions ? "" : "there are no actions beside this video";
  if (!actions) return;
  try {
    played = parseActions(await actions.text());
  } catch (error) {
    throw new Refused(`no actions in ${actions.name}: ${error.message}`);
  }
  byId("film").textContent = played.summary;
  replay();
}

byId("files").onchange = choose(byId("files"));
byId("folder").onchange = choose(byId("folder"));
byId("films").onchange = guarded(() => play(films[byId("films").value]));

function parseActions(text) {
  let record;
  try {
    record = JSON.parse(text);
  } catch {
    record = text.trim().split("\n").map((line) => JSON.parse(line));
  }
  if (Array.isArray(record)) record = { actions: record.map((row) => row.action ?? row) };
  const width = embodiment.action.names.length;
  if (!record.actions?.length || record.actions.some((row) => row.length !== width || !row.every(Number.isFinite))) {
    throw new Error(`expected rows of ${width} numbers`);
  }
  const parts = [record.instruction, `${record.actions.length} actions`, record.outcome].filter(Boolean);
  return { hz: record.hz ?? embodiment.control_hz, actions: record.actions, summary: parts.join(", ") };
}

function replay() {
  if (played) plot(byId("played"), played.actions, { hz: played.hz, at: Math.min(byId("video").currentTime * played.hz, played.actions.length) });
}
byId("video").ontimeupdate = byId("video").onseeked = replay;
// The video's own events come four times per second only.
byId("video").onplay = () => {
  const draw = () => {
    replay();
    if (!byId("video").paused && !byId("video").ended) requestAnimationFrame(draw);
  };
  draw();
};

// Live figures from the Prometheus counters, over the last ten seconds. Latency and rows stay until there are newer ones.
const WINDOW = 10_000;
const past = [], rates = [];

function counters(text) {
  const values = {};
  for (const line of text.split("\n")) {
    const match = /^(vla_\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match) (values[match[1]] ||= []).push([match[2] || "", Number(match[3])]);
  }
  return values;
}
const sum = (rows) => (rows || []).reduce((total, [, value]) => total + value, 0);

function quantile(now, then, share) {
  const rows = (now || []).map(([label, value], i) => [Number(/le="(.*)"/.exec(label)[1].replace("+Inf", "Infinity")), value - (then?.[i]?.[1] || 0)]);
  const all = rows.at(-1)?.[1];
  if (!all) return null;
  const [seconds] = rows.find(([, count]) => count >= share * all);
  return Number.isFinite(seconds) ? `≤ ${seconds * 1000} ms` : "> 10 s";
}

async function live() {
  if (contract) {
    const now = counters(await ask("metrics")), at = performance.now();
    // A server that was started again counts from zero.
    while (past.length && sum(now.vla_requests_total) < sum(past[0].now.vla_requests_total)) past.shift();
    while (past.length > 1 && at - past[0].at > WINDOW) past.shift();
    // At first, all requests so far.
    const then = past[0]?.now, since = (name) => sum(now[name]) - sum(then?.[name]);
    // Only requests to a policy are counted, not the console's own requests for the counters.
    const rate = then ? (1000 * since("vla_requests_total")) / (at - past[0].at) : 0;
    const calls = since("vla_batch_rows_count");
    rates.push(rate);
    if (rates.length > 120) rates.shift();
    byId("rate").textContent = rate.toFixed(1);
    for (const [id, share] of [["p50", 0.5], ["p99", 0.99]]) {
      byId(id).textContent = quantile(now.vla_request_seconds_bucket, then?.vla_request_seconds_bucket, share) ?? byId(id).textContent;
    }
    if (calls) byId("rows").textContent = (since("vla_batch_rows_sum") / calls).toFixed(1);
    byId("streams").textContent = sum(now.vla_streams);
    sparkline(byId("live"), rates);
    past.push({ now, at });
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
  const answer = await ask("contract");
  contract = answer.contract;
  byId("door").hidden = true;
  byId("main").hidden = false;
  byId("title").textContent = contract.title || "vla serve";
  byId("hash").textContent = answer.hash;
  byId("asking").hidden = answer.questions === false;
  byId("mute").hidden = answer.questions !== false;
  byId("contract").textContent = JSON.stringify(contract, null, 1);
  byId("embodiment").replaceChildren(...Object.keys(contract.embodiments).map((name) => new Option(name)));
  chooseEmbodiment();
  const listed = ({ names, units }) => names.map((name, i) => (units[i] ? `${name} (${units[i]})` : name)).join(", ");
  byId("facts").replaceChildren(
    fact("Cameras", embodiment.cameras.map(({ name, width, height }) => `${name} (${width} x ${height})`).join(", ")),
    fact("State", listed(embodiment.state)), fact("Actions", listed(embodiment.action)),
    fact("Frame, mode", `${embodiment.frame}, ${embodiment.mode}`), fact("Rotation", embodiment.rotation), fact("Gripper", embodiment.gripper),
    fact("Chunk", `${contract.chunk} actions at ${embodiment.control_hz} Hz, ${contract.execute} to be carried out`),
    fact("Key maps", Object.keys(embodiment.keys).join(", ") || "none"));
});

const tick = () => live().catch(trouble);
await start();
await tick();
setInterval(tick, 1000);

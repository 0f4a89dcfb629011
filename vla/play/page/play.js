import { cross, plotDimension } from "./plots.js";

const byId = (id) => document.getElementById(id);
const make = (tag, more = {}) => Object.assign(document.createElement(tag), more);
const ANSWER = "#00b7ff";
let socket, state = null, cards = [], drawn = 0;

const send = (what, more = {}) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify({ do: what, ...more }));

function connect() {
  let arriving, frames;
  socket = new WebSocket(`ws://${location.host}/live`);
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") [arriving, frames] = [JSON.parse(data), []];
    else frames.push(data);
    if (frames.length === arriving.frames) show(arriving, frames);
  };
  socket.onclose = () => {
    trouble("`vla play` does not answer; this page waits for it");
    setTimeout(connect, 1000);
  };
}

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text;
}

function show(next, frames) {
  const before = state;
  state = next;
  // What somebody is typing, or has just chosen, stays unless it was refused.
  const fresh = (key) => state[key] !== before?.[key] || state.trouble;
  trouble(state.trouble);
  byId("main").hidden = false;
  byId("fps").textContent = state.playing && !state.over ? state.fps.toFixed(1) : "–";
  byId("step").textContent = Math.max(...state.players.map(({ steps }) => steps));
  byId("horizon").textContent = state.horizon;
  byId("others").textContent = state.browsers > 1 ? `, ${state.browsers} browsers see this` : "";
  if (fresh("instruction") && document.activeElement !== byId("instruction")) byId("instruction").value = state.instruction;
  byId("goal").textContent = state.goal || "nothing";
  byId("table").textContent = state.objects.length ? `. On the table: ${state.objects.join(", ")}` : "";
  byId("note").hidden = !state.note;
  byId("note").textContent = state.note;
  byId("play").textContent = state.playing ? "Pause" : "Play";
  byId("one").disabled = state.playing || state.over;
  byId("save").disabled = !state.players.some(({ steps, saved }) => steps && !saved);
  choices("suite", Object.keys(state.suites));
  choices("variation", state.suites[state.suite]);
  choices("task", state.tasks);
  for (const key of ["suite", "variation", "task", "scene", "speed"]) if (fresh(key)) byId(key).value = state[key];
  byId("asking").hidden = !state.players.some(({ answers }) => answers);
  byId("said").textContent = state.said;
  if (cards.map(({ name }) => name).join() !== state.players.map(({ name }) => name).join()) {
    cards = state.players.map(card);
    byId("players").replaceChildren(...cards.map(({ box }) => box));
  }
  let first = 0;
  state.players.forEach((player, i) => {
    describe(cards[i], player);
    draw(cards[i], player, frames.slice(first, (first += player.cameras.length)));
  });
}

function choices(id, names) {
  const key = JSON.stringify(names);
  if (byId(id).dataset.names !== key) byId(id).replaceChildren(...names.map((name) => new Option(name)));
  byId(id).dataset.names = key;
}

function card({ name }) {
  const box = make("article"), title = make("div", { className: "title" }), outcome = make("span", { className: "outcome", id: `outcome-${name}` });
  const views = make("div", { className: "views" }), who = make("p", { id: `who-${name}` }), plan = make("p", { className: "quiet" });
  const expert = make("input", { type: "checkbox", id: `expert-${name}` }), choice = make("label"), plots = make("div", { className: "plots" });
  const answer = make("p", { id: `answer-${name}` }), warned = make("p", { className: "failure" });
  expert.onchange = () => send("hand over", { player: name, actor: expert.checked ? "expert" : "policy" });
  title.append(make("h2", { textContent: name }), outcome);
  choice.append(expert, " the expert acts");
  box.append(title, views, who, choice, answer, plan, warned, plots);
  return { name, box, outcome, views, who, plan, expert, choice, answer, warned, plots, version: 0 };
}

function describe(card, player) {
  const { failure, fault, plan, actor } = player;
  card.outcome.textContent = fault ? `no simulation: ${fault}` : failure === null ? "" : failure || "success";
  card.outcome.className = `outcome ${failure === "" && !fault ? "success" : "failure"}`;
  const helped = player.by_expert && player.policy ? `, ${player.by_expert} of them by the expert` : "";
  card.who.textContent = `${player.steps} ${player.steps === 1 ? "step" : "steps"}${helped}${player.ms ? `; the policy takes ${player.ms} ms` : ""}`;
  card.expert.checked = actor === "expert";
  card.expert.disabled = !player.policy || !player.expert;
  card.choice.title = player.expert ? "" : "this task has no scripted expert";
  const parts = [plan.words && `“${plan.words}”`, plan.point && `the object at ${plan.point.map((n) => n.toFixed(2)).join(", ")} of the ${player.eye} image`,
    plan.reach && `offset ${plan.reach.join(", ")}`].filter(Boolean);
  card.plan.textContent = parts.length ? `Plan: ${parts.join("; ")}` : "";
  const [text, point] = player.answer;
  card.answer.textContent = text && `${state.question}: ${point ? `at ${point.map((n) => n.toFixed(2)).join(", ")}` : text}`;
  card.warned.textContent = [player.malformed, ...player.warnings].filter(Boolean).join("; ");
  plot(card, player);
}

function plot({ plots }, { actions, space, executed, at, hz, probabilities }) {
  const count = actions.length ? space.length : 0;
  while (plots.children.length > count) plots.lastChild.remove();
  while (plots.children.length < count) plots.append(make("canvas"));
  [...plots.children].forEach((canvas, d) =>
    plotDimension(canvas, {
      ...space[d], values: actions.map((row) => row[d]), hz, executed, at: executed ? at : null,
      probabilities: probabilities && probabilities.map((row) => row[d]),
    }));
}

async function draw(card, player, frames) {
  const version = ++card.version, images = await Promise.all(frames.map((frame) => createImageBitmap(frame)));
  // A newer state may have been quicker.
  if (version !== card.version) return;
  if (card.views.children.length !== images.length) {
    card.views.replaceChildren(...player.cameras.map((name) => {
      const figure = make("figure");
      figure.append(make("canvas", { id: `view-${card.name}-${name}` }), make("figcaption", { textContent: name }));
      return figure;
    }));
  }
  player.cameras.forEach((name, i) => {
    const canvas = card.views.children[i].firstChild;
    canvas.width = images[i].width;
    canvas.height = images[i].height;
    canvas.getContext("2d").drawImage(images[i], 0, 0);
    if (name !== player.eye) return;
    if (player.plan.point) cross(canvas, player.plan.point);
    if (player.answer[1]) cross(canvas, player.answer[1], ANSWER);
  });
  drawn += 1;
  document.body.dataset.drawn = drawn;
}

const scene = (number) => send("scene", { suite: byId("suite").value, variation: byId("variation").value, task: byId("task").value, scene: number });

byId("telling").onsubmit = (event) => {
  event.preventDefault();
  send("tell", { instruction: byId("instruction").value });
};
byId("ask").onsubmit = (event) => {
  event.preventDefault();
  send("ask", { question: byId("question").value });
};
byId("play").onclick = () => send(state.playing ? "pause" : "play");
byId("one").onclick = () => send("step");
byId("speed").onchange = () => send("speed", { speed: Number(byId("speed").value) });
byId("again").onclick = () => send("again");
byId("new").onclick = () => scene(state.scene + 1);
byId("save").onclick = () => send("save");
for (const id of ["suite", "variation", "task"]) byId(id).onchange = () => scene(state.scene);
byId("scene").onchange = () => scene(Number(byId("scene").value));
connect();

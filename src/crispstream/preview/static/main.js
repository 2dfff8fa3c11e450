// SPDX-License-Identifier: Apache-2.0
// Puts the page together: figures, controls, keys.

import { Charts } from "/static/charts.js";
import { change, Link } from "/static/link.js";
import { Stage } from "/static/stage.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"));
const charts = new Charts($("charts"));
const strength = $("strength");
const FAILURE_SHOWN = 6000; // milliseconds

let frozen = false;
let connection = "";
let picture = false;
let touched = 0; // when the strength was last changed here, and the server has heard of it
let opening = null; // preset and backend that were asked for and are not there yet
let asking = 0; // such requests that the server has not answered yet
let shown = {}; // preset and backend in the controls; where they stay the same, an open list is left alone
let busy = false;

const link = new Link({
  hello({ presets, backends }, history) {
    fill($("preset"), presets);
    fill($("backend"), backends);
    shown = {};
    charts.replace(history);
  },
  status: showStatus,
  async picture(data) {
    if (frozen) return -1;
    const number = await stage.show(data);
    if (!picture) {
      picture = true;
      notice();
    }
    return number;
  },
  state(name, reason = "") {
    if (name === "denied") connection = "Access has ended: open the address with ?token=… again";
    else if (name === "lost") connection = reason || "The connection is lost, trying again";
    else connection = "";
    if (name !== "open") showState("lost", "offline");
    notice();
  },
});

function fill(select, names) {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

function notice() {
  let text = connection;
  if (!text && frozen) text = "Frozen: press space to go on";
  if (!text && opening) text = `Opening ${opening.preset}, engine ${opening.backend}`;
  if (!text && !picture) text = "Waiting for the first picture";
  if ($("notice").textContent !== text) $("notice").textContent = text;
}

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = !text;
}

// A number and its unit, as DOM nodes.
function figure(id, value, unit) {
  const small = document.createElement("small");
  small.textContent = unit;
  $(id).replaceChildren(value, small);
}

function showState(state, text) {
  $("source").dataset.state = state;
  if ($("source-state").textContent !== text) $("source-state").textContent = text;
}

const ms = (value) => (value == null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString());

function showStatus(status, sample, pageLatency) {
  const { source, engine, latency_ms: latency, drops } = status;
  showState(source.state, source.state);
  $("source-name").textContent = source.error && source.state !== "live" ? source.error : source.name;
  $("source").title = source.error || source.name;
  const size = source.width ? `${source.width}×${source.height}` : "";
  const speed = engine.ms == null ? "" : `${ms(engine.ms)} ms`;
  const place = [engine.preset, engine.name, engine.device].filter(Boolean).join(" · ");
  $("facts").textContent = [size, place, speed].filter(Boolean).join("   ·   ");
  figure("tile-fps", status.fps.out == null ? "–" : status.fps.out.toFixed(1), `of ${(status.fps.in ?? 0).toFixed(1)}`);
  figure("tile-latency", ms(latency.p50), "ms");
  const dropped = Object.values(drops).reduce((sum, n) => sum + n, 0);
  const share = status.frames.in ? (100 * dropped) / status.frames.in : 0;
  figure("tile-drops", dropped.toLocaleString(), `${share.toFixed(share < 10 ? 1 : 0)}%`);
  $("tile-drops").title = Object.entries(drops).map(([cause, n]) => `${cause}: ${n}`).join(", ");
  figure("tile-page", frozen ? "–" : ms(pageLatency), "ms");
  charts.add(sample);
  showSinks(status.sinks);

  // What the server said before it heard of the change does not count.
  if (!busy && Date.now() - touched > 1500) showStrength(engine.strength);
  if (!asking) opening = engine.opening;
  const { preset, backend } = opening ?? engine;
  if (preset !== shown.preset) $("preset").value = preset;
  if (backend !== shown.backend) $("backend").value = backend;
  shown = { preset, backend };
  toast(engine.error ? `Engine: ${engine.error}` : failure);
  notice();
}

function showSinks(sinks) {
  $("sinks").hidden = !sinks.length;
  $("sink-rows").replaceChildren(
    ...sinks.map((sink) => {
      const row = document.createElement("tr");
      [sink.name, sink.state, sink.frames.toLocaleString(), sink.dropped.toLocaleString()].forEach((text, i) => {
        const cell = row.insertCell();
        cell.textContent = text;
        if (i > 1) cell.className = "number";
        if (i === 1) cell.dataset.state = text;
      });
      row.title = sink.error || sink.name;
      return row;
    }),
  );
}

let failure = ""; // of the newest request
let timer = 0;
async function ask(what) {
  let now = "";
  try {
    await change(what);
  } catch (error) {
    now = error.message;
  }
  failure = now;
  clearTimeout(timer);
  timer = setTimeout(forget, FAILURE_SHOWN);
  toast(failure);
  notice();
}

function forget() {
  if ($("toast").textContent === failure) toast(""); // else the engine's error is there
  failure = "";
}

function showStrength(value) {
  strength.value = value;
  $("strength-value").textContent = Number(value).toFixed(2);
}

// While the slider moves: one change at a time, the newest last.
async function sendStrength() {
  touched = Date.now();
  $("strength-value").textContent = Number(strength.value).toFixed(2);
  if (busy) return;
  busy = true;
  let sent;
  do {
    sent = strength.value;
    await ask({ strength: Number(sent) });
    await new Promise((done) => setTimeout(done, 120));
  } while (sent !== strength.value);
  touched = Date.now();
  busy = false;
}

async function switchEngine() {
  opening = { preset: $("preset").value, backend: $("backend").value };
  shown = opening;
  notice();
  asking += 1;
  await ask(opening);
  asking -= 1;
}

function freeze() {
  frozen = !frozen;
  $("freeze").setAttribute("aria-pressed", frozen);
  link.pause(frozen);
  notice();
}

function overlay(name) {
  const chosen = stage.overlay === name ? "" : name;
  document.querySelector(`[name=overlay][value="${chosen}"]`).checked = true;
  stage.setOverlay(chosen);
}

function step(by) {
  strength.value = Number(strength.value) + by;
  sendStrength();
}

const KEYS = {
  ArrowLeft: (event) => stage.move(stage.at - (event.shiftKey ? 0.1 : 0.02)),
  ArrowRight: (event) => stage.move(stage.at + (event.shiftKey ? 0.1 : 0.02)),
  m: () => overlay("person"),
  b: () => overlay("blur"),
  "+": () => step(0.1),
  "=": () => step(0.1),
  "-": () => step(-0.1),
  " ": freeze,
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // These use arrows, space and letters themselves.
  // The button in a help that was just closed keeps the focus until the page is drawn again.
  const own = !$("help").contains(event.target) && event.target.closest("select, button, input");
  if (!KEYS[key] || (own && (key === " " || key.startsWith("Arrow") || own.tagName === "SELECT"))) return;
  event.preventDefault();
  KEYS[key](event);
});
strength.addEventListener("input", sendStrength);
$("preset").addEventListener("change", switchEngine);
$("backend").addEventListener("change", switchEngine);
$("freeze").addEventListener("click", freeze);
$("help-open").addEventListener("click", () => $("help").showModal());
for (const choice of document.querySelectorAll("[name=overlay]")) {
  choice.addEventListener("change", () => stage.setOverlay(choice.value));
}

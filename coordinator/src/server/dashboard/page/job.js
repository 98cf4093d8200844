// One job while it runs: where it stands, its curves, members and events, and what can be done about it.

import { of, post } from "./ask.js";
import { byId, chart, confirm, el, fill, say, show } from "./draw.js";
import { drawKept } from "./kept.js";
import { badge, bar } from "./overview.js";
import { NONE, bytes, counted, duration, fixed, percent, time, whole } from "./words.js";

const OVER = ["finished", "stopped", "failed"];
let kinds = "all";
let newest = null;

export const isOver = (view) => OVER.includes(view.state) && !view.running;

function drawStanding(view) {
  const { running, queue, history } = view;
  const done = running?.global_step ?? view.global_step;
  const total = running?.total_steps || view.total_steps;
  fill("state", [view.state, view.reason], () => [badge(view.state), view.reason ? ` ${view.reason}` : ""]);
  fill("progress", [done, total], () => bar(done, total, "Steps"));
  const last = history[history.length - 1];
  const best = last ? Math.max(last.val_top1 ?? 0, last.ema_top1 ?? 0) : null;
  const numbers = [
    ["Epochs", `${whole(history.length)} of ${whole(view.epochs)}`],
    ["Top-1", percent(best)],
    ["Images/s", fixed(running?.images_per_second || last?.images_per_second, 1)],
    ["Left", duration(running?.seconds_left)],
    ["Goodput", percent(running?.goodput)],
    ["Workers", running ? `${whole(running.members.filter((member) => member.state !== "gone").length)} of ${whole(queue?.share ?? running.wanted)}` : NONE],
    ["Generation", whole(view.ledger.generation)],
  ].filter(([, value]) => value !== NONE);
  fill("numbers", numbers, () => numbers.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", {}, value))));
  document.title = `${view.state}${total && !isOver(view) ? ` ${percent(done / total)}` : ""} – ${view.job}`;
}

function drawMembers(view, mayOperate, act) {
  const members = (view.running?.members ?? []).filter((member) => member.state !== "gone");
  const drain = async (worker) => {
    if (await confirm(`Drain ${worker}?`, "It leaves for good after the step at hand; the job goes on with the others.", "Drain")) {
      await act(() => post(of(view.job, "/drain"), { worker }), `${worker} leaves after the step at hand.`);
    }
  };
  const hasGpus = members.some((member) => member.device_memory);
  const memory = (held) => held
    ? el("td", { class: "number", title: `at most ${bytes(held.peak)}` }, `${bytes(held.used)} of ${bytes(held.total)}`)
    : el("td", { class: "number" }, NONE);
  const row = ({ worker, state, slots, slots_per_second, device_memory }) => el("tr", {},
    el("th", { scope: "row" }, worker),
    el("td", {}, state),
    el("td", { class: "number" }, `${whole(slots)} of ${whole(view.slots)}`),
    el("td", { class: "number" }, slots_per_second > 0 ? fixed(slots_per_second, 1) : NONE),
    hasGpus ? memory(device_memory) : null,
    el("td", { class: "number" }, mayOperate && state !== "draining"
      ? el("button", { type: "button", class: "quiet", id: `drain-${worker}`, "aria-label": `Drain ${worker}`, onPress: () => drain(worker) }, "Drain")
      : null));
  chart("timeline", view.charts.members);
  show("members-box", members.length > 0);
  show("member-memory", hasGpus);
  show("no-members", members.length === 0);
  fill("members", [members, mayOperate], () => members.map(row));
}

function drawEvents(events) {
  const wanted = events.filter((event) => kinds === "all" || kinds.split(" ").includes(event.kind));
  const line = ({ time: when, kind, text }) => el("li", { class: kind },
    el("time", { datetime: when }, time(when)),
    kind === "fault" ? el("strong", {}, "fault") : el("span", { class: "kind" }, kind),
    el("span", { class: "text" }, text));
  show("events", wanted.length > 0);
  show("no-events", wanted.length === 0);
  fill("events", wanted, () => wanted.map(line));
}

/** What is new and matters is said to those who do not see it. */
function announce(view) {
  const notable = view.events.find((event) => ["fault", "recovery", "job"].includes(event.kind));
  const now = `${view.job} is ${view.state}. ${notable?.text ?? ""}`;
  if (newest !== null && newest !== now) say("heard", now);
  newest = now;
}

export function drawJob(view, overview, act) {
  const { me, serves } = overview;
  const active = !isOver(view) && view.state !== "elsewhere" && view.state !== "new";
  const inQueue = serves === "queue";
  say("job-name", view.job);
  drawStanding(view);
  show("actions", me.may_operate && (active || (inQueue && view.state !== "finished")));
  show("scale", active);
  show("prioritize", active && inQueue);
  show("stop", active);
  show("stop-now", active);
  show("resume", !active && inQueue && view.state !== "finished");
  byId("wanted").max = Math.min(view.spec.elastic.max_workers ?? view.slots, view.slots);
  suggest("wanted", view.queue ? view.queue.share || view.queue.workers : view.running?.wanted);
  suggest("new-priority", view.queue?.priority);
  show("curves", view.global_step > 0);
  chart("by-step", view.charts.by_step);
  chart("by-epoch", view.charts.by_epoch);
  show("history-box", view.history.length > 0);
  fill("history", view.history, () => [...view.history].reverse().map((epoch) => el("tr", {},
    el("th", { scope: "row", class: "number" }, whole(epoch.epoch)),
    ...[fixed(epoch.train_loss, 4), fixed(epoch.val_loss, 4), percent(epoch.val_top1), percent(epoch.ema_top1),
      fixed(epoch.images_per_second, 0), duration(epoch.seconds), whole(epoch.workers)].map((text) => el("td", { class: "number" }, text)))));
  drawMembers(view, me.may_operate && active, act);
  drawEvents(view.events);
  drawKept(view);
  announce(view);
}

/** A value that stands in a field until somebody writes another one there. */
function suggest(id, value) {
  const field = byId(id);
  if (value !== undefined && value !== null && field.value === (field.dataset.suggested ?? "") && document.activeElement !== field) {
    field.value = value;
    field.dataset.suggested = String(value);
  }
}

export function listenForActions(job, act, redraw) {
  const number = (id) => Number(byId(id).value);
  byId("scale").addEventListener("submit", (event) => {
    event.preventDefault();
    const workers = number("wanted");
    byId("wanted").dataset.suggested = String(workers);
    act(() => post(of(job, "/scale"), { workers }), `${job} is to have ${counted(workers, "worker")}.`);
  });
  byId("prioritize").addEventListener("submit", (event) => {
    event.preventDefault();
    const priority = number("new-priority");
    byId("new-priority").dataset.suggested = String(priority);
    act(() => post(of(job, "/priority"), { priority }), `${job} has priority ${priority}.`);
  });
  byId("stop").addEventListener("click", async () => {
    if (await confirm(`Stop ${job}?`, "It ends after the step at hand, with a checkpoint from which it can be resumed.", "Stop")) {
      await act(() => post(of(job, "/stop"), { now: false }), `${job} stops after the step at hand.`);
    }
  });
  byId("stop-now").addEventListener("click", async () => {
    if (await confirm(`Stop ${job} at once?`, "Without a checkpoint: what came after the newest one is computed again when it is resumed.", "Stop at once")) {
      await act(() => post(of(job, "/stop"), { now: true }), `${job} stops at once.`);
    }
  });
  byId("resume").addEventListener("click", () => act(() => post(of(job, "/resume")), `${job} is in the queue again.`));
  byId("kinds").addEventListener("change", (event) => {
    kinds = event.target.value;
    redraw();
  });
}

// All jobs and workers.

import { post } from "./ask.js";
import { byId, confirm, el, fill, show } from "./draw.js";
import { NONE, counted, duration, mood, percent, whole } from "./words.js";

export const link = (job) => `/?job=${encodeURIComponent(job)}`;

export function badge(state) {
  return el("span", { class: `badge ${mood(state)}` }, state);
}

/** A bar and what it means. */
export function bar(done, total, label) {
  if (!total) return el("span", { class: "soft" }, NONE);
  return el("span", { class: "bar-box" },
    el("progress", { max: total, value: done, "aria-label": label }),
    el("span", { class: "bar-text" }, `${whole(done)} of ${whole(total)}`));
}

function jobRow({ job, state, reason, queue, running }) {
  const top1 = Math.max(running?.val_top1 ?? -1, running?.ema_top1 ?? -1);
  const members = running?.members.filter((member) => member.state !== "gone").length;
  return el("tr", {},
    el("th", { scope: "row" }, el("a", { href: link(job), id: `job-${job}` }, job)),
    el("td", {}, badge(state), reason && state !== "running" ? el("span", { class: "reason" }, reason) : null),
    el("td", {}, bar(running?.global_step, running?.total_steps, `Steps of ${job}`)),
    el("td", { class: "number wide" }, whole(queue ? queue.workers : members)),
    el("td", { class: "number wide" }, duration(running?.seconds_left)),
    el("td", { class: "number wide" }, top1 < 0 ? NONE : percent(top1)),
    el("td", { class: "number wide" }, queue ? whole(queue.priority) : NONE));
}

function workerRow({ worker, job, threads, numerics, draining }, mayDrain, drain) {
  const leave = mayDrain && !draining
    ? el("button", { type: "button", class: "quiet", id: `dismiss-${worker}`, "aria-label": `Drain ${worker}`, onPress: () => drain(worker) }, "Drain")
    : null;
  return el("tr", {},
    el("th", { scope: "row" }, worker),
    el("td", {}, draining ? "leaves" : job ? el("a", { href: link(job) }, job) : el("span", { class: "soft" }, "waits")),
    el("td", { class: "number wide" }, whole(threads)),
    el("td", { class: "wide soft" }, numerics ?? NONE),
    el("td", { class: "number" }, leave));
}

/** Draws everything; `act` carries out what a person wants and tells how it went. */
export function drawOverview({ jobs, workers, stored, serves, me }, act) {
  const mayDrain = me.may_operate && serves === "queue";
  const drain = async (worker) => {
    if (await confirm(`Drain ${worker}?`, "It leaves for good after the step at hand; its job goes on with the others.", "Drain")) {
      await act(() => post(`/api/workers/${encodeURIComponent(worker)}/drain`), `${worker} leaves after the step at hand.`);
    }
  };
  show("jobs-box", jobs.length > 0);
  show("no-jobs", jobs.length === 0);
  fill("jobs", jobs, () => jobs.map(jobRow));
  show("workers-box", workers.length > 0);
  show("no-workers", workers.length === 0);
  fill("workers", [workers, mayDrain], () => workers.map((worker) => workerRow(worker, mayDrain, drain)));
  byId("workers-title").textContent = workers.length ? `Workers (${whole(workers.length)})` : "Workers";
  show("stored-section", stored.length > 0);
  fill("stored", stored, () => stored.map((job) => el("li", {}, el("a", { href: link(job) }, job))));
  const running = jobs.filter((job) => job.state === "running").length;
  document.title = `${counted(running, "job")} running – Perennial`;
}

// What is kept of a job: checkpoints, reports, ledger, settings.

import { of } from "./ask.js";
import { el, fill, say, show } from "./draw.js";
import { NONE, bytes, counted, fixed, percent, time, whole } from "./words.js";

const short = (hash) => el("code", { title: hash }, hash.slice(0, 12));

function checkpointRow(checkpoint) {
  const agrees = { true: ["agrees", "good"], false: ["differs", "bad"], null: ["not there yet", "waiting"] }[checkpoint.ledger_agrees];
  return el("tr", {},
    el("th", { scope: "row", class: "number" }, whole(checkpoint.step)),
    el("td", { class: "number" }, whole(checkpoint.epoch)),
    el("td", {}, el("time", { datetime: checkpoint.created }, time(checkpoint.created))),
    el("td", { class: "number" }, percent(checkpoint.top1)),
    el("td", { class: "number wide" }, bytes(checkpoint.bytes)),
    el("td", {}, el("span", { class: `badge ${agrees[1]}` }, agrees[0])),
    el("td", { class: "wide" }, short(checkpoint.weights_sha256)));
}

function picture({ truth, predicted, confidence, picture: source }) {
  return el("li", {},
    source
      ? el("img", { src: source, alt: `${truth}, taken for ${predicted}`, loading: "lazy" })
      : el("div", { class: "no-picture" }, "no picture"),
    el("dl", {},
      el("div", {}, el("dt", {}, "is"), el("dd", {}, truth)),
      el("div", { class: "called" }, el("dt", {}, "called"), el("dd", {}, predicted))),
    el("p", {}, `${percent(confidence)} sure`));
}

function reportParts(job, reports, report) {
  const open = (step, format) => of(job, `/reports/${step}/${format}`);
  const links = reports.map((step) => el("li", {}, el("a", { href: open(step, "html"), target: "_blank", rel: "noopener" }, `Report of step ${whole(step)}`),
    " (", el("a", { href: open(step, "txt"), "aria-label": `Step ${step} as text` }, "text"), ", ",
    el("a", { href: open(step, "json"), "aria-label": `Step ${step} as JSON` }, "JSON"), ")"));
  const parts = [el("ul", { class: "plain" }, links)];
  if (!report) return parts;
  const numbers = [["Top-1", percent(report.top1)], [`Top-${report.k}`, percent(report.top5)], ["Loss", fixed(report.loss, 4)]];
  parts.unshift(
    el("dl", { class: "numbers" }, numbers.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", {}, value)))),
    el("p", { class: "note" }, `${report.finished ? "" : "In progress: "}the ${report.weights} after ${counted(report.step, "step")}, on ${counted(report.samples, "picture")} that it had not been trained on.`));
  if (report.mistakes.length) {
    parts.push(el("h3", {}, "Most confident mistakes"), el("ul", { class: "cards" }, report.mistakes.map(picture)));
  }
  return parts;
}

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function settings(spec) {
  const written = (value) => (value === null ? NONE : typeof value === "string" ? value : JSON.stringify(value));
  const table = (name, entries) => el("table", {}, el("caption", {}, name),
    el("tbody", {}, entries.map(([key, value]) => el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, written(value))))));
  const entries = Object.entries(spec);
  return [table("job", entries.filter(([, value]) => !isTable(value))),
    ...entries.filter(([, value]) => isTable(value)).map(([name, section]) => table(name, Object.entries(section)))];
}

export function drawKept({ job, checkpoints, reports, report, ledger, spec }) {
  show("checkpoints-box", checkpoints.length > 0);
  show("no-checkpoints", checkpoints.length === 0);
  fill("checkpoints", checkpoints, () => checkpoints.map(checkpointRow));
  show("no-report", reports.length === 0);
  fill("report", [reports, report], () => (reports.length ? reportParts(job, reports, report) : []));
  show("ledger-trouble", Boolean(ledger.broken));
  say("ledger-trouble", ledger.broken ?? "");
  const facts = [
    ["Root", ledger.steps ? ledger.root : NONE],
    ["Steps", `${whole(ledger.steps)}, of ${counted(ledger.samples, "sample")}`],
    ["Log", `${counted(ledger.entries, "entry", "entries")}, term ${whole(ledger.term)}, generation ${whole(ledger.generation)}`],
    ["Pictures", ledger.data_fingerprint ? `${ledger.data_fingerprint}, ${counted(ledger.classes, "class", "classes")}` : NONE],
    ["Computed with", ledger.numerics ?? NONE],
    ["Parameters", whole(ledger.parameters)],
  ];
  fill("ledger", facts, () => facts.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", { class: label === "Root" ? "hash" : null }, value))));
  fill("settings", spec, () => settings(spec));
}

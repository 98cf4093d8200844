// The page: asks again and again, and draws what is told.

import { get, of, post } from "./ask.js";
import { byId, say, show } from "./draw.js";
import { drawJob, isOver, listenForActions } from "./job.js";
import { drawOverview } from "./overview.js";
import { listenForJobs } from "./submit.js";

const SOON = 1500;
const LATER = 6000;

const job = new URLSearchParams(location.search).get("job");
let timer = null;
let asking = false;
let latest = null;

function later(milliseconds) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, milliseconds);
}

async function look() {
  if (asking) return;
  asking = true;
  let pause = SOON;
  try {
    const [overview, view] = await Promise.all([get("/api/overview"), job ? get(of(job)) : null]);
    latest = { overview, view };
    draw();
    if (view && isOver(view)) pause = LATER;
  } catch (error) {
    pause = LATER;
    fail(error);
  } finally {
    asking = false;
    later(pause);
  }
}

function draw() {
  const { overview, view } = latest;
  trouble("");
  show("login", false);
  const { me, serves } = overview;
  say("where", `${serves === "queue" ? "queue of" : "one job in"} ${overview.store}, term ${overview.term}`);
  say("who", me.name ? `${me.name} (${me.role})` : "");
  show("sign-out", me.signed_in);
  say("version", `Perennial ${overview.version}`);
  show("overview", !job);
  show("job", Boolean(job));
  if (job) {
    drawJob(view, overview, act);
  } else {
    show("submit-section", me.may_operate && serves === "queue");
    drawOverview(overview, act);
  }
}

function trouble(message) {
  show("trouble", Boolean(message));
  say("trouble", message);
}

function fail(error) {
  if (error.status !== 401) return trouble(error.message);
  trouble("");
  show("overview", false);
  show("job", false);
  show("sign-out", false);
  if (byId("login").hidden) {
    show("login", true);
    byId("token").focus();
  }
}

/** Does what a person wants, tells how it went, and looks at once. */
async function act(ask, done) {
  say("action-error", "");
  say("done", "");
  try {
    await ask();
    say("done", done);
  } catch (error) {
    if (job) say("action-error", error.message);
    else trouble(error.message);
  }
  later(200);
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  say("login-error", "");
  const field = byId("token");
  try {
    await post("/api/login", { token: field.value });
    await get("/api/overview");
    field.value = "";
    look();
  } catch (error) {
    say("login-error", error.message);
    field.focus();
  }
});
byId("sign-out").addEventListener("click", async () => {
  await post("/api/logout");
  location.assign("/");
});
document.addEventListener("visibilitychange", () => later(0));
listenForJobs((place) => location.assign(place));
if (job) listenForActions(job, act, () => latest?.view && draw());
look();

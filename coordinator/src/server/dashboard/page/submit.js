// A job file, picked or written, goes into the queue.

import { post } from "./ask.js";
import { byId, say } from "./draw.js";
import { link } from "./overview.js";

let name = "pasted.toml";

/** `mayLeave` is called with where to go once the job is in the queue. */
export function listenForJobs(mayLeave) {
  byId("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    name = file.name;
    byId("text").value = await file.text();
    say("submit-error", "");
  });
  byId("submit").addEventListener("submit", async (event) => {
    event.preventDefault();
    say("submit-error", "");
    const most = byId("most").value;
    const request = { name, file: byId("text").value, priority: Number(byId("priority").value), workers: most ? Number(most) : null };
    const button = event.submitter;
    if (button) button.disabled = true;
    try {
      const { job } = await post("/api/jobs", request);
      mayLeave(link(job));
    } catch (error) {
      say("submit-error", error.message);
      byId("text").focus();
    } finally {
      if (button) button.disabled = false;
    }
  });
}

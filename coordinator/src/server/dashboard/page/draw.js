// Making and changing elements. Text is always text; the only HTML are the coordinator's own charts.

export const byId = (id) => document.getElementById(id);

/** An element: `el("td", { class: "number" }, "7")`. Attributes that are false or null are left out. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onPress") {
      element.addEventListener("click", value);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(key, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const drawn = new Map();

function hasChanged(id, data) {
  const text = JSON.stringify(data);
  if (drawn.get(id) === text) return false;
  drawn.set(id, text);
  return true;
}

/** Draws the children of an element anew if the data has changed. Whatever had the focus keeps it. */
export function fill(id, data, draw) {
  if (!hasChanged(id, data)) return;
  const focused = document.activeElement?.id;
  byId(id).replaceChildren(...[draw(data)].flat().filter((child) => child));
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus({ preventScroll: true });
}

/** Puts a chart that the coordinator has drawn into an element. */
export function chart(id, markup) {
  if (hasChanged(id, markup)) byId(id).innerHTML = markup;
}

export function show(id, whether) {
  byId(id).hidden = !whether;
}

/** Changes a text only when it is another one, so that a screen reader says it once. */
export function say(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

/** Lets a person confirm something in a dialog. */
export function confirm(title, text, yes) {
  const dialog = byId("confirm");
  say("confirm-title", title);
  say("confirm-text", text);
  say("confirm-yes", yes);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

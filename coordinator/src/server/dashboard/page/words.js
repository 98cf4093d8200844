// Numbers and times in words.

export const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const whole = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en") : NONE);
export const percent = (share) => (isNumber(share) ? `${(share * 100).toFixed(1)} %` : NONE);
export const fixed = (value, digits) => (isNumber(value) ? value.toFixed(digits) : NONE);
export const counted = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.max(1, Math.round(seconds))} s`;
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${count.toFixed(count < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** A time of this place: the time alone if it is of today. */
export function time(rfc3339) {
  const when = new Date(rfc3339);
  if (Number.isNaN(when.getTime())) return rfc3339;
  const today = when.toDateString() === new Date().toDateString();
  const clock = when.toLocaleTimeString("en-GB");
  return today ? clock : `${when.toLocaleDateString("en-CA")} ${clock}`;
}

/** How a state looks: good, waiting, bad or over. */
export function mood(state) {
  if (["running", "starting", "finishing"].includes(state)) return "good";
  if (["failed"].includes(state)) return "bad";
  if (["finished", "stopped", "ended", "new", "elsewhere"].includes(state)) return "over";
  return "waiting";
}

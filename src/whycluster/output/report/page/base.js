
// The data of the page, elements, and the state in the address.
const data = JSON.parse(document.getElementById("data").textContent);
const images = data.images;
const clusters = new Map(data.clusters.map((cluster) => [cluster.cluster, cluster]));
const numbers = [...clusters.keys()];
const members = new Map(numbers.map((number) => [number, []]));
images.cluster.forEach((number, row) => members.get(number)?.push(row));

// An element; text becomes text nodes only, and a function listens to the event it is named after.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Signs that cannot be seen, or turn the direction of text, as escapes; a name is isolated from the text around it.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const visible = (text) => text.replace(UNSEEN, (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));
const nameOf = (row) => visible(images.path[row]);
const shown = (row) => el("bdi", {}, nameOf(row));

const percent = (share) => (share === null ? "unknown" : `${Math.round(100 * share)}%`);
const number = (value) => (value === null ? "unknown" : String(Number(value.toPrecision(2))));
// Numbers of one kind, with as many decimals as give the median of them two significant digits.
function inScale(value, median) {
  const decimals = median > 0 ? Math.min(Math.max(1 - Math.floor(Math.log10(median)), 0), 20) : 2;
  const shown = value.toFixed(decimals);
  return value > 0 && Number(shown) === 0 ? `less than ${(10 ** -decimals).toFixed(decimals)}` : shown;
}
const lead = (value) => (value === null ? "unknown" : inScale(value, data.limits.lead));
const apart = (value) => (value === null ? "unknown" : inScale(value, data.limits.distance));
const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

// What the address asks for; what it should not hold is left out.
const WORDS = { view: ["distances", "help"], sort: ["doubtful", "name"], only: ["weak", "rival", "unlike"], part: ["outliers", "labels", "contrast"] };
function state() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const whole = (name, known) => {
    const value = /^\d{1,9}$/.test(asked.get(name) ?? "") ? Number(asked.get(name)) : null;
    return value !== null && known(value) ? value : null;
  };
  const word = (name) => (WORDS[name].includes(asked.get(name)) ? asked.get(name) : null);
  const found = {
    view: word("view"),
    cluster: whole("cluster", (value) => clusters.has(value)),
    rival: whole("rival", (value) => clusters.has(value)),
    image: whole("image", (value) => value < images.path.length),
    q: asked.get("q") || null,
    sort: word("sort"),
    only: word("only"),
    part: word("part"),
    page: whole("page", (value) => value > 0),
  };
  if (found.rival === found.cluster) found.rival = null;
  return found;
}
function link(wanted) {
  const kept = Object.entries(wanted).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return "#" + new URLSearchParams(kept).toString();
}
// A link to a cluster; a second choice that has no image in the run has no view.
function clusterLink(one, ...text) {
  const shown = text.length ? text : [`cluster ${one}`];
  return clusters.has(one) ? el("a", { href: link({ cluster: one }) }, ...shown) : el("span", {}, ...shown);
}

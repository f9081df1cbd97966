
// Parts that several views have.
const PAGE = 48; // images of a gallery that are shown at once

// A sentence with links in it: texts, and texts with the state that they lead to.
const sentence = (parts) => parts.map((part) => (typeof part === "string" ? visible(part) : el("a", { href: link(part.to) }, visible(part.text))));

const goodness = { stable: "good", doubtful: "doubtful", "unstable": "bad", "not measured": "unknown" };
const badge = (cluster) => el("span", { class: `badge ${goodness[cluster.word]}` }, cluster.badge);
const flag = (cluster) => (cluster.shortcut ? el("span", { class: "badge flag" }, "possible shortcut") : null);

// What red speaks for: in all heatmaps of the run, or in that of an image.
function question(row = null) {
  const target = row !== null ? data.targets[images.target[row]] : data.targets.length > 1 ? null : data.targets[0];
  if (target === null) return data.targets[0].includes(":") ? `cluster ${data.targets[0].split(":")[0]} rather than another` : "the image's cluster rather than others";
  if (target === "assigned") return row === null ? "the image's cluster rather than others, above all its second choice" : `cluster ${images.cluster[row]} rather than others, above all ${images.runner_up[row]}`;
  if (target === "runner_up") return row === null ? "the second choice of the image" : `cluster ${images.runner_up[row]}, the second choice`;
  const [explained, against] = target.split(":");
  return `cluster ${explained}${against ? ` rather than ${against}` : ""}`;
}
const legend = (row) =>
  el("span", { class: "legend" }, el("span", { class: "swatch red" }), `Red speaks for ${question(row)}, `, el("span", { class: "swatch blue" }), "blue against.");

function slider() {
  const now = document.documentElement.style.getPropertyValue("--heat") || "0.5";
  const moved = (event) => {
    document.documentElement.style.setProperty("--heat", event.target.value);
  };
  return el("label", {}, "photo", el("input", { type: "range", min: 0, max: 1, step: 0.05, value: now, class: "opacity", "aria-label": "How much of the heatmap lies over the photo", oninput: moved }), "heatmap");
}
const heatBar = (row) => el("div", { class: "tools sticky" }, slider(), legend(row));

// Tiles of images that link to their views; `note` says something of each.
function tiles(rows, where, note, heated = true) {
  const one = (row, at) =>
    row < 0
      ? el("li", {}, el("span", { class: "tile muted" }, "an image that is no longer listed"))
      : el("li", {}, el("a", { class: "tile", href: link({ ...where, image: row }) },
          photoOf(row, heated, true), el("span", { class: "name" }, el("bdi", {}, nameOf(row).split("/").pop())), el("span", { class: "small" }, note(row, at))));
  return el("ul", { class: "tiles" }, rows.map(one));
}

function warning(cluster) {
  const found = cluster.shortcut;
  if (!found) return null;
  const further = found.evidence.filter((line) => !found.warning.includes(line));
  return el("section", { class: "shortcut" },
    el("div", { class: "warning", role: "note" },
      el("p", {}, el("strong", {}, "Possible shortcut. "), visible(found.warning), " Look at the images before you believe it.")),
    found.images.length ? [el("p", { class: "note" }, "Images that are most likely to show it:"), tiles(found.images, { cluster: cluster.cluster }, () => "")] : null,
    found.channels.length ? el("p", {}, "To cluster without the concepts that carry it, train again with ", el("code", {}, `'features.drop=[${found.channels.join(",")}]'`), ".") : null,
    further.length ? el("details", {}, el("summary", {}, "What else was measured"), el("ul", {}, further.map((line) => el("li", {}, visible(line))))) : null);
}

const shownOnly = () => (images.path.length < data.n_images ? ` The page shows ${images.path.length.toLocaleString("en")} of ${data.n_images.toLocaleString("en")} images.` : "");

const usualLead = () => `The median lead of all images is ${lead(data.limits.lead)}.`;

// A name is found as it is shown, as it is, and however its accents are written.
const folded = (text) => text.normalize("NFC").toLowerCase();
function finder(q) {
  const wanted = folded(q);
  return (row) => folded(`${images.path[row]}\n${nameOf(row)}`).includes(wanted);
}

// Whether an image has another label than most of its cluster.
function isUnlike(row) {
  const { n, most } = clusters.get(images.cluster[row]).unlike;
  return n > 0 && images.label[row] !== "" && images.label[row] !== most;
}

// The rows of a gallery, as the address asks: the same list that the arrows walk through beside an image.
function rowsOf(asked) {
  let rows = asked.cluster === null ? images.path.map((_, row) => row) : [...members.get(asked.cluster)];
  if (asked.q) rows = rows.filter(finder(asked.q));
  if (asked.only === "weak") rows = rows.filter((row) => images.held[row] !== null && images.held[row] < data.limits.weak);
  if (asked.only === "rival" && asked.rival !== null) rows = rows.filter((row) => images.runner_up[row] === asked.rival);
  if (asked.only === "unlike") rows = rows.filter(isUnlike);
  if (asked.sort === "doubtful") rows.sort((a, b) => images.discriminant[a] - images.discriminant[b] || a - b);
  if (asked.sort === "name") rows.sort((a, b) => (images.path[a] < images.path[b] ? -1 : 1));
  return rows;
}

// One page of images, with links to the others.
function paged(rows, asked, note) {
  const last = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(asked.page ?? 1, last);
  const { image, part, ...where } = asked;
  const turn = (to, text) => (to < 1 || to > last ? null : el("a", { href: link({ ...where, page: to === 1 ? null : to }) }, text));
  return [
    rows.length ? tiles(rows.slice((page - 1) * PAGE, page * PAGE), where, note) : el("p", { class: "muted" }, "No image is like that."),
    last > 1 ? el("div", { class: "pages" }, turn(page - 1, "← previous"), `page ${page} of ${last}`, turn(page + 1, "next →")) : null,
  ];
}

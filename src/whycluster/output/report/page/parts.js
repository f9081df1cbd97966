
// Parts that several views have.
const PAGE = 48; // images of a gallery that are shown at once

const goodness = { stable: "good", doubtful: "doubtful", "not to be trusted": "bad", "not measured": "unknown" };
const badge = (cluster) => el("span", { class: `badge ${goodness[cluster.word]}` }, cluster.word === "not measured" ? "stability not measured" : cluster.word);
const flag = (cluster) => (cluster.shortcut ? el("span", { class: "badge flag" }, "possible shortcut") : null);

// What red speaks for: of one target, or, without a name, of all targets of the run.
function question(name = data.targets.length > 1 ? null : data.targets[0]) {
  if (name === null && !data.targets[0].includes(":")) return "the group";
  if (name === null) return `group ${data.targets[0].split(":")[0]} rather than another`;
  if (name === "assigned") return "the group";
  if (name === "runner_up") return "the second nearest group";
  const [explained, against] = name.split(":");
  return `group ${explained}${against ? ` rather than ${against}` : ""}`;
}
const legend = (name) =>
  el("span", { class: "legend" }, el("span", { class: "swatch red" }), `speaks for ${question(name)}`, el("span", { class: "swatch blue" }), "against it");

function slider() {
  const now = document.documentElement.style.getPropertyValue("--heat") || "0.5";
  const moved = (event) => {
    document.documentElement.style.setProperty("--heat", event.target.value);
    for (const other of document.querySelectorAll(".opacity")) other.value = event.target.value;
  };
  return el("label", {}, "Heatmap", el("input", { type: "range", min: 0, max: 1, step: 0.05, value: now, class: "opacity", oninput: moved }));
}
const tools = ({ target, more } = {}) => el("div", { class: "tools sticky" }, slider(), legend(target), more);

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

// The crops of a channel: of this cluster, or else of another one where it is among the strongest.
function seen(channel, ...wanted) {
  for (const one of [...wanted, ...numbers]) {
    const concept = clusters.get(one)?.concepts.find((each) => each.channel === channel);
    if (concept?.crops.some((slot) => slot >= 0)) return { concept, cluster: one };
  }
  return null;
}
function crops(channel, found, heat, most = 6) {
  const { concept } = found;
  return concept.crops.slice(0, most).map((slot, at) => {
    const name = concept.images[at] < 0 ? "an image" : nameOf(concept.images[at]);
    const label = `region of ${name} where concept ${channel} is strongest${heat ? ", with the heatmap of this concept alone" : ""}`;
    return picture(label, slot, "crops", heat && "crop_heatmaps", heat ? "full" : "");
  });
}

// A concept with its share; `own` are the clusters whose images are shown first.
function conceptPart(heading, channel, share, ...own) {
  const found = seen(channel, ...own);
  const elsewhere = found && !own.slice(0, 1).includes(found.cluster) ? `as seen in cluster ${found.cluster}` : "";
  return el("li", { class: "concept" },
    el(heading, {}, `concept ${channel} `, el("span", { class: "note" }, `${(100 * share).toFixed(1)}% of what speaks for it`)),
    found
      ? [el("div", { class: "crops" }, crops(channel, found, false), crops(channel, found, true)), el("p", { class: "note" }, elsewhere)]
      : el("p", { class: "note" }, "No examples: it is not among the strongest concepts of any one cluster."));
}
const conceptList = (heading, concepts, ...own) =>
  concepts.length
    ? el("ul", { class: "concepts" }, concepts.map(({ channel, share }) => conceptPart(heading, channel, share, ...own)))
    : el("p", { class: "muted" }, "No concept speaks for it.");

const shownOnly = () => (images.path.length < data.n_images ? ` The page shows ${images.path.length.toLocaleString("en")} of ${data.n_images.toLocaleString("en")} images.` : "");

// The smallest and the largest distance of two clusters.
const distances = () =>
  data.clusters.flatMap((one) => one.contrasts).reduce(([least, most], { distance }) => [Math.min(least, distance), Math.max(most, distance)], [Infinity, -Infinity]);
function between() {
  const [least, most] = distances();
  return least < most ? `, where the nearest two clusters of all lie ${number(least)} and the farthest ${number(most)} apart` : "";
}

// A name is found as it is shown, as it is, and however its accents are written.
const folded = (text) => text.normalize("NFC").toLowerCase();
function finder(q) {
  const wanted = folded(q);
  return (row) => folded(`${images.path[row]}\n${nameOf(row)}`).includes(wanted);
}

// The rows of a gallery, as the address asks: the same list that the arrows walk through beside an image.
function rowsOf(asked) {
  let rows = asked.cluster === null ? images.path.map((_, row) => row) : [...members.get(asked.cluster)];
  if (asked.q) rows = rows.filter(finder(asked.q));
  if (asked.only === "weak") rows = rows.filter((row) => images.held[row] !== null && images.held[row] < data.limits.weak);
  if (asked.only === "rival" && asked.rival !== null) rows = rows.filter((row) => images.runner_up[row] === asked.rival);
  if (asked.sort === "doubtful") rows.sort((a, b) => images.discriminant[a] - images.discriminant[b] || a - b);
  if (asked.sort === "name") rows.sort((a, b) => (images.path[a] < images.path[b] ? -1 : 1));
  return rows;
}

// One page of images, with links to the others.
function paged(rows, asked, note) {
  const last = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(asked.page ?? 1, last);
  const turn = (to, text) => (to < 1 || to > last ? null : el("a", { href: link({ ...asked, image: null, page: to === 1 ? null : to }) }, text));
  const { view, image, ...where } = asked;
  return [
    rows.length ? tiles(rows.slice((page - 1) * PAGE, page * PAGE), where, note) : el("p", { class: "muted" }, "No image is like that."),
    last > 1 ? el("div", { class: "pages" }, turn(page - 1, "← previous"), `page ${page} of ${last}`, turn(page + 1, "next →")) : null,
  ];
}

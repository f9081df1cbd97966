
// How far apart the clusters are, and how images moved from the clusters of another run.
const MOST_IN_TABLE = 60; // clusters

// A table of clusters; `cell` gives the text of one, and how strong its colour is, from 0 to 1.
function table(caption, rows, columns, cell) {
  const hint = el("p", { class: "note sideways" }, "↔ The table goes on: scroll it sideways.");
  const made = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("thead", {}, el("tr", {}, el("td", {}), columns.map((one) => el("th", { scope: "col" }, clusterLink(one, String(one)))))),
      el("tbody", {}, rows.map(([header, row]) => el("tr", {}, el("th", { scope: "row" }, header), columns.map((column, at) => {
        const found = cell(row, column, at);
        const shown = el("td", {}, found?.text ?? "–");
        if (found) shown.style.setProperty("--tint", (0.45 * found.tint).toFixed(3));
        return shown;
      }))))));
  new ResizeObserver(() => (hint.hidden = made.scrollWidth <= made.clientWidth)).observe(made);
  return [hint, made];
}

function movesPart() {
  const moves = data.moves;
  if (!moves) return null;
  const caption = `Clusters of ${visible(moves.run)} at the left, clusters of this run above: images in both`;
  const cell = (row, _, at) => {
    const found = row[at];
    return found ? { text: String(found), tint: found / row.reduce((sum, one) => sum + one, 0) } : null;
  };
  return [
    el("h2", {}, "What has changed?"),
    el("p", {}, `Of ${count(moves.images, "image")} that `, el("bdi", {}, visible(moves.run)), ` has, too, ${moves.moved.toLocaleString("en")} moved to another cluster (adjusted Rand index ${number(moves.ari)}, where 1 is no change). Numbers of clusters may differ: the largest number of a row tells what became of that cluster.`),
    el("p", { class: "note" }, `${caption}.`),
    table(caption, moves.counts.map((row, at) => [`formerly ${moves.before[at]}`, row]), moves.after, cell),
  ];
}

function distancesView() {
  const largest = [...data.clusters].sort((a, b) => b.size - a.size).slice(0, MOST_IN_TABLE).map((one) => one.cluster).sort((a, b) => a - b);
  const contrast = (row, column) => clusters.get(row).contrasts.find((one) => one.rival === column);
  const found = data.clusters.flatMap((one) => one.contrasts).map((one) => one.distance);
  const [least, most] = found.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);
  const far = (row, column) => {
    const one = contrast(row, column);
    return one && { text: apart(one.distance), tint: most > least ? (most - one.distance) / (most - least) : 0 };
  };
  const lost = (row, column) => {
    const one = contrast(row, column);
    return one && { text: String(one.lost), tint: one.lost / clusters.get(row).size };
  };
  const rows = () => largest.map((one) => [clusterLink(one, String(one)), one]);
  const part = (title, caption, cell) => el("section", {}, el("h2", {}, title), el("p", { class: "note" }, caption), table(title, rows(), largest, cell));
  return [el("h1", {}, "How far apart the clusters are"),
    largest.length < numbers.length ? el("p", {}, `The ${largest.length} largest clusters of ${numbers.length}.`) : null,
    el("p", {}, "Clusters whose distance is much smaller than the others may be one. A second choice alone does not say so: each image has one."),
    el("div", { class: "tables" },
      part("Distance between the means of two clusters", "The stronger the colour, the nearer.", far),
      part("Second choices", "Images of the cluster at the left whose second choice is the cluster above.", lost))];
}

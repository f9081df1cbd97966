
// The overview, the search, and the distances.
const MOST_IN_TABLE = 60; // clusters

function card(cluster) {
  const strongest = cluster.concepts[0] && seen(cluster.concepts[0].channel, cluster.cluster);
  return el("li", { class: "card" },
    el("h2", {}, el("a", { href: link({ cluster: cluster.cluster }), class: "to-cluster" }, `Cluster ${cluster.cluster}`)),
    el("div", { class: "top" }, count(cluster.size, "image"), badge(cluster), flag(cluster)),
    el("div", { class: "four" }, cluster.prototypes.filter((row) => row >= 0).slice(0, 4).map((row) => photoOf(row, false))),
    el("p", { class: "note" }, cluster.labels ? `labels: ${visible(cluster.labels)}` : cluster.about),
    strongest ? [el("p", { class: "note" }, `strongest concept, ${cluster.concepts[0].channel}:`), el("div", { class: "crops" }, crops(cluster.concepts[0].channel, strongest, false))] : null,
    cluster.outliers.length ? el("p", { class: "note" }, clusterLink(cluster.cluster, count(cluster.outliers.length, "image")), " may not belong") : null);
}

function help() {
  const line = (...text) => el("li", {}, ...text);
  return el("details", { class: "help" }, el("summary", {}, "How to read this page"),
    el("ul", {},
      line("A cluster is a group of images that a network sees as similar. It has a number and no name."),
      line(el("strong", {}, "Heatmap: "), `red pixels speak for ${question()}, blue ones against it; without colour, a pixel does not matter. Each image has a scale of its own, so compare places within an image, and not strengths between images.`),
      line(el("strong", {}, "Stable: "), `random samples of the images that the groups were made from were clustered anew, ${data.limits.refits} times. A stable group comes back; one that is not may be an accident of these images.`),
      line(el("strong", {}, "Concept: "), "a channel of the network, something it has learnt to see. It has a number and no name: the regions show where it responds most, and what they have in common is for you to judge. Its share is of all that speaks for the group; what speaks against it is not subtracted."),
      line(el("strong", {}, "What the heatmap accounts for: "), "if it is little, constants of the network decide, or what the image lacks, and the heatmap tells only part of the story. It is exact bookkeeping; that red pixels are the true cause is not proven by it."),
      line(el("strong", {}, "Probability: "), "a soft reading of the distances, for ordering images; it is not the chance of being right."),
      line("Sure: which image is in which group, the distances, and the sums above. Less sure: what a concept means, and whether a group is of use to you.")));
}

function summary() {
  const words = data.clusters.map((cluster) => cluster.word);
  const said = [...new Set(words)].map((word) => `${words.filter((one) => one === word).length} ${word}`).join(", ");
  const flagged = data.clusters.filter((cluster) => cluster.shortcut);
  return [
    el("p", {}, `${count(data.n_images, "image")} in ${count(numbers.length, "cluster")} (${said}).${shownOnly()}`),
    data.missing ? el("div", { class: "warning", role: "note" }, el("p", {}, `${count(data.missing, "image")} without a picture: files in the folders heatmaps and relevance of this run are gone.`)) : null,
    flagged.length ? el("div", { class: "warning", role: "note" }, el("p", {}, el("strong", {}, "Look closely at "), flagged.map((one, at) => [at ? ", " : "", clusterLink(one.cluster)]), ": one region or property decides for many of their images. Is it what they show, or a mark, a frame, or the image quality?")) : null,
  ];
}

function strangers() {
  const found = data.clusters.flatMap((cluster) => cluster.outliers.map((row, at) => [row, cluster.scores[at]])).filter(([row]) => row >= 0);
  found.sort((a, b) => b[1] - a[1]);
  const rows = found.slice(0, 12).map(([row]) => row);
  const doubtful = data.clusters.flatMap((cluster) => cluster.borderline.slice(0, 3)).filter((row) => row >= 0);
  doubtful.sort((a, b) => images.discriminant[a] - images.discriminant[b]);
  return [
    el("h2", {}, "Which images may not belong?"),
    el("p", {}, rows.length ? "These are in their cluster for other reasons than the rest of it:" : "No image is in its cluster for quite other reasons than the rest of it."),
    rows.length ? tiles(rows, {}, (row) => `in cluster ${images.cluster[row]}`, false) : null,
    el("p", {}, "These are the closest decisions; a small change would put them into their second choice:"),
    tiles(doubtful.slice(0, 12), {}, (row) => `in ${images.cluster[row]}, leads ${images.runner_up[row]} by ${number(images.discriminant[row])}`, false),
  ];
}

// How images moved from the clusters of another run.
function movesPart() {
  const moves = data.moves;
  if (!moves) return null;
  const caption = `Clusters of ${visible(moves.run)} at the left, clusters of this run above: images in both`;
  const cell = (found, row, column) => {
    const made = el("td", {}, found ? String(found) : "–");
    const whole = moves.counts[row].reduce((sum, one) => sum + one, 0);
    made.style.setProperty("--tint", ((0.45 * found) / whole).toFixed(3));
    return made;
  };
  return [
    el("h2", {}, "What has changed?"),
    el("p", {}, `Of ${count(moves.images, "image")} that `, el("bdi", {}, visible(moves.run)), ` has, too, ${moves.moved.toLocaleString("en")} moved to another group (adjusted Rand index ${number(moves.ari)}, where 1 is no change). Numbers of clusters may differ: the largest number of a row tells what became of that cluster.`),
    el("p", { class: "note" }, `${caption}.`),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      el("table", {},
        el("thead", {}, el("tr", {}, el("td", {}), moves.after.map((one) => el("th", { scope: "col" }, clusterLink(one, String(one)))))),
        el("tbody", {}, moves.counts.map((row, at) => el("tr", {}, el("th", { scope: "row" }, `formerly ${moves.before[at]}`), row.map((found, column) => cell(found, at, column))))))),
  ];
}

function overviewView() {
  return [el("h1", {}, "What the clusters are about"), summary(), help(), el("ul", { class: "cards" }, data.clusters.map(card)), movesPart(), strangers()];
}

function searchView(asked) {
  const rows = rowsOf(asked);
  return [el("h1", {}, "File names with “", el("bdi", {}, visible(asked.q)), "”"), el("p", { class: "count" }, `${count(rows.length, "image")}.${shownOnly()}`), tools(),
    paged(rows, asked, (row) => `cluster ${images.cluster[row]}`)];
}

function table(caption, shownNumbers, value, tint) {
  const cell = (row, column) => {
    const found = row === column ? null : value(row, column);
    const made = el("td", {}, found === null ? "–" : found.text);
    if (found !== null) made.style.setProperty("--tint", (0.45 * tint(found.value)).toFixed(3));
    return made;
  };
  return [el("h2", {}, caption), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("thead", {}, el("tr", {}, el("td", {}), shownNumbers.map((one) => el("th", { scope: "col" }, clusterLink(one, String(one)))))),
      el("tbody", {}, shownNumbers.map((row) => el("tr", {}, el("th", { scope: "row" }, clusterLink(row)), shownNumbers.map((column) => cell(row, column)))))))];
}

function distancesView() {
  const largest = [...data.clusters].sort((a, b) => b.size - a.size).slice(0, MOST_IN_TABLE).map((one) => one.cluster).sort((a, b) => a - b);
  const contrast = (row, column) => clusters.get(row).contrasts.find((one) => one.rival === column);
  const [least, most] = distances();
  const far = (row, column) => contrast(row, column) && { value: contrast(row, column).distance, text: number(contrast(row, column).distance) };
  const lost = (row, column) => contrast(row, column) && { value: contrast(row, column).lost / clusters.get(row).size, text: String(contrast(row, column).lost) };
  return [el("h1", {}, "How far apart the clusters are"),
    largest.length < numbers.length ? el("p", {}, `The ${largest.length} largest clusters of ${numbers.length}.`) : null,
    el("p", {}, "Clusters whose distance is much smaller than the others may be one. A second choice alone does not say so: each image has one."),
    table("Distance between the means of two clusters; the stronger the colour, the nearer", largest, (a, b) => far(a, b) ?? null, (value) => (most > least ? (most - value) / (most - least) : 0)),
    table("Images of the cluster at the left whose second choice is the cluster above", largest, (a, b) => lost(a, b) ?? null, (value) => value)];
}


// The overview, and the search.
function card(cluster) {
  const strongest = cluster.concepts[0] && seen(cluster.concepts[0].channel, cluster.cluster);
  return el("li", { class: "card" },
    el("h2", {}, el("a", { href: link({ cluster: cluster.cluster }), class: "to-cluster" }, `Cluster ${cluster.cluster}`)),
    el("div", { class: "top" }, count(cluster.size, "image"), badge(cluster), flag(cluster)),
    el("div", { class: "four" }, cluster.prototypes.filter((row) => row >= 0).slice(0, 4).map((row) => photoOf(row, false))),
    el("p", { class: "note" }, cluster.labels ? `labels: ${visible(cluster.labels)}` : cluster.about),
    strongest ? [el("p", { class: "note" }, `strongest concept, ${cluster.concepts[0].channel}:`), el("div", { class: "crops" }, crops(cluster.concepts[0].channel, strongest, false))] : null,
    cluster.outliers.length ? el("p", { class: "note" }, el("a", { href: link({ cluster: cluster.cluster, part: "outliers" }) }, count(cluster.outliers.length, "image")), " may not belong") : null);
}

function summary() {
  const words = data.clusters.map((cluster) => cluster.word);
  const said = [...new Set(words)].map((word) => `${words.filter((one) => one === word).length} ${word === "not measured" ? "whose stability was not measured" : word}`).join(", ");
  return [
    el("p", {}, `${count(data.n_images, "image")} in ${count(numbers.length, "cluster")}${data.n_clusters > numbers.length ? ` of the model's ${data.n_clusters}` : ""} (${said}).${shownOnly()}`),
    data.targets.length > 1 || data.targets[0] === "assigned" ? null : el("p", {}, `The heatmaps of this run explain ${question()}.`),
    data.missing ? el("div", { class: "warning", role: "note" }, el("p", {}, `${count(data.missing, "image")} without a picture: files in the folders heatmaps and relevance of this run are gone.`)) : null,
    el("section", { class: "first" },
      el("h2", {}, "What to look at first"),
      data.first.length ? el("ul", {}, data.first.map((parts) => el("li", {}, sentence(parts)))) : el("p", {}, "Nothing stands out in what was measured.")),
  ];
}

function strangers() {
  const found = data.clusters.flatMap((cluster) => cluster.outliers.map((row, at) => [row, cluster.scores[at]])).filter(([row]) => row >= 0);
  found.sort((a, b) => b[1] - a[1]);
  const rows = found.slice(0, 12).map(([row]) => row);
  const other = data.clusters.flatMap((cluster) => cluster.unlike.images.map((row, at) => ({ row, cluster, n: cluster.unlike.counts[at] }))).filter(({ row }) => row >= 0);
  other.sort((a, b) => a.n / a.cluster.size - b.n / b.cluster.size);
  const doubtful = data.clusters.flatMap((cluster) => cluster.borderline.slice(0, 3)).filter((row) => row >= 0);
  doubtful.sort((a, b) => images.discriminant[a] - images.discriminant[b]);
  return [
    el("h2", { id: "outliers" }, "Which images may not belong?"),
    el("p", {}, rows.length ? "What speaks for and against these are other concepts than for the rest of their cluster:" : `None found by concepts (unusualness above ${data.limits.unlike}).`),
    rows.length ? tiles(rows, {}, (row) => `in cluster ${images.cluster[row]}`, false) : null,
    other.length
      ? [el("h3", { id: "labels" }, "Other label than most of their cluster"), el("p", { class: "note" }, `The rarest first, ${Math.min(12, other.length)} of ${data.clusters.reduce((all, cluster) => all + cluster.unlike.n, 0)}; each cluster's page has all of its own.`),
        tiles(other.slice(0, 12).map(({ row }) => row), {}, (row, at) => `in cluster ${images.cluster[row]}: ${labelCount(row, other[at].n, other[at].cluster)}`, false)]
      : null,
    el("h3", {}, "Closest decisions"), el("p", { class: "note" }, `A small change would put these into their second choice. ${usualLead()}`),
    tiles(doubtful.slice(0, 12), {}, (row) => `in ${images.cluster[row]}, ahead of ${images.runner_up[row]} by ${lead(images.discriminant[row])}`, false),
  ];
}
const labelCount = (row, n, cluster) => `“${visible(images.label[row])}”, ${n} of ${cluster.size}`;

function overviewView() {
  return [el("h1", {}, "What the clusters are about"), summary(), el("ul", { class: "cards" }, data.clusters.map(card)), movesPart(), strangers()];
}

function searchView(asked) {
  const rows = rowsOf(asked);
  return [el("h1", {}, "Folders and files named “", el("bdi", {}, visible(asked.q)), "”"), el("p", { class: "count" }, `${count(rows.length, "image")}.${shownOnly()}`), heatBar(),
    paged(rows, asked, (row) => `cluster ${images.cluster[row]}`)];
}

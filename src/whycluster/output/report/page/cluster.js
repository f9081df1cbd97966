
// The view of a cluster.
function rivalPart(cluster, asked) {
  const contrasts = cluster.contrasts;
  if (!contrasts.length) return null;
  const first = [...contrasts].sort((a, b) => b.lost - a.lost || a.distance - b.distance)[0].rival;
  const rival = contrasts.some((one) => one.rival === asked.rival) ? asked.rival : first;
  const ours = contrasts.find((one) => one.rival === rival);
  const theirs = clusters.get(rival)?.contrasts.find((one) => one.rival === cluster.cluster);
  const options = contrasts.map((one) => {
    const made = el("option", { value: one.rival }, `cluster ${one.rival} (second choice of ${one.lost})`);
    made.selected = one.rival === rival;
    return made;
  });
  const chosen = (event) => {
    go({ ...state(), rival: Number(event.target.value), page: null }, "contrast");
    renderPart("gallery"); // which may show the images of the rival
  };
  const counted = `${ours.lost} of the ${cluster.size} images here have cluster ${rival} as their second choice` +
    (theirs ? `, and ${theirs.lost} of ${clusters.get(rival).size} the other way round.` : ".");
  return el("section", { id: "contrast" },
    el("h2", {}, `What sets cluster ${cluster.cluster} apart from another one?`),
    el("div", { class: "tools" }, el("label", {}, "Compare with", el("select", { class: "rivals", onchange: chosen }, options)),
      el("a", { href: link({ cluster: cluster.cluster, only: "rival", rival, sort: "doubtful" }) }, `images whose second choice is ${rival}`), clusterLink(rival, `open cluster ${rival}`)),
    el("p", {}, `Their means lie ${apart(ours.distance)} apart; the median distance of two clusters is ${apart(data.limits.distance)}. ${counted}`),
    el("h3", {}, `What decides for ${cluster.cluster} and against ${rival}`), conceptList("h4", `cluster ${cluster.cluster} here`, ours.concepts.slice(0, 3), cluster.cluster, rival),
    theirs ? [el("h3", {}, `What decides for ${rival} and against ${cluster.cluster}`), conceptList("h4", `cluster ${rival} here`, theirs.concepts.slice(0, 3), rival, cluster.cluster)] : null);
}

function galleryPart(cluster, asked) {
  const rows = rowsOf(asked);
  const choice = (label, name, options) => {
    const made = options.map(([value, text]) => {
      const option = el("option", { value }, text);
      option.selected = (asked[name] ?? "") === value;
      return option;
    });
    return el("label", {}, label, el("select", { class: name, onchange: (event) => go({ ...state(), [name]: event.target.value, page: null }, "gallery") }, made));
  };
  const filters = [["", "all"], ["weak", "heatmap holds less than half"]];
  if (cluster.unlike.n) filters.push(["unlike", "other label than most"]);
  if (asked.rival !== null) filters.push(["rival", `second choice is ${asked.rival}`]);
  const filter = (event) => go({ ...state(), q: event.target.value, page: null }, "gallery", true);
  return el("section", { id: "gallery" }, el("h2", {}, "All images"),
    el("div", { class: "tools" }, choice("Order", "sort", [["", "surest first"], ["doubtful", "least sure first"], ["name", "by name"]]), choice("Show", "only", filters),
      el("label", {}, "Find in this cluster", el("input", { type: "search", class: "filter", value: asked.q ?? "", oninput: filter }))),
    el("p", { class: "note count" }, `${count(rows.length, "image")} of ${members.get(cluster.cluster).length}.${shownOnly()}`),
    paged(rows, asked, (row) => `ahead of ${images.runner_up[row]} by ${lead(images.discriminant[row])}`));
}

// The images that may not belong: by their concepts, by their labels, and by their leads.
function outliersPart(cluster) {
  const here = { cluster: cluster.cluster };
  const { unlike, fewest } = data.limits;
  const note = (row, at) => `unusualness ${number(cluster.scores[at])}${cluster.departures[at] ? `: ${cluster.departures[at].text}` : ""}`;
  const none = cluster.size < fewest ? "There are too few images to tell." : `None found by this test (unusualness above ${unlike}).`;
  const other = cluster.unlike;
  const more = other.n > other.images.length ? [` The ${other.images.length} of the rarest labels; `, el("a", { href: link({ ...here, only: "unlike" }) }, "all of them"), ":"] : null;
  return el("section", { id: "outliers" },
    el("h2", {}, "Which images may not belong"),
    cluster.outliers.length
      ? [el("p", {}, `What speaks for and against these are other concepts than for the rest of the cluster. An unusualness of 0 is usual; above ${unlike} an image is listed.`), tiles(cluster.outliers, here, note)]
      : el("p", { class: "muted" }, none),
    other.n
      ? [el("h3", { id: "labels" }, "Other label than most"), el("p", { class: "note" }, `Most of the cluster is “${visible(other.most)}”; ${count(other.n, "image")} ${other.n === 1 ? "is" : "are"} not.`, more),
        tiles(other.images, here, (row, at) => (row < 0 ? "" : labelCount(row, other.counts[at], cluster)))]
      : null,
    el("h3", {}, "Closest decisions"), el("p", { class: "note" }, `A small change would put these into their second choice. ${usualLead()}`), tiles(cluster.borderline, here, (row) => `ahead of ${images.runner_up[row]} by ${lead(images.discriminant[row])}`));
}

function clusterView(asked) {
  const cluster = clusters.get(asked.cluster);
  const here = { cluster: cluster.cluster };
  const at = numbers.indexOf(cluster.cluster);
  const step = (to, text) => (to >= 0 && to < numbers.length ? clusterLink(numbers[to], text) : null);
  return [
    el("div", { class: "tools" }, step(at - 1, "← previous cluster"), step(at + 1, "next cluster →")),
    el("h1", {}, `Cluster ${cluster.cluster}`), el("p", {}, badge(cluster), " ", flag(cluster)), heatBar(), warning(cluster),
    el("p", { class: "about" }, cluster.about), cluster.labels ? el("p", {}, `Labels of these images: ${visible(cluster.labels)}.`) : null, el("p", {}, cluster.trust),
    el("h2", {}, "Typical images"), el("p", { class: "note" }, "Nearest to the middle of the cluster."), tiles(cluster.prototypes, here, (row) => `second choice ${images.runner_up[row]}`),
    el("h2", {}, "What it is about: the strongest concepts"),
    el("p", { class: "note" }, "Regions where each concept is strongest in this cluster; below each, in red, what exactly in it speaks for the cluster. A concept is what the network has learnt to see, and has no name."),
    conceptList("h3", `cluster ${cluster.cluster}`, cluster.concepts, cluster.cluster),
    rivalPart(cluster, asked),
    outliersPart(cluster),
    el("h2", {}, "Can the heatmaps be trusted here?"), el("p", {}, cluster.receipts),
    cluster.places >= 0 ? el("div", { class: "places" }, placesOf(cluster), el("div", {}, el("p", {}, "Where in the images the relevance lies, on average over the cluster. ", legend()), el("p", {}, cluster.border))) : null,
    galleryPart(cluster, asked),
  ];
}

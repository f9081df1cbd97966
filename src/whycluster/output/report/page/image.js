
// The view of an image.
function decision(row) {
  const ratio = data.limits.lead ? images.discriminant[row] / data.limits.lead : 1;
  const word = ratio < 0.25 ? "a close decision" : ratio < 0.75 ? "less clear than usual" : ratio < 1.5 ? "about as clear as usual" : "a clear decision";
  return `Cluster ${images.cluster[row]} is ahead of cluster ${images.runner_up[row]} by ${lead(images.discriminant[row])}: ${word}. ${usualLead()}`;
}
function receipt(row, isOwn) {
  const held = images.held[row];
  if (held === null) return "The decision is too close to call for a percentage.";
  if (held < 0) return `Not at all (${percent(held)}): all in all the pixels speak against it, and fixed numbers inside the network, or what the image lacks, decide. Do not read the red parts as the reason.`;
  const word = data.limits.held.find(([below]) => held < below)?.[1] ?? data.limits.in_full;
  const begin = `${word[0].toUpperCase()}${word.slice(1)}: red minus blue is ${percent(held)} of ${isOwn ? "the lead" : "what is explained"}. `;
  if (held < data.limits.weak) return begin + "The rest lies in fixed numbers inside the network, which stand for what the image lacks as well. The heatmap tells only part of the story.";
  return begin + (held > 1.05 ? "Fixed numbers inside the network take back what is above 100%." : "The rest lies in fixed numbers inside the network.");
}

// A large picture: from the file in heatmaps/ beside the page, or else what the page itself holds.
function largePicture(row, panel) {
  if (panel === 0) {
    const drawn = photoOf(row, true);
    const canvas = drawn.querySelector(".photo");
    if (canvas) {
      const small = waiting.get(drawn);
      whenNear(drawn, () => small().then(() => drawPanel(canvas, row, 0).catch(() => {})));
    }
    return drawn;
  }
  const canvas = el("canvas", {});
  const drawn = el("span", { class: "picture", role: "img", "aria-label": `heatmap of ${nameOf(row)}, pixel by pixel` }, canvas);
  return whenNear(drawn, () => drawPanel(canvas, row, 1).catch(() => drawn.closest("figure").remove()));
}

function imageView(asked) {
  const row = asked.image;
  const own = images.cluster[row], rival = images.runner_up[row];
  const cluster = clusters.get(own);
  const rows = neighbours(asked);
  const at = rows.indexOf(row);
  const step = (to, text) => (to >= 0 && to < rows.length ? el("a", { href: link({ ...asked, image: rows[to] }) }, text) : null);
  const outlier = cluster.outliers.indexOf(row);
  const unusual = cluster.departures[outlier];
  const asks = data.targets[images.target[row]];
  const isOwn = asks === "assigned" || asks === String(own);
  return [
    el("div", { class: "tools" }, el("a", { href: link(above(asked)) }, asked.cluster === null && asked.q ? "↑ search" : `↑ cluster ${own}`),
      step(at - 1, "← previous image"), step(at + 1, "next image →"), at >= 0 ? el("span", { class: "muted" }, `${at + 1} of ${rows.length}`) : null),
    el("h1", {}, shown(row)),
    el("p", {}, "In ", clusterLink(own), `, second choice `, clusterLink(rival), "."),
    heatBar(row),
    isOwn ? null : el("p", { class: "note" }, `The heatmap of this run explains ${question(row)}.`),
    el("div", { class: "image" },
      el("div", { class: "large" },
        el("figure", {}, largePicture(row, 0), el("figcaption", {}, "The image as the network saw it, and where the reasons lie.")),
        el("figure", {}, largePicture(row, 1), el("figcaption", {}, "The heatmap alone, pixel by pixel."))),
      el("div", {},
        el("h2", {}, "How clear is it?"),
        el("p", {}, decision(row)),
        el("dl", {}, el("dt", {}, "Holds the decision"), el("dd", {}, receipt(row, isOwn)),
          el("dt", {}, "Probability"), el("dd", {}, `${percent(images.probability[row])}: a soft reading of the distances to all clusters, and not the chance of being right`),
          images.label[row] ? [el("dt", {}, "Label"), el("dd", {}, el("bdi", {}, visible(images.label[row])))] : null,
          outlier >= 0 ? [el("dt", {}, "Unusual"), el("dd", {}, `Unusualness ${number(cluster.scores[outlier])}, where 0 is usual and above ${data.limits.unlike} is listed${unusual ? `: ${unusual.text}` : ""}.`)] : null))),
    reasons(row, cluster, rival, unusual),
  ];
}

// The concepts of an image beside those of its cluster.
function reasons(row, cluster, rival, unusual) {
  const one = conceptsOf(row), name = `cluster ${cluster.cluster}`;
  const unlike = (unusual?.channels ?? []).map((channel) => [channel, seen(channel, cluster.cluster)]).filter(([, found]) => found);
  const rivals = cluster.contrasts.some((contrast) => contrast.rival === rival);
  return [
    el("h2", {}, "Which concepts carry it"),
    el("div", { class: "two" },
      one.length ? el("div", {}, el("h3", {}, "This image"), conceptList("h4", `${name} here`, one, cluster.cluster)) : null,
      el("div", {}, el("h3", {}, `Cluster ${cluster.cluster}, all ${count(cluster.size, "image")} of this run`), conceptList("h4", name, cluster.concepts.slice(0, 3), cluster.cluster))),
    unlike.length ? [el("h3", {}, "Concepts in which it differs from its cluster"), el("ul", { class: "concepts" }, unlike.map(([channel, found]) => conceptPart("h4", channel, "", found, cluster.cluster)))] : null,
    rivals ? el("p", {}, el("a", { href: link({ cluster: cluster.cluster, rival, part: "contrast" }) }, `What sets ${name} apart from cluster ${rival}`)) : null,
  ];
}


// The view of an image.
function decision(row) {
  const cluster = clusters.get(images.cluster[row]);
  const ratio = cluster.margin ? images.discriminant[row] / cluster.margin : 1;
  const word = ratio < 0.25 ? "a close decision" : ratio < 0.75 ? "less clear than usual here" : ratio < 1.5 ? "about as clear as usual here" : "a clear decision";
  return `Cluster ${images.cluster[row]} leads cluster ${images.runner_up[row]} by ${number(images.discriminant[row])}; the average lead in this cluster is ${number(cluster.margin)}: ${word}.`;
}
function receipt(row) {
  const held = images.held[row];
  if (held === null) return "How much of the decision the heatmap accounts for is not known.";
  const begin = `The red and blue of the heatmap add up to ${percent(held)} of the decision. `;
  if (held < 0) return begin + "All in all the pixels speak against it: fixed numbers inside the network, or what the image lacks, put it here. Do not read the red parts as the reason.";
  if (held < data.limits.weak) return begin + "The rest lies in fixed numbers inside the network, which stand for what the image lacks as well. The heatmap tells only part of the story.";
  return begin + (held > 1.05 ? "That is more than all of it, as fixed numbers inside the network speak against it." : held < 0.8 ? "So it shows most of the reason." : "So it shows nearly the whole reason.");
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
  const contrast = cluster.contrasts.find((one) => one.rival === rival);
  const outlier = cluster.outliers.indexOf(row);
  const asks = data.targets[images.target[row]];
  return [
    el("div", { class: "tools" }, el("a", { href: link(above(asked)) }, asked.cluster === null && asked.q ? "↑ search" : `↑ cluster ${own}`),
      step(at - 1, "← previous image"), step(at + 1, "next image →"), at >= 0 ? el("span", { class: "muted" }, `${at + 1} of ${rows.length}`) : null),
    el("h1", {}, shown(row)),
    el("p", {}, "In ", clusterLink(own), `, second choice `, clusterLink(rival), "."),
    tools({ target: asks }),
    asks === "assigned" || asks === String(own) ? null : el("p", { class: "note" }, `The heatmap of this run explains ${question(asks)}.`),
    el("div", { class: "large" },
      el("figure", {}, largePicture(row, 0), el("figcaption", {}, "The image as the network saw it, and where the reasons lie.")),
      el("figure", {}, largePicture(row, 1), el("figcaption", {}, "The heatmap alone, pixel by pixel."))),
    el("h2", {}, `Why cluster ${own} and not ${rival}?`),
    el("p", {}, decision(row)),
    el("dl", {}, el("dt", {}, "Probability"), el("dd", {}, `${percent(images.probability[row])}, a soft reading of the distances to all clusters`),
      el("dt", {}, "Accounted for"), el("dd", {}, receipt(row)),
      images.label[row] ? [el("dt", {}, "Label"), el("dd", {}, el("bdi", {}, visible(images.label[row])))] : null,
      outlier >= 0 ? [el("dt", {}, "Unusual"), el("dd", {}, "It is in the cluster for other reasons than the rest of it.")] : null),
    contrast ? [el("h3", {}, `What decides between the two, for cluster ${own} as a whole`), conceptList("h4", contrast.concepts.slice(0, 3), own, rival)] : null,
  ];
}

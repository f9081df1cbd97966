
// Concepts: channels of the network, each shown by regions of images where it is strongest.

// The crops of a channel: of this cluster, or else of another one where it is shown.
function seen(channel, ...wanted) {
  for (const one of [...wanted, ...numbers]) {
    const concept = clusters.has(one) && [...clusters.get(one).concepts, ...clusters.get(one).examples].find((each) => each.channel === channel);
    if (concept && concept.crops.some((slot) => slot >= 0)) return { concept, cluster: one };
  }
  return null;
}

// Regions, each a link to its image; with `heat`, below each one its heatmap.
function crops(channel, { concept, cluster }, heat, most = 6) {
  return concept.crops.slice(0, most).map((slot, at) => {
    const row = concept.images[at];
    const label = `region of ${row < 0 ? "an image" : nameOf(row)} where concept ${channel} is strongest${heat ? ", with the heatmap of this concept alone" : ""}`;
    if (row < 0) return picture(label, slot, "crops");
    return el("a", { href: link({ cluster, image: row }), "aria-label": label }, picture(null, slot, "crops"), heat ? picture(null, slot, "crops", "crop_heatmaps", "full") : null);
  });
}

const ofAll = (share) => `${(100 * share).toFixed(1)}%`;
function conceptPart(heading, channel, note, found, own) {
  return el("li", { class: "concept" },
    el(heading, {}, `concept ${channel} `, el("span", { class: "note" }, note)),
    el("div", { class: "crops" }, crops(channel, found, true)),
    found.cluster === own ? null : el("p", { class: "note" }, `as seen in cluster ${found.cluster}`));
}

// Concepts with their shares of what speaks for `subject`; `own` are the clusters whose images are shown first.
function conceptList(heading, subject, concepts, ...own) {
  if (!concepts.length) return el("p", { class: "muted" }, `No concept speaks for ${subject}.`);
  const found = concepts.map(({ channel, share }) => ({ channel, share, crops: seen(channel, ...own) }));
  const without = found.filter((one) => !one.crops).map(({ channel, share }) => `concept ${channel} (${ofAll(share)})`);
  const sum = concepts.reduce((all, { share }) => all + share, 0);
  const them = concepts.length > 1 ? `These ${concepts.length} concepts are` : "This concept is";
  return [
    el("p", { class: "note" }, `${them} ${percent(sum)} of what speaks for ${subject}${sum < 0.995 ? "; the rest is in others" : ""}.`),
    without.length < found.length ? el("ul", { class: "concepts" }, found.filter((one) => one.crops).map((one) => conceptPart(heading, one.channel, ofAll(one.share), one.crops, own[0]))) : null,
    without.length ? el("p", { class: "note" }, `No examples of ${without.join(", ")}: of each cluster, the page shows the strongest ones only.`) : null,
  ];
}

// The strongest concepts of an image; none where the run does not say.
const conceptsOf = (row) =>
  (images.channels?.[row] ?? []).map((channel, at) => ({ channel, share: images.shares[row][at] })).filter(({ share }) => share > 0);


// How to read the page.
function helpView() {
  const term = (name, ...text) => [el("dt", {}, name), el("dd", {}, ...text)];
  const { refits, stable, doubtful, unlike } = data.limits;
  return [
    el("h1", {}, "How to read this page"),
    el("dl", { class: "help" },
      term("Cluster", "Images that a network sees as similar. It has a number and no name."),
      term("Heatmap", `Red pixels speak for ${question()}, blue ones against it; without colour, a pixel does not matter. Each image has a scale of its own, so compare places within an image, and not strengths between images.`),
      term("Lead", "How much nearer an image is to its cluster than to the next one, its second choice. ", usualLead()),
      term("Stable", `Random samples of the images that the clusters were made from were clustered anew, ${refits} times. The number says how much of a cluster came back: 1 is all of it. From ${stable} on it is stable, from ${doubtful} on doubtful, below unstable. An unstable cluster may be an accident of these images; what is said of its images is still right.`),
      term("Concept", "A channel of the network, something it has learnt to see. It has a number and no name: the regions show where it responds most, and what they have in common is for you to judge. Its share is of all that speaks for the cluster; what speaks against it is not subtracted."),
      term("Holds the decision", "How much of the lead arrives at the pixels: red minus blue. If it is little, fixed numbers of the network decide, or what the image lacks, and the heatmap tells only part of the story. It is exact bookkeeping; that red pixels are the true cause is not proven by it."),
      term("Unusual", `Other concepts speak for and against the image than for the rest of its cluster. An unusualness of 0 is usual, one above ${unlike} is listed.`),
      term("Probability", "A soft reading of the distances to all clusters, for ordering images; it is not the chance of being right."),
      term("How sure", "Sure: which image is in which cluster, the distances, and the sums above. Less sure: what a concept means, and whether a cluster is of use to you.")),
  ];
}


// Pictures out of sheets, drawn when they come near to the screen.
const HELD = 40; // sheets in memory, those used last
const loaded = new Map(); // address -> promise of an image

function load(url) {
  let image = loaded.get(url);
  loaded.delete(url);
  if (!image) {
    const one = new Image();
    one.src = url;
    image = one.decode().then(() => one); // beside the script, so that scrolling does not wait for it
    if (loaded.size >= HELD) loaded.delete(loaded.keys().next().value);
  }
  loaded.set(url, image);
  return image;
}

function draw(canvas, kind, slot) {
  const { side, urls } = data.sheets[kind];
  const perSheet = data.columns * data.columns;
  const at = slot % perSheet;
  return load(urls[Math.floor(slot / perSheet)]).then((sheet) => {
    canvas.width = canvas.height = side;
    const [left, top] = [(at % data.columns) * side, Math.floor(at / data.columns) * side];
    canvas.getContext("2d").drawImage(sheet, left, top, side, side, 0, 0, side, side);
  });
}

const waiting = new WeakMap(); // picture -> what draws it
function drawNow(picture) {
  near.unobserve(picture);
  const drawing = waiting.get(picture);
  waiting.delete(picture);
  drawing?.().catch(() => picture.append(el("span", { class: "gone" }, "picture is missing")));
}
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) drawNow(target);
  },
  { rootMargin: "500px" },
);
addEventListener("beforeprint", () => {
  for (const picture of document.querySelectorAll(".picture")) drawNow(picture);
});
function whenNear(picture, drawing) {
  waiting.set(picture, drawing);
  near.observe(picture);
  return picture;
}

// A photo, or a region, with its heatmap over it where `heat` names one; `slot` -1: there is none. Without a label it is
// not read out: a link around it has a name of its own.
function picture(label, slot, photo, heat, kind = "") {
  const drawn = el("span", { class: `picture ${kind}`, ...(label === null ? { "aria-hidden": "true" } : { role: "img", "aria-label": label }) });
  if (slot < 0) {
    drawn.append(el("span", { class: "gone" }, "no picture: files are gone"));
    return drawn;
  }
  if (data.sheets[photo].side <= 64) drawn.classList.add("pixelated");
  const layers = [[photo, "photo"]];
  if (heat) layers.push([heat, "heat"]), drawn.classList.add("heated");
  const canvases = layers.map(([sheets, name]) => [el("canvas", { class: name }), sheets]);
  drawn.append(...canvases.map(([canvas]) => canvas));
  return whenNear(drawn, () => Promise.all(canvases.map(([canvas, sheets]) => draw(canvas, sheets, slot))));
}
const photoOf = (row, heated, unread = false) =>
  picture(unread ? null : `${nameOf(row)}${heated ? ", with its heatmap" : ""}`, images.slot[row], "photos", heated && "heatmaps");
const placesOf = (cluster) =>
  picture(`mean heatmap of cluster ${cluster.cluster}`, cluster.places, "places", null, "pixelated");

// Draws a panel, 0: photo, 1: heatmap, of the file of an image in heatmaps/.
function drawPanel(canvas, row, panel) {
  const sub = data.targets.length > 1 ? `target_${data.targets[images.target[row]]}/` : "";
  const file = images.file[row] ?? `heatmaps/${sub}${images.path[row]}.png`;
  return load(file.split("/").map(encodeURIComponent).join("/")).then((sheet) => {
    const gap = data.limits.gap; // pixels around the panels, of which there are three
    const side = (sheet.naturalWidth - 4 * gap) / 3;
    canvas.width = canvas.height = side;
    const [left, top] = [gap + panel * (side + gap), sheet.naturalHeight - gap - side];
    canvas.getContext("2d").drawImage(sheet, left, top, side, side, 0, 0, side, side);
  });
}


// Which view is shown, and how one moves between them.
const main = document.getElementById("main");
const search = document.getElementById("search");
const scrolled = new Map(); // address -> where one had scrolled to
let drawnFor = null; // the address of the view that is shown
let byLink = false; // whether a link leads to the next view, and not the browser's back or forward

// The images that the arrows walk through, and where one comes from.
function neighbours(asked) {
  const rows = asked.cluster === null && !asked.q ? [] : rowsOf(asked);
  return rows.includes(asked.image) ? rows : members.get(images.cluster[asked.image]) ?? [];
}
function above(asked) {
  if (asked.image !== null) return asked.cluster === null && !asked.q ? { cluster: images.cluster[asked.image] } : { ...asked, image: null };
  return {};
}

// Goes to another state; `part`: the only part of the view that changes, `quietly`: without a step in the history.
function go(wanted, part = null, quietly = false) {
  history[quietly ? "replaceState" : "pushState"](null, "", link({ ...wanted, part: null }));
  if (part) renderPart(part);
  else render();
}

function view(asked) {
  if (asked.image !== null) return imageView(asked);
  if (asked.cluster !== null) return clusterView(asked);
  if (asked.view === "distances") return distancesView();
  if (asked.view === "help") return helpView();
  return asked.q ? searchView(asked) : overviewView();
}

// Reads out how many images there are, where the view says so.
function announce(part) {
  document.getElementById("status").textContent = part.querySelector(".count")?.textContent ?? "";
}

function render() {
  const asked = state();
  if (drawnFor !== null) scrolled.set(drawnFor, scrollY);
  near.disconnect();
  main.replaceChildren(...view(asked).flat(3).filter((part) => part !== null && part !== ""));
  const heading = main.querySelector("h1");
  const part = asked.part !== null && (byLink || !scrolled.has(location.hash)) ? document.getElementById(asked.part) : null;
  for (const one of [heading, part]) one?.setAttribute("tabindex", -1);
  document.title = heading.textContent;
  announce(main);
  for (const [id, current] of [["to-overview", asked.view === null && asked.image === null && asked.cluster === null && !asked.q], ["to-distances", asked.view === "distances"], ["to-help", asked.view === "help"]]) {
    if (current) document.getElementById(id).setAttribute("aria-current", "page");
    else document.getElementById(id).removeAttribute("aria-current");
  }
  if (document.activeElement !== search) {
    search.value = asked.cluster === null ? asked.q ?? "" : "";
    if (drawnFor !== null) (part ?? heading).focus({ preventScroll: true });
  }
  scrollTo(0, byLink ? 0 : scrolled.get(location.hash) ?? 0);
  if (byLink && (asked.page !== null || asked.only !== null)) document.getElementById("gallery")?.scrollIntoView();
  part?.scrollIntoView();
  drawnFor = location.hash;
  byLink = false;
}

// Draws a part of the view of a cluster anew, and leaves the focus where it is.
function renderPart(part) {
  const asked = state();
  const old = document.getElementById(part);
  const made = { gallery: galleryPart, contrast: rivalPart }[part](clusters.get(asked.cluster), asked);
  const focused = old.contains(document.activeElement) ? document.activeElement.className : null;
  old.replaceWith(made);
  drawnFor = location.hash;
  const field = focused && made.querySelector(`.${focused}`);
  if (part === "gallery") announce(made);
  if (!field) return;
  field.focus();
  if (field.type === "search") field.setSelectionRange(field.value.length, field.value.length);
}

function arrow(asked, by) {
  if (asked.image !== null) {
    const rows = neighbours(asked);
    const to = rows[rows.indexOf(asked.image) + by];
    return to === undefined ? null : { ...asked, image: to };
  }
  if (asked.cluster !== null) {
    const to = numbers[numbers.indexOf(asked.cluster) + by];
    return to === undefined ? null : { cluster: to };
  }
  const links = [...main.querySelectorAll("a.to-cluster")];
  const at = links.indexOf(document.activeElement);
  links[at < 0 ? 0 : Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
  return null;
}

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const field = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape" && field) {
    event.preventDefault(); // or the browser clears the field, and not what was searched
    return event.target.blur();
  }
  if (field) return;
  const asked = state();
  let to = null;
  if (event.key === "/") search.focus(), search.select();
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    if (event.target.closest?.(".scroll")) return;
    to = arrow(asked, event.key === "ArrowLeft" ? -1 : 1);
  } else if (event.key === "Escape") to = drawnFor && link({ ...asked }) !== "#" ? above(asked) : null;
  else return;
  event.preventDefault();
  if (to) (byLink = true), go(to);
});
addEventListener("click", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest?.('a[href^="#"]')) byLink = true;
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.querySelector("h1").focus();
});
search.addEventListener("input", () => {
  const typing = state().view === null && state().cluster === null && state().image === null && Boolean(state().q);
  go({ q: search.value }, null, typing);
});
addEventListener("popstate", () => render());
history.scrollRestoration = "manual";
render();

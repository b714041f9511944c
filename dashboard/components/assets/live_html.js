// Shows HTML that Python has built (every value in it is escaped there), changing only what differs, so that a refresh
// neither flickers nor takes away focus, selection or an opened disclosure. Links inside go to Python without a reload.
const KEEP = new Set(["open"]);

function sync(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to.cloneNode(true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !KEEP.has(name)) from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  const old = [...from.childNodes];
  const fresh = [...to.childNodes];
  fresh.forEach((node, index) => {
    if (index < old.length) sync(old[index], node);
    else from.appendChild(node.cloneNode(true));
  });
  old.slice(fresh.length).forEach((node) => node.remove());
}

function plainClick(event) {
  return event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
}

// The page is asked for anew every two seconds. When no answer comes, what stands there is old, however fresh it says it
// is; a hidden tab is slowed down by the browser and starts counting again when it is looked at.
const LOST_AFTER_MS = 12000;
let answeredAt = Date.now();
document.addEventListener("visibilitychange", () => {
  answeredAt = Date.now();
});

function watch(parent, root) {
  const notice = document.createElement("div");
  notice.className = "sk-lost";
  notice.setAttribute("role", "alert");
  notice.hidden = true;
  parent.insertBefore(notice, root);
  const timer = setInterval(() => {
    if (!notice.isConnected) clearInterval(timer);
    const lost = document.visibilityState === "visible" && Date.now() - answeredAt > LOST_AFTER_MS;
    if (lost && notice.hidden) {
      const since = new Date(answeredAt).toISOString().slice(11, 19);
      notice.textContent = `The page's server has not answered since ${since} UTC. What is shown here is from then.`;
    }
    notice.hidden = !lost;
  }, 1000);
}

export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector(":scope > .sk");
  if (!root) {
    root = document.createElement("div");
    root.className = "sk";
    parentElement.appendChild(root);
    if (data.leads) watch(parentElement, root);
  }
  answeredAt = Date.now();
  const moved = root.dataset.view !== undefined && root.dataset.view !== data.view;
  root.dataset.view = data.view;
  const wanted = document.createElement("template");
  wanted.innerHTML = data.html;
  const target = root.cloneNode(false);
  target.append(wanted.content);
  if (moved) root.replaceChildren(...target.childNodes);
  else sync(root, target);
  if (moved && data.leads) document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0);
  root.onclick = (event) => {
    const link = event.target.closest("a[data-go]");
    if (!link || !plainClick(event)) return;
    event.preventDefault();
    setTriggerValue("go", link.getAttribute("href"));
  };
}

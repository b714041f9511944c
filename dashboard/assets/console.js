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

export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector(":scope > .sk");
  if (!root) {
    root = document.createElement("div");
    root.className = "sk";
    parentElement.appendChild(root);
  }
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

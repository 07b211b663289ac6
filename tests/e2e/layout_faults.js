// List the faults of the page's layout: a page wider than its window, elements that stick out of it, text or values that are
// cut off, and texts that overlap each other or points of the chart. Elements that scroll (.scroll) may be wider.
() => {
  const width = document.documentElement.clientWidth, faults = [], texts = [];
  const called = (node) => `<${node.tagName.toLowerCase()} id="${node.id}" class="${node.getAttribute("class") ?? ""}">`
    + (node.value ?? node.textContent).trim().slice(0, 40);
  if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
  for (const node of document.body.querySelectorAll("*")) {
    if (!node.checkVisibility() || node.closest(".scroll > *, select > *, noscript, title")) continue;
    const box = node.getBoundingClientRect(), hides = getComputedStyle(node).overflow !== "visible";
    if (box.width > 0 && (box.left < -1 || box.right > width + 1)) faults.push(`${called(node)} sticks out`);
    if ((hides || node.tagName === "INPUT") && !node.matches(".scroll, svg")
      && (node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1)) faults.push(`${called(node)} is cut off`);
    if (node.tagName === "SELECT") {
      node.style.cssText = "width: max-content; max-width: none";
      if (node.offsetWidth > box.width + 1) faults.push(`${called(node)} cuts an option off`);
      node.style.cssText = "";
    }
    const frame = node.closest(".picture");
    if (node.tagName === "IMG" && frame && box.width < 0.9 * frame.clientWidth) faults.push(`${called(frame)} is not filled`);
    for (const child of node.childNodes) {
      if (child.nodeType !== Node.TEXT_NODE || !child.data.trim()) continue;
      const range = document.createRange();
      range.selectNodeContents(child);
      for (const rect of range.getClientRects()) texts.push([rect, node]);
    }
  }
  const marks = [...document.querySelectorAll("#chart .series > :has(title)")].map((mark) => [mark.getBoundingClientRect(), mark]);
  texts.forEach(([a, one], place) => {
    for (const [b, other] of [...texts.slice(place + 1), ...marks]) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 3 && down > 3) faults.push(`${called(one)} lies on ${called(other)}`);
    }
  });
  return faults;
}

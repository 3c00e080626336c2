// What can be seen of the page, as the browser has laid it out.
(async () => {
  const box = (element) => element.getBoundingClientRect();
  const isSeen = ({ width, height }) => width > 0 || height > 0;
  const isInside = (inner, outer) =>
    inner.right >= outer.left - 1 && inner.left <= outer.right + 1 && inner.bottom >= outer.top - 1 && inner.top <= outer.bottom + 1;
  const shown = (selector, root) => [...root.querySelectorAll(selector)].filter((found) => found.checkVisibility());

  const collisions = (labels) => {
    const boxes = labels.map((label) => [label.textContent, box(label)]);
    const pairs = boxes.flatMap((one, place) => boxes.slice(place + 1).map((other) => [one, other]));
    const cover = ([, a], [, b]) =>
      Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
    return pairs.filter(([one, other]) => cover(one, other)).map(([one, other]) => `${one[0]} | ${other[0]}`);
  };

  const plots = [...document.querySelectorAll("figure.plot")].map((figure) => {
    const area = figure.querySelector(".area");
    const svg = box(area.querySelector("svg"));
    const shapes = [...area.querySelectorAll(".data")].map(box).filter((shape) => isSeen(shape) && isInside(shape, svg));
    area.dispatchEvent(new PointerEvent("pointermove", { clientX: svg.left + svg.width / 2, clientY: svg.top + 5 }));
    const readout = area.querySelectorAll(".readout span").length;
    area.dispatchEvent(new PointerEvent("pointerleave"));
    return {
      id: figure.id,
      width: svg.width,
      height: svg.height,
      shapes: shapes.length,
      lines: area.querySelectorAll("path.data").length,
      readout,
      isNamed: area.querySelector("svg[role=img]").getAttribute("aria-label") !== "",
      collisions: [".xs span", ".ys span", ".strip span"].flatMap((labels) => collisions(shown(labels, figure))),
    };
  });

  const bars = [...document.querySelectorAll("svg.stack")].map((svg) => ({
    width: box(svg).width,
    parts: [...svg.querySelectorAll(".data")].filter((part) => box(part).width > 0).length,
  }));

  // What is scrolled can be reached; on paper nothing scrolls.
  const clipped = shown(".scroll", document)
    .filter((found) => found.scrollWidth > found.clientWidth + 1 || box(found.firstElementChild).right > box(document.body).right + 1)
    .map((found) => `${found.ariaLabel}: ${found.scrollWidth} of ${found.clientWidth}`);

  const room = document.documentElement.clientWidth;
  const outside = shown("body *", document)
    .filter((found) => box(found).right > room + 1 && !found.closest(".scroll, nav"))
    .map((found) => `${found.tagName} ${found.className.baseVal ?? found.className} ${box(found).right}`);

  return JSON.stringify({
    plots,
    bars,
    clipped,
    overflow: document.documentElement.scrollWidth - room,
    outside,
    scripts: document.scripts.length,
    buttons: document.querySelectorAll("button.copy").length,
  });
})();

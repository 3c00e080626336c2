// Reads values off the plots, and copies commands. Without it everything is there, but for that.
"use strict";
(() => {
  const figures = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 9.995) return value.toFixed(size < 0.0095 ? 4 : size < 0.0995 ? 3 : 2);
    return size < 99.95 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
  };
  const show = {
    ms: (value) => (value >= 999.5 ? `${figures(value / 1e3)} s` : `${figures(value)} ms`),
    s: (value) => `${figures(value)} s`,
    share: (value) => `${(100 * value).toFixed(1)} %`,
    number: figures,
  };

  const axis = (text) => {
    const [low, high, isLog, unit] = text.split(" ");
    const [from, to] = [Number(low), Number(high)];
    const value = (at) => (isLog === "true" ? from * (to / from) ** at : from + (to - from) * at);
    return { isShare: unit === "share", show: (at) => show[unit](value(at)) };
  };

  // Paths are in a box of 1000 by 1000, whose second coordinate grows downwards.
  const points = (path) =>
    [...path.getAttribute("d").matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map(([, x, y]) => [x / 1000, 1 - y / 1000]);

  const last = (all, at) => all.findLast(([x]) => x <= at + 1e-9);
  const nearest = (all, at) =>
    all.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));

  const element = (name, className, text = "") => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };

  const readOff = (area) => {
    const [x, y] = [axis(area.dataset.x), axis(area.dataset.y)];
    const isStep = area.dataset.reading === "step";
    const lines = [...area.querySelectorAll("path.data")].map((path) => ({
      name: path.dataset.name,
      colour: [...path.classList].find((name) => /^(t\d|all)$/.test(name)),
      points: points(path),
    }));
    if (lines.length === 0) return;
    const cursor = element("div", "cursor");
    const readout = element("output", "readout");
    let at = 0.5;

    const move = (to) => {
      at = Math.min(1, Math.max(0, to));
      if (!isStep) at = nearest(lines.flatMap((line) => line.points), at)[0];
      const rows = lines.map(({ name, colour, points }) => {
        const found = isStep ? last(points, at) : nearest(points, at);
        const isThere = found && (isStep || Math.abs(found[0] - at) < 0.012);
        const row = element("span", colour);
        row.append(element("i", "", name), isThere ? y.show(found[1]) : "–");
        return row;
      });
      readout.replaceChildren(element("b", "", x.show(at)), ...rows);
      cursor.style.left = `${100 * at}%`;
      readout.style.left = at < 0.5 ? `calc(${100 * at}% + 10px)` : "auto";
      readout.style.right = at < 0.5 ? "auto" : `calc(${100 * (1 - at)}% + 10px)`;
      // Where a distribution's curve isn't.
      readout.classList.toggle("below", y.isShare && isStep && at < 0.5);
      area.append(cursor, readout);
    };
    const leave = () => {
      cursor.remove();
      readout.remove();
    };
    const steps = { ArrowLeft: -0.01, ArrowRight: 0.01, PageUp: -0.1, PageDown: 0.1 };
    const step = (by) => {
      if (isStep) return move(at + by);
      const ahead = lines.flatMap((line) => line.points).map(([x]) => x).filter((x) => (by < 0 ? x < at - 1e-6 : x > at + 1e-6));
      if (ahead.length > 0) move(by < 0 ? Math.max(...ahead) : Math.min(...ahead));
    };

    area.tabIndex = 0;
    area.setAttribute("role", "group");
    area.setAttribute("aria-label", "Values: move with the arrow keys");
    area.addEventListener("pointermove", (event) => {
      const { left, width } = area.getBoundingClientRect();
      move((event.clientX - left) / width);
    });
    area.addEventListener("pointerleave", leave);
    area.addEventListener("focus", () => area.matches(":focus-visible") && move(at));
    area.addEventListener("blur", leave);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      if (!(event.key in steps)) return;
      event.preventDefault();
      step(steps[event.key]);
    });
  };

  const offerCopy = (element_) => {
    const button = element("button", "copy", "copy");
    button.type = "button";
    button.setAttribute("aria-label", `Copy ${element_.dataset.copy}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(element_.dataset.copy);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(element_);
      }
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    element_.after(button);
  };

  document.querySelectorAll(".plot .area").forEach(readOff);
  document.querySelectorAll("[data-copy]").forEach(offerCopy);
})();

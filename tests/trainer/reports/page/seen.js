// What a page looks like: does it fit, and does every text stand out from its ground (WCAG 2.2, 1.4.3)?
function looked_at(view) {
  const page = view.document, root = page.scrollingElement;
  page.querySelectorAll("details").forEach((each) => { each.open = true; });
  const colour = (text) => {
    const found = text.match(/^(rgba?|color)\((?:srgb )?([^)]+)\)$/);
    if (!found) throw new Error("no colour: " + text);
    const [r, g, b, a = 1] = found[2].split(/[\s,\/]+/).map(Number), most = found[1] === "color" ? 255 : 1;
    return [r * most, g * most, b * most, a];
  };
  const over = (top, below) => [0, 1, 2].map((at) => top[3] * top[at] + (1 - top[3]) * below[at]);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((level) => (level /= 255) <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    let below = [255, 255, 255], solid = 1;
    const above = [];
    for (let each = element; each; each = each.parentElement) above.unshift(view.getComputedStyle(each));
    for (const style of above) {
      below = over(colour(style.backgroundColor), below);
      solid *= Number(style.opacity);
    }
    return [below, solid];
  };
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT), faint = [];
  let count = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
    if (!text || element.closest("svg") || !element.getClientRects().length) continue;
    const [below, solid] = ground(element), own = colour(view.getComputedStyle(element).color);
    const levels = [light(over([...own.slice(0, 3), own[3] * solid], below)), light(below)].sort((a, b) => b - a);
    const contrast = (levels[0] + 0.05) / (levels[1] + 0.05);
    count += 1;
    if (contrast < 4.5) faint.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  // Words that stand letter by letter below each other.
  const squeezed = [...page.querySelectorAll("td, th")].map((cell) => [cell, cell.textContent.trim()])
    .filter(([cell, text]) => text.length > 10 && cell.clientWidth < 75).map(([, text]) => text.slice(0, 40));
  const dark = view.matchMedia("(prefers-color-scheme: dark)").matches;
  return { width: root.clientWidth, dark, scrolls: root.scrollWidth - root.clientWidth, texts: count, faint, squeezed };
}

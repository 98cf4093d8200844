"""What must hold of any page at any time: names, roles, contrast, keyboard, width, and nothing from elsewhere."""

# Text and the colour behind it, as WCAG 2.2 counts contrast (1.4.3); large text may have 3 to 1.
CONTRAST = r"""
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const layer = rgba(getComputedStyle(at).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const said = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!said || !element.checkVisibility({ visibilityProperty: true }) || element.closest(".unseen, .bar, noscript")) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [text, ground] = [rgba(colour), behind(element)].map((it, _, [, below]) => luminance(over(it.length > 3 ? it : [...it, 1], below)));
    const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 600);
    if (ratio < (large ? 3 : 4.5)) poor.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
NAMED = {"button", "link", "textbox", "spinbutton", "radio", "img", "image", "table", "progressbar", "dialog", "heading", "list"}
LANDMARKS = {"banner", "main", "contentinfo"}


def tree(page):
    """The nodes that a screen reader sees: role, name, level."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    seen = []
    for node in nodes:
        if not node.get("ignored"):
            properties = {it["name"]: it["value"].get("value") for it in node.get("properties", [])}
            seen.append((node["role"]["value"], node.get("name", {}).get("value", "").strip(), properties.get("level")))
    return seen


def accessible(page, where):
    seen = tree(page)
    nameless = [role for role, name, _ in seen if role in NAMED - {"list"} and not name]
    assert not nameless, f"{where}: without a name: {nameless}"
    roles = {role for role, _, _ in seen}
    assert LANDMARKS <= roles, f"{where}: {LANDMARKS - roles} missing"
    levels = [level for role, _, level in seen if role == "heading"]
    assert levels and levels[0] == 1 and levels.count(1) == 1, f"{where}: headings {levels}"
    skips = [pair for pair in zip(levels, levels[1:]) if pair[1] > pair[0] + 1]
    assert not skips, f"{where}: headings skip a level: {levels}"
    poor = page.evaluate(CONTRAST)
    assert not poor, f"{where}: poor contrast: {poor}"


def fits(page, where):
    wide = page.evaluate("() => [document.scrollingElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"{where}: {wide[0]} pixels wide on a screen of {wide[1]}"


def by_keyboard(page, where):
    """Everything that can be pressed is reached with the tab key, and shows that it is."""
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0) }")
    wanted = page.evaluate("""() => [...document.querySelectorAll("a[href], button, input, textarea, summary")]
        .filter((it) => it.checkVisibility({ visibilityProperty: true }) && !it.disabled)
        .filter((it) => it.type !== "radio" || it.checked).length""")
    reached = set()
    for _ in range(3 * wanted + 10):
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
            const it = document.activeElement;
            if (it === document.body) return null;
            it.dataset.reached ??= String(Math.random());
            const shown = [it, it.nextElementSibling].filter(Boolean).some((at) => getComputedStyle(at).outlineStyle !== "none");
            return [it.dataset.reached, shown || getComputedStyle(it).boxShadow !== "none", it.outerHTML.slice(0, 80)];
        }""")
        if found:
            assert found[1], f"{where}: no focus is seen on {found[2]}"
            reached.add(found[0])
    assert len(reached) >= wanted, f"{where}: {len(reached)} of {wanted} are reached by keyboard"


class Watched:
    """A page that may load nothing from elsewhere and break nothing of its policy."""

    def __init__(self, page, url):
        self.page, self.url, self.wrong = page, url, []
        page.on("request", self._requested)
        page.on("console", lambda said: said.type == "error" and self._complain(said.text))
        page.on("pageerror", lambda error: self._complain(str(error)))

    def _requested(self, request):
        if not request.url.startswith((self.url, "data:")):
            self.wrong.append(f"asked {request.url}")

    def _complain(self, text):
        # That a request was refused is what some of the tests want.
        if "Failed to load resource" not in text:
            self.wrong.append(text)

    def check(self):
        assert not self.wrong, self.wrong

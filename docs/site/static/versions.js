// Lists the published versions, which stand beside the folder of this one, and leads to the same page of another.
"use strict";

(async () => {
  const list = document.getElementById("versions");
  if (!list || !location.protocol.startsWith("http")) return;
  const root = new URL(document.documentElement.dataset.content_root, location.href);
  const above = new URL("..", root);
  const reply = await fetch(new URL("versions.json", above)).catch(() => null);
  if (!reply?.ok) return; // one version alone
  const { versions, latest } = await reply.json();
  const here = root.pathname.slice(above.pathname.length).replace(/\/$/, "");
  if (!versions.includes(here)) return;
  list.replaceChildren(...versions.map((name) => new Option(name, name, false, name === here)));
  list.onchange = async () => {
    const target = new URL(`${list.value}/`, above);
    const page = new URL(list.dataset.page, target);
    const found = await fetch(page, { method: "HEAD" }).catch(() => null);
    location.href = found?.ok ? page : target; // the other version may not have this page
  };
  const box = list.closest(".versions");
  if (latest && here !== latest) {
    const note = box.querySelector(".other-version");
    const link = document.createElement("a");
    link.href = new URL(`${latest}/`, above);
    link.textContent = latest;
    note.append("The latest release is ", link, ".");
    note.hidden = false;
  }
  box.hidden = false;
})();

"use strict";
const text = (row, i) => row.cells[i].textContent.trim(), value = (row, i) => row.cells[i].dataset.value;
const compare = (a, b, i) => value(a, i) === undefined
  ? text(a, i).localeCompare(text(b, i), "en", {numeric: true}) : value(a, i) - value(b, i);
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], all = [...body.rows];
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      body.append(...[...all].sort((a, b) => sign * compare(a, b, i)));
    });
  });
}
for (const tools of document.querySelectorAll(".tools")) {
  const all = [...tools.nextElementSibling.querySelectorAll("tbody tr")];
  const count = () => {
    tools.querySelector(".shown").textContent = all.filter(row => !row.hidden).length + " of " + all.length;
  };
  tools.querySelector(".filter").addEventListener("input", event => {
    const words = event.target.value.toLowerCase();
    for (const row of all) row.hidden = !row.textContent.toLowerCase().includes(words);
    count();
  });
  count();
}
// A link to one budget's section unfolds it.
const unfold = () => {
  const section = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (section && section.tagName === "DETAILS") section.open = true;
};
addEventListener("hashchange", unfold);
unfold();

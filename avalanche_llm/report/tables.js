// Tables: sorting by column, and columns beyond the binding ones on demand. Figures: a larger view.
"use strict";
(() => {
  const said = document.getElementById("sorted");

  const valueOf = (cell, numeric) => {
    const text = cell.title || cell.textContent;
    if (!numeric) return text;
    const value = Number.parseFloat(text);
    return Number.isNaN(value) ? null : value;
  };

  const compare = (a, b, direction) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is not available stays last
    const order = typeof a === "number" ? a - b : a.localeCompare(b, "en");
    return direction * order;
  };

  const sort = (heading) => {
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [valueOf(row.cells[column], heading.classList.contains("n")), row]);
    rows.sort(([a], [b]) => compare(a, b, ascending ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    said.textContent = `${table.caption.textContent} sorted by ${heading.textContent}, ${ascending ? "ascending" : "descending"}`;
  };

  const showOptional = (box) => {
    const table = document.getElementById(box.dataset.optional);
    const optional = Array.from(table.tHead.rows[0].cells, (heading) => heading.dataset.o !== undefined);
    for (const row of table.rows) {
      Array.from(row.cells).forEach((cell, place) => {
        if (optional[place]) cell.hidden = !box.checked;
      });
    }
  };

  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
  for (const box of document.querySelectorAll("[data-optional]")) {
    box.closest(".more").hidden = false;
    box.addEventListener("change", () => showOptional(box));
    showOptional(box);
  }

  const enlarged = document.getElementById("enlarged");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const small = button.querySelector("img");
      Object.assign(enlarged.querySelector("img"), { src: small.src, alt: small.alt });
      enlarged.showModal();
    });
  }
  enlarged.addEventListener("click", (event) => {
    if (event.target === enlarged) enlarged.close();
  });
})();

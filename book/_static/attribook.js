// The ledger as a table to sort and filter. Without this script it is a plain table.

const FILTERS = ["paper", "kind", "verdict"];

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const direction = header.ariaSort === "ascending" ? "descending" : "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", direction);
      sortRows(table.tBodies[0], column, direction === "ascending" ? 1 : -1);
    });
  });
}

function sortRows(body, column, sign) {
  const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const rows = [...body.rows].sort((a, b) => sign * order(key(a), key(b)));
  body.append(...rows);
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const text = labelled("Search", Object.assign(document.createElement("input"), { type: "search", name: "words" }));
  const selects = FILTERS.map((name) => labelled(capital(name), choices(rows, name)));
  const count = document.createElement("output");
  const [input, ...chosen] = [text, ...selects].map((label) => label.lastElementChild);

  const apply = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const matches = FILTERS.every((name, i) => ["", row.dataset[name]].includes(chosen[i].value));
      row.hidden = !(matches && wanted.every((word) => words.get(row).includes(word)));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.value = `${shown} of ${rows.length} claims`;
  };

  const tools = document.createElement("div");
  tools.className = "ledger-tools";
  tools.setAttribute("role", "search");
  tools.setAttribute("aria-label", "Filter the ledger");
  tools.append(text, ...selects, count);
  tools.addEventListener("input", apply);
  table.parentElement.before(tools);
  apply();
}

function choices(rows, name) {
  const select = Object.assign(document.createElement("select"), { name });
  const values = [...new Set(rows.map((row) => row.dataset[name]))].sort();
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  return select;
}

function labelled(name, control) {
  const label = document.createElement("label");
  label.append(document.createTextNode(name), control);
  return label;
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}

document.querySelectorAll("table.ledger").forEach((table) => {
  makeSortable(table);
  makeFilterable(table);
});

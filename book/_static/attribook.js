// The ledger as a table to sort and filter. Without this script it is a plain table.
// Filters and search stand in the address, so a view can be linked, reloaded and gone back to.

const FILTERS = ["outcome", "setting", "evidence", "origin", "paper", "kind"];

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
  const search = Object.assign(document.createElement("input"), { type: "search", name: "words" });
  const controls = [search, ...FILTERS.map((name) => choices(rows, name))];
  const count = document.createElement("output");
  const none = Object.assign(document.createElement("p"), {
    className: "ledger-none",
    textContent: "No claim has all of this. Take back a filter, or clear them all.",
  });

  const apply = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = controls.slice(1).filter((select) => select.value);
    for (const row of rows) {
      const matches = chosen.every((select) => valuesOf(row, select.name).includes(select.value));
      row.hidden = !(matches && wanted.every((word) => words.get(row).includes(word)));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.value = `${shown} of ${rows.length} claims`;
    none.hidden = shown > 0;
  };
  const read = () => {
    const asked = new URLSearchParams(location.search);
    for (const control of controls) control.value = asked.get(control.name) ?? "";
    for (const select of controls.slice(1)) select.value ||= ""; // a value that no row has
    apply();
  };
  const write = () => {
    const asked = new URLSearchParams();
    for (const { name, value } of controls) if (value) asked.set(name, value);
    const query = asked.size ? `?${asked}` : "";
    history.replaceState(null, "", location.pathname + query);
    apply();
  };

  const tools = document.createElement("div");
  tools.className = "ledger-tools";
  tools.setAttribute("role", "search");
  tools.setAttribute("aria-label", "Filter the ledger");
  const clear = Object.assign(document.createElement("button"), { type: "button", textContent: "Clear" });
  clear.addEventListener("click", () => {
    for (const control of controls) control.value = "";
    write();
  });
  tools.append(...controls.map((control) => labelled(control)), clear, count);
  tools.addEventListener("input", write);
  window.addEventListener("pageshow", read); // also when the reader comes back to the page
  table.parentElement.before(tools);
  table.after(none);
  read();
}

function valuesOf(row, name) {
  return (row.dataset[name] ?? "").split("|");
}

function choices(rows, name) {
  const select = Object.assign(document.createElement("select"), { name });
  const values = [...new Set(rows.flatMap((row) => valuesOf(row, name)))].filter(Boolean).sort();
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  return select;
}

function labelled(control) {
  const label = document.createElement("label");
  const name = control.name === "words" ? "search" : control.name;
  label.append(document.createTextNode(name[0].toUpperCase() + name.slice(1)), control);
  return label;
}

document.querySelectorAll("table.ledger").forEach((table) => {
  makeSortable(table);
  makeFilterable(table);
});

if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;   // a browser lets no page opened as a file read another one
addEventListener("DOMContentLoaded", () => {                                           // headings of the side bar fold their pages; open is the one with this page, else the first three
  const captions = [...document.querySelectorAll(".sidebar-tree p.caption")], inside = document.querySelector(".sidebar-tree p.caption + ul.current");
  captions.forEach((caption, number) => {
    const pages = caption.nextElementSibling, fold = document.createElement("details"), name = document.createElement("summary");
    name.className = "caption";
    name.append(...caption.childNodes);
    caption.replaceWith(fold);
    fold.append(name, pages);
    fold.open = inside ? pages === inside : number < 3;
  });
});
addEventListener("DOMContentLoaded", () => {                                           // the page one is on is in sight in the side bar
  const bar = document.querySelector(".sidebar-scroll"), here = document.querySelector(".sidebar-tree .current-page");
  if (bar && here) bar.scrollTop = here.offsetTop - bar.clientHeight / 2;
});
addEventListener("DOMContentLoaded", () => {                                           // a table of words wraps them, one of numbers can be moved
  for (const table of document.querySelectorAll("div.cell_output table")) if ([...table.querySelectorAll("td")].some(cell => cell.textContent.length > 60)) table.classList.add("worded");
});

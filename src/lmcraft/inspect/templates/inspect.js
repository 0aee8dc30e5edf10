"use strict";
document.documentElement.classList.add("scripted");

// The weights of a picture, from its pixels: brightness is 255·w, or 255·√w where the view says so.
function read(address, then) {
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = picture.naturalWidth;
    canvas.height = picture.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    then(context.getImageData(0, 0, canvas.width, canvas.height));
  };
  picture.src = address;
}

function rectangle(x, y, width, height) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  Object.entries({ x, y, width, height }).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

for (const view of document.querySelectorAll(".view")) {
  const svg = view.querySelector("svg.heat");
  const image = svg.querySelector("image");
  const aim = svg.querySelector(".aim");
  const reading = view.querySelector(".reading");
  const select = view.querySelector("select");
  const stored = view.querySelector("script");
  const thumbs = [...document.querySelectorAll(`.thumbs[data-view="${view.id}"] button`)];
  const images = stored ? JSON.parse(stored.textContent) : thumbs.map((one) => one.firstElementChild.src);
  const labels = ["rows", "columns"].map((part) => [...svg.querySelectorAll(`.${part} text`)]);
  const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(image.getAttribute(name)));
  const cell = width / labels[1].length;
  let pixels = null;

  function show(place) {
    image.setAttribute("href", images[place]);
    thumbs.forEach((one, other) => one.setAttribute("aria-pressed", String(other === place)));
    if (select) select.value = String(place);
    view.querySelector(".shown").textContent = select ? select.options[place].text : "";
    read(images[place], (found) => { pixels = found; });
  }

  function clear() {
    aim.replaceChildren();
    reading.textContent = "";
    labels.flat().forEach((text) => text.classList.remove("on"));
  }

  function point(event) {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - x) / cell);
    const row = Math.floor(((event.clientY - box.top) * scale - y) / cell);
    clear();
    if (!pixels || !labels[0][row] || !labels[1][column]) return;
    const shade = pixels.data[4 * (row * pixels.width + column)] / 255;
    const weight = view.dataset.root === "1" ? shade * shade : shade;
    reading.textContent = `${labels[0][row].textContent} → ${labels[1][column].textContent}  ${weight.toFixed(weight < 0.1 ? 3 : 2)}`;
    labels[0][row].classList.add("on");
    labels[1][column].classList.add("on");
    aim.append(rectangle(x, y + row * cell, width, cell), rectangle(x + column * cell, y, cell, height));
  }

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", clear);
  if (select) {
    select.hidden = false;
    select.addEventListener("change", () => show(Number(select.value)));
  }
  thumbs.forEach((one, place) => one.addEventListener("click", () => {
    show(place);
    view.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }));
  if (images.length) show(0);
}

for (const toggle of document.querySelectorAll(".toggle")) {
  const buttons = [...toggle.querySelectorAll("button")];
  const choose = (chosen) => buttons.forEach((button) => {
    button.setAttribute("aria-pressed", String(button === chosen));
    document.getElementById(button.dataset.show).parentElement.hidden = button !== chosen;
  });
  toggle.hidden = false;
  buttons.forEach((button) => button.addEventListener("click", () => choose(button)));
  choose(buttons[0]);
}

// SPDX-License-Identifier: Apache-2.0
// The picture: before left of the divider, after right of it, a map of the network over both.

const TINT = { person: [255, 64, 150], blur: [255, 176, 32] };

export class Stage {
  constructor(element) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.divider = element.querySelector("[role=slider]");
    this.tags = [...element.querySelectorAll(".tag")];
    this.tint = document.createElement("canvas");
    this.at = 0.5;
    this.overlay = "";
    this.parts = null;
    this.move(this.at);
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.divider.focus({ preventScroll: true, focusVisible: false });
      element.setPointerCapture(event.pointerId);
      this.drag(event);
    });
    element.addEventListener("pointermove", (event) => {
      if (element.hasPointerCapture(event.pointerId)) this.drag(event);
    });
  }

  drag(event) {
    const box = this.element.getBoundingClientRect();
    this.move((event.clientX - box.left) / box.width);
  }

  move(at) {
    this.at = Math.min(1, Math.max(0, at));
    this.element.style.setProperty("--at", `${100 * this.at}%`);
    this.divider.setAttribute("aria-valuenow", Math.round(100 * this.at));
    this.divider.setAttribute("aria-valuetext", `${Math.round(100 * this.at)}% before`);
    this.tags[0].classList.toggle("off", this.at < 0.12);
    this.tags[1].classList.toggle("off", this.at > 0.88);
    this.draw();
  }

  setOverlay(name) {
    this.overlay = name;
    this.draw();
  }

  // One message of the server (crispstream/preview/encode.py). Resolves to its number once it is on the screen.
  async show(data) {
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    let offset = 4 + length;
    const bitmaps = header.sizes.map((size) => {
      const part = new Blob([new Uint8Array(data, offset, size)], { type: "image/jpeg" });
      offset += size;
      return size ? createImageBitmap(part) : null;
    });
    const [before, after, maps] = await Promise.all(bitmaps);
    await new Promise(requestAnimationFrame);
    for (const old of [this.parts?.before, this.parts?.after, this.parts?.maps]) old?.close();
    this.parts = { before, after, maps, cover: header.cover };
    if (this.canvas.width !== after.width || this.canvas.height !== after.height) {
      this.canvas.width = after.width;
      this.canvas.height = after.height;
      this.element.style.setProperty("--aspect", header.width / header.height);
    }
    this.draw();
    return header.number;
  }

  draw() {
    if (!this.parts) return;
    const { before, after } = this.parts;
    const { width, height } = this.canvas;
    const split = Math.round(this.at * width);
    this.context.drawImage(after, 0, 0, width, height);
    if (split > 0) this.context.drawImage(before, 0, 0, split, height, 0, 0, split, height);
    if (this.overlay && this.parts.maps) this.drawOverlay();
  }

  drawOverlay() {
    const { maps, cover } = this.parts;
    const rows = maps.height / 2;
    this.tint.width = maps.width;
    this.tint.height = rows;
    const context = this.tint.getContext("2d", { willReadFrequently: true });
    context.drawImage(maps, 0, this.overlay === "person" ? 0 : -rows);
    const pixels = context.getImageData(0, 0, maps.width, rows);
    const [red, green, blue] = TINT[this.overlay];
    for (let i = 0; i < pixels.data.length; i += 4) {
      const value = pixels.data[i];
      pixels.data[i] = red;
      pixels.data[i + 1] = green;
      pixels.data[i + 2] = blue;
      pixels.data[i + 3] = 0.6 * value;
    }
    context.putImageData(pixels, 0, 0);
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(this.tint, 0, 0, cover[0] * this.canvas.width, cover[1] * this.canvas.height);
  }
}

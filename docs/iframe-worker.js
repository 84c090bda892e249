// Browsers start no worker from a page that lies on a disk: there the search runs in a hidden frame, which asks nobody.
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "Search";
      this.inside = new Promise((resolve) => {
        frame.onload = () => {
          const script = frame.contentDocument.createElement("script");
          script.src = new URL(address, location.href);
          script.onload = () => resolve(frame.contentWindow);
          frame.contentWindow.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          frame.contentDocument.body.append(script);
        };
      });
      document.body.append(frame);
    }
    async postMessage(data) {
      (await this.inside).dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}

// Keeps the launch page up to date from the stream of events; without it the page reloads itself.

const section = document.getElementById("status");
const told = document.getElementById("told");

function localizeTimes() {
  const language = document.documentElement.lang;
  for (const time of section.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) {
      time.textContent = moment.toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
    }
  }
}

function show(event) {
  const opened = document.activeElement;
  const focusedInside = section.contains(opened);
  // Rendered and escaped by the hub.
  section.innerHTML = event.html;
  localizeTimes();
  if (told.textContent !== event.headline) {
    told.textContent = event.headline;
    document.title = `${event.headline} – Landfall`;
  }
  if (focusedInside) section.querySelector("a, pre")?.focus();
}

function follow(url) {
  const source = new EventSource(url);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    show(event);
    if (!event.final) return;
    source.close();
    if (event.url) window.location.replace(event.url);
    else window.location.reload();
  };
  source.onerror = () => {
    // CONNECTING: the browser tries again by itself. CLOSED: it was refused; ask for a fresh page.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => window.location.reload(), 5000);
  };
  window.addEventListener("pagehide", () => source.close());
}

localizeTimes();
if (section.dataset.events) follow(section.dataset.events);

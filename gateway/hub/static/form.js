// Narrows the limits shown to those of the chosen partition. The server checks everything itself:
// without this script the form works, only less helpfully.

const form = document.getElementById("spawn_form");

function fill(template, values) {
  return template.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

function tell(name, words) {
  const place = form.querySelector(`[data-limit="${name}"]`);
  if (place) place.textContent = words;
}

// What was typed stays; the browser says so when it is over the limit.
function limitNumber(input, most) {
  input.max = String(most);
}

function narrow() {
  const chosen = form.elements.partition.selectedOptions[0];
  if (!chosen?.dataset.limits) return;
  const limits = JSON.parse(chosen.dataset.limits);
  const { most, free, none } = form.dataset;
  tell("walltime", fill(most, { most: limits.walltime }));
  tell("memory", fill(most, { most: limits.memory }));
  tell("cores", fill(most, { most: limits.cores }));
  limitNumber(form.elements.cores, limits.cores);
  const gpus = form.elements.gpus;
  if (!gpus) return;
  const kinds = form.elements.gpu_kind;
  if (kinds) {
    const here = new Set(limits.gpus.map((each) => each.kind));
    for (const option of kinds.options) option.disabled = option.value !== "" && !here.has(option.value);
    if (kinds.selectedOptions[0]?.disabled) kinds.value = "";
  }
  const wanted = limits.gpus.filter((each) => !kinds?.value || each.kind === kinds.value);
  const largest = Math.max(0, ...wanted.map((each) => each.max));
  const idle = Math.max(0, ...wanted.map((each) => each.free));
  limitNumber(gpus, largest);
  gpus.disabled = largest === 0;
  if (kinds) kinds.disabled = limits.gpus.length === 0;
  tell("gpus", largest ? fill(free, { most: largest, free: idle }) : none);
}

if (form) {
  form.elements.partition.addEventListener("change", narrow);
  form.elements.gpu_kind?.addEventListener("change", narrow);
  form.addEventListener("submit", () => {
    // Disabled only after the browser has taken the values.
    setTimeout(() => { form.querySelector("button[type=submit]").disabled = true; });
  });
  // A page that comes back from the history must be usable again.
  window.addEventListener("pageshow", () => {
    form.querySelector("button[type=submit]").disabled = false;
    narrow();
  });
  narrow();
}

(document.querySelector("[aria-invalid=true]") ?? document.getElementById("message"))?.focus();

// One cursor over all charts: what happened at that moment, in words.
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const [binSeconds, bins] = data.rates;
const charts = [...document.querySelectorAll("svg.chart")];
function secondAt(chart, clientX) {
  const box = chart.getBoundingClientRect();
  const x = ((clientX - box.left) / box.width) * data.width;
  return ((x - data.left) / (data.width - data.left - data.right)) * data.seconds;
}
function words(second) {
  const bin = Math.floor(second / binSeconds);
  const count = (result) => Math.round((bins[result][bin] || 0) / binSeconds);
  const faults = data.faults.filter(([begin, end]) => begin <= second && second <= Math.max(end, begin + 0.3));
  const lines = [`${second.toFixed(1)} s`, `${count(0)}/s acknowledged, ${count(2)}/s in doubt, ${count(1)}/s refused`];
  return lines.concat(faults.map((fault) => "• " + fault[2])).join("\n");
}
function show(event) {
  const second = secondAt(event.currentTarget, event.clientX);
  const inside = second >= 0 && second <= data.seconds;
  const x = data.left + (second / data.seconds) * (data.width - data.left - data.right);
  for (const line of document.querySelectorAll(".cursor")) {
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    line.style.opacity = inside ? 1 : 0;
  }
  tip.style.display = inside ? "block" : "none";
  if (!inside) return;
  tip.textContent = words(second);
  tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = event.clientY + 16 + "px";
}
function hide() {
  tip.style.display = "none";
  for (const line of document.querySelectorAll(".cursor")) line.style.opacity = 0;
}
for (const chart of charts) {
  chart.addEventListener("mousemove", show);
  chart.addEventListener("mouseleave", hide);
}

// Before the first paint: the reader's own choice of dark or light, where there is one.
(() => {
  const chosen = localStorage.getItem("motet-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();

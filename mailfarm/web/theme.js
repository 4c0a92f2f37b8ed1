// Runs before the first paint: the theme the reader chose, if any. "light dark" otherwise follows the system.
try {
  const theme = localStorage.getItem("mailfarm.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* no storage, no choice */ }

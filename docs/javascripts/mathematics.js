// Renders what Markdown marked as mathematics, with the paper's own commands.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const text = element.textContent.trim();
    try {
      katex.render(text.slice(2, -2), element, {
        displayMode: text.startsWith("\\["),
        macros: { ...window.paperMacros },
        strict: "ignore",
      });
    } catch (error) {
      console.error(`mathematics: ${error.message}`);
    }
  }
});

// Scores of search results: the entry of an option is above all others. Sphinx puts this file into its search.
var Scorer = {
  // An option is found as max_seq_len, -max_seq_len and --max-seq-len.
  query: () => new URLSearchParams(location.search).get("q") ?? "",
  score: ([, title, , , score, , kind]) => {
    const name = Scorer.query().trim().toLowerCase().replace(/^-+/, "").replaceAll("-", "_");
    return kind === "object" && title === name ? score + 100 : score;
  },
  // These are the values of Sphinx.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

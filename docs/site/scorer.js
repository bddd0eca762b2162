// Scores of search results. Sphinx puts this file into its search; only the first value differs from its own.
var Scorer = {
  objNameMatch: 26, // the name of an option, of any command, is above options whose names only contain the query
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

"""Makes each option and each argument an entry of the site: an address for its row, and a result of the search.

The tables are those that docs/generate.py writes. A row of `max_seq_len` in the table of `bert-serving-start` has the
address `docs/server.html#bert-serving-start-max_seq_len`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains import ObjType
from sphinx.domains.std import StandardDomain

from bert_serving.server.config.options import OPTIONS

#: Subject of each generated table: its options are found by their names.
SUBJECTS = {
    "options": "bert-serving-start",
    "benchmark_options": "bert-serving-benchmark",
    "terminate_options": "bert-serving-terminate",
    "encode_command_options": "bert-serving-encode",
    "calibrate_options": "bert-serving-calibrate",
    "drift_options": "bert-serving-drift",
    "join_options": "bert-serving-join",
    "ray_options": "bert-serving-ray",
    "client_arguments": "BertClient",
    "encode_arguments": "BertClient.encode",
}
#: The variables of `bert-serving-start`, such as BERT_SERVING_MAX_SEQ_LEN, are found too. They lead to their options.
VARIABLE = "variable"
WITH_VARIABLE = {option.flag or name for name, option in OPTIONS.items()}
#: Subjects that the search shows before the others. Of equal names it shows that of `bert-serving-start` first.
MAIN = ("bert-serving-start", "BertClient", "BertClient.encode")


def generated_tables(doctree: nodes.document) -> Iterator[tuple[str, nodes.table]]:
    """Yields the generated tables of a page with their subjects."""
    subject = None
    for node in doctree.findall(lambda each: isinstance(each, (nodes.raw, nodes.comment, nodes.table))):
        if isinstance(node, nodes.table):
            if subject:
                yield subject, node
        elif match := re.search(r"generated: (\w+)|(end) -->", node.astext()):
            subject = SUBJECTS.get(match[1]) if match[1] else None


def names_of(cell: nodes.entry) -> list[str]:
    """Returns the names in the first cell of a row: an option and its aliases."""
    words = [literal.astext().split()[0] for literal in cell.findall(nodes.literal)]
    return [word.lstrip("-").lower() for word in words]


def add_entries(app: Sphinx, doctree: nodes.document) -> None:
    """Gives each row an address, and tells it to the search."""
    standard = app.env.get_domain("std")
    assert isinstance(standard, StandardDomain)
    for subject, table in generated_tables(doctree):
        table["classes"].append("entries")
        for body in table.findall(nodes.tbody):
            for row in body.findall(nodes.row):
                cell = next(row.findall(nodes.entry))
                names = names_of(cell)
                if not names:
                    continue
                anchor = f"{subject}-{names[0]}"
                row["ids"].append(anchor)
                literal = next(cell.findall(nodes.literal))
                link = nodes.reference("", "", refid=anchor, classes=["entry"])
                literal.replace_self(link)
                link += literal
                for name in names:
                    standard.note_object(subject, name, anchor, location=row)
                if subject == "bert-serving-start" and names[0] in WITH_VARIABLE:
                    standard.note_object(VARIABLE, f"bert_serving_{names[0]}", anchor, location=row)


def setup(app: Sphinx) -> dict[str, bool]:
    for subject in SUBJECTS.values():
        kind = "option" if subject.startswith("bert-serving") else "argument"
        priority = 0 if subject in MAIN else 1
        StandardDomain.object_types[subject] = ObjType(f"{kind} of {subject}", searchprio=priority)
    StandardDomain.object_types[VARIABLE] = ObjType("variable of bert-serving-start", searchprio=1)
    app.connect("doctree-read", add_entries)
    return {"parallel_read_safe": True}

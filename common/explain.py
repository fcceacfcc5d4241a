"""What the source says about the keys of a settings model: the meaning from docstrings, the reason from comments.

`docs/reference.md`, `salus job new` and `salus job schema` show the same words, so they cannot contradict the code.
"""

import ast
import functools
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from salus.common.strict import Strict


@dataclass(frozen=True)
class Words:
    """What the source says about one key.

    Args:
        meaning: from the ``Args`` of the class.
        reason: from the comment beside the default.
    """

    meaning: str
    reason: str


NOTHING = Words("", "")


@functools.cache
def words_of(model: type[BaseModel]) -> Mapping[str, Words]:
    """Return meaning and reason of every key of a model, also where it inherits the key or a plug-in owns it."""
    found: dict[str, Words] = {}
    for parent in reversed(model.__mro__):
        if issubclass(parent, Strict) and not vars(parent).get("assembled", False):
            for key, said in _words_in(parent).items():
                before = found.get(key, NOTHING)
                found[key] = Words(said.meaning or before.meaning, said.reason or before.reason)
    return found


def summary_of(model: type[BaseModel]) -> str:
    """Return the first line of a model's docstring."""
    return (inspect.getdoc(model) or "").partition("\n")[0]


@functools.cache
def _words_in(model: type[BaseModel]) -> dict[str, Words]:
    """Return meaning and reason of the keys of one class, from its docstring and the comments of its body."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):  # a plug-in without source
        return {name: Words(meaning, "") for name, meaning in _arguments(inspect.getdoc(model) or "").items()}
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = re.sub(
                r"^(type: ignore\[[^]]*\]|noqa: \S+)[ #]*", "", token.string.lstrip("# ")
            ).strip()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)  # Safe because it is the source of a class.
    meanings = _arguments(ast.get_docstring(body) or "")
    found = {name: Words(meaning, "") for name, meaning in meanings.items()}  # of inherited keys too
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            beside = " ".join(comments[line] for line in lines if line in comments)
            found[node.target.id] = Words(meanings.get(node.target.id, ""), beside)
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """Return the entries of a docstring's ``Args`` section; ``a, b: text`` speaks of both."""
    _, _, rest = docstring.partition("Args:\n")
    section = re.split(r"\n\n", rest)[0]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = re.match(r"^ {4}([a-z_0-9][a-z_0-9, ]*): (.*)$", line)
        if entry:
            names = [name.strip() for name in entry[1].split(",")]
            found |= dict.fromkeys(names, entry[2])
        elif line.strip():
            for name in names:
                found[name] += " " + line.strip()
    return found

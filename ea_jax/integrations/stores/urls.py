"""Store URLs: `qdrant:URL_OR_PATH#collection`, `postgresql://user@host/db#table`, `faiss:INDEX?texts=FILE`.

Options follow a question mark, before or after the name: `?text=`, `?vector=`, `?id=` and `?payload=` name fields.
A `#`, `?` or `%` that belongs to a path or a name is written `%23`, `%3F` or `%25`.
"""

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ea_jax.errors import BadInput, UnknownName, suggest_names

EXAMPLES = {
    "qdrant": "qdrant:http://localhost:6333#docs",
    "chroma": "chroma:./chroma#docs",
    "lancedb": "lancedb:./lancedb#docs",
    "postgresql": "postgresql://user@localhost/db#docs",
    "faiss": "faiss:docs.faiss?texts=docs.parquet",
    "sqlite-vec": "sqlite-vec:docs.db#docs",
    "milvus": "milvus:http://localhost:19530#docs",
}
_FIELDS = ("text", "vector", "id", "payload")
_OPTIONS = {
    **dict.fromkeys(EXAMPLES, _FIELDS),
    "postgresql": (*_FIELDS, "collection"),
    "faiss": ("text", "id", "texts"),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_.-]+):(.+)", re.DOTALL)


@dataclass(frozen=True)
class StoreUrl:
    """A parsed store URL. As a string it has no password, so that it can be shown and kept.

    Attributes:
        engine: `qdrant`, `chroma`, `lancedb`, `postgresql`, `faiss`, `sqlite-vec` or `milvus`.
        location: Path or address; for PostgreSQL all that its client takes.
        name: Collection or table; empty for FAISS.
        text: Field of the texts, if it is given; `vector`, `id` and `payload` likewise.
        texts: FAISS: the file of ids and texts.
        collection: PostgreSQL: a collection of LangChain's, all of which share one table.
    """

    engine: str
    location: str = field(repr=False)
    name: str = ""
    text: str | None = None
    vector: str | None = None
    id: str | None = None
    payload: str | None = None
    texts: str | None = None
    collection: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the location is the address of a server and no path."""
        return "://" in self.location

    @property
    def path(self) -> Path:
        """The location as a path."""
        return Path(self.location).expanduser()

    def renamed(self, **changes: str | None) -> "StoreUrl":
        """The same URL with other parts."""
        return replace(self, **changes)

    def reader(self, public: str) -> "StoreUrl":
        """The URL by which readers get what `publish` put under a public name."""
        if self.engine in ("lancedb", "postgresql"):  # a column of the same table
            return self.renamed(vector=None)
        if self.engine == "faiss":
            return self.renamed(location=str(Path(self.location).with_name(public)))
        return self.renamed(name=public)

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)[3:] if getattr(self, f.name) is not None}
        options = urlencode(given, quote_via=quote, safe="/")
        name = f"#{quote(self.name)}" if self.name else ""
        if self.engine == "postgresql":
            location, mark = _without_password(self.location), "&" if "?" in self.location else "?"
        else:
            location, mark = f"{self.engine}:{quote(self.location, safe='/:~@[]=+,;&')}", "?"
        return f"{location}{mark if options else ''}{options}{name}"


def is_store_url(text: str) -> bool:
    """Whether a text is meant as a store URL and not as the path of a file."""
    match = _SCHEME.fullmatch(text)
    return bool(match) and _engine(match[1]) in EXAMPLES


def parse_store_url(text: str) -> StoreUrl:
    """Parse a store URL.

    Raises:
        UnknownName: No engine or option has this name.
        BadInput: The location or the name of the collection is missing.
    """
    match = _SCHEME.fullmatch(text)
    if not match:
        raise BadInput(f"{text!r} is not a store URL. An example: {EXAMPLES['qdrant']}")
    engine, rest = _engine(match[1]), match[2]
    if engine not in EXAMPLES:
        raise UnknownName(f"{text!r}: there is no store engine {match[1]!r}. {suggest_names(match[1], EXAMPLES)}")
    body, _, fragment = rest.partition("#")
    location, _, before = body.partition("?")
    name, _, behind = fragment.partition("?")
    given = parse_qsl(before, keep_blank_values=True) + parse_qsl(behind, keep_blank_values=True)
    options = {key: value for key, value in given if key in _OPTIONS[engine]}
    others = [(key, value) for key, value in given if key not in options]
    if engine == "postgresql":  # the other options are the client's: ?sslmode=require
        location = f"postgresql:{location}" + (f"?{urlencode(others, quote_via=quote, safe='/')}" if others else "")
    elif others:
        known = ", ".join(f"?{option}=" for option in _OPTIONS[engine])
        raise UnknownName(f"{text!r}: a {engine} URL has no option {others[0][0]!r}. It has {known}.")
    else:
        location = unquote(location)
    empty = [key for key, value in options.items() if not value and key != "vector"]
    if empty:
        raise BadInput(f"{text!r}: the option {empty[0]!r} is empty. Give a name, or leave it out.")
    if not location or (engine != "faiss" and not name):
        part = "what follows the '#', the collection or table," if location else "the location"
        raise BadInput(f"{text!r}: {part} is missing. An example: {EXAMPLES[engine]}")
    return StoreUrl(engine, location, unquote(name), **options)


def _engine(scheme: str) -> str:
    """The engine of a scheme; other spellings that people write are understood."""
    scheme = scheme.lower()
    return {"postgres": "postgresql", "pgvector": "postgresql", "sqlite_vec": "sqlite-vec"}.get(scheme, scheme)


def _without_password(address: str) -> str:
    address = re.sub(r"(://[^:/@?#]*):[^@/?#]*@", r"\1@", address)
    return re.sub(r"([?&])password=[^&]*&?", r"\1", address).rstrip("?&")

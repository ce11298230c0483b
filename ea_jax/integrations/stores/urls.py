"""Store URLs: `qdrant:URL_OR_PATH#collection`, `postgresql://user@host/db#table`, `faiss:INDEX?texts=FILE`.

Options follow a question mark, before or after the name: `?text=`, `?vector=`, `?id=` and `?payload=` name fields.
In a path or a name, write `%23` for `#`, `%3F` for `?` and `%25` for `%`.
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
    "qdrant": ("text", "vector"),
    "chroma": ("text",),
    "postgresql": (*_FIELDS, "collection"),
    "faiss": ("text", "id", "texts"),
}
COLUMN_ENGINES = ("lancedb", "postgresql")  # in which siblings are columns of one table
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_.-]+):(.+)", re.DOTALL)


@dataclass(frozen=True)
class StoreUrl:
    """A parsed store URL. Its string omits the password, so that messages and job files may contain it.

    Attributes:
        engine: `qdrant`, `chroma`, `lancedb`, `postgresql`, `faiss`, `sqlite-vec` or `milvus`.
        location: Path or address; for PostgreSQL, the whole URL for its client.
        name: Collection or table; empty for FAISS.
        text: Name of the text field; None to use the engine's usual names. `vector`, `id` and `payload` work the same.
        texts: FAISS only: the file of ids and texts.
        collection: PostgreSQL only: name of a LangChain collection. All of them share one table.
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
        """Whether the location is a server's address, not a path."""
        return "://" in self.location

    @property
    def path(self) -> Path:
        """The location as a path."""
        return Path(self.location).expanduser()

    def copy_with(self, **changes: str | None) -> "StoreUrl":
        """Return a copy with some parts changed."""
        return replace(self, **changes)

    def published_url(self, public: str) -> "StoreUrl":
        """Return the URL of what `publish` put under a public name."""
        if self.engine in COLUMN_ENGINES:
            return self.copy_with(vector=None)
        if self.engine == "faiss":
            return self.copy_with(location=str(Path(self.location).with_name(public)))
        return self.copy_with(name=public)

    def __str__(self) -> str:
        options = {f.name: getattr(self, f.name) for f in fields(self)[3:] if getattr(self, f.name) is not None}
        query = urlencode(options, quote_via=quote, safe="/")
        name = f"#{quote(self.name)}" if self.name else ""
        if self.engine == "postgresql":
            location, mark = _without_password(self.location), "&" if "?" in self.location else "?"
        else:
            location, mark = f"{self.engine}:{quote(self.location, safe='/:~@[]=+,;&')}", "?"
        return f"{location}{mark if query else ''}{query}{name}"


def is_store_url(text: str) -> bool:
    """Whether a text is a store URL, not the path of a file."""
    match = _SCHEME.fullmatch(text)
    return bool(match) and _engine(match[1]) in EXAMPLES


def parse_store_url(text: str) -> StoreUrl:
    """Parse a store URL.

    Raises:
        UnknownName: The engine or an option is unknown.
        BadInput: The location or the name of the collection or table is missing.
    """
    match = _SCHEME.fullmatch(text)
    if not match:
        raise BadInput(f"{text!r} is not a store URL. An example: {EXAMPLES['qdrant']}")
    engine, rest = _engine(match[1]), match[2]
    if engine not in EXAMPLES:
        raise UnknownName(f"{text!r}: {match[1]!r} is not a store engine. {suggest_names(match[1], EXAMPLES)}")
    front, _, fragment = rest.partition("#")
    location, _, query = front.partition("?")
    name, _, later_query = fragment.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True) + parse_qsl(later_query, keep_blank_values=True)
    options = {key: value for key, value in pairs if key in _OPTIONS[engine]}
    others = [(key, value) for key, value in pairs if key not in options]
    if engine == "postgresql":  # other options go to the client: ?sslmode=require
        location = f"postgresql:{location}" + (f"?{urlencode(others, quote_via=quote, safe='/')}" if others else "")
    elif others:
        known = ", ".join(f"?{option}=" for option in _OPTIONS[engine])
        raise UnknownName(f"{text!r}: a {engine} URL has no option {others[0][0]!r}. Its options are {known}.")
    else:
        location = unquote(location)
    empty = [key for key, value in options.items() if not value and key != "vector"]
    if empty:
        raise BadInput(f"{text!r}: the option {empty[0]!r} is empty. Give it a name, or omit it.")
    if not location or (engine != "faiss" and not name):
        part = "the part after '#', the collection or table," if location else "the location"
        raise BadInput(f"{text!r}: {part} is missing. An example: {EXAMPLES[engine]}")
    return StoreUrl(engine, location, unquote(name), **options)


def _engine(scheme: str) -> str:
    """Return the engine of a scheme, which has several common spellings."""
    scheme = scheme.lower()
    return {"postgres": "postgresql", "pgvector": "postgresql", "sqlite_vec": "sqlite-vec"}.get(scheme, scheme)


def _without_password(address: str) -> str:
    address = re.sub(r"(://[^:/@?#]*):[^@/?#]*@", r"\1@", address)
    return re.sub(r"([?&])password=[^&]*&?", r"\1", address).rstrip("?&")

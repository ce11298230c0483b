"""Composite encoders and windows, compared with hidden states of torch and sums in float64."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import jax
import numpy as np
import pytest

from ea_jax.encoders.batching import Tokens, Windows, make_batches
from ea_jax.encoders.composite import join_encoders, select_layers
from ea_jax.encoders.encoder import Encoder
from ea_jax.encoders.load_folder import load_folder
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.errors import BadEncoder, BadInput, EncoderNotFound, FingerprintMismatch, UnknownName
from ea_jax.loading import load_encoder, load_source_encoder
from ea_jax.registry.entry import Entry
from ea_jax.registry.index import NAME
from ea_jax.registry.lookup import entry_name
from ea_jax.registry.spaces import find_space, list_members
from tests.encoders.test_architectures import (
    FAMILIES,
    LETTERS,
    letter_tokenizer,
    make_folder,
    static_folder,
    write_modules,
)
from tests.support.hub import COMMIT
from tests.support.texts import mixed_texts

torch = pytest.importorskip("torch", reason="torch is the oracle of these tests")
transformers = pytest.importorskip("transformers")

SPACES = """
[[space]]
id = "toy/bert"
aliases = ["tb"]
width = 40
unit_norm = true
local = true
layers = 4
prompts = { query = "q ", passage = "p " }

[[space]]
id = "toy/first"
aliases = ["tf"]
width = 36
unit_norm = true
local = true

[[space]]
id = "toy/table"
aliases = ["tt"]
width = 6
unit_norm = true
local = true

[[space]]
id = "toy/plus"
aliases = ["toy-plus"]
width = 86
unit_norm = true
local = true
composite = "tb@0,3+tt"

[[space]]
id = "toy/wrong"
aliases = ["toy-wrong"]
width = 87
unit_norm = true
local = true
composite = "tb@0,3+tt"
"""
LIMIT, MOST = 10, 6
TEXTS = ["a b c", "", "z", "h e l l o w o r l d", "q r s " * 12, "u n k n o w n W", "a b c d e f g h", "x y " * 40]


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def snapshot(cache: Path, model: str) -> Path:
    """Create an empty folder of a model in a hub cache."""
    repository = cache / f"models--{model.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (folder := repository / "snapshots" / COMMIT).mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A registry of toy spaces, whose models are in a hub cache."""
    root, cache = tmp_path_factory.mktemp("registry"), tmp_path_factory.mktemp("cache")
    (root / "spaces.toml").write_text(SPACES)
    bert = make_folder(snapshot(cache, "toy/bert"), "bert, four layers")
    write_modules(bert, "mean", "Normalize")
    first = make_folder(snapshot(cache, "toy/first"), "roberta", "cls")
    write_modules(first, "cls", "Normalize")
    for folder in (bert, first):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LIMIT}))
    table = np.random.default_rng(0).normal(size=(31, 6)).astype(np.float32)
    place = snapshot(cache, "toy/table")
    static_folder(place / "0_StaticEmbedding", **{"embedding.weight": table})
    (place / "config.json").write_text("{}")
    modules = [{"path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"}]
    modules += [{"path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "tokenizer.json").write_text("{}")  # the tokenizer in use is beside the table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        yield root


@pytest.fixture(scope="module")
def plus(root) -> Encoder:
    return load_encoder("toy-plus", dtype="float32", root=root)


def letter_ids(text: str) -> list[int]:
    return [5 + LETTERS.index(letter) if letter in LETTERS else 4 for letter in text.split()]


def windows_of(ids: list[int], limit: int = LIMIT, most: int = MOST) -> list[list[int]]:
    """Split ids into windows between [CLS] and [SEP]."""
    room = limit - 2
    return [[2, *ids[i : i + room], 3] for i in range(0, max(1, min(len(ids), room * most)), room)]


def torch_states(model, windows: list[list[int]]) -> np.ndarray:
    """[layers + 1, d]: mean of each hidden state over the tokens of all windows, each computed alone."""
    with torch.no_grad():
        outputs = [model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in windows]
    tokens = [np.concatenate([o[layer][0].double().numpy() for o in outputs]) for layer in range(len(outputs[0]))]
    return np.stack([states.mean(0) for states in tokens])


def reference(root: Path, texts: list[str], layers=(0, 3), weight=0.7, most: int = MOST) -> np.ndarray:
    """Compute the composite of toy/bert's hidden states and toy/table in float64, text by text."""
    folder = find_encoder_folder(find_space("tb", root))
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    table = load_folder(find_encoder_folder(find_space("tt", root))).params["model"]["word"]["embedding"]
    table, rows = np.asarray(table, np.float64), []
    for text in texts:
        ids = letter_ids(text)
        states = torch_states(model, windows_of(ids, most=most))
        words = table[ids].mean(0) if ids else np.zeros(6)
        rows.append(unit(np.concatenate([*(unit(states[layer]) for layer in layers), weight * unit(words)])))
    return np.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_match_torch_in_every_family(tmp_path, family):
    folder = make_folder(tmp_path, family)
    write_modules(folder, "mean", "Normalize")
    plain = load_folder(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = plain.tokenize(TEXTS[:4]).ids
    expected = np.stack([torch_states(model, [row]) for row in ids])
    for layers in (tuple(range(expected.shape[1])), (1, 0)):
        result = select_layers(plain, layers)(TEXTS[:4])
        # values reach 5 before normalization, and float32 has seven digits
        np.testing.assert_allclose(result, expected[:, layers].reshape(4, -1), rtol=1e-5, atol=1e-5)


def test_a_composite_is_its_formula_on_short_and_long_texts(plus, root):
    np.testing.assert_allclose(plus(TEXTS), reference(root, TEXTS), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(plus(TEXTS), axis=1), 1, atol=1e-6)
    assert plus.spec.width == 86


def test_layers_keep_their_order(root):
    encode = load_encoder("tb@4,1+tt", dtype="float32", root=root)
    np.testing.assert_allclose(encode(TEXTS), reference(root, TEXTS, layers=(4, 1)), atol=2e-6)


def test_a_plain_member_is_its_ordinary_embedding(root):
    plain, table = (load_encoder(name, dtype="float32", root=root) for name in ("tb", "tt"))
    texts = TEXTS[:3]
    both = np.concatenate([plain(texts), 0.7 * table(texts)], axis=1).astype(np.float64)
    np.testing.assert_allclose(load_encoder("tb+tt", dtype="float32", root=root)(texts), unit(both), atol=2e-6)
    np.testing.assert_allclose(load_encoder("tb@4", dtype="float32", root=root)(texts), plain(texts), atol=2e-6)


def test_members_without_mean_pooling_truncate_long_texts(root):
    encode = load_encoder("tf+tb@1", dtype="float32", root=root)
    first, states = (load_encoder(name, dtype="float32", root=root) for name in ("tf", "tb@1"))
    both = np.concatenate([first(TEXTS), states(TEXTS)], axis=1)
    np.testing.assert_allclose(encode(TEXTS), unit(both), atol=2e-6)
    assert [member.windows for member in encode.spec.members] == [1, 6]
    assert encode.tokenize(["a " * 9]).truncated == [True]
    assert load_encoder("tf@1", root=root).spec.windows == 6  # hidden states are always mean-pooled


def test_texts_beyond_six_windows_are_truncated(plus):
    texts = ["a " * 8, "a " * 9, "a " * 48, "a " * 49, "a " * 90]
    assert plus.tokenize(texts).truncated == [False, False, False, True, True]
    tokens = plus.pad(plus.tokenize(["a b", "a " * 90]))
    assert isinstance(tokens[0], Windows)
    np.testing.assert_array_equal(tokens[0].tokens, [4, 60])
    assert plus.tokenize(["a " * 9], max_length=10).truncated == [True]
    assert plus.tokenize(["a " * 9], max_length=11).truncated == [False]


def test_max_length_truncates_instead_of_windows(plus, root):
    states, table = (load_encoder(name, dtype="float32", root=root) for name in ("tb@0,3", "tt"))
    five, seven = ([" ".join(text.split()[:count]) for text in TEXTS] for count in (5, 7))  # with [CLS] and [SEP], 7
    expected = np.concatenate([2**0.5 * states(five), 0.7 * table(seven)], axis=1)
    np.testing.assert_allclose(plus(TEXTS, max_length=7), unit(expected), atol=2e-6)


def test_neither_order_nor_batch_size_changes_a_vector(plus):
    alone = np.concatenate([plus([text]) for text in TEXTS])
    np.testing.assert_allclose(plus(TEXTS[::-1])[::-1], alone, atol=2e-6)
    for batch_size in (1, 2, 5):
        np.testing.assert_allclose(plus(TEXTS * 3, batch_size=batch_size), np.tile(alone, (3, 1)), atol=2e-6)
    assert plus([]).shape == (0, 86)


def test_streams_and_the_call_of_sentence_transformers_give_the_same(plus, monkeypatch):
    monkeypatch.setattr("ea_jax.encoders.encoder.CHUNK", 3)
    np.testing.assert_allclose(np.concatenate(list(plus.stream(iter(TEXTS)))), plus(TEXTS), atol=2e-6)
    np.testing.assert_allclose(plus.encode(TEXTS[0]), plus(TEXTS)[0], atol=2e-6)
    np.testing.assert_allclose(plus.embed(plus.tokenize(TEXTS)), plus(TEXTS), atol=2e-6)


def on_two_devices(apply):
    """Replicate the parameters of the function on both CPU devices."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("devices",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return lambda params, tokens: apply(jax.device_put(params, everywhere), tokens)


def split_kernels(apply):
    """Split the columns of every kernel between both CPU devices."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("devices",))

    def place(path, leaf):
        split = path[-1].key == "kernel" and leaf.shape[1] % 2 == 0
        axes = jax.sharding.PartitionSpec(None, "devices") if split else jax.sharding.PartitionSpec()
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, axes))

    return lambda params, tokens: apply(jax.tree_util.tree_map_with_path(place, params), tokens)


WAYS = {"plain": lambda f: f, "jit": jax.jit, "replicated": on_two_devices, "sharded": split_kernels}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("texts", [TEXTS[:3], TEXTS], ids=["one window each", "windows"])
def test_apply_maps_tokens_to_embeddings(plus, way, texts):
    tokens = plus.pad(plus.tokenize(texts))
    assert [type(part) for part in tokens] == [Tokens if len(texts) == 3 else Windows, Tokens]
    np.testing.assert_allclose(WAYS[way](plus.apply)(plus.params, tokens), plus(texts), atol=2e-6)


def test_apply_reads_the_parameters_it_is_given(plus):
    tokens = plus.pad(plus.tokenize(TEXTS))
    other = jax.tree.map(lambda leaf: leaf * 1.5, plus.params)
    assert not np.allclose(plus.apply(other, tokens), plus(TEXTS), atol=1e-3)
    np.testing.assert_allclose(replace(plus, params=other)(TEXTS), plus.apply(other, tokens), atol=2e-6)
    gradient = jax.grad(lambda params: plus.apply(params, tokens)[:, 0].sum())(plus.params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert jax.tree.map(lambda leaf: leaf, plus).spec == plus.spec


def test_layers_beyond_the_last_selected_one_are_left_out(plus):
    assert {name for name in plus.params["members_0"]["model"] if name.startswith("layer_")} == {
        "layer_0",
        "layer_1",
        "layer_2",
    }


def test_half_precision_stays_close(root, plus):
    small = load_encoder("toy-plus", dtype="bfloat16", root=root)
    assert np.sum(small(TEXTS) * plus(TEXTS), axis=1).min() > 0.999
    assert small.spec.facts() == plus.spec.facts()


def test_windows_of_a_plain_encoder_are_averaged_and_recorded(root):
    plain, long = (load_encoder("tb", dtype="float32", long=long, root=root) for long in ("cut", "window"))
    folder = find_encoder_folder(find_space("tb", root))
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    expected = unit(np.stack([torch_states(model, windows_of(letter_ids(text)))[-1] for text in TEXTS]))
    np.testing.assert_allclose(long(TEXTS), expected, atol=2e-6)
    np.testing.assert_array_equal(long(TEXTS[:3]), plain(TEXTS[:3]))  # the same batches of the same tokens
    assert plain.spec == load_encoder("tb", dtype="float32", root=root).spec
    assert long.spec.facts()["windows"] == 6
    assert "windows" not in plain.spec.facts()
    assert long.spec.facts()["fingerprint"] != plain.spec.facts()["fingerprint"]
    with pytest.raises(BadInput, match="toy/first uses cls pooling, but windows need mean pooling"):
        load_encoder("tf", long="window", root=root)
    with pytest.raises(BadInput, match="long is 'windows'; it must be one of cut, window"):
        load_encoder("tb", long="windows", root=root)


def test_a_composite_may_cut_long_texts(root):
    result = load_encoder("toy-plus", dtype="float32", long="cut", root=root)
    np.testing.assert_allclose(result(TEXTS), reference(root, TEXTS, most=1), atol=2e-6)


def fingerprint(encoder: Encoder) -> str:
    hash(encoder.spec)
    return str(encoder.spec.facts()["fingerprint"])


def test_the_fingerprint_covers_layers_weights_windows_and_members(root, plus):
    names = ["tb@0,2+tt", "tb@3,0+tt", "tb@0,1,3+tt", "tb+tt", "tt+tb@0,3", "tb@0,3", "tb@0,3+tf", "tb@0,3+tt+tf"]
    made = [fingerprint(load_encoder(name, root=root)) for name in names]
    made += [fingerprint(load_encoder("toy-plus", long="cut", root=root)), fingerprint(plus.with_windows(5))]
    weights = tuple(replace(spec, weight=0.5) for spec in plus.spec.members)
    made += [fingerprint(replace(plus, spec=replace(plus.spec, members=weights)))]
    assert len({*made, fingerprint(plus)}) == len(made) + 1
    assert fingerprint(load_encoder("TB@0,3+tt", root=root)) == fingerprint(plus)
    assert fingerprint(load_encoder("toy/bert@0,3+toy/table", dtype="bfloat16", root=root)) == fingerprint(plus)
    assert [spec.weight for spec in plus.spec.members] == [1.0, 0.7]


def test_the_fingerprint_of_minilm_is_stable(minilm):
    assert minilm.spec.facts()["fingerprint"] == "ef7c6bdace8123a1"


def test_a_prompt_reaches_the_members_that_have_it(root, plus):
    table = plus.members[1]
    np.testing.assert_allclose(plus(["a b"], prompt="query"), plus.with_prompt("query")(["a b"]), atol=1e-6)
    states = plus.members[0](["q a b"])
    expected = np.concatenate([unit(states[:, :40]), unit(states[:, 40:]), 0.7 * table(["a b"])], axis=1)
    np.testing.assert_allclose(plus(["a b"], prompt="query"), unit(expected), atol=2e-6)
    assert fingerprint(plus.with_prompt("query")) == plus.spec.facts("query")["fingerprint"] != fingerprint(plus)
    with pytest.raises(UnknownName, match=r"toy/plus has no prompt named 'quary'\. Did you mean query"):
        plus(["a"], prompt="quary")


def entry(root: Path, source: str, facts: dict) -> Entry:
    """Make an entry that has only names and the facts of an encoder."""
    rest = {"params": {}, "quality": {}, "metrics": {}, "training": {}}
    return Entry(root / "name", "linear", source, "openai/text-embedding-3-small", "small", 8, 8, True, facts, **rest)


def test_the_encoder_of_an_entry_is_loaded_by_its_id(root, plus, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    other = load_encoder("tb@0,1+tf", root=root)
    windowed = load_encoder("tb", long="window", root=root)
    for encoder in (plus, other, windowed, plus.with_prompt("query")):
        result = load_source_encoder(entry(root, encoder.spec.model, encoder.spec.facts()))
        assert result.spec.facts() == encoder.spec.facts()
    with pytest.raises(FingerprintMismatch, match=r"weight '1\.0\+0\.7' for '1\.0\+0\.5'"):
        load_source_encoder(entry(root, "toy/plus", plus.spec.facts() | {"weight": "1.0+0.5", "fingerprint": "0"}))


def test_a_composite_space_follows_from_its_members(root):
    space = find_space("minilm@0,2,6+wordllama")
    assert (space.width, space.unit_norm, space.local, space.alias) == (1408, True, True, "minilm@0,2,6+wordllama")
    assert find_space(space.id) == find_space("MiniLM@0,02,6+WordLlama") == space
    named = [find_space(name) for name in ("minilm-plus", "ea_jax/minilm-plus", "minilm@0,3,6+wordllama")]
    assert {space.alias for space in named} == {"minilm-plus"}
    assert named[0].width == sum(member.width for member in list_members(named[0])) == 1408
    assert (find_space("minilm+wordllama").width, find_space("minilm@6").width) == (640, 384)
    assert find_space("minilm+mpnet@12,0+e5-base").width == 384 + 2 * 768 + 768
    assert list_members(find_space("minilm")) == ()
    assert find_space("tf@1", root).width == 36


def test_entry_names_of_composites_are_file_names(root):
    for source in ("minilm@0,2,6+wordllama", "minilm-plus"):
        name = entry_name(entry(root, find_space(source).id, {}))
        assert name == f"{source}--oai-3-small--small"
        assert NAME.fullmatch(name)


ERRORS = {
    "minilmm@0+wordllama": (UnknownName, r"'minilmm', a member of 'minilmm@0\+wordllama'\. Did you mean minilm"),
    "minilm@7": (BadInput, r"'minilm@7' requests layer 7, but minilm has layers 0 \(the embedding layer\) to 6"),
    "minilm+oai-3-small": (BadInput, "openai/text-embedding-3-small has no local encoder"),
    "minilm+wordllama@0": (BadInput, "layers of wordllama, which is a static token table. Omit @0"),
    "minilm+": (BadInput, r"'minilm\+' has a member without a name\. A composite looks like minilm@0,3,6\+wordllama"),
    "+": (BadInput, "has a member without a name"),
    "@0": (BadInput, "has a member without a name"),
    "minilm@": (BadInput, "requests the layers '' of minilm, which are not numbers"),
    "minilm@0,,3": (BadInput, "requests the layers '0,,3' of minilm"),
    "minilm@-1": (BadInput, "requests the layers '-1' of minilm"),
    "minilm@0@3": (BadInput, "requests the layers '0@3' of minilm"),
    "minilm@99999": (BadInput, "requests the layers '99999' of minilm"),
    "minilm@3,3": (BadInput, "names a layer of minilm twice"),
    "minilm@0+minilm@3": (BadInput, "names minilm twice. Name it once, with all its layers"),
    "minilm-plus+mpnet": (BadInput, r"the composite minilm-plus as a member\. Write minilm@0,3,6\+wordllama instead"),
    "minilm-plus@3": (BadInput, "the composite minilm-plus as a member"),
    "": (UnknownName, "No model space is named ''"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_invalid_composite_is_one_clear_sentence(name):
    kind, message = ERRORS[name]
    for find in (find_space, load_encoder):
        if name or find is find_space:  # "" is the current folder
            with pytest.raises(kind, match=message):
                find(name)


def test_faults_in_the_folder_of_a_member_are_errors(root):
    with pytest.raises(
        BadInput, match=r"'toy/first@3' requests layer 3, but toy/first has layers 0 \(the embedding layer\) to 2"
    ):
        load_encoder("tf@3+tt", root=root)
    with pytest.raises(BadInput, match=r"toy/table is a static token table and has no layers\. Name it without @"):
        load_encoder("tb+tt@1", root=root)
    with pytest.raises(BadInput, match="toy-plus is a composite, which takes no dim"):
        load_encoder("toy-plus", dim=3, root=root)
    with pytest.raises(BadInput, match="toy-plus is a composite, which takes no folder"):
        load_encoder("toy-plus", folder=root, root=root)
    with pytest.raises(BadInput, match="toy-plus is a composite: each of its members"):
        find_encoder_folder(find_space("toy-plus", root))
    (root / "other").mkdir()
    (root / "other" / "spaces.toml").write_text(SPACES.replace("tb@0,3+tt", "tb@0,1,3+tt"))
    with pytest.raises(BadEncoder, match=r"toy/plus has width 86, but its members have widths 120 \+ 6"):
        load_encoder("toy-plus", root=root / "other")


def test_a_missing_member_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderNotFound, match="all-mpnet-base-v2"):
        load_encoder("mpnet@0,12+wordllama")


def test_a_composite_is_found_without_heavy_imports():
    code = (
        "import sys; from ea_jax.registry.spaces import find_space; find_space('minilm@0,2+wordllama');"
        "print([m for m in sys.modules if m in {'jax', 'numpy', 'flax', 'tokenizers', 'huggingface_hub'}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("max_rows", [2, 1024])
def test_all_windows_of_a_text_are_in_one_batch(max_rows):
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 50, size=int(n)).tolist() for n in rng.integers(1, 60, size=300)]
    made = list(make_batches(ids, budget=40, max_rows=max_rows, max_tokens=10, pad_id=0))
    assert sorted(row for rows, _ in made for row in rows) == list(range(300))
    assert len({tokens.ids.shape for _, tokens in made}) <= 5
    for rows, tokens in made:
        assert len(rows) <= max_rows
        if isinstance(tokens, Windows):
            for i, row in enumerate(rows):
                mine = tokens.text == i
                assert tokens.ids[mine][tokens.mask[mine] > 0].tolist() == ids[row]
                assert tokens.tokens[i] == len(ids[row])
        else:
            assert all(len(ids[row]) <= 10 for row in rows)


def test_windows_of_a_tokenizer_without_special_tokens_have_none(tmp_path):
    folder = make_folder(tmp_path, "bert, four layers")
    letter_tokenizer(folder, special=False)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 4}))
    encode = load_folder(folder).with_windows(3)
    tokenized = encode.tokenize(["a b c d e f g h i j k l m", "a b c"])
    assert tokenized.ids == [list(range(5, 17)), [5, 6, 7]]
    assert tokenized.truncated == [True, False]


@pytest.fixture(scope="module")
def minilm_plus() -> Encoder:
    try:
        return load_encoder("minilm-plus", dtype="float32")
    except EncoderNotFound as error:
        pytest.skip(str(error))


def test_minilm_plus_gives_the_vectors_of_torch_and_wordllama(minilm_plus):
    long = " ".join(mixed_texts(300))[:9000]
    texts = [*mixed_texts(20), "", long, long[:1500]]
    folder = find_encoder_folder(find_space("minilm"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    table = load_encoder("wordllama", dtype="float32")
    table_rows = np.asarray(table.params["model"]["word"]["embedding"], np.float64)
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        pieces = [[101, *ids[i : i + 254], 102] for i in range(0, max(1, min(len(ids), 6 * 254)), 254)]
        states = torch_states(model, pieces)
        words = table.tokenizer.encode(text, add_special_tokens=False).ids
        vector = table_rows[words].mean(0) if words else np.zeros(256)
        rows.append(unit(np.concatenate([*(unit(states[layer]) for layer in (0, 3, 6)), 0.7 * unit(vector)])))
    assert np.abs(minilm_plus(texts) - np.stack(rows)).max() < 1e-5
    assert minilm_plus.tokenize(texts).truncated == [*([False] * 21), True, False]


def test_fetch_prints_the_folder_of_every_member(ea, minilm_plus):
    code, out, _ = ea("fetch", "minilm-plus")
    assert code == 0
    assert out.splitlines() == [str(find_encoder_folder(find_space(name))) for name in ("minilm", "wordllama")]
    assert ea("fetch", "minilm@0,2+wordllama")[1] == out
    assert "requests layer 9" in ea("fetch", "minilm@9")[2]


def test_wordllama_is_found_in_the_hub_cache_and_checked(ea, tmp_path, monkeypatch, minilm_plus):
    space, package = find_space("wordllama"), find_encoder_folder(find_space("wordllama"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = snapshot(tmp_path, space.id)
    for name in (space.table, space.tokenizer):  # the hub has both at the top of the folder
        (folder / Path(name).name).write_bytes((package / name).read_bytes())
    assert find_encoder_folder(space) == folder
    assert ea("fetch", "wordllama")[1].strip() == str(folder)
    np.testing.assert_array_equal(
        load_encoder("wordllama")(["a text"]), load_encoder("wordllama", folder=package)(["a text"])
    )
    (folder / Path(space.table).name).write_bytes(b"other")
    assert "is not the published file" in ea("fetch", "wordllama")[2]
    (folder / Path(space.tokenizer).name).unlink()
    assert find_encoder_folder(space) == package


def test_commands_take_a_composite_as_a_source(ea):
    assert (
        "No adapter goes from minilm@0,2+wordllama to oai-3-small"
        in ea("embed", "--source", "minilm@0,2+wordllama", "--target", "oai-3-small", "--text", "a")[2]
    )
    assert ea("list")[0] == 0


def test_members_may_be_joined_without_a_registry(root, plus):
    made = join_encoders(plus.members, plus.spec.model)
    assert made.spec == plus.spec
    np.testing.assert_allclose(made(TEXTS), plus(TEXTS), atol=1e-6)

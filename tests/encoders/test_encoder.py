import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ea_jax.encoders.batching import Tokens, make_batches
from ea_jax.encoders.encoder import Encoder, _embed
from ea_jax.encoders.load_folder import load_folder
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.errors import BadEncoder, BadInput, UnknownName
from ea_jax.loading import load_encoder
from ea_jax.registry.spaces import find_space
from tests.support.texts import mixed_texts

torch = pytest.importorskip("torch", reason="torch is the oracle of these tests")
transformers = pytest.importorskip("transformers")

TINY = {
    "model_type": "bert",
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 40,
    "vocab_size": 60,
    "hidden_act": "gelu",
    "initializer_range": 0.3,
}
POOLING = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def torch_embed(folder: Path, texts: list[str], max_length: int, normalize: bool = True) -> np.ndarray:
    """Compute mean-pooled vectors with torch in float32, one text at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
            mean = model(**tokens).last_hidden_state[0].mean(0)
            rows.append(mean / mean.norm() if normalize else mean)
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    """A sentence-transformers folder with random weights, a vocabulary of letters, and no tokenizer.json."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**TINY)).save_pretrained(folder)
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    return folder


@pytest.fixture
def broken(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "broken"))


@pytest.fixture(scope="module")
def tiny(tiny_folder) -> Encoder:
    return load_folder(tiny_folder)


TEXTS = ["abc", "", "hello world", "zebra " * 30, "q", "many words of many letters here"]


@pytest.mark.slow
def test_minilm_matches_torch_on_500_mixed_texts(minilm):
    texts = mixed_texts(500)
    expected = torch_embed(find_encoder_folder(find_space("minilm")), texts, 256)
    assert np.abs(load_encoder("minilm", dtype="float32")(texts) - expected).max() < 1e-5
    bfloat16 = load_encoder("minilm", dtype="bfloat16")(texts)
    assert np.sum(bfloat16 * expected, axis=1).min() > 0.9999


def test_a_bert_of_odd_sizes_matches_torch(tiny, tiny_folder):
    assert np.abs(tiny(TEXTS) - torch_embed(tiny_folder, TEXTS, 20)).max() < 1e-5


def test_a_folder_without_normalize_is_not_normalised(broken):
    (broken / "modules.json").write_text(json.dumps(MODULES[:2]))
    result = load_folder(broken)(TEXTS)
    np.testing.assert_allclose(result, torch_embed(broken, TEXTS, 20, normalize=False), atol=1e-5)
    assert np.abs(np.linalg.norm(result, axis=1) - 1).max() > 0.1


def test_transformers_converts_a_vocab_txt(broken, tiny):
    (broken / "tokenizer.json").unlink()
    np.testing.assert_allclose(load_folder(broken)(TEXTS), tiny(TEXTS), atol=1e-6)


def test_a_vector_does_not_depend_on_the_batch(tiny):
    alone = np.concatenate([tiny([text]) for text in TEXTS])
    for batch_size in (1, 2, 5, 32):
        np.testing.assert_allclose(tiny(TEXTS, batch_size=batch_size), alone, atol=1e-6)
    np.testing.assert_allclose(tiny(TEXTS[::-1])[::-1], alone, atol=1e-6)


def test_apply_is_pure_and_ignores_padding(tiny):
    ids = np.asarray([[2, 7, 8, 3], [2, 9, 3, 0]], np.int32)
    tokens = Tokens(ids, (ids > 0).astype(np.int32))
    padded = Tokens(*(np.pad(part, ((0, 0), (0, 5))) for part in tokens))
    plain = tiny.apply(tiny.params, tokens)
    np.testing.assert_allclose(tiny.apply(tiny.params, padded), plain, atol=1e-6)
    np.testing.assert_allclose(jax.jit(tiny.apply)(tiny.params, tokens), plain, atol=1e-6)
    other = jax.tree.map(lambda a: a * 1.5, tiny.params)
    assert not np.allclose(tiny.apply(other, tokens), plain, atol=1e-3)
    assert jax.tree.map(jnp.shape, tiny).spec == tiny.spec


def test_long_texts_are_truncated_and_flagged(tiny):
    tokenized = tiny.tokenize(["a b c", "a " * 50], max_length=10)
    assert [len(ids) for ids in tokenized.ids] == [5, 10]
    assert tokenized.truncated == [False, True]
    assert len(tiny.tokenize(["a " * 50]).ids[0]) == 20


def test_a_generator_is_embedded_in_constant_memory(tiny, monkeypatch):
    monkeypatch.setattr("ea_jax.encoders.encoder.CHUNK", 4)
    taken = []

    def texts():
        for i in range(11):
            taken.append(i)
            yield "ab"[i % 2] * (1 + i)

    parts = tiny.stream(texts())
    first = next(parts)
    assert len(taken) == 8  # one part is done, the next is computed, and no more was read
    result = np.concatenate([first, *parts])
    np.testing.assert_allclose(result, tiny(["ab"[i % 2] * (1 + i) for i in range(11)]), atol=1e-6)


def test_a_nul_byte_is_an_ordinary_character(tiny):
    assert np.all(np.isfinite(tiny(["a\x00b"])))


def test_few_shapes_serve_texts_of_all_lengths():
    rng = np.random.default_rng(0)
    ids = [
        [2, *rng.integers(5, 50, size=int(n)).tolist(), 3]
        for n in np.exp(rng.uniform(np.log(6), np.log(250), size=2000))
    ]
    made = list(make_batches(ids, budget=1024, max_rows=1024, max_tokens=256, pad_id=0))
    assert sorted(row for rows, _ in made for row in rows) == list(range(2000))
    assert len({tokens.ids.shape for _, tokens in made}) <= 12
    assert sum(tokens.ids.size for _, tokens in made) / sum(map(len, ids)) < 1.2
    for rows, tokens in made[::20]:
        for i, row in enumerate(rows):
            assert list(tokens.ids[i][tokens.mask[i] > 0]) == list(ids[row])


@pytest.mark.parametrize("batch_size", [1, 6])
def test_warm_encoders_never_compile(tiny, batch_size):
    encode, rng = tiny.with_windows(3), np.random.default_rng(0)
    encode.warm(batch_size, max_tokens=120)
    compiled = _embed._cache_size()
    for count in range(1, 20):
        encode([" ".join("ab"[i % 2] for i in range(n)) for n in rng.integers(1, 100, count)][:batch_size])
    assert _embed._cache_size() == compiled


def test_small_batches_are_at_least_half_full():
    for count in range(1, 64):
        made = list(make_batches([[1, 2]] * count, budget=1024, max_rows=64, max_tokens=256, pad_id=0))
        assert sum(len(tokens.ids) for _, tokens in made) <= 2 * count
        assert {len(tokens.ids) for _, tokens in made} <= {1, 4, 16, 64}


def test_no_texts_give_no_rows(tiny):
    assert tiny([]).shape == (0, 36)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e("a text"), "list of strings"),
        (lambda e: e(text for text in ["a", 7]), "Text 1 is int, not a string"),
        (lambda e: e(text for text in ["a"] * 5000 + [None]), "Text 5000 is NoneType"),
        (lambda e: e(["a", "\udce9"]), "Text 1 contains a lone surrogate"),
        (lambda e: e(["a" * 10_000_000]), "Text 0 has 10,000,000 characters"),
        (lambda e: e(["a"], max_length=41), "from 3 to 40 tokens"),
        (lambda e: e(["a"], max_length=2), "from 3 to 40 tokens"),
        (lambda e: e(["a"], batch_size=0), "batch_size is 0"),
    ],
)
def test_a_bad_call_is_one_clear_sentence(tiny, call, message):
    with pytest.raises(BadInput, match=message):
        call(tiny)


def test_prompts_are_prefixes_and_unknown_ones_are_refused(broken):
    prompts = {"prompts": {"query": "query ", "passage": "passage "}}
    (broken / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    encode = load_folder(broken)
    np.testing.assert_allclose(encode(["abc"], prompt="query"), encode(["query abc"]), atol=1e-6)
    assert encode.spec.facts("query")["fingerprint"] != encode.spec.facts()["fingerprint"]
    with pytest.raises(UnknownName, match=r"'quary'\. Did you mean query"):
        encode(["abc"], prompt="quary")


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


BREAKS = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"12345678901234567"), "as safetensors"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "as a tokenizer"),
    "another family": (
        lambda f: edit(f / "config.json", model_type="brt"),
        "'brt' is not supported. Did you mean bert",
    ),
    "another activation": (lambda f: edit(f / "config.json", hidden_act="sine"), "hidden_act = 'sine'"),
    "another shape": (
        lambda f: edit(f / "config.json", vocab_size=61),
        r"wrong shape: model.word.embedding \(60, 36\)",
    ),
    "two models": (
        lambda f: (f / "modules.json").write_text(
            json.dumps([*MODULES, {"type": "sentence_transformers.models.Dense", "path": "3_Dense"}])
        ),
        "Dense",
    ),
    "missing and unused weights": (
        lambda f: edit_weights(f, lambda w: w.update(stray=w.pop("embeddings.LayerNorm.bias"))),
        r"missing: embeddings.LayerNorm.bias; unused: stray",
    ),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_damaged_folder_is_refused(broken, fault):
    break_it, message = BREAKS[fault]
    break_it(broken)
    with pytest.raises(BadEncoder, match=message):
        load_folder(broken)


def test_the_fingerprint_covers_weights_and_lengths(tiny, broken):
    plain = tiny.spec.facts()["fingerprint"]
    edit_weights(broken, lambda w: w.update({"embeddings.LayerNorm.bias": w["embeddings.LayerNorm.bias"] + 1}))
    assert load_folder(broken).spec.facts()["fingerprint"] != plain
    edit(broken / "sentence_bert_config.json", max_seq_length=21)
    assert load_folder(broken).spec.facts()["max_length"] == 21

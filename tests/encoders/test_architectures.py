"""Every family, pooling and dense layer, compared with torch and with formulas, on random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ea_jax.encoders.batching import Tokens
from ea_jax.encoders.load_folder import load_folder
from ea_jax.errors import BadEncoder

torch = pytest.importorskip("torch", reason="torch is the oracle of these tests")
transformers = pytest.importorskip("transformers")

LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
BERT = {"intermediate_size": 50, "initializer_range": 0.3, "vocab_size": 40, "max_position_embeddings": 80}
FAMILIES = {
    "bert, one layer": ("Bert", BERT | {"hidden_size": 33, "num_attention_heads": 3, "num_hidden_layers": 1}),
    "bert, four layers": ("Bert", BERT | {"hidden_size": 40, "num_attention_heads": 5, "num_hidden_layers": 4}),
    "bert, tanh gelu": (
        "Bert",
        BERT | {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_act": "gelu_new"},
    ),
    "roberta": (
        "Roberta",
        BERT | {"hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 2, "pad_token_id": 1},
    ),
    "xlm-roberta": (
        "XLMRoberta",
        BERT | {"hidden_size": 35, "num_attention_heads": 7, "num_hidden_layers": 4, "pad_token_id": 1},
    ),
    "mpnet": ("MPNet", BERT | {"hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 3}),
    "distilbert": (
        "DistilBert",
        {
            "dim": 30, "hidden_dim": 50, "n_layers": 2, "n_heads": 5, "vocab_size": 40,
            "max_position_embeddings": 80, "initializer_range": 0.3,
        },
    ),
    "modernbert": (
        "ModernBert",
        BERT | {
            "hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 4, "local_attention": 8,
            "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
        },
    ),
    "qwen3": (
        "Qwen3",
        BERT | {
            "hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10,
            "num_hidden_layers": 3, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
        },
    ),
}  # fmt: skip
TEXTS = ["a b c", "", "z", "h e l l o w o r l d", "q " * 60, "u n k n o w n W"]


def letter_tokenizer(folder: Path, special: bool = True) -> Tokenizer:
    """Make a tokenizer with one token for each letter, between [CLS] and [SEP]; ids 0 and 1 are padding."""
    words = ["[PAD]", "<pad>", "[CLS]", "[SEP]", "[UNK]", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def make_folder(folder: Path, family: str, pooling: str = "mean", **extra) -> Path:
    """Write a sentence-transformers folder with random weights."""
    name, sizes = FAMILIES[family]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # so that norms and biases differ from their initial values
    model.eval().save_pretrained(folder, **extra)
    letter_tokenizer(folder)
    write_modules(folder, pooling)
    return folder


def write_modules(folder: Path, pooling: str = "mean", *more: str) -> None:
    """Write modules.json and a pooling folder like sentence-transformers."""
    kinds = ["Transformer", "Pooling", *more]
    places = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))


def torch_hidden(folder: Path, ids: list[int]) -> np.ndarray:
    """Compute the token vectors of one text with torch, without padding."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy().astype(np.float64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_folder(tmp_path_factory.mktemp("family"), family)
            write_modules(made[family], "mean", "Normalize")
        return made[family]

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_matches_torch(folders, family):
    folder = folders(family)
    encode = load_folder(folder)
    ids = encode.tokenize(TEXTS).ids
    expected = np.stack([torch_hidden(folder, row).mean(0) for row in ids])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(encode(TEXTS) - expected).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(folders, family):
    encode = load_folder(folders(family))
    ids = np.asarray([[2, 7, 8, 9, 3]], np.int32)
    plain = np.asarray(encode.apply(encode.params, Tokens(ids, np.ones_like(ids))))
    for left, right in [(0, 4), (4, 0), (3, 9)]:
        padded = np.pad(ids, ((0, 0), (left, right)), constant_values=encode.spec.pad_id)
        mask = np.pad(np.ones_like(ids), ((0, 0), (left, right)))
        result = encode.apply(encode.params, Tokens(padded, mask))
        assert np.abs(result - plain).max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_does_not_depend_on_its_batch(folders, family):
    encode = load_folder(folders(family))
    alone = np.concatenate([encode([text]) for text in TEXTS])
    assert np.abs(encode(TEXTS * 9)[: len(TEXTS)] - alone).max() < 1e-6
    assert np.abs(encode(TEXTS[::-1], batch_size=2)[::-1] - alone).max() < 1e-6


POOLINGS = {
    "cls": lambda h: h[0],
    "max": lambda h: h.max(0),
    "mean": lambda h: h.mean(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / np.sqrt(len(h)),
    "weightedmean": lambda h: np.average(h, axis=0, weights=np.arange(1, len(h) + 1)),
    "lasttoken": lambda h: h[-1],
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_pooling_is_its_formula(folders, tmp_path, pooling):
    folder = make_folder(tmp_path, "bert, four layers", pooling)
    encode = load_folder(folder)
    expected = POOLINGS[pooling](torch_hidden(folder, [2, 7, 8, 9, 3]))
    for left, right in [(0, 0), (0, 4), (4, 0)]:
        ids = np.pad(np.asarray([[2, 7, 8, 9, 3]], np.int32), ((0, 0), (left, right)))
        mask = np.pad(np.ones((1, 5), np.int32), ((0, 0), (left, right)))
        np.testing.assert_allclose(encode.apply(encode.params, Tokens(ids, mask))[0], expected, atol=2e-5)


def test_several_poolings_are_concatenated(tmp_path):
    folder = make_folder(tmp_path, "bert, four layers")
    old = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    hidden = torch_hidden(folder, [2, 5, 6, 3])
    np.testing.assert_allclose(load_folder(folder)(["a b"])[0], np.concatenate([hidden[0], hidden.mean(0)]), atol=2e-5)


def test_dense_layers_dim_and_normalize_follow_in_order(tmp_path):
    folder = make_folder(tmp_path, "bert, four layers")
    write_modules(folder, "mean", "Dense", "Dense", "Normalize")
    rng, x = np.random.default_rng(0), torch_hidden(folder, [2, 5, 6, 3]).mean(0)
    for i, (d_in, d_out, act) in enumerate([(40, 24, "Tanh"), (24, 16, "Identity")], 2):
        w, b = rng.normal(size=(d_out, d_in)).astype(np.float32) / 5, rng.normal(size=d_out).astype(np.float32)
        config = {
            "in_features": d_in,
            "out_features": d_out,
            "bias": act == "Tanh",
            "activation_function": f"torch.nn.{act}",
        }
        (folder / f"{i}_Dense").mkdir()
        (folder / f"{i}_Dense" / "config.json").write_text(json.dumps(config))
        weights = {"linear.weight": w} | ({"linear.bias": b} if act == "Tanh" else {})
        save_file(weights, folder / f"{i}_Dense" / "model.safetensors")
        x = np.tanh(w @ x + b) if act == "Tanh" else w @ x
    np.testing.assert_allclose(load_folder(folder)(["a b"])[0], x / np.linalg.norm(x), atol=1e-5)
    short = load_folder(folder, dim=5)
    np.testing.assert_allclose(short(["a b"])[0], x[:5] / np.linalg.norm(x[:5]), atol=1e-5)
    assert short.spec.facts()["fingerprint"] != load_folder(folder).spec.facts()["fingerprint"]
    with pytest.raises(ValueError, match="dim is 17"):
        load_folder(folder, dim=17)


def test_shards_are_one_model_and_a_missing_one_is_named(tmp_path, folders):
    folder = make_folder(tmp_path, "qwen3", max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    write_modules(folder, "mean", "Normalize")
    np.testing.assert_allclose(load_folder(folder)(TEXTS), load_folder(folders("qwen3"))(TEXTS), atol=1e-6)
    shards[0].unlink()
    with pytest.raises(BadEncoder, match=f"lacks the shards {shards[0].name}"):
        load_folder(folder)


def test_bfloat16_kernels_stay_close_and_the_rest_is_float32(folders):
    folder = folders("bert, four layers")
    small, full = load_folder(folder, dtype="bfloat16"), load_folder(folder)
    a, b = small(TEXTS), full(TEXTS)
    assert np.sum(a * b, axis=1).min() > 0.999
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(small.params)} == {"bfloat16", "float32"}
    assert small.spec.facts() == full.spec.facts()


def test_lower_casing_and_the_default_prompt_are_honoured(tmp_path):
    folder = make_folder(tmp_path, "bert, four layers")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 30, "do_lower_case": True}))
    message = {"prompts": {"query": "q : ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(message))
    encode = load_folder(folder)
    np.testing.assert_allclose(encode(["A B"], prompt="document"), encode(["a b"], prompt="document"), atol=1e-6)
    np.testing.assert_allclose(encode(["A B"]), encode(["q : a b"], prompt="document"), atol=1e-6)
    assert encode.spec.max_length == 30


def static_folder(folder: Path, **weights) -> Path:
    folder.mkdir(exist_ok=True)
    letter_tokenizer(folder, special=False)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


def test_a_model2vec_folder_is_the_mean_of_its_known_tokens(tmp_path):
    rng = np.random.default_rng(0)
    table, weight = rng.normal(size=(10, 6)).astype(np.float16), rng.random(31).astype(np.float32)
    mapping = rng.integers(0, 10, size=31)
    encode = load_folder(static_folder(tmp_path / "m2v", embeddings=table, mapping=mapping, weights=weight))
    ids = {letter: 5 + i for i, letter in enumerate(LETTERS)}
    rows = [table[mapping[ids[c]]].astype(np.float64) * weight[ids[c]] for c in "abc"]
    expected = np.mean(rows, axis=0)
    result = encode(["a b c", "a b W c", "", "W"])
    np.testing.assert_allclose(result[:2], np.stack([expected / np.linalg.norm(expected)] * 2), atol=1e-6)
    np.testing.assert_array_equal(result[2:], 0)


def test_a_static_embedding_module_keeps_every_token(tmp_path):
    table = np.random.default_rng(0).normal(size=(31, 6)).astype(np.float32)
    static_folder(tmp_path / "0_StaticEmbedding", **{"embedding.weight": table})
    modules = [
        {"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"}
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(load_folder(tmp_path)(["a W b"])[0], table[[5, 4, 6]].mean(0), atol=1e-6)


BREAKS = {
    "only a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"pytorch_model\.bin, a pickle, which can run code and is not read\. Create it with `AutoModel",
    ),
    "an unknown module": (lambda f: write_modules(f, "mean", "LSTM"), "has the module LSTM, which is not supported"),
    "a strange order": (lambda f: write_modules(f, "mean", "Normalize", "Dense"), "the order must be Transformer"),
    "an unknown pooling": (
        lambda f: write_modules(f, "meen"),
        r"has the unsupported pooling 'meen'\. Did you mean mean",
    ),
    "pooling without the prompt": (
        lambda f: (f / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean", "include_prompt": false}'),
        "excludes the prompt",
    ),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_unsupported_settings_are_named(tmp_path, fault):
    folder = make_folder(tmp_path / "folder", "bert, four layers")
    break_it, message = BREAKS[fault]
    break_it(folder)
    with pytest.raises(BadEncoder, match=message):
        load_folder(folder)


def test_scaled_rotary_positions_are_refused(tmp_path):
    folder = make_folder(tmp_path, "qwen3")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadEncoder, match="rope_type = 'yarn'"):
        load_folder(folder)

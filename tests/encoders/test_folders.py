"""Folders of sentence-transformers in all their versions, with sentence-transformers itself as the oracle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ea_jax.encoders.load_folder import load_folder
from ea_jax.errors import BadEncoder
from tests.encoders.test_encoder import TINY, edit

torch = pytest.importorskip("torch", reason="torch is the oracle of these tests")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="the oracle of these tests")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer import modules as st  # noqa: E402

TEXTS = ["abc", "hello world", "a b c d e f g h i j k l m n o p q r s t u v w x y z", "Zebra"]
SETTINGS = "sentence_bert_config.json"
POOLING = "1_Pooling/config.json"


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A tiny BERT with a vocabulary of letters, without modules."""
    folder = tmp_path_factory.mktemp("bare")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**TINY)).save_pretrained(folder)
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def build(bare, tmp_path):
    """Save the tiny BERT with other modules, as sentence-transformers saves them."""

    def save(*modules, pooling="mean") -> Path:
        torch.manual_seed(1)
        transformer = st.Transformer(str(bare), max_seq_length=20)
        chain = [transformer, st.Pooling(36, pooling), *(module() for module in modules)]
        SentenceTransformer(modules=chain, device="cpu").save(str(tmp_path / "folder"), create_model_card=False)
        return tmp_path / "folder"

    return save


def check_against_oracle(folder: Path) -> np.ndarray:
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(load_folder(folder)(TEXTS), wanted, atol=1e-5)
    return wanted


DENSE = {
    "with bias": lambda: st.Dense(36, 24),
    "without bias": lambda: st.Dense(36, 24, bias=False, activation_function=torch.nn.Identity()),
    "residual": lambda: st.Dense(36, 36, use_residual=True),
    "projected residual": lambda: st.Dense(36, 24, use_residual=True),
}


@pytest.mark.parametrize("dense", DENSE)
def test_dense_layers_are_computed(build, dense):
    """A3, and dense layers with and without bias."""
    plain = check_against_oracle(build(DENSE[dense], st.Normalize))
    if dense == "residual":
        folder = build(lambda: st.Dense(36, 36), st.Normalize)
        assert np.abs(load_folder(folder)(TEXTS) - plain).max() > 0.1


UNKNOWN = {
    "2_Dense/config.json": "Dense",
    "3_Dropout/config.json": "Dropout",
    "4_Normalize/config.json": "Normalize",
    POOLING: "Pooling",
    SETTINGS: "Transformer",
    "config_sentence_transformers.json": "the model",
}


@pytest.mark.parametrize("file", UNKNOWN)
def test_unknown_settings_are_refused_by_name(build, file):
    """A3"""
    folder = build(lambda: st.Dense(36, 36), st.Dropout, st.Normalize)
    load_folder(folder)
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit(folder / file, use_gate=True)
    with pytest.raises(BadEncoder, match=rf"{file} has the unsupported setting 'use_gate' of {UNKNOWN[file]}\."):
        load_folder(folder)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_all_old_settings_files_are_read(build, name):
    """A4"""
    folder = build(st.Normalize)
    (folder / SETTINGS).unlink()
    edit(folder / "tokenizer_config.json", model_max_length=40)
    (folder / f"sentence_{name}_config.json").write_text(json.dumps({"max_seq_length": 8, "do_lower_case": True}))
    encode = load_folder(folder)
    assert (encode.spec.max_length, encode.spec.lower) == (8, True)
    check_against_oracle(folder)


def test_the_settings_file_of_bert_comes_first(build):
    """A4"""
    folder = build()
    (folder / "sentence_roberta_config.json").write_text('{"max_seq_length": 8}')
    (folder / SETTINGS).write_text('{"max_seq_length": 9}')
    assert load_folder(folder).spec.max_length == 9


@pytest.mark.parametrize("name", ["custom_st.Transformer", "modeling_x.Pooling", "sentence_transformers_x.Normalize"])
def test_modules_of_other_packages_are_refused_by_name(build, name):
    """A5"""
    folder = build(st.Normalize)
    modules = json.loads((folder / "modules.json").read_text())
    next(m for m in modules if m["type"].endswith(name.rpartition(".")[2]))["type"] = name
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BadEncoder, match=f"has the module {name}, custom code"):
        load_folder(folder)


def test_a_model_that_needs_custom_code_is_refused(build):
    """A5"""
    folder = build()
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_x.XModel"})
    with pytest.raises(BadEncoder, match=r"config\.json has auto_map"):
        load_folder(folder)


LENGTHS = {
    "call": {"max_seq_length": 20, "processing_kwargs": {"text": {"max_length": 7}}},
    "tokenizer, old key": {"max_seq_length": 20, "tokenizer_args": {"model_max_length": 7}},
    "tokenizer, new key": {"max_seq_length": 20, "processor_kwargs": {"model_max_length": 7}},
    "both": {"tokenizer_args": {"model_max_length": 9}, "processing_kwargs": {"text": {"max_length": 7}}},
}


@pytest.mark.parametrize("place", LENGTHS)
def test_every_token_limit_is_honored(build, place):
    """A6"""
    folder = build(st.Normalize)
    (folder / SETTINGS).write_text(json.dumps(LENGTHS[place]))
    assert load_folder(folder).spec.max_length == 7
    check_against_oracle(folder)


@pytest.mark.parametrize("file", ["2_Dense/config.json", "3_Normalize/config.json"])
def test_modules_of_token_vectors_are_refused(build, file):
    """A6"""
    folder = build(lambda: st.Dense(36, 36), st.Normalize)
    edit(folder / file, **TOKENS)
    with pytest.raises(BadEncoder, match=f"{file} has module_input_name = 'token_embeddings'"):
        load_folder(folder)


def test_prompts_are_lower_cased_too(build):
    folder = build(st.Normalize)
    edit(folder / SETTINGS, do_lower_case=True)
    edit(folder / "config_sentence_transformers.json", prompts={"query": "QUERY "}, default_prompt_name="query")
    check_against_oracle(folder)


def test_a_trailing_dropout_does_nothing(build):
    """A6"""
    wanted = check_against_oracle(build(st.Normalize, st.Dropout))
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-6)


REFUSED = {
    "transformer_task": "fill-mask",
    "module_output_name": "sentence_embedding",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "query_length": 32,
    "processing_kwargs": {"text": {"add_special_tokens": False}},
    "tokenizer_args": {"do_basic_tokenize": False},
    "model_args": {"num_hidden_layers": 1},
    "config_args": {"hidden_act": "relu"},
    "max_seq_length": "20",
}
TOKENS = {"module_input_name": "token_embeddings"}


@pytest.mark.parametrize("key", REFUSED)
def test_unsupported_transformer_settings_are_refused_by_name(build, key):
    """A6"""
    folder = build()
    edit(folder / SETTINGS, **{key: REFUSED[key]})
    value = REFUSED[key]
    inner = next(iter(value)) if isinstance(value, dict) and key != "modality_config" else key
    inner = "add_special_tokens" if key == "processing_kwargs" else inner
    message = "'20' tokens" if key == "max_seq_length" else inner
    with pytest.raises(BadEncoder, match=message):
        load_folder(folder)


OLD = {
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": True,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
}
POOLINGS = {
    "5.3": OLD | {"word_embedding_dimension": 36, "include_prompt": True},
    "5.4": {"word_embedding_dimension": 36, "pooling_mode": "cls", "include_prompt": True},
    "5.4, old keys too": OLD | {"word_embedding_dimension": 36, "pooling_mode": "lasttoken"},
    "6.0": {"embedding_dimension": 36, "pooling_mode": "weightedmean"},
    "6.0, several": {"embedding_dimension": 36, "pooling_mode": ["mean", "cls"]},
}


@pytest.mark.parametrize("version", POOLINGS)
def test_pooling_keys_of_every_version_are_read(build, version):
    folder = build()
    (folder / POOLING).write_text(json.dumps(POOLINGS[version]))
    check_against_oracle(folder)


def test_padding_and_truncation_of_the_tokenizer_are_ignored(build):
    folder = build(st.Normalize)
    wanted = check_against_oracle(folder)
    padding = {"strategy": {"Fixed": 30}, "direction": "Left", "pad_to_multiple_of": None}
    truncation = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 2}
    edit(
        folder / "tokenizer.json",
        padding=padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        truncation=truncation,
    )
    np.testing.assert_allclose(load_folder(folder)(TEXTS), wanted, atol=1e-5)


def test_truncation_on_the_left_is_refused(build):
    folder = build()
    edit(folder / "tokenizer_config.json", truncation_side="left")
    with pytest.raises(BadEncoder, match="truncates texts on the left"):
        load_folder(folder)


def test_the_dimension_that_a_folder_sets_is_kept(build, tmp_path):
    folder = build(st.Normalize)
    full = load_folder(folder)(TEXTS)
    edit(folder / "config_sentence_transformers.json", truncate_dim=12)
    assert load_folder(folder).spec.width == 12
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(load_folder(folder)(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(load_folder(folder, dim=36)(TEXTS), full, atol=1e-6)
    shutil.rmtree(folder)

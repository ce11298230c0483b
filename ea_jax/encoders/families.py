"""Encoder families: the architecture that computes each `model_type` of a config.json.

To add a family, write a module in `architectures/` and list it in `FAMILIES`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from ea_jax.encoders.architectures import bert, modernbert, qwen3
from ea_jax.encoders.architectures.weights import WeightMap


class Family(NamedTuple):
    """The three parts of an architecture.

    Attributes:
        config: Reads config.json into the configuration of the module.
        module: Makes the Flax module of a configuration. It maps token ids and mask to token vectors.
        weights: Lists the names of the checkpoint's weights, and where each goes in the parameters.
    """

    config: Callable[[Mapping[str, Any]], Any]
    module: Callable[[Any], nn.Module]
    weights: Callable[[Any], WeightMap]


ROBERTA = Family(bert.roberta_config, bert.Bert, bert.bert_weights)

FAMILIES = {
    "bert": Family(bert.bert_config, bert.Bert, bert.bert_weights),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mpnet": Family(bert.mpnet_config, bert.Bert, bert.mpnet_weights),
    "distilbert": Family(bert.distilbert_config, bert.Bert, bert.distilbert_weights),
    "modernbert": Family(modernbert.modernbert_config, modernbert.ModernBert, modernbert.modernbert_weights),
    "qwen3": Family(qwen3.qwen3_config, qwen3.Qwen3, qwen3.qwen3_weights),
}

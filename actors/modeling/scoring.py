"""A causal language model as a scorer of responses: packed sequences in, log-probs and entropies of response tokens out."""

from __future__ import annotations

from typing import Any

from torch import nn

from actors.errors import ModelError
from actors.modeling.attention import use_packed_attention
from actors.modeling.logprobs import TokenScores, score_tokens
from actors.modeling.packing import Packed

LOGIT_SETTINGS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Fields of a model's configuration by which its logits are more than a product with the output layer."""


class Scorer(nn.Module):
    """Wraps a Hugging Face causal model so that one forward call yields token scores and never all logits.

    The output layer is applied inside this module's forward, where a sharded model's parameters are whole. From then on the model attends
    over packed sequences only. ModelError: a model whose layers cannot, or whose logits are more than a product with the output layer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        use_packed_attention(model)
        _check_output(model)
        self.model = model

    def forward(self, batch: Packed, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """Scores of the response tokens: [N, T] each, 0 where the batch's mask is False. Entropies are differentiable if asked for."""
        decoder, output = self.model.get_decoder(), self.model.get_output_embeddings()
        tokens = {"input_ids": batch.token_ids[None], "position_ids": batch.positions[None]}
        hidden = decoder(**tokens, use_cache=False, sequences=batch.layout).last_hidden_state[0]
        scores = score_tokens(
            hidden.index_select(0, batch.predictors),
            output.weight,
            batch.targets,
            temperature=temperature,
            entropy_gradient=entropy_gradient,
        )
        return TokenScores(*map(batch.spread, scores))


def _check_output(model: Any) -> None:
    changed = [name for name in LOGIT_SETTINGS if getattr(model.config, name, None) not in (None, 1)]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        changed.append("a bias of the output layer")
    if changed:
        raise ModelError(f"policy: the logits of {type(model).__name__} depend on {', '.join(changed)}, which is not supported")

"""Builds the model that `ModelOptions` describe, as Megatron-core modules, on this rank."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import finalize_model_grads
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.bert import bert_lm_head
from megatron.core.models.bert.bert_model import BertModel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.models.T5.t5_model import T5Model
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import attention
from megatron.core.transformer.attention import (
    CrossAttention,
    CrossAttentionSubmodules,
    SelfAttention,
    SelfAttentionSubmodules,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import Float16Module, MegatronModule
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from tilth.errors import UsageError

from .. import device
from ..parallel import ParallelOptions
from .attention import CoreAttention
from .initial import initialize
from .norm import Norm
from .on_cpu import rotate
from .options import ModelOptions
from .precision import DTYPES, Precision

if not device.on_cuda():
    attention.apply_rotary_pos_emb = rotate  # pyright: ignore[reportPrivateImportUsage]
bert_lm_head.LNImpl = Norm  # pyright: ignore[reportAttributeAccessIssue] # its own refuses sequence parallelism
if not moe_utils.HAVE_TE:  # without it 0.16.1 asks for a name that it has not set
    moe_utils.te_general_gemm = None  # pyright: ignore[reportAttributeAccessIssue]

ACTIVATIONS = {"swiglu": F.silu, "geglu": F.gelu, "gelu": F.gelu, "relu": F.relu}


def build(
    options: ModelOptions, parallel: ParallelOptions, precision: Precision, seed: int, recompute: str = "none"
) -> list[Any]:
    """This rank's part of the model: one module, or one for each virtual pipeline stage, on the device, with first
    weights that depend on the seed alone. `recompute` is none, selective (attention) or full (whole layers)."""
    config = transformer_config(options, parallel, precision, recompute)
    chunks = []
    for stage in range(parallel.virtual):
        virtual = stage if parallel.virtual > 1 else None
        model = _chunk(options, config, virtual, parallel)
        initialize(model, seed, options.init_std, options.layers)
        model = model.to(device.here())
        chunks.append(model if precision == "fp32" else Float16Module(config, model))
    return chunks


def transformer_config(
    options: ModelOptions, parallel: ParallelOptions, precision: Precision, recompute: str
) -> TransformerConfig:
    dtype = DTYPES[precision]
    experts = options.experts
    extra: dict[str, Any] = {}
    if experts:
        extra = {
            "num_moe_experts": experts.number,
            "moe_router_topk": experts.per_token,
            "moe_ffn_hidden_size": experts.ffn or options.ffn_size,
            "moe_router_load_balancing_type": "aux_loss" if experts.balance_loss else "none",
            "moe_aux_loss_coeff": experts.balance_loss,
            "moe_token_dispatcher_type": "allgather",
        }
    if recompute == "full":
        extra |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    elif recompute == "selective":
        extra |= {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    if parallel.virtual > 1:  # batched, two messages between the same two ranks would be mixed up
        extra |= {"overlap_p2p_comm": True, "batch_p2p_comm": False}
    return TransformerConfig(
        num_layers=options.layers,
        hidden_size=options.hidden,
        num_attention_heads=options.heads,
        num_query_groups=options.groups,
        kv_channels=options.kv_channels,
        ffn_hidden_size=options.ffn_size,
        normalization="RMSNorm" if options.norm == "rms" else "LayerNorm",
        layernorm_epsilon=options.norm_eps,
        gated_linear_unit=options.gated,
        activation_func=ACTIVATIONS[options.activation],
        add_bias_linear=options.bias,
        add_qkv_bias=options.bias or options.qkv_bias,
        qk_layernorm=options.qk_norm,
        hidden_dropout=options.dropout,
        attention_dropout=options.attention_dropout,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual if parallel.virtual > 1 else None,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        sequence_parallel=parallel.sequence,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        calculate_per_token_loss=True,
        finalize_model_grads_func=finalize_model_grads,
        use_cpu_initialization=True,
        perform_initialization=False,
        # kernels of Apex and TransformerEngine, which are not asked for
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        use_te_activation_func=options.gated and not experts,  # the activation is then what the spec says: Gate
        **extra,
    )


def _chunk(options: ModelOptions, config: TransformerConfig, virtual: int | None, parallel: ParallelOptions) -> Any:
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=virtual)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=virtual)
    shared = {
        "config": config,
        "vocab_size": options.rows(),
        "max_sequence_length": options.max_length,
        "pre_process": first,
        "post_process": last,
        "share_embeddings_and_output_weights": options.tied and options.head == "vocabulary",
    }
    if options.family == "t5":
        encoder = layer(options, AttnMaskType.padding)
        decoder = layer(options, AttnMaskType.causal, cross=True)
        return T5(
            **shared,
            encoder_config=config,
            transformer_encoder_layer_spec=_block([encoder] * options.layers),  # pyright: ignore[reportArgumentType]
            transformer_decoder_layer_spec=_block([decoder] * options.layers),  # pyright: ignore[reportArgumentType]
            position_embedding_type=_positions(options),  # pyright: ignore[reportArgumentType]
        )
    here = get_num_layers_to_build(config, virtual, parallel_state.get_pipeline_model_parallel_rank())
    if options.family == "bert":
        spec = _block([layer(options, AttnMaskType.padding)] * here)
        return Bert(
            **shared,
            num_tokentypes=0,
            transformer_layer_spec=spec,  # pyright: ignore[reportArgumentType]
            position_embedding_type=_positions(options),  # pyright: ignore[reportArgumentType]
            add_binary_head=False,
            vp_stage=virtual,
        )
    model = Gpt(
        **shared,
        transformer_layer_spec=_block([layer(options, AttnMaskType.causal, parallel=parallel)] * here),  # pyright: ignore[reportArgumentType]
        position_embedding_type=_positions(options),  # pyright: ignore[reportArgumentType]
        rotary_percent=options.rope_share,
        rotary_base=options.rope_base,
        vp_stage=virtual,
    )
    if options.head == "scalar" and last:
        model.output_layer = ScalarHead(config)  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _positions(options: ModelOptions) -> str:
    """Megatron-core's word for them; ALiBi is the attention's."""
    return {"learned": "learned_absolute", "alibi": "none"}.get(options.positions, options.positions)


def _block(layers: Sequence[ModuleSpec]) -> TransformerBlockSubmodules:
    return TransformerBlockSubmodules(layer_specs=list(layers), layer_norm=Norm)  # pyright: ignore[reportArgumentType]


def layer(
    options: ModelOptions, mask: AttnMaskType, cross: bool = False, parallel: ParallelOptions | None = None
) -> ModuleSpec:
    """One transformer layer: norm, attention, (norm, attention over the encoder,) norm, feed-forward."""
    core: Any = ModuleSpec(
        module=CoreAttention, params={"window": options.window, "alibi": options.positions == "alibi"}
    )
    if parallel and parallel.context > 1:
        core = _ring_attention(options)
    norm: Any = Norm if options.qk_norm else IdentityOp
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": mask},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=core,
            linear_proj=RowParallelLinear,
            q_layernorm=norm,
            k_layernorm=norm,
        ),
    )
    over_encoder: dict[str, Any] = {}
    if cross:
        over_encoder = {
            "pre_cross_attn_layernorm": Norm,
            "cross_attn_bda": get_bias_dropout_add,
            "cross_attention": ModuleSpec(
                module=CrossAttention,
                params={"attn_mask_type": AttnMaskType.padding},
                submodules=CrossAttentionSubmodules(
                    linear_q=ColumnParallelLinear,
                    linear_kv=ColumnParallelLinear,
                    core_attention=core,
                    linear_proj=RowParallelLinear,
                ),
            ),
        }
    feed_forward = ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(
            linear_fc1=ColumnParallelLinear,
            linear_fc2=RowParallelLinear,
            activation_func=Gate if options.gated else None,  # pyright: ignore[reportArgumentType]
        ),
    )
    if options.experts:
        feed_forward = get_moe_module_spec(use_te=False, num_experts=options.experts.number)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=Norm,  # pyright: ignore[reportArgumentType]
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,  # pyright: ignore[reportArgumentType]
            pre_mlp_layernorm=Norm,  # pyright: ignore[reportArgumentType]
            mlp=feed_forward,
            mlp_bda=get_bias_dropout_add,  # pyright: ignore[reportArgumentType]
            **over_encoder,
        ),
    )


def _ring_attention(options: ModelOptions) -> Any:
    """TransformerEngine's attention: the one that Megatron-core splits along a sequence."""
    from megatron.core.extensions import transformer_engine

    if not device.on_cuda() or not getattr(transformer_engine, "HAVE_TE", False):
        raise UsageError("parallel.context needs GPUs and TransformerEngine: pip install transformer-engine[pytorch]")
    if options.window or options.positions == "alibi":
        raise UsageError("parallel.context has no sliding window and no ALiBi; choose parallel.context=1")
    return transformer_engine.TEDotProductAttention


class Gpt(GPTModel):
    """A decoder. What a caller passes as `attention_mask` is the documents' numbers, int[b, s], or None."""

    def read(self, batch: dict[str, Tensor]) -> Tensor:
        """Hidden states of a stage, and of the last one logits [s, b, rows / tensor], or numbers [s, b, 1]."""
        return self(batch["tokens"], batch["positions"], batch.get("documents"), labels=batch["tokens"])

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """The logits: what the loss is says an objective."""
        return logits


class Bert(BertModel):
    """An encoder for masked language modelling. `attention_mask` as for Gpt: 0 is padding."""

    def _sanity_check_attention_and_get_attn_mask_dimension(self) -> str:
        return "documents"

    def bert_extended_attention_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask

    def read(self, batch: dict[str, Tensor]) -> Tensor:
        """As Gpt's."""
        result = self(batch["tokens"], batch.get("documents"), lm_labels=batch["tokens"])
        return result[0] if self.post_process else result

    compute_language_model_loss = Gpt.compute_language_model_loss


class T5(T5Model):
    """An encoder and a decoder over it, on the same ranks."""

    def read(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the decoder [s, b, rows / tensor]."""
        documents, tokens = batch.get("documents"), batch["decoder_tokens"]
        return self(batch["tokens"], tokens, documents, batch.get("decoder_documents"), documents, lm_labels=tokens)

    compute_language_model_loss = Gpt.compute_language_model_loss


class Gate(MegatronModule):
    """SwiGLU and its like: the first half, through the activation, times the second."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self._activation = config.activation_func

    def forward(self, both: Tensor) -> Tensor:
        """[..., ffn] of [..., 2 ffn]."""
        gate, up = both.chunk(2, dim=-1)
        return self._activation(gate) * up


class ScalarHead(torch.nn.Module):
    """One number for each position, in place of the vocabulary: for reward and value models."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.sequence = config.sequence_parallel
        self.weight = torch.nn.Parameter(torch.zeros(1, config.hidden_size, dtype=config.params_dtype))

    def forward(self, hidden: Tensor, **_: Any) -> tuple[Tensor, None]:
        """[s, b, 1] of [s, b, hidden]."""
        if self.sequence:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return F.linear(hidden, self.weight), None

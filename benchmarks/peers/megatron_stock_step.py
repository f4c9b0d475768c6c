"""The same training step by Megatron-core with its stock local specification, nothing replaced; prints one JSON line.

Only what it needs to run without CUDA comes from tilth (`tilth.train.device`). --precision fp32, or bf16: bfloat16
weights, with float32 gradients and a float32 copy in the optimizer, Megatron's way.
"""

import os
import warnings
from typing import Any

import torch
from step import BETAS, CLIP, EPS, LEARNING_RATE, WEIGHT_DECAY, arguments, batches, shape_of, timed

from tilth.train import device


def main() -> None:
    given = arguments(str(__doc__))
    shape = shape_of(given)
    warnings.simplefilter("ignore")
    device.enter()
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
    from megatron.core.transformer.module import Float16Module
    from megatron.core.transformer.transformer_config import TransformerConfig

    dist.init_process_group(device.backend(), store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    device.seed(0)
    half = given.precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    config = TransformerConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_query_groups=shape.kv_heads,
        ffn_hidden_size=shape.ffn,
        normalization="RMSNorm",
        layernorm_epsilon=EPS,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=half,
        finalize_model_grads_func=finalize_model_grads,
        # what needs CUDA
        use_cpu_initialization=not device.on_cuda(),
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=device.on_cuda(),
        bias_dropout_fusion=device.on_cuda(),
        persist_layer_norm=False,
    )
    spec = get_gpt_layer_local_spec(normalization="RMSNorm")
    model: Any = GPTModel(
        config,
        spec,
        shape.vocab,
        shape.length,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    ).to(device.here())
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    model = Float16Module(config, model) if half else model
    ddp = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), model)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            clip_grad=CLIP,
            params_dtype=dtype,
            bf16=half,
        ),
        [ddp],
    )
    schedule = get_forward_backward_func()
    data = batches(shape, device.here())
    size = (shape.length, shape.length)
    hidden = torch.ones(size, dtype=torch.bool, device=device.here()).triu(1)[None, None]
    positions = torch.arange(shape.length, device=device.here()).expand(shape.micro, -1)

    def forward(feed: Any, module: Any) -> Any:
        tokens = next(feed)
        losses = module(tokens[:, :-1], positions, hidden, labels=tokens[:, 1:])
        return losses, lambda found: (found.mean(), {"loss": found.detach().mean()})

    def step() -> float:
        ddp.zero_grad_buffer()
        optimizer.zero_grad()
        found = schedule(
            forward_step_func=forward,
            data_iterator=iter(data),
            model=[ddp],
            num_microbatches=shape.accumulate,
            seq_length=shape.length,
            micro_batch_size=shape.micro,
            forward_only=False,
        )
        optimizer.step()
        return float(sum(one["loss"] for one in found)) / shape.accumulate

    timed(step, given, shape.tokens, millions=round(millions, 1), precision=given.precision, matmul=given.matmul)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()

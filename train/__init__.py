"""Token shards to model: training on Megatron-core, on a laptop's CPU and on a cluster alike."""

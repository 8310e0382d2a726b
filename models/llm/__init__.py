"""Language models of the kinds that people have: read from checkpoints, and written.

`interface` says what a model offers; `transformer` (Llama, Qwen2, Qwen3) and `rwkv7`
are models, `generation` speaks with any of them; `safetensors` and `gguf` are files.
"""

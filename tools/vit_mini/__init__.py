"""How the embedded backbone `orchestrator/backbones/vit_mini.safetensors` was made and probed."""

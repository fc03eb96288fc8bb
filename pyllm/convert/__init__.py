"""Hugging Face folders as models: config.json, safetensors, tokenizer.json. No pickle is ever read."""

// A GGUF file with random weights of Llama 8B's shape: speed does not depend on what weights say.
#pragma once

#include <string>

namespace pyllm::compare {

struct LlamaShape {
  int layers = 32, dim = 4096, ffn = 14336, heads = 32, kv_heads = 8, vocab = 128256;
};

// Q4_K_M: Q4_K, but Q6_K for the head and, in half of the layers, attn_v and ffn_down. Returns the bytes of all
// weights that a token reads (the embeddings are not among them).
int64_t write_llama(const LlamaShape& shape, const std::string& path);

}  // namespace pyllm::compare

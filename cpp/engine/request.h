// What goes into the engine and what comes out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/mask_source.h"
#include "engine/pooling.h"
#include "engine/sampler.h"
#include "engine/sampling_params.h"

namespace pyllm {

struct Request {
  uint64_t id = 0;  // the caller's; unique among requests that have not finished
  std::vector<int32_t> tokens;
  SamplingParams params;
  int priority = 0;                   // the smaller goes first; among equals the earlier
  std::string cache_salt;             // prefixes are shared only between requests with the same salt
  bool want_logits = false;           // the logits of every prompt token, and nothing generated
  std::optional<int64_t> score_from;  // log-probabilities of the prompt's tokens from this one on, and no more
  std::optional<Pooling> pooling;     // one vector for the whole prompt, and nothing generated
  std::vector<std::unique_ptr<MaskSource::Stream>> constraint;  // [n]; empty: any token may come
};

enum class Finish {
  None,
  Stop,       // a stop token or end of text; it is the event's token
  Length,     // no room for another token; the detail says of what
  Cancelled,  // by cancel()
  Error,      // the detail says what went wrong
};

// One stream of a request got a token, or some logits, or came to its end, or all of it.
struct Event {
  uint64_t id = 0;
  int index = 0;       // of the stream: 0 to n - 1
  int32_t token = -1;  // -1: none
  float logprob = 0.0f;
  std::vector<TokenLogprob> top_logprobs;
  Finish finish = Finish::None;
  std::string detail;  // Length: "max_tokens", "context" or "kv_pool". Error: the message.
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt, taken from the prefix cache
  double queue_s = 0.0;   // seconds from submit to the first step that computed some of it
  int logits_rows = 0;
  std::vector<float> logits;     // [logits_rows, vocab] of the next prompt tokens, for want_logits
  std::vector<float> scores;     // log-probabilities of the next prompt tokens, for score_from
  std::vector<float> embedding;  // [dim], of length 1, with the end of a request with pooling
};

}  // namespace pyllm

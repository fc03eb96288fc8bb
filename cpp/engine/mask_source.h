// Which tokens may come next in a stream, as something outside of the engine tells. The engine knows no
// grammar.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pyllm {

class MaskSource {
 public:
  // What the source knows of one stream; whoever makes a request makes it.
  class Stream {
   public:
    virtual ~Stream() = default;
  };
  struct Job {
    Stream* stream = nullptr;
    std::vector<int32_t> tokens;  // that the stream has got since its last mask, one each but for the first
    std::string error;            // out: why there is no mask; the stream fails
  };

  virtual ~MaskSource() = default;
  // Writes masks [job, mask_words]: bit i % 32 of word i / 32 is set when token i may come next, those past the
  // vocabulary never. Called from one thread at a time; what it throws fails every job.
  virtual void fill(std::span<Job> jobs, std::span<uint32_t> masks) = 0;
};

inline int64_t mask_words(int64_t vocab) { return (vocab + 31) / 32; }

}  // namespace pyllm
